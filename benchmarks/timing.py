"""What the benchmarks share: options, paired repetitions in alternation, ratios and the file of results."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyro
import torch
from torch import Tensor

from fsgen.run import provenance

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def parser(description: str) -> argparse.ArgumentParser:
    """Options of every benchmark; its own are added to them."""
    made = argparse.ArgumentParser(description=description.split("\n")[0])
    made.add_argument("--repetitions", type=int, default=5)
    made.add_argument("--threads", type=int, default=2)
    made.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu is the processor's, for a busy machine"
    )
    made.add_argument("--out", type=Path, default=None, help="JSON file")
    return made


def prepare(threads: int) -> None:
    """A fixed seed, the threads, and no checks of values, as in training."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    pyro.enable_validation(False)
    torch.distributions.Distribution.set_default_validate_args(False)


def alternate(
    calls: Mapping[str, Callable[[], Any]], args: argparse.Namespace, times: int = 1
) -> dict[str, list[float]]:
    """Seconds a call: every repetition runs all candidates, ``times`` calls each, after one call that is not timed."""
    clock = CLOCKS[args.clock]
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(args.repetitions):
        for name, call in calls.items():
            started = clock()
            for _ in range(times):
                call()
            found[name].append((clock() - started) / times)
    return found


def span(values: Iterable[float]) -> dict[str, float]:
    """The least, the median and the greatest."""
    ordered = sorted(values)
    return {"min": ordered[0], "median": statistics.median(ordered), "max": ordered[-1]}


def ratios(above: Iterable[float], below: Iterable[float]) -> dict[str, float]:
    """:func:`span` of the ratios of paired times."""
    return span(a / b for a, b in zip(above, below, strict=True))


def speeds(seconds: Mapping[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Of each candidate the median seconds, steps a second, and how many times faster than the first one it is."""
    reference = next(iter(seconds.values()))
    found = {}
    for name, values in seconds.items():
        middle, ratio = statistics.median(values), ratios(reference, values)
        found[name] = {"seconds": middle, "steps_per_second": 1 / middle, "ratio": ratio}
        print(f"{name:40} {1000 * middle:9.1f} ms   ratio {shown(ratio)}")
    return found


def shown(found: Mapping[str, float], digits: int = 2) -> str:
    """A span as "median (min to max)"."""
    return f"{found['median']:.{digits}f} ({found['min']:.{digits}f} to {found['max']:.{digits}f})"


def given_noise(noise: Tensor) -> Any:
    """A block in which every normal draw is loc + scale * ``noise``, broadcast to the shape of the draw."""

    def standard_normal(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        return noise.to(device, dtype).expand(shape)

    return patch("torch.distributions.normal._standard_normal", standard_normal)


def write(args: argparse.Namespace, rows: Iterable[Mapping[str, Any]] = (), **settings: Any) -> None:
    """The rows with settings and provenance, if --out was given."""
    if args.out is None:
        return
    result = {"threads": args.threads, "repetitions": args.repetitions, "clock": args.clock, **settings}
    if rows := list(rows):
        result["rows"] = rows
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({**result, "provenance": provenance()}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {args.out}")
