"""From results files to the files of a report."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fsgen import storage
from fsgen.errors import InputError
from fsgen.report.accuracies import PRINTED_ACCURACY, classification, classifications, together
from fsgen.report.annealings import annealings
from fsgen.report.annealings import section as annealing
from fsgen.report.blocks import Note, Section, Table
from fsgen.report.findings import PRINTED, likelihoods, reference_of
from fsgen.report.names import shown
from fsgen.report.page import pictures, to_html, to_markdown
from fsgen.report.quality import qualities
from fsgen.report.quality import section as quality
from fsgen.report.results import Subject, read
from fsgen.report.runs import evaluated, pictures_section, samples_section, sources_section, training, training_section
from fsgen.report.sections import HOW_TO_READ, likelihood
from fsgen.report.wording import NONE, counted, known, short

HTML, MARKDOWN, JSON = "report.html", "report.md", "report.json"
FORMAT = 1
_PICTURE = re.compile(r"[a-z]+-\d+\.(svg|png)")


def build(
    paths: Sequence[str | Path],
    *,
    title: str = "Likelihood report",
    against: str | None = None,
    published: Mapping[str, Any] | None = None,
    command: Sequence[str] = (),
) -> dict[str, bytes]:
    """The files of a report by name. The same results give the same bytes.

    Args:
        paths: run folders, or results files.
        against: run that the others are compared with; without it, on each list, the best at the most shots.
        published: printed figures in the form of ``assets/published.json``, shown beside the same data and protocol.
        command: words that made the report, for its record.

    Raises:
        InputError, DataError, CheckpointError: a path is no run, or a line no result.
    """
    subjects, published = read(paths), published or {}
    found = likelihoods(subjects, reference_of(subjects, against), published)
    tasks, judged, annealed = classifications(subjects, published), qualities(subjects), annealings(subjects)
    trainings = [training(subject) for subject in subjects]
    sections = _sections(subjects, found, tasks, judged, annealed, trainings)
    models = counted(len(subjects), "model", "models")
    lists = counted(len(found + tasks + judged + annealed), "list", "lists")
    summary = f"{models} on {lists} of sets. {HOW_TO_READ}"
    drawn = pictures(sections)
    content = {
        "format": FORMAT,
        "title": title,
        "command": list(command),
        "pictures": sorted(drawn),
        "runs": [{**_subject(subject), "training": cost} for subject, cost in zip(subjects, trainings, strict=True)],
        "likelihood": found,
        "classification": tasks,
        "quality": judged,
        "annealing": annealed,
    }
    return {
        **drawn,
        MARKDOWN: to_markdown(shown(title, 200), summary, sections).encode(),
        HTML: to_html(shown(title, 200), summary, sections).encode(),
        JSON: (json.dumps(content, indent=1, allow_nan=False) + "\n").encode(),
    }


def _subject(subject: Subject) -> dict[str, Any]:
    """Where a model's numbers came from."""
    return {
        "label": subject.label,
        "run": subject.run,
        "model": subject.model,
        "weights_sha256": subject.weights,
        "results": subject.source.place,
        "results_sha256": subject.source.sha256,
    }


def _sections(
    subjects: Sequence[Subject],
    found: Sequence[Mapping[str, Any]],
    tasks: Sequence[Mapping[str, Any]],
    judged: Sequence[Mapping[str, Any]],
    annealed: Sequence[Mapping[str, Any]],
    trainings: Sequence[Mapping[str, Any] | None],
) -> list[Section]:
    colours: dict[str, dict[str, int]] = {}  # by data and run: a run has one colour in all charts of its data
    for finding in [*found, *tasks, *judged]:
        numbers = colours.setdefault(finding["data"]["digest"], {})
        for row in finding[_kind(finding)]:
            numbers.setdefault(row["run"], len(numbers))
    last = [training_section(subjects, trainings), samples_section(subjects)]
    last += [pictures_section(subjects), sources_section(subjects)]
    return [
        _overview(subjects, [*found, *tasks, *judged, *annealed]),
        *(likelihood(number, finding, colours[finding["data"]["digest"]]) for number, finding in enumerate(found, 1)),
        *(
            classification(number, group, colours[group[0]["data"]["digest"]])
            for number, group in enumerate(together(tasks), 1)
        ),
        *(quality(number, finding, colours[finding["data"]["digest"]]) for number, finding in enumerate(judged, 1)),
        *(annealing(number, finding) for number, finding in enumerate(annealed, 1)),
        *(section for section in last if section),
    ]


