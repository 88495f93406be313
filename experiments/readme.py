"""Writes the tables of README.md and of the trained models' pages from the registry and from results files.

python experiments/readme.py           # rewrite
python experiments/readme.py --check   # exit 1 if something is out of date
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fsgen.registry import LEARNERS, MODELS
from fsgen.report.tables import (
    between,
    bits_table,
    classification_table,
    comparison_table,
    likelihood_table,
    model_table,
    published_rows,
    read_results,
    sampling_table,
    speed_table,
    training_table,
)

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "assets" / "published.json"
# Printed rows beside a model's own; another model has none.
PRINTED = {
    "gmn": ("GMN, C_train=2", "GMN, C_train=1, no attention", "GMN, C_train=2, no attention", "VAE"),
    "neural-statistician": ("Neural statistician, C_train=1",),
    "one-shot-vae": ("One-shot VAE",),
    "conditional-vae": ("GMN, C_train=1, no attention",),
}


def results(folder: Path) -> str:
    """The likelihood table of one trained model, its printed rows below."""
    records = read_results(folder / "results.jsonl")
    if not records:
        return accuracies(folder)
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
    return f"{note}\n\n{table}" + f"\n{rows}" * bool(rows)


def accuracies(folder: Path) -> str:
    """The accuracy table of one trained learner."""
    records = read_results(folder / "results.jsonl", "classification")
    first = records[0]
    return (
        f"Accuracy in percent ± half its 95 % interval over {first['episodes']} episodes of {first['queries']} "
        f"quer{'y' if first['queries'] == 1 else 'ies'} a class; {first['data']['name']}, {first['data']['split']} "
        f"classes.\n\n{classification_table(records)}"
    )


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
    made[page] = between(body, "pixelcnn_sampling", sampling_table(walks))
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
