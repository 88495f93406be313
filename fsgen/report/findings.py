"""What a report says, as plain JSON: scores, gains, paired differences and convergence of each list of sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from fsgen.errors import InputError
from fsgen.report.estimates import Estimate, estimates
from fsgen.report.lines import Bound, Cell, Part, SetList
from fsgen.report.names import shown
from fsgen.report.results import Subject

# Models whose score does not depend on the support: what the others gain over them is what the support is worth.
UNCONDITIONAL = ("vae", "pixelcnn")
# Tables of published.json by the data source they were measured on.
PRINTED = {"omniglot28": "omniglot_nll", "mnist28": "mnist_transfer_nll"}

Cells = dict[str, dict[int, Cell]]  # by label and shots, with the most particles
Estimates = dict[tuple[Any, ...], Estimate]


def reference_of(subjects: Sequence[Subject], name: str | None) -> str | None:
    """The label that ``--against`` names.

    Raises:
        InputError: no run of this name, or several.
    """
    if name is None:
        return None
    found = [s.label for s in subjects if name == s.label] or [s.label for s in subjects if name == s.run]
    if len(found) != 1:
        among = ", ".join(found or [s.label for s in subjects])
        raise InputError(f"--against {shown(name)}: {'several runs are' if found else 'no run is'} called so; {among}.")
    return found[0]


def likelihoods(subjects: Sequence[Subject], against: str | None, published: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One finding for each list of sets: data in the order they were met, strict first, then by classes."""
    order = list(dict.fromkeys((cell.on.data, cell.on.split) for s in subjects for cell in s.cells))
    lists = dict.fromkeys(cell.on for s in subjects for cell in s.cells)
    by = sorted(lists, key=lambda on: (order.index((on.data, on.split)), on.protocol != "strict", on.protocol, on.ways))
    return [_likelihood(on, subjects, against, published) for on in by]


def _likelihood(
    on: SetList, subjects: Sequence[Subject], against: str | None, published: Mapping[str, Any]
) -> dict[str, Any]:
    every = {s.label: cells for s in subjects if (cells := [cell for cell in s.cells if cell.on == on])}
    best = _ranked({label: _tightest(cells) for label, cells in every.items()})
    bases = [s.label for s in subjects if s.label in best and s.model in UNCONDITIONAL]
    reference = against if against in best else _leader(best)
    columns = {
        **{("score", label, c.shots, c.particles): c.values for label, cells in every.items() for c in cells},
        **_own_gains(best),
        **{k: v for base in bases for k, v in _gains_over(base, best).items()},
        **_differences(best, reference),
    }
    found = estimates({key: values for key, values in columns.items() if values is not None})
    first = next(iter(best.values()))
    cell = first[min(first)]
    return {
        "data": {**cell.about["data"], "split": on.split, "digest": on.data},
        "protocol": on.protocol,
        "ways": on.ways,
        "list_digest": on.digest,
        **{name: cell.about[name] for name in ("length", "seed")},
        "sets": max(c.whole.sets for cells in every.values() for c in cells),
        "scores": [_score(label, c, found) for label, cells in best.items() for c in cells.values()],
        "gains": _rows(found, "gain", "over"),
        "differences": _rows(found, "difference", "against"),
        "convergence": _convergence(every, found),
        "printed": _printed(on, cell.about["data"]["name"], published),
    }


def _tightest(cells: Sequence[Cell]) -> dict[int, Cell]:
    """The cell with the most particles at each shot count."""
    return {cell.shots: cell for cell in sorted(cells, key=lambda cell: (cell.shots, cell.particles))}


def _ranked(best: Cells) -> Cells:
    """The lowest NLL at the most shots first."""
    return dict(sorted(best.items(), key=lambda item: _nats(item[1][max(item[1])])))


def _leader(best: Cells) -> str | None:
    """The subject with the lowest NLL at the most shots that all were scored at; None where nothing is compared."""
    shared = set.intersection(*(set(cells) for cells in best.values()))
    return min(best, key=lambda label: _nats(best[label][max(shared)])) if shared and len(best) > 1 else None


