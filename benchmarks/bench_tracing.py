"""What Pyro's tracing adds to a step of the matching network: terms of the trace beside the same sums by hand.

Forward and backward of the bound, the paper preset on 20 sets of 10 images, one model for both, paired repetitions in
alternation. In float64 and with the same noise both give the same log-weights, which is checked first.

    python benchmarks/bench_tracing.py --out benchmarks/results/tracing.json
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from gmn_by_hand import log_weights_by_hand
from timing import alternate, given_noise, parser, prepare, ratios, shown, span, write

import fsgen
from fsgen.episode import Episode
from fsgen.inference import log_weights, terms
from fsgen.models.gmn import GMN
from fsgen.objectives import combine, elbo


def difference(model: GMN, episode: Episode) -> float:
    """The greatest difference of a log-weight between both ways, nats, with the same noise."""
    noise = torch.randn(episode.batch, episode.queries, model.dim_z, dtype=torch.float64)
    with torch.no_grad(), given_noise(noise):
        return float((log_weights(model, episode)[0] - log_weights_by_hand(model, episode, noise)).abs().max())


def main() -> None:
    """Prints and writes milliseconds a step and the overhead."""
    options = parser(__doc__)
    options.add_argument("--sets", type=int, default=20)
    options.add_argument("--length", type=int, default=10)
    options.add_argument("--steps", type=int, default=5, help="steps a repetition")
    args = options.parse_args()
    prepare(args.threads)
    model = fsgen.build("gmn", preset="paper")
    assert isinstance(model, GMN)
    images = (torch.rand(args.sets, args.length, 1, 28, 28) < 0.1).float()
    if (off := difference(model.double(), Episode.sequential(images[:2].double()))) > 1e-9:
        raise SystemExit(f"the trace and the sums by hand differ by {off:.2g} nats.")
    model = model.float().to(memory_format=torch.channels_last)
    episode = Episode.sequential(images)

    def traced() -> None:
        model.zero_grad(set_to_none=True)
        (-elbo(combine(terms(model, episode))).mean()).backward()

    def by_hand() -> None:
        model.zero_grad(set_to_none=True)
        (-log_weights_by_hand(model, episode).mean()).backward()

    times = alternate({"by hand": by_hand, "traced": traced}, args, args.steps)
    overhead = {key: value - 1 for key, value in ratios(times["traced"], times["by hand"]).items()}
    took = {f"milliseconds_{key.replace(' ', '_')}": 1000 * span(values)["median"] for key, values in times.items()}
    print(
        f"by hand {took['milliseconds_by_hand']:.1f} ms   traced {took['milliseconds_traced']:.1f} ms   "
        f"overhead {shown(overhead, 3)}"
    )
    write(args, [{"sets": args.sets, "length": args.length, **took, "overhead": overhead}])


if __name__ == "__main__":
    main()
