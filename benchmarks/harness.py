"""What the benchmarks share: paired repetitions in alternation, ratios to the first candidate, a file of results."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch

from fsgen.run import provenance


def options(description: str | None, **defaults: int) -> argparse.ArgumentParser:
    """A parser with --repetitions, --threads, --out and an integer option for each of ``defaults``."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    for name, default in {"repetitions": 5, "threads": 2, **defaults}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--out", type=Path, default=None, help="JSON file")
    return parser


def quiet_torch(threads: int) -> None:
    """Seed 0, this number of threads, and none of the checks that users can switch off."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    pyro.enable_validation(False)
    torch.distributions.Distribution.set_default_validate_args(False)


def seconds(call: Callable[[], Any], times: int = 1) -> float:
    """Seconds a call, the mean of several."""
    started = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started) / times


def paired(candidates: Mapping[str, Callable[[], Any]], repetitions: int, times: int = 1) -> dict[str, Any]:
    """Seconds of each candidate and its ratio to the first one, timed in turns so that all see the same machine."""
    for call in candidates.values():
        seconds(call)
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repetitions):
        for name, call in candidates.items():
            taken[name].append(seconds(call, times))
    return {name: beside(taken[next(iter(candidates))], values) for name, values in taken.items()}


def beside(reference: Sequence[float], values: Sequence[float]) -> dict[str, Any]:
    """Median seconds and steps a second, and how many times faster than the reference of the same repetition."""
    ratios = sorted(slow / fast for slow, fast in zip(reference, values, strict=True))
    middle = statistics.median(values)
    ratio = {"min": ratios[0], "median": statistics.median(ratios), "max": ratios[-1]}
    return {"seconds": middle, "steps_per_second": 1 / middle, "ratio": ratio}


def report(candidates: Mapping[str, dict[str, Any]], args: argparse.Namespace, **facts: Any) -> None:
    """Prints one line a candidate and writes everything to --out."""
    for name, found in candidates.items():
        r = found["ratio"]
        print(
            f"{name:24} {1000 * found['seconds']:9.1f} ms   ratio {r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f})"
        )
    if args.out is None:
        return
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    result = {**facts, **settings, "candidates": candidates, "provenance": provenance()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {args.out}")
