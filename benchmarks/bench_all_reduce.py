"""What averaging the gradients costs beside a training step, for every registered model at its default size.

Each process scores one episode of 20 images, the smallest share there is, and so the worst for the ratio. The times are
those of the calls the trainer makes: the flat all-reduce of the gradients, and the two small ones by which the
processes agree on bad episodes and on stopping. Started alone, the script starts its processes on this machine;
started by torchrun, it measures whatever job that makes.

    python benchmarks/bench_all_reduce.py --out benchmarks/results/all_reduce.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import nn

import fsgen
from fsgen.episode import Episode
from fsgen.inference import terms
from fsgen.objectives import combine, elbo
from fsgen.parallel import Job, joined
from fsgen.registry import MODELS
from fsgen.run import provenance

LENGTH = 20


def step(model: nn.Module, images: torch.Tensor) -> Callable[[], None]:
    """A step as fsgen's trainer takes it, without averages over processes."""
    optimiser = torch.optim.Adam(model.parameters(), 1e-4, fused=True)

    def take() -> None:
        parts = terms(model, Episode.sequential(images))
        optimiser.zero_grad(set_to_none=True)
        (-elbo(combine(parts)).mean()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimiser.step()

    return take


def agreement(job: Job) -> Callable[[], None]:
    """What the processes tell each other at every step beside the gradients."""
    fine = torch.zeros(1, dtype=torch.bool)

    def ask() -> None:
        job.gathered(fine)
        job.agreed(None, ("time",))

    return ask


def seconds(job: Job, call: Callable[[], None], repetitions: int) -> float:
    """Median seconds of a call that all processes begin together, after one that is not counted."""
    times = []
    for _ in range(repetitions + 1):
        job.agreed(None, ())
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def measured(job: Job, repetitions: int) -> dict[str, Any]:
    """Sizes and times of every model."""
    torch.manual_seed(job.rank)
    images = (torch.rand(1, LENGTH, 1, 28, 28) < 0.1).float()
    found: dict[str, Any] = {}
    for name in MODELS.catalogue():
        model: nn.Module = fsgen.build(name)
        of_step = seconds(job, step(model, images), repetitions)  # which leaves gradients to average
        of_average = seconds(job, lambda: job.average(model.parameters()), 5 * repetitions)  # noqa: B023
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        found[name] = {"gradient_bytes": size, "step_seconds": of_step, "all_reduce_seconds": of_average}
        if job.lead:
            print(f"{name:20} {size / 1e6:7.2f} MB   step {of_step:8.3f} s   all-reduce {1e3 * of_average:8.2f} ms")
    return found


def main() -> int:
    """Starts the processes, or is one of them; the first prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="JSON file")
    args = parser.parse_args()
    with joined(600.0) as job:
        if job.size == 1:
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(args.processes)]
            return subprocess.run([sys.executable, *launcher, *sys.argv], check=False).returncode
        torch.set_num_threads(1)
        pyro.enable_validation(False)
        torch.distributions.Distribution.set_default_validate_args(False)
        others = os.getloadavg()[0]  # of what else ran here when the measurement began
        of_agreement = seconds(job, agreement(job), 20 * args.repetitions)
        models = measured(job, args.repetitions)
        if job.lead and args.out:
            result = {"processes": job.size, "length": LENGTH, "repetitions": args.repetitions}
            result |= {
                "load_before": others,
                "cores": os.cpu_count(),
                "agreement_seconds": of_agreement,
                "models": models,
                "provenance": provenance(),
            }
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(f"written: {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
