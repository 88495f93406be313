"""Lines of results files, checked field by field: what they hold of which list of sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from fsgen.errors import InputError
from fsgen.report.adjustment import Adjusted, Covariates, adjusted
from fsgen.report.names import shown

LIKELIHOOD, CLASSIFICATION, COVARIATES, QUALITY = "likelihood", "classification", "covariates", "quality"
ANNEALING = "annealing"
FIGURES = ("recognizability", "real_recognizability", "diversity", "novelty")


@dataclass(frozen=True)
class SetList:
    """A list of sets: what must agree before two numbers stand in one table."""

    data: str
    split: str
    protocol: str
    ways: int
    digest: str


@dataclass(frozen=True)
class Part:
    """NLL over some of the sets."""

    sets: int
    nats: float | None
    se: float | None


@dataclass(frozen=True)
class Bound:
    """NLL with fewer particles, over the sets of a cell, and how far above that of all of them."""

    particles: int
    nats: float
    se: float | None
    above: float | None
    above_se: float | None


@dataclass(frozen=True)
class Cell:
    """The NLL of one subject on one list at one shot count; the fields are those of ``evaluation.Score``."""

    on: SetList
    about: Mapping[str, Any] = field(repr=False)  # data, length, seed, provenance as recorded
    shots: int
    particles: int
    exact: bool
    whole: Part
    adjusted: Adjusted | None
    repeated: Part | None
    unrepeated: Part | None
    bits: float | None
    ess: float | None
    ess_min: float | None
    values: np.ndarray | None = field(repr=False)
    terms: Mapping[str, float]
    bounds: tuple[Bound, ...]


@dataclass(frozen=True)
class Verdict:
    """The accuracy of one subject on one list of episodes; what its line does not hold is None or empty."""

    on: SetList
    about: Mapping[str, Any] = field(repr=False)
    shots: int
    task: str
    method: str
    accuracy: float | None
    se: float | None
    interval: tuple[float, float] | None
    ece: float | None
    episodes: int | None
    bins: Sequence[tuple[float, float, float]]  # confidence, accuracy, queries


@dataclass(frozen=True)
class Figure:
    """A mean over episodes and the ends of its interval."""

    mean: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Judged:
    """What a critic found of the samples of one subject; the fields are those of ``quality.Quality``."""

    on: SetList
    about: Mapping[str, Any] = field(repr=False)
    shots: int
    critic: str
    critic_weights: str
    size: tuple[int, int]  # episodes, samples a class
    chance: float
    figures: Mapping[str, Figure]


@dataclass(frozen=True)
class Estimated:
    """NLL over some sets by one estimator; ``ess`` is the effective share of its particles or chains."""

    nats: float
    se: float | None
    ess: float | None


@dataclass(frozen=True)
class Annealed:
    """The NLL of one subject on the same sets by importance weighting and by annealing, and the difference."""

    on: SetList
    about: Mapping[str, Any] = field(repr=False)
    shots: int
    sets: int
    particles: int
    temperatures: int
    chains: int
    importance: Estimated
    annealed: Estimated
    difference: Estimated


@dataclass(frozen=True)
class Fields:
    """One line of a results file; what it holds is checked when it is asked for."""

    record: Mapping[str, Any]
    where: str

    def refuse(self, name: str, wanted: str) -> NoReturn:
        """Raises the error that says what stands where ``wanted`` should."""
        held = f"is {shown(ascii(self.record[name]), 40)}" if name in self.record else "is missing"
        raise InputError(f"{self.where}: '{name}' {held}; {wanted} is needed. Evaluate again, or remove that line.")

    def text(self, name: str) -> str:
        value = self.record.get(name)
        return value if isinstance(value, str) else self.refuse(name, "text")

    def whole(self, name: str) -> int:
        value = self.record.get(name)
        good = type(value) is int and 0 <= value < 2**53
        return int(value) if good and value is not None else self.refuse(name, "a whole number")

    def count(self, name: str) -> int | None:
        """A whole number; None where it is missing or null."""
        return None if self.record.get(name) is None else self.whole(name)

    def number(self, name: str) -> float | None:
        """A number; None where it is missing, null (which is how infinity and NaN are written) or not finite."""
        value = self.record.get(name)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool):
            self.refuse(name, "a number")
        return finite(value)

    def share(self, name: str) -> float | None:
        value = self.number(name)
        return value if value is None or 0 <= value <= 1 else self.refuse(name, "a share from 0 to 1")

    def part(self, name: str) -> Fields:
        value = self.record.get(name)
        if not isinstance(value, Mapping):
            self.refuse(name, "a mapping")
        return Fields(value, f"{self.where}, '{name}'")

    def numbers(self, name: str) -> np.ndarray | None:
        """A list of finite numbers; None where it is missing or holds a null."""
        value = self.record.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(type(v) in (int, float, type(None)) for v in value):
            self.refuse(name, "a list of numbers")
        found = [None if v is None else finite(v) for v in value]
        return None if None in found else np.array(found, np.float64)


def finite(value: int | float) -> float | None:
    """The number as a float; None for NaN and what is too large."""
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def covariates_of(fields: Fields) -> tuple[SetList, Covariates]:
    """A line of kind "covariates": the list of sets that it describes, and the numbers.

    Raises:
        InputError: a field is missing or of another type, or the covariates are not of as many sets as it says.
    """
    held, sets = fields.part("covariates"), fields.whole("sets")
    for name in held.record:
        part = held.part(name)
        if part.number("mean") is None:
            part.refuse("mean", "a number")
        values = part.numbers("per_set")
        if values is None or len(values) != sets:
            part.refuse("per_set", f"a list of {sets} numbers, one a set,")
    return _set_list(fields), Covariates.of(held.record)


def cell_of(fields: Fields, covariates: Mapping[SetList, Covariates]) -> Cell:
    """A line of kind "likelihood"; ``covariates``, where its list has any, adjust its mean.

    Raises:
        InputError: a field is missing or of another type, or the line contradicts itself.
    """
    record, values = fields.record, fields.numbers("per_set")
    whole = _part(fields)
    if values is not None and len(values) != whole.sets:
        fields.refuse("per_set", f"a list of {whole.sets} numbers, one a set,")
    mean = values.mean() if values is not None and len(values) else None
    if mean is not None and whole.nats is not None and abs(mean - whole.nats) > 0.01 + 1e-4 * abs(whole.nats):
        fields.refuse("nats", f"{mean:.4f}, the mean of 'per_set',")
    terms = fields.part("terms") if record.get("terms") is not None else Fields({}, fields.where)
    on = _set_list(fields)
    return Cell(
        on=on,
        about=_about(fields),
        shots=fields.whole("shots"),
        particles=fields.whole("particles"),
        exact=record.get("exact") is True,
        whole=whole,
        adjusted=adjusted(values, covariates[on]) if values is not None and on in covariates else None,
        repeated=_part(fields.part("repeated")) if record.get("repeated") is not None else None,
        unrepeated=_part(fields.part("unrepeated")) if record.get("unrepeated") is not None else None,
        bits=fields.number("bits_per_dim"),
        ess=fields.share("ess"),
        ess_min=fields.share("ess_min"),
        values=values,
        bounds=_bounds(fields),
        terms={str(site): nats for site in terms.record if (nats := terms.number(site)) is not None},
    )


def verdict_of(fields: Fields) -> Verdict:
    """A line of kind "classification": needs data, protocol, ways, shots and list_digest, and may lack the rest.

    Raises:
        InputError: a field is of another type, or one of these is missing.
    """
    bins = fields.record.get("bins") or []
    if not isinstance(bins, list) or not all(isinstance(row, Mapping) for row in bins):
        fields.refuse("bins", "a list of mappings with confidence, accuracy and queries")
    rows = [Fields(row, f"{fields.where}, 'bins'") for row in bins]
    found = [(row.share("confidence"), row.share("accuracy"), row.number("queries")) for row in rows]
    low, high = fields.share("low"), fields.share("high")
    return Verdict(
        on=_set_list(fields),
        about=_about(fields),
        shots=fields.whole("shots"),
        task=shown(fields.record.get("task") or "random"),
        method=_method(fields),
        accuracy=fields.share("accuracy"),
        se=fields.number("se"),
        interval=None if low is None or high is None else (low, high),
        ece=fields.share("ece"),
        episodes=fields.count("episodes"),
        bins=[(c, a, n or 0.0) for c, a, n in found if c is not None and a is not None],
    )


def _method(fields: Fields) -> str:
    """How classes were told apart."""
    known = fields.part("classifier").record if fields.record.get("classifier") is not None else {}
    return shown(known.get("name") or "likelihood")


def run_of(fields: Fields) -> str:
    """The run's name; of a classifier that reads no model, its own."""
    of_pixels = fields.record.get("kind") == CLASSIFICATION and fields.record.get("run") is None
    return _method(fields) if of_pixels else fields.text("run")


