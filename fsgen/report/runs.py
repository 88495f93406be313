"""What lies beside the results of a run: its training and its sample sheet; and where its numbers came from."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from fsgen import storage
from fsgen.errors import CheckpointError
from fsgen.report.blocks import Block, Note, Picture, Section, Table
from fsgen.report.lines import Annealed, Cell, Judged, Verdict, finite
from fsgen.report.names import shown
from fsgen.report.results import Subject
from fsgen.report.wording import NONE, short, span
from fsgen.run.log import Log

SHEET, SESSIONS, PAGE = "samples.png", "sessions.jsonl", "README.md"
CAPTIONS = "pictures/captions.yaml"
_MOST_PIXELS, _MOST_BYTES = 16_000_000, 32 << 20


def training(subject: Subject) -> dict[str, Any] | None:
    """What the training of a run took, over all its sessions; None where its folder does not say."""
    records = Log(subject.source.folder / SESSIONS).records() if subject.source.folder else []
    if not records:
        return None
    made_by = [record["provenance"] for record in records if isinstance(record.get("provenance"), Mapping)]
    return {
        "sessions": len(records),
        **cost(records),
        **{name: sorted({shown(p[name]) for p in made_by if p.get(name)}) for name in ("processor", "accelerator")},
        "threads": sorted({shown(r["threads"]) for r in records if r.get("threads")}),
        "ended": shown(records[-1].get("reason", "")),
    }


def cost(sessions: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Steps, wall-clock and CPU seconds of all runs whose sessions these are, in order; None for what is not known.

    A session logs the step and the seconds of its run up to its end, and the CPU seconds of its own. Those of a session
    that could not log its end are lost: the next one does not begin where the last one ended.
    """
    ends: dict[Any, Mapping[str, Any]] = {}
    lost = False
    for session in sessions:
        before = ends.get(session.get("run"))
        lost |= _number(session, "from") != (0 if before is None else _number(before, "step"))
        ends[session.get("run")] = session
    return {
        "steps": _total([_number(end, "step") for end in ends.values()]),
        "seconds": _total([_number(end, "seconds") for end in ends.values()]),
        "cpu_seconds": None if lost else _total([_number(session, "cpu_seconds") for session in sessions]),
    }


def _number(record: Mapping[str, Any], name: str) -> float:
    value = record.get(name)
    number = finite(value) if isinstance(value, int | float) else None
    return float("nan") if number is None else number


def _total(values: Sequence[float]) -> float | None:
    return finite(sum(values))


def training_section(subjects: Sequence[Subject], trainings: Sequence[Mapping[str, Any] | None]) -> Section | None:
    """The cost of each training that left a record."""
    head = ("model", "processor", "how it ended", "threads", "sessions", "steps", "minutes", "CPU minutes")
    body = [
        (
            subject.label,
            ", ".join([*found["accelerator"], *found["processor"]]) or NONE,
            found["ended"] or NONE,
            ", ".join(found["threads"]) or NONE,
            str(found["sessions"]),
            NONE if found["steps"] is None else f"{found['steps']:.0f}",
            _minutes(found["seconds"]),
            _minutes(found["cpu_seconds"]),
        )
        for subject, found in zip(subjects, trainings, strict=True)
        if found
    ]
    table = Table("Training, all sessions of a run together", head, tuple(body), left=3)
    return Section("training", "Cost of training", (table,)) if body else None


def _minutes(seconds: float | None) -> str:
    return NONE if seconds is None else f"{seconds / 60:.0f}"


def samples_section(subjects: Sequence[Subject]) -> Section | None:
    """The sample sheets of the run folders, each once."""
    blocks: list[Block] = []
    seen: set[Path] = set()
    for subject in subjects:
        folder = subject.source.folder
        if folder is None or folder in seen or not (folder / SHEET).is_file():
            continue
        seen.add(folder)
        png = picture(folder / SHEET)
        if png is None:
            blocks.append(Note(f"{subject.label}: {SHEET} cannot be read as a picture."))
        else:
            caption = f"{subject.label}. {described(folder)}"
            blocks.append(Picture(f"sheet-{len(seen)}", png, f"samples of {subject.label}", caption))
    return Section("samples", "Samples", tuple(blocks)) if blocks else None


