"""Memory against gradient adaptation: NLL as shots grow, what that costs, and what is forgotten as classes arrive.

    python experiments/adaptation/measure.py            # goes on where it was stopped
    python experiments/adaptation/measure.py --smoke    # small, held to the committed figures, nothing written

Writes adaptation.json and the figures beside this file; what is measured so far stands in --work. The sets are the
first ones of the list that `fsgen evaluate` scores. For forgetting, classes of an episode arrive one after
another: a memory sees all images so far, parameters are adapted to the new class from where they were.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

import fsgen
from fsgen import storage
from fsgen.adaptation import Adapted, Likelihood
from fsgen.data.sampler import EpisodeSampler
from fsgen.episode import Episode
from fsgen.evaluation import paired
from fsgen.report.charts import Curve, by_shots
from fsgen.run import WEIGHTS, provenance
from fsgen.run.log import Log

HERE = Path(__file__).resolve().parent
MODELS, RESULT = HERE.parents[1] / "assets" / "models", HERE / "adaptation.json"
MEMORY, LEARNED, PLAIN = ("few-shot-pixelcnn-omniglot", "gmn-omniglot"), "meta-pixelcnn-omniglot", "pixelcnn-omniglot"
SHOTS, TIMED, PARTICLES = (0, 1, 2, 5, 10, 19), (0, 1, 5, 19), 100
STEPS, RATES, TRIED = (1, 5), (3e-4, 1e-3, 3e-3), (1, 5, 19)  # of plain steps; tried at these shots
WAYS, GIVEN, HELD, IMAGES = 5, 5, 5, 8
FAR = 0.5  # nats: the same sets and random numbers, on another machine
SMALL = {"sets": 2, "episodes": 2, "validation_sets": 2, "timed": 1}


@dataclass(frozen=True)
class Method:
    """A model and how it takes the support in: ``steps`` plain gradient steps of one ``rate``, or its own way."""

    model: str
    steps: int | None = None
    rate: float | None = None

    @property
    def name(self) -> str:
        return self.model if self.steps is None else f"{self.model}, {self.steps} step{'s' * (self.steps > 1)}"

    def load(self) -> Any:
        model = fsgen.load(MODELS / self.model)
        if self.steps is not None and self.rate is not None:
            inner = Likelihood(leave_one_out=False)
            model = Adapted(model, inner, steps=self.steps, rate=self.rate, learned_rates=False)
        return model.eval().to(memory_format=torch.channels_last)

    def key(self, **more: Any) -> dict[str, Any]:
        """What a measurement is of."""
        listed = json.loads((MODELS / self.model / storage.MANIFEST).read_text(encoding="utf-8"))["files"]
        return {**vars(self), "weights_sha256": listed[WEIGHTS]["sha256"], **more}


@functools.cache
def images_of(split: str) -> Any:
    """The images of a split, read once."""
    return fsgen.load_images("omniglot28", split)


def moved(model: Adapted, images: Tensor) -> Adapted:
    """The model whose starting parameters are those adapted to ``images``."""
    with torch.no_grad():
        adapted, model = model.by_view(Episode(images[None], images[None])), copy.deepcopy(model)
        for name, parameter in model.base.named_parameters():
            if name in adapted:
                parameter.copy_(adapted[name][0, 0])
    return model


def after_arrivals(model: Any, sets: Tensor, queries: Tensor) -> list[float]:
    """Mean NLL of ``queries``, of the first class, after 0, 1, ... of the ``sets`` [C, S, ...] have arrived."""

    def nats(model: Any, support: Tensor) -> float:
        return -float(model.condition(support).log_prob(queries, particles=PARTICLES, seed=0).mean())

    if not isinstance(model, Adapted):
        return [nats(model, sets[:count].flatten(0, 1)) for count in range(len(sets) + 1)]
    found = [nats(model.base, sets[0, :0])]
    for images in sets:
        model = moved(model, images)
        found.append(nats(model.base, images[:0]))
    return found


def seconds(model: Any, support: Tensor, images: Tensor) -> list[float]:
    """CPU and wall-clock seconds to score the first image given ``support``, then those to score all."""
    found = []
    for part in (images[:1], images):
        cpu, wall = time.process_time(), time.perf_counter()
        model.condition(support).log_prob(part, particles=PARTICLES, seed=0)
        found += [time.process_time() - cpu, time.perf_counter() - wall]
    return found


@dataclass(frozen=True)
class Bench:
    """The data and the sizes of all measurements."""

    sets: int
    episodes: int
    validation_sets: int
    timed: int

    def sampler(self, split: str = "test") -> EpisodeSampler:
        return EpisodeSampler(images_of(split), length=20, seed=0)

    def by_shots(self, method: Method, number: int, shots: Sequence[int] = SHOTS, split: str = "test") -> list[float]:
        """NLL of the last image of a set given its first ones, at each shot count."""
        model, sampler = method.load(), self.sampler(split)
        images = sampler.gather([sampler.draw(number)])[0]
        densities = (model.condition(images[:t]) for t in shots)
        return [-float(density.log_prob(images[-1], particles=PARTICLES, seed=number)) for density in densities]

    def tried(self, method: Method) -> float:
        """Mean NLL on validation classes."""
        return float(np.mean([self.by_shots(method, i, TRIED, "validation") for i in range(self.validation_sets)]))

    def forgetting(self, method: Method, number: int) -> list[float]:
        """NLL of the first class of an episode after each arrival."""
        sampler = EpisodeSampler(images_of("test"), ways=WAYS, shots=GIVEN, queries=HELD, seed=0)
        drawn = sampler.gather([sampler.draw(number)])[0]
        return after_arrivals(
            method.load(), drawn[: WAYS * GIVEN].unflatten(0, (WAYS, GIVEN)), drawn[WAYS * GIVEN :][:HELD]
        )

    def costs(self, method: Method, number: int) -> list[list[float]]:
        """Seconds at each shot count on one set; a call before it warms up."""
        model, sampler = method.load(), self.sampler()
        images, others = (sampler.gather([sampler.draw(number + i)])[0] for i in (0, 1))
        seconds(model, images[:1], others[:1])
        return [seconds(model, images[:t], others[: 1 + IMAGES]) for t in TIMED]


class Measured:
    """Measurements by what they are of, kept in a file so that none is made twice."""

    def __init__(self, path: Path) -> None:
        self.log, self.started = Log(path), time.perf_counter()
        self.found = {json.dumps(r["key"]): r["found"] for r in self.log.records()}

    def get(self, key: dict[str, Any], measure: Callable[[], Any], what: str) -> Any:
        name = json.dumps(key)
        if name not in self.found:
            self.found[name] = measure()
            self.log.append({"key": key, "found": self.found[name]})
            print(f"{time.perf_counter() - self.started:6.0f} s  {what}", flush=True)
        return self.found[name]


def methods(bench: Bench, done: Measured, rates: dict[int, float]) -> Iterator[Method]:
    """All that is compared; the rate of plain steps is the best on validation classes, or the one in ``rates``."""
    yield from map(Method, (*MEMORY, LEARNED))
    for steps in STEPS:
        tried: dict[float, float] = {}
        for rate in RATES if steps not in rates else ():
            method = Method(PLAIN, steps, rate)
            key = method.key(part="rate", sets=bench.validation_sets)
            tried[rate] = done.get(key, lambda method=method: bench.tried(method), f"{method.name} of {rate}")
        yield Method(PLAIN, steps, min(tried, key=lambda rate: tried[rate], default=rates.get(steps)))


def row(bench: Bench, done: Measured, method: Method) -> dict[str, Any]:
    """All that the page says of one method."""
    name, nats, arrivals, costs = method.name, [], [], []
    for part, measure, found, count in (
        ("shots", bench.by_shots, nats, bench.sets),
        ("arrivals", bench.forgetting, arrivals, bench.episodes),
        ("cost", bench.costs, costs, bench.timed),
    ):
        for i in range(count):
            key, what = method.key(part=part, number=i), f"{name}: {part}, {i + 1} of {count}"
            found.append(done.get(key, lambda measure=measure, i=i: measure(method, i), what))
    shown, arrived = ([list(column) for column in zip(*found, strict=True)] for found in (nats, arrivals))
    return {
        "name": name,
        "kind": "memory" if method.model in MEMORY else "gradient",
        "exact": method.model != "gmn-omniglot",
        "steps": method.steps,
        "rate": method.rate,
        "nats": {t: mean(column) for t, column in zip(SHOTS, shown, strict=True)},
        "gained": {t: mean_of(shown[0], column) for t, column in zip(SHOTS, shown, strict=True)},
        "cost": {t: cost(np.median(part, axis=0)) for t, part in zip(TIMED, zip(*costs, strict=True), strict=True)},
        "arrived": {count: mean(column) for count, column in enumerate(arrived)},
        "forgotten": mean_of(arrived[-1], arrived[1]),
        "per_set": {"nats": shown, "arrived": arrived},
    }


def mean(values: list[float]) -> dict[str, float]:
    """Mean and its standard error."""
    return {"nats": float(np.mean(values)), "se": float(np.std(values, ddof=1) / math.sqrt(len(values)))}


def mean_of(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Mean of the differences of pairs, and its standard error."""
    return dict(zip(("nats", "se"), paired(ours, theirs), strict=True))


