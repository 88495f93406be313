"""Runs an experiment: those commands of its plan.yaml whose results are not there yet.

    python experiments/run.py experiments/classification            # goes on where it was stopped
    python experiments/run.py experiments/classification --list     # what it would run
    python experiments/run.py experiments/classification --smoke    # all of it, small, held to the committed figures

A step of a plan is a command of fsgen, the folder it is about (or nothing) and its flags; flags under ``each`` are run
value by value. ``flags`` are those of all steps, and under the name of a command those of its steps. A step is done if
the results file holds lines of the same weights that agree with every flag; a sheet or pictures, if they are there.

``train`` names a configuration, ``out`` the run. It is done when the run has finished, and it is not needed while every
step about a run that is not here finds its lines: weights are not committed, figures are. Without those lines
it is trained and scored again.

``smoke`` holds the flags that make a step small; such results go to a folder that is thrown away, and each figure must
lie within FAR standard errors of the committed one. Runs are trained for a few steps there, and what is asked about
those is held to nothing. Data are found as by every command, in $FSGEN_DATA or ./data.
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fsgen.cli import main as main_of_fsgen
from fsgen.run.log import Log
from fsgen.storage import config_from_bytes

ROOT = Path(__file__).resolve().parents[1]
FIGURE = {"evaluate": "nats", "classify": "accuracy", "quality": "recognizability"}  # by command
KIND = {"evaluate": "likelihood", "classify": "classification", "quality": "quality"}
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
        """What the results file holds of these weights and this command; by the name of a run that is not here."""
        found = [r for r in Log(path or self.out).records() if r.get("kind") == KIND[self.command]]
        if self.run and not (ROOT / self.run).is_dir():
            return [r for r in found if r.get("run") == Path(self.run).name]
        weights = ROOT / self.run / "weights.safetensors" if self.run else None
        digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights and weights.is_file() else None
        return [r for r in found if r.get("weights_sha256") == digest]

    def done(self) -> bool:
        found = [record for record in self.lines() if self._made(record)]
        if self.command == "classify":
            return bool(found)
        ways = self.flags.get("classes", [self.flags.get("ways", 1)])
        wanted = itertools.product(ways, self.flags.get("shots", SHOTS))
        return set(wanted) <= {(record["ways"], record["shots"]) for record in found}

    def _made(self, record: dict[str, Any]) -> bool:
        """Whether a line could come from this command; ways and shots are looked at where they are one number."""
        f = self.flags
        data = f.get("data", self._trained_on())
        same = [data in (None, record["data"]["name"]), record["seed"] == f.get("seed", 0)]
        if self.command == "evaluate":
            same += [record["protocol"] == f.get("protocol", "strict"), record["sets"] == f.get("sets", 200)]
            same += [record["exact"] or record["particles"] == f.get("particles", 1000)]
        elif self.command == "quality":
            same += [record[name] == f[name] for name in ("episodes", "samples")]
            same += [record["critic"]["run"] == Path(f["critic"]).name]
        else:
            same += [record[name] == f[name] for name in ("task", "ways", "shots", "episodes", "queries")]
            by, known = record["classifier"], [f["classifier"]] if "classifier" in f else ["own", "likelihood"]
            same += [by["name"] in known, f.get("particles") in (None, by["options"].get("particles"))]
        return all(same)

    def _trained_on(self) -> str | None:
        """The data source of the run; None of one that is not here."""
        path = ROOT / str(self.run) / "config.yaml"
        if self.run is None or not path.is_file():
            return None
        return config_from_bytes(path.read_bytes(), source=str(path))["training"]["data"]["name"]

    def changed(self, **flags: Any) -> Step:
        """The step with other flags."""
        return replace(self, flags={**self.flags, **flags})

    def execute(self) -> int:
        """Runs the step in a process of its own, so that its provenance holds the command."""
        print("fsgen", *self.words, flush=True)
        return subprocess.run([sys.executable, "-m", "fsgen", *self.words], cwd=ROOT, check=False).returncode


class Training(Step):
    """A run: ``run`` is its configuration, ``out`` its folder; it goes on where it was stopped."""

    @property
    def words(self) -> list[str]:
        given = []
        for name, value in self.flags.items():
            given += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
        return ["train", "--config", str(self.run), *given, "--resume"]

    def done(self) -> bool:
        path = ROOT / str(self.run)
        last = self.flags.get("steps") or config_from_bytes(path.read_bytes(), source=str(path))["steps"]
        ends = Log(self.out / "sessions.jsonl").records()[-1:]
        return [(end["reason"], end["step"]) for end in ends] == [("finished", last)]


class Sheet(Step):
    """A contact sheet of samples, made again only where it was removed."""

    def done(self) -> bool:
        return self.out.is_file()


class Pictures(Step):
    """What ``fsgen report`` shows of a run, made again only where it was removed."""

    def done(self) -> bool:
        return (ROOT / self.flags.get("out", f"{self.run}/pictures") / "captions.yaml").is_file()


COMMANDS: dict[str, type[Step]] = {
    **dict.fromkeys(FIGURE, Step),
    "train": Training,
    "sample": Sheet,
    "pictures": Pictures,
}


def shared(flags: dict[str, Any], command: str) -> dict[str, Any]:
    """The flags of all commands, and those under the name of this one."""
    return {name: value for name, value in flags.items() if name not in COMMANDS} | flags.get(command, {})


def steps(plan: dict[str, Any]) -> Iterator[Step]:
    """The steps of a plan in order."""
    for item in plan["steps"]:
        (command,) = item.keys() & COMMANDS.keys()
        own = {name: value for name, value in item.items() if name not in (command, "each")}
        flags, each = {**shared(plan.get("flags", {}), command), **own}, item.get("each", {})
        for values in itertools.product(*each.values()):
            yield COMMANDS[command](command, item[command], {**flags, **dict(zip(each, values, strict=True))})


def missing(step: Step, plan: list[Step]) -> bool:
    """Whether a step has to be run: it is not done, and no training whose figures are all there without its run."""
    if step.done() or not isinstance(step, Training):
        return not step.done()
    about = [other for other in plan if other.run == step.flags["out"]]
    return not about or not all(other.done() for other in about)


def cell(record: dict[str, Any]) -> tuple[Any, ...]:
    """Where a figure stands in its table."""
    by = record["protocol"], record.get("task"), json.dumps(record.get("classifier", {}).get("name"))
    return record["kind"], record["data"]["name"], record["ways"], record["shots"], *by


def far_off(small: dict[str, Any], known: dict[str, Any], name: str) -> str | None:
    """What is wrong with a figure of a small run, if something is; its error is that of one image at least."""
    (value, se), (right, known_se) = (
        (r[name]["mean"], r[name]["se"]) if isinstance(r[name], dict) else (r[name], r["se"]) for r in (small, known)
    )
    count = small.get("episodes", 0) * small["ways"] * small.get("queries", small.get("samples", 0))
    least = math.sqrt(right * (1 - right) / count) + 1 / count if count else 0.0
    error = math.hypot(max(se, least), known_se)
    if abs(value - right) <= FAR * error:
        return None
    return f"{small['run']}: {name} {value:.3f} +- {error:.3f} at {cell(small)}, committed {right:.3f}"


def smoke(chosen: list[Step], small: dict[str, Any]) -> int:
    """The steps with flags that make them small, each once, of pictures one; 1 if a figure is far off."""
    wrong: list[str | None] = []
    trained: dict[str | None, str] = {}
    tried: list[Step] = []
    with tempfile.TemporaryDirectory() as folder:
        for step in chosen:
            out = Path(folder) / f"{len(tried)}{step.out.suffix}"
            if isinstance(step, Training):
                trained[step.flags["out"]] = str(out)
            little = replace(step.changed(**shared(small, step.command)), run=trained.get(step.run, step.run))
            if little in tried or (isinstance(step, Pictures) and any(isinstance(t, Pictures) for t in tried)):
                continue  # pictures load the training set and map 150 sets however small they are
            tried.append(little)
            words = little.changed(out=str(out)).words
            print("fsgen", *words, flush=True)
            if main_of_fsgen(words):
                return 1
            if step.command in FIGURE and step.run not in trained:
                wrong += compared(step, out)
    for line in filter(None, wrong):
        print(line)
    print(f"{len(wrong)} figures held to the committed ones, {sum(w is not None for w in wrong)} of them far off")
    return int(any(wrong))


def compared(step: Step, out: Path) -> list[str | None]:
    """What is wrong with each figure of a small run that has a committed one."""
    known = {cell(record): record for record in step.lines()}
    found = [record for record in step.lines(out) if cell(record) in known]
    return [far_off(record, known[cell(record)], FIGURE[step.command]) for record in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path, help="folder with a plan.yaml")
    parser.add_argument("--smoke", action="store_true", help="small, to see that it runs and gives the same figures")
    parser.add_argument("--only", default="", metavar="TEXT", help="the steps whose command holds this text")
    parser.add_argument("--list", action="store_true", help="show the steps and whether they are done")
    args = parser.parse_args()
    path = args.experiment / "plan.yaml"
    plan = config_from_bytes(path.read_bytes(), source=str(path))
    whole = list(steps(plan))
    chosen = [step for step in whole if args.only in " ".join(step.words)]
    if args.smoke:
        return smoke(chosen, plan["smoke"])
    for step in chosen:
        todo = missing(step, whole)
        if args.list:
            print("todo" if todo else "done", "fsgen", *step.words)
        elif todo and (status := step.execute()):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
