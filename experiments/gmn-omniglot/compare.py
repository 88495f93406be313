"""Puts short runs side by side: what each reached on the validation classes, in how much time.

    python experiments/gmn-omniglot/compare.py runs/short-default runs/short-paper

Writes comparison.json beside this file; `python experiments/readme.py` makes the table in README.md of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fsgen
from fsgen.run import Run

OUT = Path(__file__).resolve().parent / "comparison.json"


def row(path: Path) -> dict[str, object]:
    """What one run was and what it reached at its last step."""
    run = Run.open(path)
    last = [record for record in run.records("metrics") if "validation_nats" in record][-1]
    sessions = run.records("sessions")
    recipe, training = run.config["model"], run.config["training"]
    model = fsgen.build(recipe["name"], **recipe["options"])
    return {
        "run": path.name,
        "preset": training["model"]["preset"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "learning_rate": training["optimiser"]["learning_rate"],
        "steps": last["step"],
        "seconds": sessions[-1]["seconds"],
        "threads": sessions[-1]["threads"],
        "validation_nats": last["validation_nats"],
        "validation_se": last["validation_se"],
        "validation": training["validation"],
        "provenance": sessions[-1]["provenance"],
    }


if __name__ == "__main__":
    OUT.write_text(json.dumps([row(Path(path)) for path in sys.argv[1:]], indent=1) + "\n", encoding="utf-8")
    print(f"written: {OUT.name}")