def _bounds(fields: Fields) -> tuple[Bound, ...]:
    rows = fields.record.get("bounds") or []
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        fields.refuse("bounds", "a list of mappings with particles, nats and se")
    held = [Fields(row, f"{fields.where}, 'bounds'") for row in rows]
    return tuple(
        Bound(particles, nats, *(row.number(name) for name in ("se", "above", "above_se")))
        for row in held
        if (particles := row.whole("particles")) and (nats := row.number("nats")) is not None
    )


def judged_of(fields: Fields) -> Judged:
    """A line of kind "quality".

    Raises:
        InputError: a field is missing or of another type.
    """
    critic = fields.part("critic")
    return Judged(
        on=_set_list(fields),
        about=_about(fields),
        shots=fields.whole("shots"),
        critic=shown(critic.text("run")),
        critic_weights=shown(critic.text("weights_sha256"), 64),
        size=(fields.whole("episodes"), fields.whole("samples")),
        chance=1 / max(1, fields.whole("ways")),
        figures={name: _figure(fields.part(name)) for name in FIGURES},
    )


def _figure(fields: Fields) -> Figure:
    mean, low, high = (fields.number(name) for name in ("mean", "low", "high"))
    if mean is None:
        fields.refuse("mean", "a number")
    return Figure(mean, None if low is None or high is None else (low, high))


