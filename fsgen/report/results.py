"""Results files: who was scored, on which lists of sets, with which numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fsgen.errors import DataError
from fsgen.report.adjustment import Covariates
from fsgen.report.lines import (
    ANNEALING,
    CLASSIFICATION,
    COVARIATES,
    LIKELIHOOD,
    QUALITY,
    Annealed,
    Cell,
    Fields,
    Judged,
    SetList,
    Verdict,
    annealed_of,
    cell_of,
    covariates_of,
    judged_of,
    run_of,
    verdict_of,
)
from fsgen.report.names import shown, told_apart
from fsgen.run.log import Log
from fsgen.run.provenance import shortened

RESULTS = "results.jsonl"


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
    annealed: tuple[Annealed, ...] = ()


def read(paths: Sequence[str | Path]) -> list[Subject]:
    """What the runs, or results files, hold; a path that is given twice counts once.

    Raises:
        InputError, DataError: no run, no results yet, or a line that is none; the message names file and line.
    """
    sources: dict[Path, Source] = {}
    for source in map(source_of, map(Path, paths)):
        sources.setdefault(source.file.resolve(), source)
    found: dict[tuple[str, ...], list[tuple[Source, Fields]]] = {}
    covariates: dict[SetList, Covariates] = {}
    for source in sources.values():
        for number, record in enumerate(Log(source.file).records(), 1):
            fields = Fields(record, f"{source.file}, line {number}")
            if record.get("kind", LIKELIHOOD) == COVARIATES:
                covariates.update([covariates_of(fields)])
                continue
            if record.get("kind", LIKELIHOOD) not in (LIKELIHOOD, CLASSIFICATION, QUALITY, ANNEALING):
                fields.refuse("kind", f"{LIKELIHOOD}, {CLASSIFICATION}, {COVARIATES}, {QUALITY} or {ANNEALING}")
            weights = record.get("weights_sha256") or json.dumps(record.get("model"), sort_keys=True)
            found.setdefault((str(source.file), run_of(fields), str(weights)), []).append((source, fields))
    subjects = [_subject(lines, covariates) for lines in found.values()]
    labels = told_apart(subjects, [lambda s: s.run, lambda s: (s.weights or "")[:8], lambda s: s.source.place])
    return [replace(subject, label=label) for subject, label in zip(subjects, labels, strict=True)]


def _subject(lines: Sequence[tuple[Source, Fields]], covariates: Mapping[SetList, Covariates]) -> Subject:
    """The lines of one run and its weights, still without a label; the last one of each cell counts."""
    cells, verdicts, judged, annealed = {}, {}, {}, {}
    for _, fields in lines:
        recipe = fields.part("model").record if fields.record.get("model") is not None else {}
        if fields.record.get("kind", LIKELIHOOD) == LIKELIHOOD:
            cell = cell_of(fields, covariates)
            cells[cell.on, cell.shots, cell.particles] = cell
        elif fields.record["kind"] == QUALITY:
            found = judged_of(fields)
            judged[found.on, found.shots, found.critic_weights] = found
        elif fields.record["kind"] == ANNEALING:
            both = annealed_of(fields)
            annealed[both.on, both.shots, both.particles, both.temperatures, both.chains] = both
        else:
            verdict = verdict_of(fields)
            verdicts[verdict.on, verdict.shots, verdict.task, verdict.method] = verdict
    source, last = lines[-1]
    weights = last.record.get("weights_sha256")
    return Subject(
        label="",
        run=run_of(last),
        model=shown(recipe.get("name", "")),
        weights=shown(weights) if weights else None,
        source=source,
        cells=tuple(cells.values()),
        verdicts=tuple(verdicts.values()),
        judged=tuple(judged.values()),
        annealed=tuple(annealed.values()),
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