def pictures_section(subjects: Sequence[Subject]) -> Section | None:
    """What `fsgen pictures` left in the run folders, each once; a line where a model has not what a sheet shows."""
    blocks: list[Block] = []
    seen: set[Path] = set()
    for subject in subjects:
        folder = subject.source.folder
        if folder is None or folder in seen or not (folder / CAPTIONS).is_file():
            continue
        seen.add(folder)
        for kind, caption in _captions(folder / CAPTIONS).items():
            png = picture((folder / CAPTIONS).with_name(f"{kind}.png"))
            said = f"{subject.label}. {shown(caption, 600)}"
            if png is None:
                blocks.append(Note(said))
            else:
                blocks.append(Picture(f"{kind}-{len(seen)}", png, f"{kind} of {subject.label}", said))
    return Section("pictures", "What the models do", tuple(blocks)) if blocks else None


def _captions(path: Path) -> dict[str, str]:
    """Captions by kind of sheet, of a file written by `fsgen pictures`; what is no such line is left out."""
    try:
        content = storage.config_from_bytes(path.read_bytes(), source=str(path))
    except (OSError, CheckpointError):
        return {}
    return {kind: str(line) for kind, line in content.items() if re.fullmatch(r"[a-z]{1,30}", str(kind))}


def picture(path: Path) -> bytes | None:
    """A PNG file as a small PNG of its pixels alone; None where it is none, or too large to show."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # its size is looked at here
            image = Image.open(io.BytesIO(data), formats=["PNG"])
        with image:
            if len(data) > _MOST_BYTES or image.width * image.height > _MOST_PIXELS:
                return None
            colours = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    grey = colours.convert("L")
    out = io.BytesIO()
    plain = grey if grey.convert("RGB").tobytes() == colours.tobytes() else colours
    plain.save(out, "PNG")
    return out.getvalue()


def described(folder: Path) -> str:
    """The paragraph that follows the sheet in the run's README.md, else what the file is."""
    try:
        text = (folder / PAGE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        text = ""
    found = re.search(rf"\]\({re.escape(SHEET)}\)\n\n([^\n<|#!].*?)(?:\n\n|\Z)", text, flags=re.S)
    return shown(found[1].strip("*"), 600) if found else f"{SHEET} of the run."


def sources_section(subjects: Sequence[Subject]) -> Section:
    """Files, weights, code and commands behind the numbers."""
    files = [
        (s.label, shown(s.model) or NONE, s.source.place, short(s.source.sha256), short(s.weights)) for s in subjects
    ]
    head = ("model", "kind", "results", "sha256 of the results", "sha256 of the weights")
    body = [(subject.label, *row) for subject in subjects for row in dict.fromkeys(map(_origin, scored(subject)))]
    made = ("model", "list", "commit", "versions", "machine", "command")
    return Section(
        "sources",
        "Where the numbers came from",
        (
            Table("Runs and their results files", head, tuple(files), left=5),
            Table("Code, machine and command of each evaluation", made, tuple(body), left=6),
        ),
    )


def scored(subject: Subject) -> list[Cell | Verdict | Judged | Annealed]:
    """Every line of a subject that counts."""
    return [*subject.cells, *subject.verdicts, *subject.judged, *subject.annealed]


def _origin(line: Cell | Verdict | Judged | Annealed) -> tuple[str, ...]:
    made_by = line.about["provenance"]
    git = made_by.get("git")
    commit = (
        f"{short(git.get('commit'))}{', changed' if git.get('dirty') else ''}" if isinstance(git, Mapping) else NONE
    )
    versions = ", ".join(f"{name} {shown(made_by[name])}" for name in ("fsgen", "torch", "python") if made_by.get(name))
    parts = [made_by.get(name) for name in ("accelerator", "processor", "platform")]
    threads = f"threads: {shown(made_by['threads'])}" if made_by.get("threads") else ""
    machine = ", ".join([*(shown(part) for part in parts if part), *filter(None, [threads])])
    words = made_by.get("command")
    command = " ".join(map(str, words)) if isinstance(words, list) else ""
    return short(line.on.digest), commit, versions or NONE, machine or NONE, shown(command, 300) or NONE


def evaluated(subjects: Sequence[Subject], finding: Mapping[str, Any]) -> str:
    """When the scores of a list were made: the first and last day."""
    days = sorted(
        str(line.about["provenance"]["time"])[:10]
        for s in subjects
        for line in scored(s)
        if line.on.digest == finding["list_digest"] and line.about["provenance"].get("time")
    )
    return shown(span(days)) if days else NONE