def cost(found: Any) -> dict[str, Any]:
    """Milliseconds to take the support in and to score an image, from those for one image and for 1 + IMAGES."""
    told = {}
    for clock, one, many in (("cpu", found[0], found[2]), ("wall", found[1], found[3])):
        image = (many - one) / IMAGES
        told[clock] = {"condition": 1000 * max(one - image, 0.0), "image": 1000 * image}
    return told


def curves(rows: list[dict[str, Any]], column: str) -> list[Curve]:
    """A curve a method, two standard errors to either side."""
    found = []
    for number, r in enumerate(rows):
        cells = [(int(x), cell["nats"], 2 * cell["se"]) for x, cell in r[column].items()]
        x, y, error = zip(*cells, strict=True)
        ends = ([value + sign * e for value, e in zip(y, error, strict=True)] for sign in (-1, 1))
        found.append(Curve(r["name"], number, "strict", x, y, *ends))
    return found


def write(found: dict[str, Any]) -> None:
    """The figures of the page, as numbers and drawn."""
    storage.write_bytes(RESULT, (json.dumps(found, indent=1) + "\n").encode())
    for column, label, across in (
        ("nats", "NLL, nats per image", "shots: images given"),
        ("arrived", "NLL of the first class, nats per image", "classes that have arrived"),
    ):
        drawn = by_shots(curves(found["rows"], column), label, across=across)
        storage.write_bytes(HERE / f"{column}.svg", drawn.encode())


