"""Training steps a second of the GMN paper preset beside the plain reference, in one run.

20 sets of 10 images, Adam, paired repetitions in alternation, so that both see the same machine.
The reference is ``plain_gmn.py``: float32, contiguous, a Python loop over t as in the published code.

    python benchmarks/bench_gmn_step.py --out benchmarks/results/gmn_step.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

sys.path.insert(0, str(Path(__file__).resolve().parent))
from plain_gmn import PlainGMN, train_step

import fsgen
from fsgen.episode import Episode
from fsgen.inference import terms
from fsgen.objectives import combine, elbo
from fsgen.run import provenance

SETS, LENGTH = 20, 10


def ours(images: torch.Tensor, *, bf16: bool) -> Callable[[], None]:
    """A step as fsgen's trainer takes it: one masked pass, channels_last, fused Adam, averaged weights."""
    model = fsgen.build("gmn", preset="paper").to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(model.parameters(), 1e-4, fused=True)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            parts = terms(model, Episode.sequential(images))
        optimiser.zero_grad(set_to_none=True)
        (-elbo(combine(parts)).mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimiser.step()
        average.update_parameters(model)

    return step


def reference(images: torch.Tensor) -> Callable[[], None]:
    """A step of the plain port."""
    model = PlainGMN()
    optimiser = torch.optim.Adam(model.parameters(), 1e-4)
    return lambda: train_step(model, optimiser, images) and None


def seconds(step: Callable[[], None], steps: int) -> float:
    """Seconds a step."""
    started = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - started) / steps


def main() -> None:
    """Prints and writes steps a second and their ratio to the reference."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="steps a repetition")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None, help="JSON file")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    pyro.enable_validation(False)
    torch.distributions.Distribution.set_default_validate_args(False)
    images = (torch.rand(SETS, LENGTH, 1, 28, 28) < 0.1).float()
    candidates = {
        "reference": reference(images),
        "fsgen float32": ours(images, bf16=False),
        "fsgen bfloat16": ours(images, bf16=True),
    }
    for step in candidates.values():
        seconds(step, 2)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(args.repetitions):
        for name, step in candidates.items():
            times[name].append(seconds(step, args.steps))
    found: dict[str, object] = {}
    for name, values in times.items():
        ratios = sorted(r / v for r, v in zip(times["reference"], values, strict=True))
        found[name] = {
            "steps_per_second": 1 / statistics.median(values),
            "ratio": {"min": ratios[0], "median": statistics.median(ratios), "max": ratios[-1]},
        }
        print(
            f"{name:16} {1 / statistics.median(values):6.2f} steps/s   "
            f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    if args.out:
        result = {"sets": SETS, "length": LENGTH, "threads": args.threads, "repetitions": args.repetitions}
        result |= {"candidates": found, "provenance": provenance()}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"written: {args.out}")


if __name__ == "__main__":
    main()
