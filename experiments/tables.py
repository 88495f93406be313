"""The tables of the experiments' pages, from their plans and results files; ``readme.py`` writes the pages."""

from __future__ import annotations

import json
import math
from pathlib import Path

from run import Step, steps

from fsgen.report.tables import between, figures_table, likelihood_table, published_rows, quality_table, read_results
from fsgen.storage import config_from_bytes

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "assets" / "published.json"
NOTHING = "Not measured yet."


def planned(folder: Path) -> str:
    """The likelihood table of an experiment's plan, printed rows below."""
    plan = config_from_bytes((folder / "plan.yaml").read_bytes(), source=str(folder / "plan.yaml"))
    wanted = {(step.out, Path(step.run).name) for step in steps(plan) if step.command == "evaluate" and step.run}
    files = sorted({file for file, _ in wanted if file.is_file()})
    records = [r for file in files for r in read_results(file) if (file, r["run"]) in wanted]
    shots = sorted({r["shots"] for r in records})
    printed = json.loads(PUBLISHED.read_text(encoding="utf-8"))[plan["printed"]] if "printed" in plan else {"rows": []}
    rows = published_rows(printed, shots, plan.get("rows", [row["model"] for row in printed["rows"]]))
    return likelihood_table(records) + f"\n{rows}" * bool(rows) if records else NOTHING


def repeats(folder: Path) -> str:
    """What the same weights score at most shots, with repeats and without: one row a run of an experiment's plan."""
    done = [step for step in plan_of(folder) if step.command == "evaluate" and step.done()]
    lines = [
        "| model | *strict* | *published* | its targets that repeat an image | its other targets | repeats, % |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for run, out in dict.fromkeys((step.run, step.out) for step in done if step.run):
        name, shots = Path(run or "").name, max(t for step in done if step.run == run for t in step.flags["shots"])
        records = [r for r in read_results(out) if (r["run"], r["ways"], r["shots"]) == (name, 1, shots)]
        by = {r["protocol"]: r for r in records}
        if {"strict", "published"} <= by.keys():
            leaky = by["published"]
            parts = (by["strict"], leaky, leaky["repeated"], leaky["unrepeated"])
            cells = [f"{part['nats']:.1f} ± {part['se']:.1f}" for part in parts]
            share = f"{100 * leaky['repeated']['sets'] / leaky['sets']:.0f}"
            lines.append(f"| {name} | " + " | ".join([*cells, share]) + " |")
    return "\n".join(lines)


def per_dimension(folder: Path) -> str:
    """NLL in nats a dimension of the runs of an experiment's plan, one column a shot count."""
    cells: dict[str, dict[int, str]] = {}
    for path in {step.out for step in plan_of(folder) if step.out.is_file()}:
        for r in read_results(path):
            dims = math.prod(r["model"]["options"]["event_shape"])
            cells.setdefault(r["run"], {})[r["shots"]] = f"{r['nats'] / dims:.4f} ± {r['se'] / dims:.4f}"
    shots = sorted({t for row in cells.values() for t in row})
    rows = [{"model": run, **{f"{t} shots": row.get(t, "") for t in shots}} for run, row in cells.items()]
    return figures_table(rows, {name: f"{{{name}}}" for name in rows[0]}) if rows else NOTHING


def judged() -> str:
    """Samples of every trained model that a critic has seen."""
    files = sorted((ROOT / "assets" / "models").glob("*/results.jsonl"))
    return quality_table([r for file in files for r in read_results(file, "quality")])


def adapted(folder: Path, column: str) -> str:
    """One of the tables of memory against gradient adaptation, "nats", "arrived" or "cost", below its figure."""
    file = folder / "adaptation.json"
    if not file.is_file():
        return NOTHING
    rows = []
    for r in json.loads(file.read_text(encoding="utf-8"))["rows"]:
        cells = {"method": r["name"], "kind": r["kind"]}
        for x, cell in r[column].items():
            if column == "cost":
                cells[f"{x} shots"] = f"{cell['cpu']['condition']:.0f} + {cell['cpu']['image']:.1f}"
            else:
                cells[f"{x} {'shots' if column == 'nats' else 'classes'}"] = shown(cell)
        rows.append({**cells, "forgotten": shown(r["forgotten"], 2)} if column == "arrived" else cells)
    figure = f"![{column}]({column}.svg)\n\n" if (folder / f"{column}.svg").is_file() else ""
    return figure + figures_table(rows, {name: f"{{{name}}}" for name in rows[0]})


def shown(cell: dict[str, float], digits: int = 1) -> str:
    """A figure with its standard error."""
    return f"{cell['nats']:.{digits}f} ± {cell['se']:.{digits}f}"


def plan_of(folder: Path) -> list[Step]:
    """The steps of an experiment."""
    path = folder / "plan.yaml"
    return list(steps(config_from_bytes(path.read_bytes(), source=str(path))))


def pages_of_experiments() -> dict[Path, str]:
    """The pages whose tables are those of a plan or of a file beside it, and what each should hold."""
    folders = ROOT / "experiments"
    names = ("omniglot-likelihood", "mnist-transfer", "protocol-leak", "attention-steps")
    tables = {(name, "likelihood"): planned(folders / name) for name in names}
    tables["protocol-leak", "repeats"] = repeats(folders / "protocol-leak")
    tables["pixelcnn-few-shot", "dimensions"] = per_dimension(folders / "pixelcnn-few-shot")
    tables["samples", "quality"] = judged()
    for column in ("nats", "arrived", "cost"):
        tables["adaptation", column] = adapted(folders / "adaptation", column)
    made: dict[Path, str] = {}
    for (name, mark), table in tables.items():
        page = folders / name / "README.md"
        made[page] = between(made.get(page) or page.read_text(encoding="utf-8"), mark, table)
    return made
