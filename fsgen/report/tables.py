"""Tables in Markdown from the lines of a results file and from the registry."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fsgen.registry import Registry


def read_results(path: str | Path) -> list[dict[str, Any]]:
    """The records of a results file; the last one of each table cell counts.

    A cell is a run on one list of sets at one shot count with one number of particles.
    """
    cells: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        cells[record["run"], record["list_digest"], record["shots"], record["particles"]] = record
    return list(cells.values())


def likelihood_table(records: Iterable[Mapping[str, Any]]) -> str:
    """NLL in nats per image with its standard error: one row a run, protocol and number of classes.

    Under the published protocol a second row holds the targets that repeat no image of their support.
    """
    rows: dict[tuple[str, str, int], dict[int, Mapping[str, Any]]] = {}
    for record in records:
        rows.setdefault((record["run"], record["protocol"], record["ways"]), {})[record["shots"]] = record
    shots = sorted({t for cells in rows.values() for t in cells})
    lines = [_row(["model", "protocol", "classes", *(f"{t} shots" for t in shots)]), _rule(3, len(shots))]
    strict_first = sorted(rows.items(), key=lambda item: (item[0][0], item[0][1] != "strict", item[0][2]))
    for (run, protocol, ways), cells in strict_first:
        lines.append(_row([run, protocol, str(ways), *(_cell(cells.get(t)) for t in shots)]))
        if protocol == "published":
            unseen = [_cell(cells[t]["unrepeated"]) if t in cells else "" for t in shots]
            lines.append(_row([run, "published, targets not repeated", str(ways), *unseen]))
    return "\n".join(lines)


def published_rows(published: Mapping[str, Any], shots: Sequence[int], names: Sequence[str]) -> str:
    """Printed rows of a table of ``published.json`` with ``names``, at the same shot counts."""
    lines = []
    for row in published["rows"]:
        if row["model"] in names:
            cells = [str(row["nll_by_shots"].get(str(t), "")) for t in shots]
            lines.append(_row([f"*{row['model']} (printed)*", "published", str(row["test_classes"] or ""), *cells]))
    return "\n".join(lines)


def training_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Short runs side by side: size, time and what each reached on the validation classes."""
    head = ["run", "parameters", "learning rate", "steps", "minutes", "threads", "validation, nats per image"]
    lines = [_row(head), _rule(1, len(head) - 1)]
    for row in rows:
        reached = f"{row['validation_nats']:.1f} ± {row['validation_se']:.1f}"
        size, minutes = f"{row['parameters'] / 1e6:.2f} M", f"{row['seconds'] / 60:.1f}"
        cells = [size, str(row["learning_rate"]), str(row["steps"]), minutes, str(row["threads"]), reached]
        lines.append(_row([row["run"], *cells]))
    return "\n".join(lines)


def speed_table(result: Mapping[str, Any]) -> str:
    """Steps a second of each candidate and its ratio to the reference of the same run."""
    lines = [_row(["candidate", "steps a second", "ratio, median", "min to max"]), _rule(1, 3)]
    for name, found in result["candidates"].items():
        ratio = found["ratio"]
        span = f"{ratio['min']:.2f} to {ratio['max']:.2f}"
        lines.append(_row([name, f"{found['steps_per_second']:.2f}", f"{ratio['median']:.2f}", span]))
    return "\n".join(lines)


def model_table(models: Registry) -> str:
    """The registered models and what each is."""
    lines = [_row(["model", "what it is"]), _rule(2, 0)]
    return "\n".join(lines + [_row([f"`{name}`", entry.summary]) for name, entry in models.catalogue().items()])


def between(text: str, mark: str, content: str) -> str:
    """``text`` with what stands between ``<!-- mark -->`` and ``<!-- /mark -->`` replaced.

    Raises:
        ValueError: the marks are not there.
    """
    begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
    if begin not in text or end not in text:
        raise ValueError(f"the marks {begin.strip()} and {end} are missing.")
    head, rest = text.split(begin, 1)
    return f"{head}{begin}{content}\n{end}{rest.split(end, 1)[1]}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rule(left: int, right: int) -> str:
    return "|" + "---|" * left + "---:|" * right


def _cell(part: Mapping[str, Any] | None) -> str:
    if part is None or part["nats"] is None:
        return ""
    return f"{part['nats']:.1f}" + ("" if part["se"] is None else f" ± {part['se']:.1f}")
