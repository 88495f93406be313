"""Training steps a second of the few-shot PixelCNN with each of the fast paths, one after the other.

3 sets of 20 images, the network of ``experiments/few-shot-pixelcnn-omniglot``, forward and backward, paired repetitions
in alternation. The reference is the same network in float32 and contiguous. Beside the times stands the share that the
step's arithmetic reaches of the rate of one large matrix product in the same precision and run: its roofline.

    python benchmarks/bench_pixelcnn_step.py --out benchmarks/results/pixelcnn_step.json
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent))
from timing import alternate, parser, prepare, speeds, write

import fsgen
from fsgen.episode import Episode
from fsgen.inference import terms

SETS, LENGTH, SIDE = 3, 20, 2048
REFERENCE = "float32, contiguous"


def step(images: torch.Tensor, *, channels_last: bool, bf16: bool, compiled: bool = False) -> Callable[[], None]:
    """Forward and backward as fsgen's trainer runs them, on the device of ``images``."""
    model = fsgen.build("few-shot-pixelcnn").to(images.device)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    if compiled:
        for network in model.children():
            network.compile()

    def run() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            parts = terms(model, Episode.sequential(images))
        model.zero_grad(set_to_none=True)
        (-sum(nats.mean() for nats in parts.values())).backward()
        _wait(images.device)

    return run


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a square matrix product, the best of five."""
    a, b = (torch.randn(SIDE, SIDE, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        a @ b
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * SIDE**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Prints and writes steps a second, their ratio to the reference and the share of the roofline."""
    options = parser(__doc__)
    options.add_argument("--device", default="cpu")
    args = options.parse_args()
    prepare(args.threads)
    device = torch.device(args.device)
    images = (torch.rand(SETS, LENGTH, 1, 28, 28, device=device) < 0.1).float()
    candidates = {
        REFERENCE: step(images, channels_last=False, bf16=False),
        "float32, channels_last": step(images, channels_last=True, bf16=False),
        "bfloat16, channels_last": step(images, channels_last=True, bf16=True),
        "bfloat16, channels_last, compiled": step(images, channels_last=True, bf16=True, compiled=True),
    }
    with FlopCounterMode(display=False) as counter:
        candidates[REFERENCE]()
    operations = counter.get_total_flops()
    rates = {dtype: product_rate(device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    found = speeds(alternate(candidates, args))
    rows = []
    for name, row in found.items():
        rate = operations * row["steps_per_second"]
        roof = rates[torch.bfloat16 if name.startswith("bfloat16") else torch.float32]
        speed = {"images_per_second": SETS * LENGTH * row["steps_per_second"], "share_of_roofline": rate / roof}
        rows.append({"candidate": name, **row, **speed})
        print(
            f"{name:40} {speed['images_per_second']:7.1f} images/s   {speed['share_of_roofline']:.1%} of the roofline"
        )
    roofline = {str(dtype): rate for dtype, rate in rates.items()}
    shape = {"sets": SETS, "length": LENGTH, "device": str(device)}
    write(args, rows, **shape, operations_a_step=operations, roofline=roofline)


if __name__ == "__main__":
    main()
