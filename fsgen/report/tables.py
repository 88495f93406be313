"""Tables in Markdown from the lines of a results file and from the registry."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fsgen.registry import Registry

_BY = {"likelihood": "particles", "classification": "classifier", "quality": "critic"}


def read_results(path: str | Path, kind: str = "likelihood") -> list[dict[str, Any]]:
    """The records of one kind in a results file; the last one of each table cell counts.

    A cell is a run on one list of sets at one shot count with one number of particles; where classes were told apart,
    by one classifier with one set of options; where samples were judged, by one critic.
    """
    cells: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record.get("kind", "likelihood") == kind:
            by = json.dumps(record[_BY[kind]], sort_keys=True)
            cells[record["run"], record["list_digest"], record["shots"], by] = record
    return list(cells.values())


def classification_table(records: Iterable[Mapping[str, Any]], published: Mapping[str, Any] | None = None) -> str:
    """Accuracy in percent with half its 95 % interval: one row a run, classifier and task, one column a ways and shots.

    Args:
        published: a table of ``published.json`` whose rows follow, at the same ways and shots.
    """
    rows: dict[tuple[str, ...], dict[tuple[int, int], str]] = {}
    for r in records:
        key = (r["run"] or "no model", r["classifier"]["name"], f"{r['data']['name']}, {r['task']}")
        half = 50 * (r["high"] - r["low"])
        rows.setdefault(key, {})[r["ways"], r["shots"]] = f"{100 * r['accuracy']:.1f} ± {half:.1f}"
    columns = sorted({column for cells in rows.values() for column in cells})
    lines = [_row(["model", "by", "classes", *(f"{c}-way {s}-shot" for c, s in columns)]), _rule(3, len(columns))]
    lines += [_row([*key, *(cells.get(column, "") for column in columns)]) for key, cells in sorted(rows.items())]
    for r in published["rows"] if published else []:
        cells = [r.get(f"{c}way_{s}shot") for c, s in columns]
        if any(cell is not None for cell in cells):
            shown = ["" if cell is None else str(cell) for cell in cells]
            lines.append(_row([f"*{r['model']} (printed)*", r["method"], "Omniglot, random", *shown]))
    return "\n".join(lines)


def quality_table(records: Iterable[Mapping[str, Any]]) -> str:
    """Samples as a critic sees them, ± half the 95 % interval: one row a run and task, then those of the images."""
    listed = list(records)
    lines = [_row(["model", "task", "recognized, %", "diversity", "novelty"]), _rule(2, 3)]
    for r in listed:
        cells = [_half(r["recognizability"], 100, 1), _half(r["diversity"], 1, 2), _half(r["novelty"], 1, 2)]
        lines.append(_row([r["run"], f"{r['ways']}-way {r['shots']}-shot", *cells]))
    for task, r in {f"{r['ways']}-way {r['shots']}-shot": r for r in listed}.items():
        lines.append(_row(["*the images*", task, _half(r["real_recognizability"], 100, 1), "1", "1"]))
    return "\n".join(lines)


def bits_table(records: Iterable[Mapping[str, Any]]) -> str:
    """As :func:`likelihood_table`, in bits per dimension; records of a density, which have none, are left out."""
    return likelihood_table([_in_bits(record) for record in records if record["bits_per_dim"] is not None], digits=3)


def likelihood_table(records: Iterable[Mapping[str, Any]], digits: int = 1) -> str:
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
        lines.append(_row([run, protocol, str(ways), *(_cell(cells.get(t), digits) for t in shots)]))
        if protocol == "published":
            unseen = [_cell(cells[t]["unrepeated"], digits) if t in cells else "" for t in shots]
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


def comparison_table(found: Mapping[str, Any], column: str = "nats") -> str:
    """Models side by side on one list of sets at the shot counts that all were scored at, best at most shots first.

    Args:
        found: as written by ``experiments/omniglot-comparison/measure.py``.
        column: "nats", with size and times; or "difference", paired to the reference model on the same sets.
    """
    shots = sorted(set.intersection(*({int(t) for t in row[column]} for row in found["rows"])))
    whole = column == "nats"
    about = ["likelihood", "parameters", "training, minutes", "ms a sample"] if whole else []
    lines = [_row(["model", *about, *(f"{t} shots" for t in shots)]), _rule(2 if whole else 1, len(about[1:] + shots))]
    for row in sorted(found["rows"], key=lambda row: row["nats"][str(max(shots))]["nats"]):
        cells = [f"[{row['name']}](../../assets/models/{row['name']}/README.md)"]
        if whole:
            kind = "exact" if row["exact"] else f"bound, K = {row['particles']}"
            spent = row["training"]
            minutes = f"{spent['seconds'] / 60:.0f}"
            if spent["cpu_seconds"] is not None:
                minutes += f" ({spent['cpu_seconds'] / 60:.0f} of CPU)"
            cells += [kind, f"{row['parameters'] / 1e6:.2f} M", minutes, f"{row['milliseconds_a_sample']:.1f}"]
        digits = 1 if whole else 2
        lines.append(_row([*cells, *(_cell(row[column].get(str(t)), digits) for t in shots)]))
    return "\n".join(lines)


def speed_table(result: Mapping[str, Any]) -> str:
    """Steps a second of each candidate and its ratio to the reference of the same run."""
    lines = [_row(["candidate", "steps a second", "ratio, median", "min to max"]), _rule(1, 3)]
    for name, found in result["candidates"].items():
        ratio = found["ratio"]
        span = f"{ratio['min']:.2f} to {ratio['max']:.2f}"
        lines.append(_row([name, f"{found['steps_per_second']:.2f}", f"{ratio['median']:.2f}", span]))
    return "\n".join(lines)


def sampling_table(result: Mapping[str, Any]) -> str:
    """Seconds to draw a batch of images by the cached walk and by the naive loop of the same run."""
    lines = [_row(["model", "naive loop, s", "cached walk, s", "ratio, median", "min to max"]), _rule(1, 4)]
    for name, found in result["candidates"].items():
        ratio = found["ratio"]
        seconds = [f"{found['seconds_naive']:.1f}", f"{found['seconds_walk']:.2f}"]
        lines.append(_row([name, *seconds, f"{ratio['median']:.0f}", f"{ratio['min']:.0f} to {ratio['max']:.0f}"]))
    return "\n".join(lines)


def figures_table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Rows of a benchmark; ``columns`` gives each heading the format of its cells, the first column is a name.

    >>> rows = [{"model": "gmn", "ratio": {"median": 7.5}}]
    >>> print(figures_table(rows, {"model": "{model}", "ratio": "{ratio[median]:.2f}"}))
    | model | ratio |
    |---|---:|
    | gmn | 7.50 |
    """
    lines = [_row(list(columns)), _rule(1, len(columns) - 1)]
    return "\n".join(lines + [_row([cell.format_map(row) for cell in columns.values()]) for row in rows])


