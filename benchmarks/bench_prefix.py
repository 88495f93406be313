"""A training step at all T shot counts in one masked pass beside T separate episodes, one a shot count.

Forward and backward of the bound of all T images of each set, paired repetitions in alternation. The separate episodes
hold t support images and one query each and run one after the other. In float64 and with the same noise both give the
same log-weights, which is checked first.

    python benchmarks/bench_prefix.py --out benchmarks/results/prefix.json
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from timing import alternate, given_noise, parser, prepare, ratios, shown, span, write

import fsgen
from fsgen.episode import Episode
from fsgen.inference import log_weights, terms
from fsgen.objectives import combine, elbo

MODELS: dict[str, dict[str, Any]] = {
    "gmn, paper": {"name": "gmn", "preset": "paper"},
    "conditional-vae": {"name": "conditional-vae"},
    "few-shot-pixelcnn": {"name": "few-shot-pixelcnn"},
}


def prefixes(images: Tensor) -> list[Episode]:
    """One episode a shot count: the first t images of each set as support, the next as query."""
    return [Episode(images[:, :t], images[:, t : t + 1]) for t in range(images.shape[1])]


def difference(recipe: dict[str, Any], images: Tensor) -> float:
    """The greatest difference of a log-weight between both ways, nats, in float64 with the same noise."""
    model, images = fsgen.build(**recipe).double(), images.double()
    noise = torch.randn(*images.shape[:2], getattr(model, "dim_z", 1), dtype=torch.float64)
    with torch.no_grad():
        with given_noise(noise):
            together = log_weights(model, Episode.sequential(images))[0]
        apart = []
        for t, episode in enumerate(prefixes(images)):
            with given_noise(noise[:, t : t + 1]):
                apart.append(log_weights(model, episode)[0])
    return float((together - torch.cat(apart, 1)).abs().max())


def step(model: Any, episodes: Callable[[], list[Episode]]) -> Callable[[], None]:
    """Forward and backward of the bound, one episode after the other."""

    def run() -> None:
        model.zero_grad(set_to_none=True)
        asked = episodes()
        for episode in asked:
            (-elbo(combine(terms(model, episode))).mean() / len(asked)).backward()

    return run


def main() -> None:
    """Prints and writes seconds a step and their ratio, model by model."""
    options = parser(__doc__)
    options.add_argument("--sets", type=int, nargs="+", default=[1, 20], help="sets a step")
    options.add_argument("--length", type=int, default=20, help="T, images a set")
    options.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    args = options.parse_args()
    prepare(args.threads)
    rows = []
    for name in args.models:
        off = difference(MODELS[name], (torch.rand(2, args.length, 1, 28, 28) < 0.1).float())
        if off > 1e-6:
            raise SystemExit(f"{name}: one pass and separate episodes differ by {off:.2g} nats.")
        model = fsgen.build(**MODELS[name]).to(memory_format=torch.channels_last)
        for sets in args.sets:
            images = (torch.rand(sets, args.length, 1, 28, 28) < 0.1).float()
            times = alternate(
                {
                    "apart": step(model, lambda images=images: prefixes(images)),
                    "together": step(model, lambda images=images: [Episode.sequential(images)]),
                },
                args,
            )
            ratio = ratios(times["apart"], times["together"])
            share = {key: value / args.length for key, value in ratio.items()}
            seconds = {f"seconds_{key}": span(values)["median"] for key, values in times.items()}
            rows.append({"model": name, "sets": sets, **seconds, "ratio": ratio, "share_of_length": share})
            print(
                f"{name:18} {sets:3d} sets   apart {seconds['seconds_apart']:7.3f} s   together "
                f"{seconds['seconds_together']:7.3f} s   ratio {shown(ratio)}   ratio / T {shown(share)}"
            )
    write(args, rows, length=args.length)


if __name__ == "__main__":
    main()
