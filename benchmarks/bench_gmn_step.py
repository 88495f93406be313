"""Training steps a second of the GMN paper preset beside the plain reference, in one run.

20 sets of 10 images, Adam, paired repetitions in alternation, so that both see the same machine.
The reference is ``plain_gmn.py``: float32, contiguous, a Python loop over t as in the published code.

    python benchmarks/bench_gmn_step.py --out benchmarks/results/gmn_step.json
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

sys.path.insert(0, str(Path(__file__).resolve().parent))
from plain_gmn import PlainGMN, train_step
from timing import alternate, parser, prepare, speeds, write

import fsgen
from fsgen.episode import Episode
from fsgen.inference import terms
from fsgen.objectives import combine, elbo

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


def main() -> None:
    """Prints and writes steps a second and their ratio to the reference."""
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=5, help="steps a repetition")
    args = options.parse_args()
    prepare(args.threads)
    images = (torch.rand(SETS, LENGTH, 1, 28, 28) < 0.1).float()
    candidates = {
        "reference": reference(images),
        "fsgen float32": ours(images, bf16=False),
        "fsgen bfloat16": ours(images, bf16=True),
    }
    write(args, sets=SETS, length=LENGTH, candidates=speeds(alternate(candidates, args, args.steps)))


if __name__ == "__main__":
    main()