def _nats(cell: Cell) -> float:
    return float("inf") if cell.whole.nats is None else cell.whole.nats


def _paired(ours: Cell | None, theirs: Cell | None) -> np.ndarray | None:
    """ours - theirs, set by set; None where that cannot be told."""
    if ours is None or theirs is None or ours.values is None or theirs.values is None:
        return None
    return ours.values - theirs.values if len(ours.values) == len(theirs.values) else None


def _own_gains(best: Cells) -> dict[tuple[Any, ...], np.ndarray | None]:
    return {
        ("gain", label, t, None): _paired(cells.get(0), cell)
        for label, cells in best.items()
        for t, cell in cells.items()
        if t
    }


def _gains_over(base: str, best: Cells) -> dict[tuple[Any, ...], np.ndarray | None]:
    """Gains over a model that ignores the support, at the same shots or, where it has none there, at no shots."""
    return {
        ("gain", label, t, base): _paired(best[base].get(t, best[base].get(0)), cell)
        for label, cells in best.items()
        for t, cell in cells.items()
        if label != base
    }


def _differences(best: Cells, reference: str | None) -> dict[tuple[Any, ...], np.ndarray | None]:
    if reference is None:
        return {}
    return {
        ("difference", label, t, reference): _paired(cell, best[reference].get(t))
        for label, cells in best.items()
        for t, cell in cells.items()
        if label != reference
    }


def _rows(found: Estimates, kind: str, other: str) -> list[dict[str, Any]]:
    return [
        {"run": label, other: base, "shots": t, **found[key].record()}
        for key in found
        if key[0] == kind
        for _, label, t, base in [key]
    ]


def _score(label: str, cell: Cell, found: Estimates) -> dict[str, Any]:
    estimate = found.get(("score", label, cell.shots, cell.particles))
    return {
        "run": label,
        "shots": cell.shots,
        **_part(cell.whole),
        "interval": estimate and [estimate.low, estimate.high],
        "adjusted": cell.adjusted and cell.adjusted.record(),
        "bits_per_dim": cell.bits,
        "exact": cell.exact,
        "particles": cell.particles,
        "ess": cell.ess,
        "ess_min": cell.ess_min,
        "repeated": cell.repeated and _part(cell.repeated),
        "unrepeated": cell.unrepeated and _part(cell.unrepeated),
        **({"terms": dict(cell.terms)} if cell.terms else {}),
    }


def _part(part: Part) -> dict[str, Any]:
    return {"sets": part.sets, "nats": part.nats, "se": part.se}


def _convergence(every: Mapping[str, Sequence[Cell]], found: Estimates) -> list[dict[str, Any]]:
    """The bound at each number of particles, where a subject has several at one shot count.

    One that was evaluated comes before one from a part of the particles of another evaluation.
    """
    rows = []
    for label, cells in every.items():
        for shots in sorted({c.shots for c in cells}):
            same = sorted((c for c in cells if c.shots == shots and not c.exact), key=lambda c: c.particles)
            by = {bound.particles: _fewer(label, c, bound) for c in same for bound in c.bounds}
            by |= {c.particles: _score(label, c, found) for c in same}
            rows += [by[particles] for particles in sorted(by)] if len(by) > 1 else []
    return rows


def _fewer(label: str, cell: Cell, bound: Bound) -> dict[str, Any]:
    about = {"run": label, "shots": cell.shots, "sets": cell.whole.sets, "interval": None, "ess": None}
    return {**about, **asdict(bound), "of": cell.particles}


def _printed(on: SetList, data: str, published: Mapping[str, Any]) -> dict[str, Any] | None:
    """Printed rows of the same data, protocol and number of classes."""
    table = published.get(PRINTED.get(data, ""))
    if table is None or on.protocol != "published" or on.split != "test":
        return None
    rows = [row for row in table["rows"] if row["test_classes"] in (None, on.ways)]
    return {"source": table["source"], "rows": rows} if rows else None