def far_off(rows: list[dict[str, Any]], known: list[dict[str, Any]]) -> list[str]:
    """The NLLs of single sets and episodes that lie further than FAR nats from the committed ones."""
    theirs, wrong = {r["name"]: r["per_set"] for r in known}, []
    for r in (r for r in rows if r["name"] in theirs):
        for part, columns in r["per_set"].items():
            for place, ours in enumerate(columns):
                pairs = zip(ours, theirs[r["name"]][part][place], strict=False)  # the first ones of a longer list
                wrong += [f"{r['name']}, {part}: {x:.2f}, committed {y:.2f}" for x, y in pairs if abs(x - y) > FAR]
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, value in {"sets": 64, "episodes": 32, "validation_sets": 10, "timed": 5, "threads": 1}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--work", type=Path, default=Path("runs") / "adaptation.jsonl")
    parser.add_argument("--smoke", action="store_true", help="a few sets, held to the committed figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pyro.enable_validation(False)
    torch.distributions.Distribution.set_default_validate_args(False)
    known = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {"rows": []}
    bench = Bench(**{name: SMALL[name] if args.smoke else getattr(args, name) for name in SMALL})
    with tempfile.TemporaryDirectory() as scraps:
        done = Measured(Path(scraps) / "work.jsonl" if args.smoke else args.work)
        done.log.path.parent.mkdir(parents=True, exist_ok=True)
        told = {r["steps"]: r["rate"] for r in known["rows"] if r["steps"]}
        rates = {steps: told.get(steps, RATES[0]) for steps in STEPS} if args.smoke else {}
        rows = [row(bench, done, method) for method in methods(bench, done, rates)]
    for r in rows:
        print(f"{r['name']:34}", *(f"{cell['nats']:6.1f}" for cell in r["nats"].values()), "  forgotten", end=" ")
        print(f"{r['forgotten']['nats']:.1f} +- {r['forgotten']['se']:.1f}")
    if args.smoke:
        wrong = far_off(rows, known["rows"])
        print("\n".join([*wrong, f"{len(wrong)} figures far off the committed ones"]))
        return int(bool(wrong))
    write(
        {**vars(bench), "ways": WAYS, "given": GIVEN, "threads": args.threads, "rows": rows, "provenance": provenance()}
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
