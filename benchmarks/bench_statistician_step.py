"""Training steps a second of the neural statistician beside the plain reference, in one run: 32 sets of 5 images.

Both have convolutions of 64, 128 and 256 channels, three a size, c of 512, z of 16 and dense layers of 256. The
reference is ``plain_statistician.py``: float32, contiguous, from the full size down, with batch normalisation. fsgen's
own stages work on pixels folded 2x2 into channels, so that each works at half the side of the reference's; what that
gains and what format and precision gain stand apart in the table.

    python benchmarks/bench_statistician_step.py --out benchmarks/results/statistician_step.json
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from plain_statistician import CHANNELS, DIM_C, DIM_Z, HIDDEN, PlainStatistician
from timing import alternate, parser, prepare, speeds, write

import fsgen
from fsgen.episode import Episode
from fsgen.inference import terms
from fsgen.objectives import combine, elbo

SETS, LENGTH = 32, 5


def reference(images: torch.Tensor, *, channels_last: bool = False, bf16: bool = False) -> Callable[[], None]:
    """A step of the plain network."""
    model = PlainStatistician()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3, fused=channels_last)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = -model.bound(images).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def ours(images: torch.Tensor, *, bf16: bool) -> Callable[[], None]:
    """A step of fsgen's model at the same sizes, as the trainer takes it."""
    sizes = {"channels": CHANNELS, "dim_c": DIM_C, "dim_z": DIM_Z, "dim_hidden": HIDDEN, "dim_features": HIDDEN}
    model = fsgen.build("neural-statistician", layers=1, **sizes).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            parts = terms(model, Episode.sequential(images))
        optimiser.zero_grad(set_to_none=True)
        (-elbo(combine(parts)).mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimiser.step()

    return step


def main() -> None:
    """Prints and writes seconds a step and their ratio to the reference."""
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=2, help="steps a repetition")
    args = options.parse_args()
    prepare(args.threads)
    images = (torch.rand(SETS, LENGTH, 1, 28, 28) < 0.1).float()
    candidates = {
        "reference": reference(images),
        "reference, channels_last and bfloat16": reference(images, channels_last=True, bf16=True),
        "fsgen float32": ours(images, bf16=False),
        "fsgen bfloat16": ours(images, bf16=True),
    }
    found = speeds(alternate(candidates, args, args.steps))
    for row in found.values():
        row["images_per_second"] = SETS * LENGTH / row["seconds"]
    write(args, sets=SETS, length=LENGTH, candidates=found)


if __name__ == "__main__":
    main()
