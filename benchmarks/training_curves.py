"""Does speed change what is learned? The same 500 steps on Omniglot by the plain reference and by fsgen's fast paths.

The GMN ``paper`` preset from one set of weights, on the same episodes in the same order: ``plain_gmn.py`` (float32,
contiguous, a loop over t), fsgen in float32, and fsgen as configurations train it (channels_last, bfloat16 autocast).
Latents are drawn anew in each, so the curves agree within noise, not bit by bit; the last column is the bound on the
same validation sets after the last step.

    python benchmarks/training_curves.py --out benchmarks/results/training_curves.json
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from plain_gmn import PlainGMN
from plain_weights import copy_all
from timing import parser, prepare, write

import fsgen
from fsgen.data.sampler import EpisodeSampler
from fsgen.data.sources import load_images
from fsgen.episode import Episode
from fsgen.evaluation import sequential_nats
from fsgen.inference import terms
from fsgen.objectives import combine, elbo

Loss = Callable[[Episode], torch.Tensor]
SETS, LENGTH, EVERY = 20, 10, 50


def curve(model: torch.nn.Module, loss: Loss, episodes: EpisodeSampler, steps: int) -> list[float]:
    """Mean training loss of every 50 steps, nats an image."""
    optimiser, found, part = torch.optim.Adam(model.parameters(), 1e-3), [], 0.0
    for number, episode in enumerate(episodes.stream(SETS, 0, steps), 1):
        value = loss(episode)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimiser.step()
        part += value.item() / EVERY
        if number % EVERY == 0:
            found.append(round(part, 3))
            part = 0.0
    return found


def ours(model: fsgen.FewShotModel, *, bf16: bool) -> Loss:
    """The loss as the trainer computes it."""

    def loss(episode: Episode) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            parts = terms(model, episode)
        return -elbo(combine(parts)).mean()

    return loss


def main() -> None:
    """Prints and writes the three curves."""
    options = parser(__doc__)
    for name, default in (("steps", 500), ("sets", 100), ("seed", 0)):
        options.add_argument(f"--{name}", type=int, default=default)
    args = options.parse_args()
    prepare(args.threads)
    train, held = (load_images("omniglot28", split, None) for split in ("train", "validation"))
    episodes = EpisodeSampler(train, length=LENGTH, seed=args.seed)
    held_out = EpisodeSampler(held, length=LENGTH, seed=args.seed)
    start = fsgen.build("gmn", preset="paper").state_dict()
    found = {}
    for name, bf16, fast in (("fsgen float32", False, False), ("fsgen channels_last, bfloat16", True, True)):
        model = fsgen.build("gmn", preset="paper")
        model.load_state_dict(start)
        if fast:
            model = model.to(memory_format=torch.channels_last)
        torch.manual_seed(args.seed)
        losses = curve(model, ours(model, bf16=bf16), episodes, args.steps)
        nats = sequential_nats(model, held_out, args.sets, 10, seed=args.seed)
        found[name] = {"losses": losses, "validation_nats": nats.mean().item()}
    torch.manual_seed(args.seed)
    plain, first = PlainGMN(), fsgen.build("gmn", preset="paper")
    first.load_state_dict(start)
    copy_all(first, plain)
    losses = curve(plain, lambda e: -plain.log_weights(e.query).mean(), episodes, args.steps)
    found["reference"] = {"losses": losses}
    for name, row in found.items():
        print(f"{name:32}", *(f"{value:7.1f}" for value in row["losses"]), row.get("validation_nats", ""))
    write(args, every=EVERY, steps=args.steps, seed=args.seed, data=train.digest, curves=found)


if __name__ == "__main__":
    main()