def scaling_table(result: Mapping[str, Any], *, bandwidth: float = 1.25e9, latency: float = 50e-6) -> str:
    """What averaging gradients leaves of the speed of processes with one episode each: measured, and on paper.

    Args:
        result: of ``benchmarks/bench_all_reduce.py``.
        bandwidth: bytes a second, latency: seconds a message, between the machines on paper, which reduce in rings.
    """
    here, machines, agreed = result["processes"], (8, 32), result["agreement_seconds"]
    heads = ["model", "gradient, MB", "one episode, s", "all-reduce, ms", f"efficiency of {here} here"]
    lines = [_row([*heads, *(f"of {n} on paper" for n in machines)]), _rule(1, len(heads) - 1 + len(machines))]
    for name, found in result["models"].items():
        step, averaged, size = (found[key] for key in ("step_seconds", "all_reduce_seconds", "gradient_bytes"))
        rings = [2 * (n - 1) * (size / n / bandwidth + 3 * latency) for n in machines]
        shares = [step / (step + wait) for wait in (averaged + agreed, *rings)]
        numbers = [f"{size / 1e6:.2f}", f"{step:.3f}", f"{1e3 * averaged:.2f}"]
        lines.append(_row([f"`{name}`", *numbers, *(f"{share:.1%}" for share in shares)]))
    load = f"the load before was {result['load_before']:.1f} on {result['cores']} cores"
    return "\n".join([*lines, "", f"Agreeing took {1e3 * agreed:.2f} ms a step; {load}."])


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


def _cell(part: Mapping[str, Any] | None, digits: int = 1) -> str:
    if part is None or part["nats"] is None:
        return ""
    return f"{part['nats']:.{digits}f}" + ("" if part["se"] is None else f" ± {part['se']:.{digits}f}")


def _half(figure: Mapping[str, float], scale: float, digits: int) -> str:
    half = (figure["high"] - figure["low"]) / 2
    return f"{scale * figure['mean']:.{digits}f} ± {scale * half:.{digits}f}"


def _in_bits(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with every number of nats, and its error, in bits per dimension."""
    dims = math.log(2) * math.prod(record["model"]["options"]["event_shape"])

    def scaled(part: Mapping[str, Any]) -> dict[str, Any]:
        return {**part, **{k: None if part[k] is None else part[k] / dims for k in ("nats", "se")}}

    return {**scaled(record), "unrepeated": scaled(record["unrepeated"]), "repeated": scaled(record["repeated"])}
