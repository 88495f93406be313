"""Results files, checked line by line: who was scored, on which list of sets, with which numbers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fsgen.errors import DataError, InputError
from fsgen.report.names import shown, told_apart
from fsgen.run.log import Log
from fsgen.run.provenance import shortened

RESULTS = "results.jsonl"
LIKELIHOOD, CLASSIFICATION, QUALITY = "likelihood", "classification", "quality"
FIGURES = ("recognizability", "real_recognizability", "diversity", "novelty")


@dataclass(frozen=True)
class Source:
    """A results file; ``folder`` is the run folder it lies in, None where the file itself was named."""

    file: Path
    folder: Path | None
    sha256: str

    @property
    def place(self) -> str:
        """The run folder, or the file, without the folders that are nobody's business."""
        return shown(shortened(str(self.folder or self.file)), 120)


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
class Cell:
    """The NLL of one subject on one list at one shot count; the fields are those of ``evaluation.Score``."""

    on: SetList
    about: Mapping[str, Any] = field(repr=False)  # data, length, seed, provenance as recorded
    shots: int
    particles: int
    exact: bool
    whole: Part
    repeated: Part | None
    unrepeated: Part | None
    bits: float | None
    ess: float | None
    ess_min: float | None
    values: np.ndarray | None = field(repr=False)
    terms: Mapping[str, float]


@dataclass(frozen=True)
class Verdict:
    """The accuracy of one subject as a classifier; what its line does not hold is None or empty."""

    on: SetList
    about: Mapping[str, Any] = field(repr=False)
    shots: int
    method: str
    accuracy: float | None
    se: float | None
    interval: tuple[float, float] | None
    ece: float | None
    sets: int | None
    bins: Sequence[tuple[float, float, float]]  # confidence, accuracy, count


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
class Subject:
    """What was scored: a run with its weights, told apart from all others by ``label``."""

    label: str
    run: str
    model: str
    weights: str | None
    source: Source
    cells: tuple[Cell, ...]
    verdicts: tuple[Verdict, ...]
    judged: tuple[Judged, ...] = ()


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


def read(paths: Sequence[str | Path]) -> list[Subject]:
    """What the runs, or results files, hold; a path that is given twice counts once.

    Raises:
        InputError, DataError: no run, no results yet, or a line that is none; the message names file and line.
    """
    sources: dict[Path, Source] = {}
    for source in map(source_of, map(Path, paths)):
        sources.setdefault(source.file.resolve(), source)
    found: dict[tuple[str, ...], list[tuple[Source, Fields]]] = {}
    for source in sources.values():
        for number, record in enumerate(Log(source.file).records(), 1):
            fields = Fields(record, f"{source.file}, line {number}")
            if record.get("kind", LIKELIHOOD) not in (LIKELIHOOD, CLASSIFICATION, QUALITY):
                fields.refuse("kind", f"{LIKELIHOOD}, {CLASSIFICATION} or {QUALITY}")
            weights = record.get("weights_sha256") or json.dumps(record.get("model"), sort_keys=True)
            found.setdefault((str(source.file), fields.text("run"), str(weights)), []).append((source, fields))
    subjects = [_subject(lines) for lines in found.values()]
    labels = told_apart(subjects, [lambda s: s.run, lambda s: (s.weights or "")[:8], lambda s: s.source.place])
    return [replace(subject, label=label) for subject, label in zip(subjects, labels, strict=True)]


def _subject(lines: Sequence[tuple[Source, Fields]]) -> Subject:
    """The lines of one run and its weights, still without a label; the last one of each cell counts."""
    cells, verdicts, judged = {}, {}, {}
    for _, fields in lines:
        recipe = fields.part("model").record if fields.record.get("model") is not None else {}
        if fields.record.get("kind", LIKELIHOOD) == LIKELIHOOD:
            cell = cell_of(fields)
            cells[cell.on, cell.shots, cell.particles] = cell
        elif fields.record["kind"] == QUALITY:
            found = judged_of(fields)
            judged[found.on, found.shots, found.critic_weights] = found
        else:
            verdict = verdict_of(fields)
            verdicts[verdict.on, verdict.shots, verdict.method] = verdict
    source, last = lines[-1]
    weights = last.record.get("weights_sha256")
    return Subject(
        label="",
        run=last.text("run"),
        model=shown(recipe.get("name", "")),
        weights=shown(weights) if weights else None,
        source=source,
        cells=tuple(cells.values()),
        verdicts=tuple(verdicts.values()),
        judged=tuple(judged.values()),
    )


def source_of(path: Path) -> Source:
    """The results file of a run folder, or the file itself.

    Raises:
        DataError: there is none, or nothing in it; says which command makes it.
    """
    file = path / RESULTS if path.is_dir() else path
    if not file.exists():
        if (path / "config.yaml").exists():
            raise DataError(f"{path} has no {RESULTS} yet. Make it: `fsgen evaluate {path}`.")
        reason = f"it holds no {RESULTS}" if path.is_dir() else "there is no such folder or file"
        raise DataError(f"{path} is no run: {reason}. Name a folder made by `fsgen train` and `fsgen evaluate`.")
    if not Log(file).records():
        raise DataError(f"{file} holds no results. Make them: `fsgen evaluate {path}`.")
    return Source(file, path if path.is_dir() else None, hashlib.sha256(file.read_bytes()).hexdigest())


def cell_of(fields: Fields) -> Cell:
    """A line of kind "likelihood".

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
    return Cell(
        on=_set_list(fields),
        about=_about(fields),
        shots=fields.whole("shots"),
        particles=fields.whole("particles"),
        exact=record.get("exact") is True,
        whole=whole,
        repeated=_part(fields.part("repeated")) if record.get("repeated") is not None else None,
        unrepeated=_part(fields.part("unrepeated")) if record.get("unrepeated") is not None else None,
        bits=fields.number("bits_per_dim"),
        ess=fields.share("ess"),
        ess_min=fields.share("ess_min"),
        values=values,
        terms={str(site): nats for site in terms.record if (nats := terms.number(site)) is not None},
    )


def verdict_of(fields: Fields) -> Verdict:
    """A line of kind "classification": needs run, data, protocol, ways, shots and list_digest, and may lack the rest.

    Raises:
        InputError: a field is of another type, or one of these is missing.
    """
    ends = fields.numbers("interval")
    bins = fields.record.get("reliability") or []
    if not isinstance(bins, list) or not all(isinstance(row, Mapping) for row in bins):
        fields.refuse("reliability", "a list of mappings with confidence, accuracy and count")
    rows = [Fields(row, f"{fields.where}, 'reliability'") for row in bins]
    found = [(row.share("confidence"), row.share("accuracy"), row.number("count")) for row in rows]
    return Verdict(
        on=_set_list(fields),
        about=_about(fields),
        shots=fields.whole("shots"),
        method=shown(fields.record.get("method") or "likelihood"),
        accuracy=fields.share("accuracy"),
        se=fields.number("se"),
        interval=(float(ends[0]), float(ends[1])) if ends is not None and len(ends) == 2 else None,
        ece=fields.share("ece"),
        sets=fields.count("sets"),
        bins=[(c, a, n or 0.0) for c, a, n in found if c is not None and a is not None],
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
