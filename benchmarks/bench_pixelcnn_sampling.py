"""Seconds to draw a batch of images from the few-shot PixelCNN, by the cached walk and by the naive loop.

The default model (28x28, 5 support images), batch 64. The naive loop makes a full pass over the images for every
pixel and keeps the parameters of that one pixel; the walk computes each layer once a row or a pixel. Both draw from
the same distribution object; in float64 and with one seed their pixels are compared and have to be identical. The
naive loop costs the same at every pixel, so a part of its passes is timed and scaled; ``--naive-pixels 784`` times all.

    python benchmarks/bench_pixelcnn_sampling.py --out benchmarks/results/pixelcnn_sampling.json
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from pyro import poutine

sys.path.insert(0, str(Path(__file__).resolve().parent))
from timing import parser, prepare, speeds, write

import fsgen
from fsgen.distributions import Autoregressive
from fsgen.episode import Episode

SHOTS, SIDE = 5, 28


def distribution(batch: int, dtype: torch.dtype, model_name: str, options: dict[str, Any]) -> Autoregressive:
    """p(x | support) of a model with random weights, for ``batch`` images."""
    torch.manual_seed(0)
    model = fsgen.build(model_name, event_shape=(1, SIDE, SIDE), **options).to(dtype)
    support = (torch.rand(1, SHOTS, 1, SIDE, SIDE) < 0.1).to(dtype)
    episode = Episode(support, support.new_zeros(1, batch, 1, SIDE, SIDE))
    with torch.no_grad():
        return poutine.trace(model.model).get_trace(episode).nodes["x"]["fn"]


def walk(x: Autoregressive) -> float:
    """Seconds to draw the batch by the cached walk."""
    started = time.perf_counter()
    x.sample()
    return time.perf_counter() - started


@torch.no_grad()
def naive(x: Autoregressive, pixels: int) -> float:
    """Seconds to draw the batch by a full pass a pixel, from the first ``pixels`` of them."""
    images = torch.zeros(*x.batch_shape, *x.event_shape, dtype=x.like.dtype)
    started = time.perf_counter()
    for number in range(pixels):
        row, column = divmod(number, SIDE)
        here = x.program.parameters(images)[..., row : row + 1, column : column + 1]
        images[..., row : row + 1, column : column + 1] = x.head(here).sample()
    return (time.perf_counter() - started) * SIDE * SIDE / pixels


def identical(model_name: str, options: dict[str, Any], batch: int) -> bool:
    """Whether both ways draw the same pixels from the same seed in float64."""
    x = distribution(batch, torch.float64, model_name, options)
    drawn = []
    for cached in (True, False):
        torch.manual_seed(1)
        twin = Autoregressive(x.program, x.head, x.batch_shape, x.event_shape, x.like, cached=cached)
        drawn.append(twin.sample())
    return torch.equal(*drawn)


def main() -> None:
    """Prints and writes seconds a batch and their ratio to the naive loop."""
    options = parser(__doc__)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument(
        "--naive-pixels", type=int, default=40, metavar="N", help="passes timed; 784 are a whole batch"
    )
    args = options.parse_args()
    prepare(args.threads)
    candidates: dict[str, Any] = {}
    for name in ("few-shot-pixelcnn", "pixelcnn"):
        same = identical(name, {}, 2)
        x = distribution(args.batch, torch.float32, name, {})
        walk(x)
        slow, fast = zip(*((naive(x, args.naive_pixels), walk(x)) for _ in range(args.repetitions)), strict=True)
        print(f"{name}, identical pixels in float64: {same}")
        found = speeds({"naive loop": slow, "cached walk": fast})
        candidates[name] = {
            "seconds_naive": found["naive loop"]["seconds"],
            "seconds_walk": found["cached walk"]["seconds"],
            "ratio": found["cached walk"]["ratio"],
            "identical_pixels_in_float64": same,
        }
    settings = {"batch": args.batch, "naive_pixels": args.naive_pixels}
    write(args, shots=SHOTS, side=SIDE, **settings, candidates=candidates)


if __name__ == "__main__":
    main()
