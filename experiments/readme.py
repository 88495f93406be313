"""Writes the tables of README.md and of the trained models' pages from the registry and from results files.

python experiments/readme.py           # rewrite
python experiments/readme.py --check   # exit 1 if something is out of date
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fsgen.registry import MODELS
from fsgen.report.tables import (
    between,
    likelihood_table,
    model_table,
    published_rows,
    read_results,
    speed_table,
    training_table,
)

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "assets" / "published.json"
PRINTED = ("GMN, C_train=2", "GMN, C_train=1, no attention", "GMN, C_train=2, no attention", "VAE")


def results(folder: Path) -> str:
    """The likelihood table of one trained model, its printed rows below."""
    records = read_results(folder / "results.jsonl")
    shots = sorted({record["shots"] for record in records})
    printed = json.loads(PUBLISHED.read_text(encoding="utf-8"))["omniglot_nll"]
    first = records[0]
    sets = " and ".join(
        f"{r['sets']} sets of {r['ways']} class{'es' * (r['ways'] > 1)}"
        for r in {r["ways"]: r for r in records}.values()
    )
    note = (
        f"NLL in nats per image ± standard error over {sets}, lower is better; {first['data']['name']}, "
        f"{first['data']['split']} classes; importance-weighted bound with K = {first['particles']}, effective sample "
        f"share {min(r['ess'] for r in records):.1%} to {max(r['ess'] for r in records):.1%}. "
        f"The rows in italics are printed figures."
    )
    return f"{note}\n\n{likelihood_table(records)}\n{published_rows(printed, shots, PRINTED)}"


def pages() -> dict[Path, str]:
    """Every generated page and what it should hold."""
    readme = ROOT / "README.md"
    text = between(readme.read_text(encoding="utf-8"), "models", model_table(MODELS))
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
    made[page] = between(page.read_text(encoding="utf-8"), "gmn_step", speed)
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
