"""fsgen quality: recognizability and diversity of samples, as a table and as lines of results.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from fsgen.cli.evaluate import data_of, holds_learner, identity, progress, refuse_learner, require_fit
from fsgen.cli.parsing import Parser, check_values
from fsgen.errors import InputError
from fsgen.published import located
from fsgen.registry import SOURCES
from fsgen.run import provenance
from fsgen.run.log import Log


def parser() -> Parser:
    """The options of a comparison of samples with images."""
    p = Parser(
        "quality",
        "Samples given a few images of a class, beside other images of that class, as a critic sees them. Recognized: "
        "the share that the critic puts into the class of their support. Diversity: how far they lie apart, with 1 for "
        "the images themselves. Novelty: how far they lie from the nearest support image, likewise; 0 is a copy. The "
        "critic is a learner that was trained apart, such as experiments/classification/prototypical-network.yaml. "
        "Every run is judged on the same episodes for the same data and seed, with 95 % intervals over them.",
    )
    p.add_argument("run", type=str, metavar="RUN", help="folder written by `fsgen train`, or a published model")
    p.add_argument("--critic", type=str, required=True, metavar="RUN", help="folder of a learner, or a published one")
    p.add_argument("--ways", type=int, default=20, metavar="C", help="classes an episode")
    p.add_argument("--shots", type=int, nargs="+", default=[1, 5], metavar="S", help="images given of each class")
    p.add_argument("--samples", type=int, default=10, metavar="M", help="samples, and images, judged of each class")
    p.add_argument("--episodes", type=int, default=100, metavar="N", help="episodes drawn")
    p.add_argument("--data", type=str, default=None, metavar="NAME", help="data source; default that of the training")
    p.add_argument("--data-options", type=dict[str, Any], default={}, metavar="{K: V}", help="options of the source")
    p.add_argument(
        "--data-root", type=str, default=None, metavar="DIR", help="data files; default $FSGEN_DATA or ./data"
    )
    p.add_argument("--split", type=str, default="test", help="train, validation or test")
    p.add_argument("--seed", type=int, default=0, help="of the list of episodes and of the samples")
    p.add_argument("--budget", type=int, default=256, help="samples drawn at a time; bounds the memory")
    p.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's choice")
    p.add_argument("--out", type=str, default=None, metavar="FILE", help="results file; default RUN/results.jsonl")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    return p


def run(args: Namespace) -> int:
    """Judges, prints the table, appends one line a shot count to the results file."""
    folder, judge = located(args.run), located(args.critic)
    if args.budget < 1:
        raise InputError(f"--budget is {args.budget}; give 1 or more.")
    if not 0 <= args.threads <= 1024:
        raise InputError(f"--threads is {args.threads}; give 0 to 1024.")
    if args.samples < 2:
        raise InputError(f"--samples is {args.samples}; give 2 or more, as diversity is that of several.")
    refuse_learner(folder)
    if not holds_learner(judge):
        raise InputError(f"--critic {judge} holds a generative model; name the folder of a learner, which classifies.")
    name, options = data_of(folder, args.data, args.data_options)
    check_values(SOURCES, name, options)

    import torch

    from fsgen.data.sampler import EpisodeSampler
    from fsgen.data.sources import load_images
    from fsgen.model import load
    from fsgen.quality import draws_of, quality

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.distributions.Distribution.set_default_validate_args(False)
    images = load_images(name, args.split, args.data_root, **options)
    model, critic = load(folder), load(judge)
    for path, held in ((folder, model), (judge, critic)):
        require_fit(path, held, images)
    settings = {
        "kind": "quality",
        **identity(folder, model),
        "critic": identity(judge, critic),
        "data": {"name": name, "options": options, "split": args.split, "digest": images.digest},
        "protocol": "strict",
        "seed": args.seed,
    }
    out = Path(args.out) if args.out else folder / "results.jsonl"
    log, made_by, rows = Log(out), provenance(), []
    for shots in args.shots:
        sampler = EpisodeSampler(images, ways=args.ways, shots=shots, queries=args.samples, seed=args.seed)
        with progress(args.episodes, f"{shots} shots", args.quiet) as advance:
            draw = draws_of(model, args.budget)
            found = quality(draw, critic, sampler, args.episodes, seed=args.seed, advance=advance)
        row = {**settings, "list_digest": sampler.digest(args.episodes), **found.record(), "provenance": made_by}
        log.append(row)
        rows.append(row)
    _print(args.run, rows)
    print(f"results: {out}")
    return 0


def _print(what: str, rows: list[dict[str, Any]]) -> None:
    first = rows[0]
    print(
        f"{what}: samples beside images, by {first['critic']['run']}; {first['data']['name']} "
        f"{first['data']['split']}, {first['episodes']} episodes of {first['ways']} classes, "
        f"{first['samples']} samples a class; chance {first['chance']:.1%}"
    )
    print(f"{'shots':>5} {'recognized':>10} {'images':>6} {'diversity':>9} {'novelty':>7}   95 % intervals")
    for row in rows:
        who, theirs, diversity, novelty = (
            row[name] for name in ("recognizability", "real_recognizability", "diversity", "novelty")
        )
        print(
            f"{row['shots']:5d} {who['mean']:10.1%} {theirs['mean']:6.1%} {diversity['mean']:9.3f} "
            f"{novelty['mean']:7.3f}   {who['low']:.1%} to {who['high']:.1%}, {diversity['low']:.3f} to "
            f"{diversity['high']:.3f}, {novelty['low']:.3f} to {novelty['high']:.3f}"
        )
