"""Runs an experiment: those commands of its plan.yaml whose results are not there yet.

    python experiments/run.py experiments/classification            # goes on where it was stopped
    python experiments/run.py experiments/classification --list     # what it would run
    python experiments/run.py experiments/classification --smoke    # all of it, small, held to the committed figures

A step of a plan is a command of fsgen, the folder it is about (or nothing) and its flags; flags under ``each`` are run
value by value. A step is done if the results file holds lines of the same weights that agree with every flag.
``smoke`` holds the flags that make a step small; such results go to a folder that is thrown away, and each figure must
lie within FAR standard errors of the committed one. Data are found as by every command, in $FSGEN_DATA or ./data.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsgen.cli import main as main_of_fsgen
from fsgen.storage import config_from_bytes

ROOT = Path(__file__).resolve().parents[1]
FIGURE = {"evaluate": "nats", "classify": "accuracy"}  # by command; its standard error is "se"
KIND = {"evaluate": "likelihood", "classify": "classification"}
SHOTS = [0, 1, 2, 3, 4, 5, 10, 19]  # of an evaluation, where a step names none
FAR = 5.0


@dataclass(frozen=True)
class Step:
    """One command: its name, the folder it is about, and its flags in the order of the plan."""

    command: str
    run: str | None
    flags: dict[str, Any]

    @property
    def words(self) -> list[str]:
        """What is typed after ``fsgen``."""
        given = []
        for name, value in self.flags.items():
            values = value if isinstance(value, list) else [value]
            given += [f"--{name}", *(json.dumps(v) if isinstance(v, dict) else str(v) for v in values)]
        return [self.command, *([self.run] if self.run else []), *given]

    @property
    def out(self) -> Path:
        return ROOT / self.flags.get("out", f"{self.run}/results.jsonl")

    def lines(self, path: Path | None = None) -> list[dict[str, Any]]:
        """What the results file holds of these weights and this command."""
        path = path or self.out
        if not path.is_file():
            return []
        weights = (
            hashlib.sha256((ROOT / self.run / "weights.safetensors").read_bytes()).hexdigest() if self.run else None
        )
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [r for r in records if r.get("kind") == KIND[self.command] and r.get("weights_sha256") == weights]

    def done(self) -> bool:
        found = [record for record in self.lines() if self._made(record)]
        if self.command == "classify":
            return bool(found)
        wanted = itertools.product(self.flags.get("classes", [1]), self.flags.get("shots", SHOTS))
        return set(wanted) <= {(record["ways"], record["shots"]) for record in found}

    def _made(self, record: dict[str, Any]) -> bool:
        """Whether a line could come from this command; ways and shots of an evaluation are not looked at."""
        f = self.flags
        same = [record["data"]["name"] == f.get("data", self._trained_on()), record["seed"] == f.get("seed", 0)]
        if self.command == "evaluate":
            same += [record["protocol"] == f.get("protocol", "strict"), record["sets"] == f.get("sets", 200)]
            same += [record["exact"] or record["particles"] == f.get("particles", 1000)]
        else:
            same += [record[name] == f[name] for name in ("task", "ways", "shots", "episodes", "queries")]
            by, known = record["classifier"], [f["classifier"]] if "classifier" in f else ["own", "likelihood"]
            same += [by["name"] in known, by["options"].get("particles", f.get("particles")) == f.get("particles")]
        return all(same)

    def _trained_on(self) -> str | None:
        if self.run is None:
            return None
        path = ROOT / self.run / "config.yaml"
        return config_from_bytes(path.read_bytes(), source=str(path))["training"]["data"]["name"]

    def changed(self, **flags: Any) -> Step:
        """The step with other flags."""
        return Step(self.command, self.run, {**self.flags, **flags})

    def execute(self) -> int:
        """Runs the step in a process of its own, so that its provenance holds the command."""
        print("fsgen", *self.words, flush=True)
        return subprocess.run([sys.executable, "-m", "fsgen", *self.words], cwd=ROOT, check=False).returncode


def steps(plan: dict[str, Any]) -> Iterator[Step]:
    """The steps of a plan in order."""
    for item in plan["steps"]:
        flags = {**plan.get("flags", {}), **item}
        (command,) = flags.keys() & FIGURE.keys()
        run, each = flags.pop(command), flags.pop("each", {})
        for values in itertools.product(*each.values()):
            yield Step(command, run, {**flags, **dict(zip(each, values, strict=True))})


def cell(record: dict[str, Any]) -> tuple[Any, ...]:
    """Where a figure stands in its table."""
    by = record["protocol"], record.get("task"), json.dumps(record.get("classifier", {}).get("name"))
    return record["kind"], record["data"]["name"], record["ways"], record["shots"], *by


def far_off(small: dict[str, Any], known: dict[str, Any], name: str) -> str | None:
    """What is wrong with a figure of a small run, if something is; its error is that of one image at least."""
    count = small.get("episodes", 0) * small["ways"] * small.get("queries", 0)
    least = math.sqrt(known[name] * (1 - known[name]) / count) + 1 / count if count else 0.0
    error = math.hypot(max(small["se"], least), known["se"])
    if abs(small[name] - known[name]) <= FAR * error:
        return None
    return f"{small['run']}: {name} {small[name]:.3f} +- {error:.3f} at {cell(small)}, committed {known[name]:.3f}"


def smoke(chosen: list[Step], small: dict[str, Any]) -> int:
    """The steps with flags that make them small; 1 if a figure is far from the committed one."""
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for number, step in enumerate(chosen):
            out = Path(folder) / f"{number}.jsonl"
            words = step.changed(**small, out=str(out)).words
            print("fsgen", *words, flush=True)
            if main_of_fsgen(words):
                return 1
            known = {cell(record): record for record in step.lines()}
            for record in step.lines(out):
                if cell(record) in known:
                    wrong.append(far_off(record, known[cell(record)], FIGURE[step.command]))
    for line in filter(None, wrong):
        print(line)
    print(f"{len(wrong)} figures held to the committed ones, {sum(w is not None for w in wrong)} of them far off")
    return int(any(wrong))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path, help="folder with a plan.yaml")
    parser.add_argument("--smoke", action="store_true", help="small, to see that it runs and gives the same figures")
    parser.add_argument("--only", default="", metavar="TEXT", help="the steps whose command holds this text")
    parser.add_argument("--list", action="store_true", help="show the steps and whether they are done")
    args = parser.parse_args()
    path = args.experiment / "plan.yaml"
    plan = config_from_bytes(path.read_bytes(), source=str(path))
    chosen = [step for step in steps(plan) if args.only in " ".join(step.words)]
    if args.smoke:
        return smoke(chosen, plan["smoke"])
    for step in chosen:
        done = step.done()
        if args.list:
            print("done" if done else "todo", "fsgen", *step.words)
        elif not done and (status := step.execute()):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
