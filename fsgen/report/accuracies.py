"""What classification results say: findings, and the section that shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fsgen.report import charts
from fsgen.report.blocks import Block, Chart, Note, Section, Table
from fsgen.report.charts import Curve
from fsgen.report.lines import Verdict
from fsgen.report.names import shown
from fsgen.report.results import Subject
from fsgen.report.wording import NONE, known, percent, short, span

FEWEST = 10  # answers of one confidence below which their accuracy is not drawn
PRINTED_ACCURACY = {"omniglot28": "omniglot_classification"}  # tables of published.json by data source
Finding = Mapping[str, Any]


def classifications(subjects: Sequence[Subject], published: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One finding for each kind of episodes: accuracy, calibration and its bins, best first.

    Episodes of one kind and seed are one list, of which longer evaluations see more.
    """
    found: dict[tuple[Any, ...], list[tuple[str, Verdict]]] = {}
    for s in subjects:
        for v in s.verdicts:
            data = v.about["data"]
            about = (data["name"], v.on.data, v.on.split, v.on.protocol != "strict", v.on.protocol, v.task != "random")
            key = (*about, v.task, known(v.about["seed"]), v.on.ways, v.shots)
            found.setdefault(key, []).append((s.label, v))
    return [_finding(rows, published) for _, rows in sorted(found.items(), key=lambda item: item[0])]


def _finding(rows: list[tuple[str, Verdict]], published: Mapping[str, Any]) -> dict[str, Any]:
    rows.sort(key=lambda row: -(row[1].accuracy or 0.0))
    longest = max((v for _, v in rows), key=lambda v: v.episodes or 0)
    return {
        "data": {**longest.about["data"], "split": longest.on.split, "digest": longest.on.data},
        "protocol": longest.on.protocol,
        "task": longest.task,
        "ways": longest.on.ways,
        "shots": longest.shots,
        "list_digest": longest.on.digest,
        "seed": longest.about["seed"],
        "verdicts": [_verdict(label, v) for label, v in rows],
        "printed": _printed(longest, published),
    }


def _verdict(label: str, v: Verdict) -> dict[str, Any]:
    bins = [{"confidence": c, "accuracy": a, "queries": n} for c, a, n in v.bins]
    ends = None if v.interval is None else list(v.interval)
    shared = {"accuracy": v.accuracy, "se": v.se, "interval": ends, "ece": v.ece, "episodes": v.episodes}
    return {"run": label, "method": v.method, **shared, "bins": bins}


def _printed(v: Verdict, published: Mapping[str, Any]) -> dict[str, Any] | None:
    table = published.get(PRINTED_ACCURACY.get(v.about["data"]["name"], ""))
    if table is None or v.on.split != "test" or v.task != "random":
        return None
    name = f"{v.on.ways}way_{v.shots}shot"
    rows = [
        {"model": row["model"], "method": row["method"], "percent": row[name]}
        for row in table["rows"]
        if row.get(name) is not None
    ]
    return {"source": table["source"], "rows": rows} if rows else None


def together(findings: Sequence[Finding]) -> list[list[Finding]]:
    """The findings in groups that differ in ways and shots alone."""
    found: dict[tuple[Any, ...], list[Finding]] = {}
    for f in findings:
        found.setdefault((f["data"]["digest"], f["data"]["split"], f["protocol"], f["task"], f["seed"]), []).append(f)
    return list(found.values())


def classification(number: int, findings: Sequence[Finding], colours: Mapping[str, int]) -> Section:
    """Accuracy and calibration on one kind of episodes, a column each number of ways and shots."""
    first = findings[0]
    data = first["data"]
    title = f"Classification: {shown(data['name'])}, {shown(data['split'])}, {first['task']} classes"
    about = (
        f"{shown(first['protocol'])}, seed {known(first['seed'])}; images asked about are never shown. "
        f"Data digest {short(data['digest'])}."
    )
    heads = [f"{f['ways']}-way {f['shots']}-shot" for f in findings]
    names = list(dict.fromkeys((r["run"], r["method"]) for f in _widest_last(findings) for r in f["verdicts"]))
    cells = [{(r["run"], r["method"]): r for r in f["verdicts"]} for f in findings]
    blocks: list[Block] = [Note(about)]
    episodes = sorted({r["episodes"] for f in findings for r in f["verdicts"] if r["episodes"]})
    for caption, cell in (
        ("Accuracy, % [95 % interval over episodes]", _accuracy),
        ("Calibration error (ECE), %", lambda row: NONE if row is None else percent(row["ece"])),
    ):
        body = tuple((*name, *(cell(column.get(name)) for column in cells)) for name in names)
        blocks.append(Table(caption, ("model", "by", *heads), body, left=2))
    blocks[1:1] = [Note(f"Episodes: {span(map(str, episodes)) if episodes else NONE}.")]
    if printed := _printed_table(findings, heads):
        blocks.insert(3, printed)
    blocks += [chart for place, f in enumerate(findings) if (chart := _reliability(f"{number}{place:02d}", f, colours))]
    return Section(f"tasks-{number}", title, tuple(blocks))


def _widest_last(findings: Sequence[Finding]) -> list[Finding]:
    """The findings with the most rows first, so that a table's rows stand in the order of its fullest column."""
    return sorted(findings, key=lambda f: -len(f["verdicts"]))


def _printed_table(findings: Sequence[Finding], heads: Sequence[str]) -> Table | None:
    held = [f["printed"] for f in findings]
    source = next((p["source"] for p in held if p), None)
    if source is None:
        return None
    columns = [{(r["model"], r["method"]): r["percent"] for r in (p["rows"] if p else [])} for p in held]
    names = list(dict.fromkeys(name for column in columns for name in column))
    body = tuple((*map(shown, name), *(str(column.get(name, NONE)) for column in columns)) for name in names)
    return Table(f"Printed figures, accuracy in %: {shown(source, 300)}", ("model", "by", *heads), body, left=2)


def _reliability(place: str, finding: Finding, colours: Mapping[str, int]) -> Chart | None:
    curves: list[Curve] = []
    for row in finding["verdicts"]:
        if bins := sorted((b["confidence"], b["accuracy"]) for b in row["bins"] if b["queries"] >= FEWEST):
            name, colour = f"{shown(row['run'], 34)}, {row['method']}", colours[row["run"]]
            style = "again" if colour in [curve.colour for curve in curves] else "strict"
            curves.append(Curve(name, colour, style, *zip(*bins, strict=True)))
    if not curves:
        return None
    caption = (
        f"Reliability, {finding['ways']}-way {finding['shots']}-shot: accuracy of answers by their confidence, "
        f"where {FEWEST} or more have it; calibrated answers lie on the diagonal. A second way of a model is dotted."
    )
    return Chart(f"reliability-{place}", charts.reliability(curves), "accuracy against confidence", caption)


def _accuracy(row: Mapping[str, Any] | None) -> str:
    if row is None or row["accuracy"] is None:
        return NONE
    ends = row["interval"] and " [{:.1f}, {:.1f}]".format(*(100 * end for end in row["interval"]))
    return f"{100 * row['accuracy']:.1f}{ends or ''}"
