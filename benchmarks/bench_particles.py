"""Evaluation of one set with many particles at several shot counts beside a plain loop over particles and shot counts.

The matching network (paper preset, random weights), the last of 20 images given the first t, for every t of --shots.
fsgen, as ``fsgen evaluate``, embeds the images once and decodes particles x shot counts under a budget, channels_last.
There are two references. ``plain_gmn.py``, written from the paper, does what the published code does: it runs the
whole network, image after image, on --chunk copies of the sequence at a time, and so has every shot count from 0 to 19.
The plain loop asks for no more than the given shot counts: for each, the support and the query are repeated once a
particle along the batch, and encoder, matching and decoder run on all of it, with fsgen's networks and without Pyro, in
both memory layouts. In float64 and with the same noise the loop and fsgen give the same log-weights, which is checked
first; ``tests/test_plain_gmn.py`` compares the other.

Peak memory at several budgets is that of a process of its own, over what the process held before.

    python benchmarks/bench_particles.py --out benchmarks/results/particles.json
"""

from __future__ import annotations

import argparse
import math
import re
import resource
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from gmn_by_hand import log_weights_by_hand
from plain_gmn import PlainGMN
from timing import alternate, given_noise, parser, prepare, ratios, shown, span, write

import fsgen
from fsgen.episode import Episode
from fsgen.inference import log_weights
from fsgen.models.gmn import GMN
from fsgen.objectives import iwae

SHOTS = (0, 1, 2, 3, 4, 5, 10, 19)


def network() -> GMN:
    """The paper preset with random weights."""
    model = fsgen.build("gmn", preset="paper").eval()
    assert isinstance(model, GMN)
    return model


def picture(dtype: torch.dtype = torch.float32) -> Tensor:
    """A set of 20 random images, [20, 1, 28, 28]."""
    return (torch.rand(20, 1, 28, 28) < 0.1).to(dtype)


def asked(images: Tensor) -> Episode:
    """The last image as query, once a shot count."""
    visible = torch.arange(len(images) - 1) < torch.tensor(SHOTS)[:, None]
    return Episode(images[None, :-1], images[None, -1:].expand(-1, len(SHOTS), -1, -1, -1), visible[None])


@torch.no_grad()
def ours(model: GMN, images: Tensor, particles: int, budget: int) -> Tensor:
    """Bounds [shot counts], as ``fsgen evaluate`` computes them."""
    return iwae(log_weights(model, asked(images), particles, chunk=max(1, budget // len(SHOTS))))[0]


@torch.no_grad()
def plain(model: GMN, images: Tensor, particles: int, chunk: int, noise: Tensor | None = None) -> Tensor:
    """The same bounds by the loop; ``noise`` is [K, shot counts, Z]."""
    bounds = []
    for column, t in enumerate(SHOTS):
        parts = []
        for start in range(0, particles, chunk):
            copies = min(chunk, particles - start)
            support = images[None, :t].repeat(copies, 1, 1, 1, 1)
            query = images[None, -1:].repeat(copies, 1, 1, 1, 1)
            own = None if noise is None else noise[start : start + copies, column : column + 1]
            parts.append(log_weights_by_hand(model, Episode(support, query), own)[:, 0].double())
        bounds.append(torch.cat(parts).logsumexp(0) - math.log(particles))
    return torch.stack(bounds)


@torch.no_grad()
def published(model: PlainGMN, images: Tensor, particles: int, chunk: int) -> Tensor:
    """Bounds at every shot count by copies of the whole sequence."""
    parts = [model.naive_evaluate(images, min(chunk, particles - start)) for start in range(0, particles, chunk)]
    return torch.stack(parts).logsumexp(0)


def difference(particles: int = 6) -> float:
    """The greatest difference of a bound between both ways, nats, in float64 with the same noise."""
    model, images = network().double(), picture(torch.float64)
    noise = torch.randn(particles, len(SHOTS), model.dim_z, dtype=torch.float64)
    with given_noise(noise[:, None]):
        bounds = ours(model, images, particles, particles * len(SHOTS))
    return float((bounds - plain(model, images, particles, 4, noise)).abs().max())


def peak_mebibytes() -> float:
    """The most memory this process has held; on Linux ``ru_maxrss`` would count what its parent held as well."""
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)):
        return int(found[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def memory_at(budget: int, args: argparse.Namespace) -> dict[str, float]:
    """Peak memory of an evaluation under ``budget`` in a process of its own: in all, and over that of one particle."""
    words = [sys.executable, __file__, "--particles", args.particles, "--threads", args.threads, "--measure", budget]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    return {"budget": budget, "peak_mebibytes": after, "mebibytes_over_one_particle": after - before}


def main() -> None:
    """Prints and writes seconds, their ratio, and peak memory by budget."""
    options = parser(__doc__)
    options.add_argument("--particles", type=int, default=1000)
    options.add_argument("--budget", type=int, default=512)
    options.add_argument("--chunk", type=int, default=64, help="particles of the plain loop at a time")
    options.add_argument("--budgets", type=int, nargs="*", default=[8, 128, 512, 2048, 8192], help="for the memory")
    options.add_argument("--measure", type=int, default=None, metavar="BUDGET", help="print peaks in MiB, time nothing")
    args = options.parse_args()
    prepare(args.threads)
    if args.measure is not None:
        model, images = network().to(memory_format=torch.channels_last), picture()
        ours(model, images, 1, 1)
        before = peak_mebibytes()
        ours(model, images, args.particles, args.measure)
        print(before, peak_mebibytes())
        return
    if (off := difference()) > 1e-6:
        raise SystemExit(f"fsgen and the plain loop differ by {off:.2g} nats.")
    model, contiguous, images = network().to(memory_format=torch.channels_last), network(), picture()
    literal = PlainGMN()
    times = alternate(
        {
            "plain_gmn.py": lambda: published(literal, images, args.particles, args.chunk),
            "contiguous": lambda: plain(contiguous, images, args.particles, args.chunk),
            "channels_last": lambda: plain(model, images, args.particles, args.chunk),
            "fsgen": lambda: ours(model, images, args.particles, args.budget),
        },
        args,
    )
    settings = {"particles": args.particles, "budget": args.budget, "chunk": args.chunk}
    rows = []
    for layout in ("plain_gmn.py", "contiguous", "channels_last"):
        ratio = ratios(times[layout], times["fsgen"])
        seconds = {"seconds_plain": span(times[layout])["median"], "seconds_fsgen": span(times["fsgen"])["median"]}
        rows.append({"layout": layout, **settings, **seconds, "ratio": ratio})
        print(
            f"{args.particles} particles   plain loop, {layout} {seconds['seconds_plain']:.2f} s   fsgen "
            f"{seconds['seconds_fsgen']:.2f} s   ratio {shown(ratio)}"
        )
    memory = [memory_at(budget, args) for budget in args.budgets]
    for row in memory:
        print(
            f"budget {row['budget']:5d}   peak {row['peak_mebibytes']:6.0f} MiB   "
            f"over one particle {row['mebibytes_over_one_particle']:6.0f} MiB"
        )
    write(args, rows, shots=list(SHOTS), memory=memory)


if __name__ == "__main__":
    main()
