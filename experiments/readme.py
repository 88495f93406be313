"""Writes the tables of README.md and of the trained models' pages from the registry and from results files.

python experiments/readme.py           # rewrite
python experiments/readme.py --check   # exit 1 if something is out of date
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tables import PUBLISHED, ROOT, pages_of_experiments

from fsgen.registry import LEARNERS, MODELS
from fsgen.report.tables import (
    between,
    bits_table,
    classification_table,
    comparison_table,
    figures_table,
    likelihood_table,
    model_table,
    published_rows,
    read_results,
    sampling_table,
    scaling_table,
    speed_table,
    training_table,
)

# Printed rows beside a model's own; another model has none.
PRINTED = {
    "gmn": ("GMN, C_train=2", "GMN, C_train=1, no attention", "GMN, C_train=2, no attention", "VAE"),
    "neural-statistician": ("Neural statistician, C_train=1",),
    "one-shot-vae": ("One-shot VAE",),
    "conditional-vae": ("GMN, C_train=1, no attention",),
}
RATIO = {"ratio, median": "{ratio[median]:.2f}", "min to max": "{ratio[min]:.2f} to {ratio[max]:.2f}"}
# Tables of benchmarks/README.md: mark -> file of results, what it holds the rows under, and the columns.
FIGURES: dict[str, tuple[str, str, dict[str, str]]] = {
    "prefix": (
        "prefix",
        "rows",
        {
            "model": "{model}",
            "sets": "{sets}",
            "T episodes, s": "{seconds_apart:.3f}",
            "one pass, s": "{seconds_together:.3f}",
            **RATIO,
            "ratio / T, median": "{share_of_length[median]:.2f}",
        },
    ),
    "pixelcnn_step": (
        "pixelcnn_step",
        "rows",
        {
            "candidate": "{candidate}",
            "images a second": "{images_per_second:.1f}",
            **RATIO,
            "share of the roofline": "{share_of_roofline:.1%}",
        },
    ),
    "particles": (
        "particles",
        "rows",
        {
            "reference: plain_gmn.py, or the plain loop's layout": "{layout}",
            "particles": "{particles}",
            "reference, s": "{seconds_plain:.1f}",
            "fsgen, s": "{seconds_fsgen:.1f}",
            **RATIO,
        },
    ),
    "particles-memory": (
        "particles",
        "memory",
        {
            "budget": "{budget}",
            "peak, MiB": "{peak_mebibytes:.0f}",
            "over one particle, MiB": "{mebibytes_over_one_particle:.0f}",
        },
    ),
    "episodes": (
        "episodes",
        "rows",
        {
            "model": "{model}",
            "batch": "{sets} sets of {length}",
            "draw, ms": "{milliseconds_draw:.1f}",
            "step, ms": "{milliseconds_step:.0f}",
            "share, median": "{share[median]:.2%}",
            "min to max": "{share[min]:.2%} to {share[max]:.2%}",
        },
    ),
    "tracing": (
        "tracing",
        "rows",
        {
            "batch": "{sets} sets of {length}",
            "by hand, ms": "{milliseconds_by_hand:.1f}",
            "traced, ms": "{milliseconds_traced:.1f}",
            "overhead, median": "{overhead[median]:.1%}",
            "min to max": "{overhead[min]:.1%} to {overhead[max]:.1%}",
        },
    ),
}
# The table of what was asked: what, its reference, the reach, file of results, where in it the span is, its format.
TIMES, SHARE = "{median:.2f}× ({min:.2f} to {max:.2f})", "{median:.1%} ({min:.1%} to {max:.1%})"
ASKED: tuple[tuple[str, str, str, str, tuple[str | int, ...], str], ...] = (
    (
        "GMN training step, `paper` preset, 20 sets of 10",
        "plain PyTorch port, float32, a loop over t",
        "≥ 2.5×",
        "gmn_step",
        ("candidates", "fsgen bfloat16", "ratio"),
        TIMES,
    ),
    (
        "all T = 20 shot counts in one masked pass, GMN",
        "T separate episodes",
        "≥ 0.6·T",
        "prefix",
        ("rows", 0, "share_of_length"),
        "{median:.2f}·T ({min:.2f} to {max:.2f})",
    ),
    (
        "one set, 8 shot counts, 1000 particles",
        "encode and decode everything per particle",
        "≥ 5×",
        "particles",
        ("rows", 0, "ratio"),
        TIMES,
    ),
    (
        "few-shot PixelCNN, 64 samples of 28×28",
        "a full pass a pixel",
        "≥ 50×",
        "pixelcnn_sampling",
        ("candidates", "few-shot-pixelcnn", "ratio"),
        TIMES,
    ),
    (
        "20-way 5-shot decision by likelihood, K = 100",
        "one call a class and query",
        "≥ 10×",
        "classify",
        ("candidates", "leaving behind", "ratio"),
        TIMES,
    ),
    (
        "episode sampling with augmentation, share of the GMN step",
        "the training step it feeds",
        "< 5 %",
        "episodes",
        ("rows", 0, "share"),
        SHARE,
    ),
    (
        "Pyro tracing, share of a GMN step",
        "the same sums by hand",
        "< 10 %",
        "tracing",
        ("rows", 0, "overhead"),
        SHARE,
    ),
    (
        "neural statistician at published layer sizes, 32 sets of 5",
        "that architecture in plain PyTorch",
        "≥ 1.5×",
        "statistician_step",
        ("candidates", "fsgen bfloat16", "ratio"),
        TIMES,
    ),
)


def asked() -> str:
    """What speed was asked for, and what was measured."""
    lines = ["| what | reference in the same run | asked | measured, median (min to max) |", "|---|---|---:|---:|"]
    for what, reference, reach, name, path, form in ASKED:
        file, measured = ROOT / "benchmarks" / "results" / f"{name}.json", "not measured yet"
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            for key in path:
                found = found[key]
            measured = form.format_map(found)
        lines.append(f"| {what} | {reference} | {reach} | {measured} |")
    return "\n".join(lines)


def curves() -> str:
    """Training losses of the same steps by the plain reference and by fsgen's fast paths."""
    file = ROOT / "benchmarks" / "results" / "training_curves.json"
    if not file.is_file():
        return "Not measured yet."
    result = json.loads(file.read_text(encoding="utf-8"))
    every, rows = result["every"], result["curves"]
    steps = range(every, result["steps"] + 1, every)
    heads = ["nats an image, mean of the steps to", *map(str, steps), "validation"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for name, row in rows.items():
        held = f"{row['validation_nats']:.1f}" if "validation_nats" in row else ""
        lines.append("| " + " | ".join([name, *(f"{loss:.1f}" for loss in row["losses"]), held]) + " |")
    return "\n".join(lines)


def figures(text: str) -> str:
    """``text`` of benchmarks/README.md with the tables of :data:`FIGURES`."""
    text = between(between(text, "asked", asked()), "training_curves", curves())
    for mark, (name, part, columns) in FIGURES.items():
        file = ROOT / "benchmarks" / "results" / f"{name}.json"
        table = "Not measured yet."
        if file.is_file():
            table = figures_table(json.loads(file.read_text(encoding="utf-8"))[part], columns)
        text = between(text, mark, table)
    return text


def results(folder: Path) -> str:
    """The likelihood table of one trained model, its printed rows below."""
    if not (folder / "results.jsonl").is_file():
        return "Not measured yet."
    records, told = read_results(folder / "results.jsonl"), accuracies(folder)
    if not records:
        return told
    shots = sorted({record["shots"] for record in records})
    printed = json.loads(PUBLISHED.read_text(encoding="utf-8"))["omniglot_nll"]
    first = records[0]
    sets = " and ".join(
        f"{r['sets']} sets of {r['ways']} class{'es' * (r['ways'] > 1)}"
        for r in {r["ways"]: r for r in records}.values()
    )
    shares = f"{min(r['ess'] for r in records):.1%} to {max(r['ess'] for r in records):.1%}"
    bound = f"importance-weighted bound with K = {first['particles']}, effective sample share {shares}"
    kind = "exact likelihood" if first["exact"] else bound
    rows = published_rows(printed, shots, PRINTED.get(first["model"]["name"], ()))
    note = (
        f"NLL in nats per image ± standard error over {sets}, lower is better; {first['data']['name']}, "
        f"{first['data']['split']} classes; {kind}." + " The rows in italics are printed figures." * bool(rows)
    )
    table = likelihood_table(records)
    if first["model"]["options"].get("likelihood", "bernoulli") != "bernoulli":
        table += f"\n\nIn bits per dimension:\n\n{bits_table(records)}"
    return f"{note}\n\n{table}" + f"\n{rows}" * bool(rows) + f"\n\n{told}" * bool(told)


def accuracies(folder: Path) -> str:
    """The accuracy table of one trained model, if it was asked to tell classes apart."""
    records = read_results(folder / "results.jsonl", "classification")
    if not records:
        return ""
    return f"{accuracy_note(records)}\n\n{classification_table(records)}"


def accuracy_note(records: Sequence[Mapping[str, Any]]) -> str:
    """How accuracies were measured."""
    numbers = sorted({r["episodes"] for r in records})
    episodes = " to ".join(map(str, dict.fromkeys((numbers[0], numbers[-1]))))
    queries = " or ".join(map(str, sorted({r["queries"] for r in records})))
    return (
        f"Accuracy in percent ± half its 95 % interval over {episodes} episodes with {queries} "
        f"quer{'y' if queries == '1' else 'ies'} a class, drawn from {records[0]['data']['split']} classes without "
        "replacement."
    )


def classified() -> str:
    """Accuracies of everything that was asked to tell classes apart, printed rows below."""
    folder, models = ROOT / "experiments" / "classification", ROOT / "assets" / "models"
    files = [*sorted(models.glob("*/results.jsonl")), folder / "pixels.jsonl"]
    records = [r for file in files if file.is_file() for r in read_results(file, "classification")]
    printed = json.loads(PUBLISHED.read_text(encoding="utf-8"))["omniglot_classification"]
    return f"{accuracy_note(records)}\n\n{classification_table(records, printed)}"


def mixed() -> str:
    """Both ends of the mixed objective on validation classes, a row a weight of the label."""
    file = ROOT / "experiments" / "classification" / "mixed.jsonl"
    told = {r["run"]: r for r in read_results(file, "classification")}
    nats: dict[str, dict[int, Any]] = {}
    for r in read_results(file):
        nats.setdefault(r["run"], {})[r["shots"]] = r
    shots = sorted({t for cells in nats.values() for t in cells})
    heads = ["weight of the label", "5-way 1-shot, %", "its log loss", *(f"NLL, {t} shots" for t in shots)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---:|" * len(heads)]
    for run, r in told.items():
        accuracy = f"{100 * r['accuracy']:.1f} ± {50 * (r['high'] - r['low']):.1f}"
        scores = (f"{nats[run][t]['nats']:.1f} ± {nats[run][t]['se']:.1f}" for t in shots)
        lines.append("| " + " | ".join([run.split("-")[-1], accuracy, f"{r['log_loss']:.3f}", *scores]) + " |")
    return "\n".join(lines)


def pages() -> dict[Path, str]:
    """Every generated page and what it should hold."""
    readme = ROOT / "README.md"
    text = between(readme.read_text(encoding="utf-8"), "models", model_table(MODELS))
    text = between(text, "learners", model_table(LEARNERS))
    made = {}
    for folder in sorted((ROOT / "assets" / "models").glob("*")):
        page = folder / "README.md"
        made[page] = between(page.read_text(encoding="utf-8"), "results", results(folder))
        if f"<!-- {folder.name} -->" in text:
            text = between(text, folder.name, results(folder))
    experiment = ROOT / "experiments" / "gmn-omniglot"
    short = training_table(json.loads((experiment / "comparison.json").read_text(encoding="utf-8")))
    page = experiment / "README.md"
    made[page] = between(page.read_text(encoding="utf-8"), "comparison", short)
    page = ROOT / "benchmarks" / "README.md"
    speed = speed_table(json.loads((ROOT / "benchmarks/results/gmn_step.json").read_text(encoding="utf-8")))
    body = between(page.read_text(encoding="utf-8"), "gmn_step", speed)
    walks = json.loads((ROOT / "benchmarks/results/pixelcnn_sampling.json").read_text(encoding="utf-8"))
    body = between(body, "pixelcnn_sampling", sampling_table(walks))
    for name in ("statistician_step", "classify"):
        file = ROOT / "benchmarks" / "results" / f"{name}.json"
        if file.is_file():
            body = between(body, name, speed_table(json.loads(file.read_text(encoding="utf-8"))))
    made[page] = figures(body)
    page = ROOT / "docs" / "scaling.md"
    scaling = scaling_table(json.loads((ROOT / "benchmarks/results/all_reduce.json").read_text(encoding="utf-8")))
    made[page] = between(page.read_text(encoding="utf-8"), "all_reduce", scaling)
    page = ROOT / "experiments" / "classification" / "README.md"
    body = between(page.read_text(encoding="utf-8"), "accuracy", classified())
    made[page] = between(body, "mixed", mixed())
    made |= pages_of_experiments()
    family = ROOT / "experiments" / "omniglot-comparison"
    compared = json.loads((family / "comparison.json").read_text(encoding="utf-8"))
    page, side_by_side = family / "README.md", comparison_table(compared)
    body = between(page.read_text(encoding="utf-8"), "comparison", side_by_side)
    made[page] = between(body, "difference", comparison_table(compared, "difference"))
    text = between(text, "comparison", side_by_side.replace("](../../", "]("))
    return {readme: text, **made}


def main() -> int:
    """Rewrites or checks."""
    stale = {path: text for path, text in pages().items() if path.read_text(encoding="utf-8") != text}
    for path, text in stale.items():
        print(f"{path.relative_to(ROOT)}: {'out of date' if '--check' in sys.argv else 'rewritten'}")
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    return int("--check" in sys.argv and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