_KINDS = {
    "scores": "likelihood",
    "verdicts": "classification",
    "judged": "sample quality",
    "annealed": "a second estimator",
}


def _kind(finding: Mapping[str, Any]) -> str:
    """The key under which a finding holds its rows."""
    return next(key for key in _KINDS if key in finding)


def _what(finding: Mapping[str, Any]) -> str:
    """What is measured on a list."""
    name = _KINDS[_kind(finding)]
    return f"{name}, {finding['shots']}-shot, {finding['task']} classes" if "task" in finding else name


def _overview(subjects: Sequence[Subject], found: Sequence[Mapping[str, Any]]) -> Section:
    """What was evaluated: one row a list."""
    rows = []
    for finding in found:
        data, scores = finding["data"], finding[_kind(finding)]
        particles = ["exact"] * any(score.get("exact") for score in scores)
        particles += map(str, sorted({score["particles"] for score in scores if not score.get("exact", True)}))
        rows.append(
            (
                f"{shown(data['name'])}, {shown(data['split'])}",
                shown(finding["protocol"]),
                _what(finding),
                evaluated(subjects, finding),
                short(data["digest"]),
                short(finding["list_digest"]),
                known(finding["seed"]),
                str(finding["ways"]),
                str(max((score.get("sets") or score.get("episodes") or 0 for score in scores), default=0) or NONE),
                str(len({score["run"] for score in scores})),
                ", ".join(particles) or NONE,
            )
        )
    head = ("data", "protocol", "what", "evaluated", "data digest", "list digest")
    numbers = ("seed", "classes", "sets or episodes", "models", "particles K")
    table = Table("Lists of sets", (*head, *numbers), tuple(rows), left=6)
    note = Note("Each list has a section of its own below; numbers of different lists are not compared.")
    return Section("overview", "What was evaluated", (table, note))


def read_published(path: Path) -> dict[str, Any]:
    """The tables of printed figures that a report can show.

    Raises:
        InputError: no such file, or not of the form of ``assets/published.json``.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        tables = {name: content[name] for name in (*PRINTED.values(), *PRINTED_ACCURACY.values()) if name in content}
        for name in set(PRINTED.values()) & set(tables):
            for row in tables[name]["rows"]:
                _ = row["model"], row["test_classes"], {int(t): float(nats) for t, nats in row["nll_by_shots"].items()}
        for name in set(PRINTED_ACCURACY.values()) & set(tables):
            _ = [(row["model"], row["method"]) for row in tables[name]["rows"]]
        _ = [table["source"] for table in tables.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {shown(error, 80)}"
        raise InputError(f"{path} holds no printed figures ({reason}); see assets/published.json.") from error
    return tables


def write(folder: Path, files: Mapping[str, bytes], *, force: bool = False) -> None:
    """Writes the report, each file whole or not at all, report.json last; pictures of the one it replaces go.

    Raises:
        InputError: the folder holds a report and ``force`` is not given, or it is no folder.
        StorageError: a file cannot be written.
    """
    require_free(folder, force)
    with storage.refusals(folder, sum(map(len, files.values()))):
        folder.mkdir(parents=True, exist_ok=True)
    old = _pictures_of(folder)
    for name, data in files.items():
        storage.write_bytes(folder / name, data)
    for name in old - set(files):
        with storage.refusals(folder / name, 0):
            (folder / name).unlink(missing_ok=True)


def require_free(folder: Path, force: bool) -> None:
    """Refuses a place where a report cannot go.

    Raises:
        InputError: the folder holds a report and ``force`` is not given, it is a run, or it is no folder.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError(f"--out {folder} is no folder; name another.")
    if (folder / "config.yaml").exists():
        raise InputError(f"--out {folder} is a run folder; name another, such as {folder / 'report'}.")
    if not force and (held := [name for name in (HTML, MARKDOWN, JSON) if os.path.lexists(folder / name)]):
        raise InputError(f"--out {folder} holds {held[0]} already; replace it with --force, or name another folder.")


def _pictures_of(folder: Path) -> set[str]:
    """Pictures that the report in ``folder`` says are its own."""
    try:
        names = json.loads((folder / JSON).read_text(encoding="utf-8"))["pictures"]
        return {name for name in names if _PICTURE.fullmatch(name)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
