"""Time to draw and augment a batch of episodes as a share of the training step that it feeds.

Batches of the embedded glyphs with rotations and reflections; a step is that of the trainer without its log: bound,
gradient, clipping, Adam. Paired repetitions in alternation.

    python benchmarks/bench_episodes.py --out benchmarks/results/episodes.json
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from timing import alternate, parser, prepare, ratios, shown, span, write

import fsgen
from fsgen.config import EpisodesConfig
from fsgen.data.sampler import EpisodeSampler
from fsgen.data.sources import load_images
from fsgen.episode import Episode
from fsgen.inference import terms
from fsgen.objectives import combine, elbo

USUAL = EpisodesConfig()
FEEDS: dict[str, dict[str, Any]] = {
    "gmn, paper": {"recipe": {"name": "gmn", "preset": "paper"}, "sets": 20, "length": 10},
    "few-shot-pixelcnn": {"recipe": {"name": "few-shot-pixelcnn"}, "sets": USUAL.batch, "length": USUAL.length},
}


def step(recipe: dict[str, Any], episode: Episode) -> Callable[[], None]:
    """A training step on a batch that is already there."""
    model = fsgen.build(**recipe).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(model.parameters(), 1e-4, fused=True)

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        (-elbo(combine(terms(model, episode))).mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimiser.step()

    return run


def main() -> None:
    """Prints and writes milliseconds a batch and a step, and the share."""
    options = parser(__doc__)
    options.add_argument("--batches", type=int, default=5, help="batches and steps a repetition")
    args = options.parse_args()
    prepare(args.threads)
    images = load_images("glyphs", "train")
    rows = []
    for name, feed in FEEDS.items():
        sets = feed["sets"]
        sampler = EpisodeSampler(images, ways=USUAL.ways, length=feed["length"], augment="dihedral")
        numbers = itertools.count()

        def draw(sampler: EpisodeSampler = sampler, sets: int = sets, numbers: Any = numbers) -> Episode:
            first = next(numbers) * sets
            return sampler.episode(range(first, first + sets))

        times = alternate({"draw": draw, "step": step(feed["recipe"], draw())}, args, args.batches)
        share = ratios(times["draw"], times["step"])
        took = {f"milliseconds_{key}": 1000 * span(values)["median"] for key, values in times.items()}
        rows.append({"model": name, "sets": sets, "length": feed["length"], **took, "share": share})
        print(
            f"{name:18} {sets} sets of {feed['length']}   draw {took['milliseconds_draw']:7.2f} ms   "
            f"step {took['milliseconds_step']:8.1f} ms   share {shown(share, 4)}"
        )
    write(args, rows, data="glyphs", classes=len(images.class_names))


if __name__ == "__main__":
    main()
