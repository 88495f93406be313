"""Bounds beside annealed importance sampling of the same sets: findings, and their section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fsgen.report.blocks import Note, Section, Table
from fsgen.report.lines import Annealed, SetList
from fsgen.report.names import shown
from fsgen.report.results import Subject
from fsgen.report.wording import counted, known, percent, plus_minus, short

Finding = Mapping[str, Any]

MEANING = (
    "Two estimators of the same likelihood, on the same sets. IWAE: the importance-weighted bound with K particles, as "
    "in the sections above. AIS: annealed importance sampling, whose chains walk from the guide to the posterior over "
    "a number of temperatures. On average neither gives an NLL that is too low, so a difference above its error says "
    "that the bound with K particles is too high by at least about as much. A difference near 0 says only that "
    "annealing found nothing that the particles missed. ± is one standard error over sets; that of the difference is "
    "of the differences set by set. ESS is the effective share of the particles, or of the chains."
)


def annealings(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    """One finding for each list of sets that was scored by both estimators: each run at each shot count."""
    lists: dict[SetList, list[tuple[str, Annealed]]] = {}
    for subject in subjects:
        for found in subject.annealed:
            lists.setdefault(found.on, []).append((subject.label, found))
    return [_finding(on, rows) for on, rows in lists.items()]


def _finding(on: SetList, rows: Sequence[tuple[str, Annealed]]) -> dict[str, Any]:
    about = rows[0][1].about
    return {
        "data": {**about["data"], "split": on.split, "digest": on.data},
        "protocol": on.protocol,
        "ways": on.ways,
        "length": about["length"],
        "seed": about["seed"],
        "list_digest": on.digest,
        "annealed": [_row(label, found) for label, found in sorted(rows, key=lambda row: row[1].shots)],
    }


def _row(label: str, found: Annealed) -> dict[str, Any]:
    return {
        "run": label,
        "shots": found.shots,
        "sets": found.sets,
        "importance": {**asdict(found.importance), "particles": found.particles},
        "annealed": {**asdict(found.annealed), "temperatures": found.temperatures, "chains": found.chains},
        "difference": {"nats": found.difference.nats, "se": found.difference.se},
    }


def section(number: int, finding: Finding) -> Section:
    """Both estimators and their difference, one row a run and shot count."""
    data = finding["data"]
    title = f"A second estimator: {shown(data['name'])}, {shown(data['split'])} classes"
    ways = counted(finding["ways"], "class", "classes")
    sets = counted(max(row["sets"] for row in finding["annealed"]), "set", "sets")
    about = (
        f"{sets} of {ways}, {shown(finding['protocol'])}, seed {known(finding['seed'])}; list "
        f"{short(finding['list_digest'])}. Data digest {short(data['digest'])}. {MEANING}"
    )
    head = ("model", "shots", "IWAE", "K", "ESS", "AIS", "temperatures", "chains", "ESS", "IWAE − AIS")
    rows = tuple(map(_cells, finding["annealed"]))
    return Section(f"annealing-{number}", title, (Note(about), Table("NLL, nats per image", head, rows)))


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    ours, theirs = row["importance"], row["annealed"]
    return (
        row["run"],
        str(row["shots"]),
        *(plus_minus(ours), str(ours["particles"]), percent(ours["ess"])),
        *(plus_minus(theirs), str(theirs["temperatures"]), str(theirs["chains"]), percent(theirs["ess"])),
        plus_minus(row["difference"], 2).replace("-", "−"),
    )
