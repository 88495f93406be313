"""Draws NLL against shots of the same weights under both protocols, from the results of the plan.

python experiments/protocol-leak/figure.py
"""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
from run import Step, steps  # noqa: E402

from fsgen.report.charts import Curve, by_shots  # noqa: E402
from fsgen.report.tables import read_results  # noqa: E402
from fsgen.storage import config_from_bytes  # noqa: E402


def curve(step: Step, colour: int) -> Curve | None:
    """One run under one protocol with two standard errors to either side; None before it was scored."""
    if not step.done() or step.run is None:
        return None
    protocol, name = step.flags["protocol"], Path(step.run).name
    records = [r for r in read_results(step.out) if (r["run"], r["protocol"], r["ways"]) == (name, protocol, 1)]
    shown = sorted((r["shots"], r["nats"], 2 * r["se"]) for r in records if r["shots"] in step.flags["shots"])
    shots, nats, errors = zip(*shown, strict=True)
    ends = ([n + sign * e for n, e in zip(nats, errors, strict=True)] for sign in (-1, 1))
    return Curve(f"{name}, {protocol}", colour, protocol, shots, nats, *ends)


def main() -> None:
    path = FOLDER / "plan.yaml"
    plan = config_from_bytes(path.read_bytes(), source=str(path))
    shown = [step for step in steps(plan) if Path(step.run or "").name in plan["figure"]]
    curves = [found for step in shown if (found := curve(step, plan["figure"].index(Path(step.run or "").name)))]
    (FOLDER / "figure.svg").write_text(by_shots(curves, "NLL, nats per image"), encoding="utf-8")


if __name__ == "__main__":
    main()