def annealed_of(fields: Fields) -> Annealed:
    """A line of kind "annealing".

    Raises:
        InputError: a field is missing or of another type, or the line contradicts itself.
    """
    bound, chains, difference = (fields.part(name) for name in ("importance", "annealed", "difference"))
    ours, theirs, gap = map(_estimated, (bound, chains, difference))
    if abs(ours.nats - theirs.nats - gap.nats) > 0.01 + 1e-4 * abs(ours.nats):
        difference.refuse("nats", f"{ours.nats - theirs.nats:.4f}, 'importance' less 'annealed',")
    return Annealed(
        on=_set_list(fields),
        about=_about(fields),
        shots=fields.whole("shots"),
        sets=fields.whole("sets"),
        particles=bound.whole("particles"),
        temperatures=chains.whole("temperatures"),
        chains=chains.whole("chains"),
        importance=ours,
        annealed=theirs,
        difference=gap,
    )


def _estimated(fields: Fields) -> Estimated:
    nats = fields.number("nats")
    if nats is None:
        fields.refuse("nats", "a number")
    return Estimated(nats, fields.number("se"), fields.share("ess"))


def _part(fields: Fields) -> Part:
    return Part(fields.whole("sets"), fields.number("nats"), fields.number("se"))


def _set_list(fields: Fields) -> SetList:
    data = fields.part("data")
    return SetList(
        data.text("digest"),
        data.text("split"),
        fields.text("protocol"),
        fields.whole("ways"),
        fields.text("list_digest"),
    )


def _about(fields: Fields) -> dict[str, Any]:
    data, made_by = fields.part("data"), fields.record.get("provenance")
    options = data.part("options").record if data.record.get("options") is not None else {}
    return {
        "data": {"name": data.text("name"), "options": {k: _plain(v) for k, v in options.items()}},
        "length": fields.count("length"),
        "seed": fields.count("seed"),
        "provenance": made_by if isinstance(made_by, Mapping) else {},
    }


def _plain(value: Any) -> Any:
    """An option as JSON that every reader takes."""
    if isinstance(value, float):
        return finite(value)
    return value if value is None or isinstance(value, str | int) else shown(value)
