"""fsgen classify: few-shot accuracy, as a table and as lines of results.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from fsgen.cli.evaluate import data_of, holds_learner, identity, progress, refuse_learner, require_fit
from fsgen.cli.parsing import Parser, check_values
from fsgen.errors import InputError
from fsgen.published import located
from fsgen.registry import CLASSIFIERS, SOURCES
from fsgen.run import provenance

TASKS = ("random", "alphabet")
OWN = "own"  # a learner, in results


def parser() -> Parser:
    """The options of a classification."""
    p = Parser(
        "classify",
        "Share of images put into the right one of a few classes, each known by a few images, with a 95 % interval "
        "over episodes. No episode holds an image twice, and every classifier is asked about the same episodes for "
        f"the same data, task and seed. Classifiers: {', '.join(CLASSIFIERS)}; those by pixels take no RUN, but "
        "--data and --out. The RUN of a learner is its own classifier.",
    )
    p.add_argument(
        "run",
        type=str | None,
        nargs="?",
        default=None,
        metavar="RUN",
        help="folder written by `fsgen train`, or a published model",
    )
    p.add_argument(
        "--classifier",
        type=str | None,
        default=None,
        metavar="NAME",
        help="how classes are told apart; default the RUN itself if it is a learner, else likelihood",
    )
    p.add_argument(
        "--classifier-options", type=dict[str, Any], default={}, metavar="{K: V}", help="options of the classifier"
    )
    p.add_argument("--ways", type=int, nargs="+", default=[5, 20], metavar="C", help="classes an episode")
    p.add_argument("--shots", type=int, nargs="+", default=[1, 5], metavar="S", help="images shown a class")
    p.add_argument("--queries", type=int, default=1, metavar="Q", help="images asked about a class")
    p.add_argument("--episodes", type=int, default=1000, metavar="N", help="episodes asked about")
    p.add_argument("--task", type=str, default="random", help="random: any classes; alphabet: classes of one alphabet")
    p.add_argument("--particles", type=int, default=100, metavar="K", help="importance samples of a likelihood bound")
    p.add_argument("--data", type=str, default=None, metavar="NAME", help="data source; default that of the training")
    p.add_argument("--data-options", type=dict[str, Any], default={}, metavar="{K: V}", help="options of the source")
    p.add_argument(
        "--data-root", type=str, default=None, metavar="DIR", help="data files; default $FSGEN_DATA or ./data"
    )
    p.add_argument("--split", type=str, default="test", help="train, validation or test")
    p.add_argument("--seed", type=int, default=0, help="of the list of episodes and of the importance samples")
    p.add_argument("--budget", type=int, default=256, help="images decoded at a time; bounds the memory")
    p.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's choice")
    p.add_argument("--out", type=str, default=None, metavar="FILE", help="results file; default RUN/results.jsonl")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    return p


def run(args: Namespace) -> int:
    """Classifies, prints the table, appends one line a row to the results file."""
    folder = located(args.run) if args.run else None
    own = folder is not None and args.classifier is None and holds_learner(folder)
    how = OWN if own else args.classifier or "likelihood"
    options = _options(args, how, args.classifier_options)
    if folder is None and (args.data is None or args.out is None):
        raise InputError("without a RUN, name a data source with --data and a results file with --out.")
    name, source_options = data_of(folder, args.data, args.data_options) if folder else (args.data, args.data_options)
    check_values(SOURCES, name, source_options)

    import torch

    from fsgen.classification import accuracy
    from fsgen.data.sampler import EpisodeSampler
    from fsgen.data.sources import load_images
    from fsgen.model import load
    from fsgen.run.log import Log

    member: Any = None if own else CLASSIFIERS.require(how)
    reads_model = own or member.reads_model
    if reads_model and folder is None:
        raise InputError(f"classifier '{how}' reads a model; name the folder of one: fsgen classify RUN.")
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.distributions.Distribution.set_default_validate_args(False)
    images = load_images(name, args.split, args.data_root, **source_options)
    model = load(folder) if folder and reads_model else None
    if folder and model:
        if not own:
            refuse_learner(folder)
        require_fit(folder, model, images)
    classifier: Any = model if own else member(model, **options) if model else member(**options)
    settings: dict[str, Any] = {
        "kind": "classification",
        **(identity(folder, model) if folder and model else dict.fromkeys(("run", "model", "weights_sha256"))),
        "classifier": {"name": how, "options": options},
        "data": {"name": name, "options": source_options, "split": args.split, "digest": images.digest},
        "task": args.task,
        "protocol": "strict",
        "seed": args.seed,
    }
    out = Path(args.out) if args.out else (folder or Path()) / "results.jsonl"
    log, made_by, rows = Log(out), provenance(), []
    for ways in args.ways:
        for shots in args.shots:
            sampler = EpisodeSampler(
                images,
                ways=ways,
                shots=shots,
                queries=args.queries,
                grouped=args.task == "alphabet",
                seed=args.seed,
            )
            with progress(args.episodes, f"{ways} ways, {shots} shots", args.quiet) as advance:
                found = accuracy(classifier, sampler, args.episodes, seed=args.seed, advance=advance)
            row = {**settings, "list_digest": sampler.digest(args.episodes), **found.record(), "provenance": made_by}
            log.append(row)
            rows.append(row)
    _print(args.run if model else how, rows)
    print(f"results: {out}")
    return 0


def _options(args: Namespace, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options of the classifier ``name``: those given, and the flags that it takes.

    Raises:
        UnknownNameError, UnknownOptionError, InputError: an unknown classifier or task, or a value out of range.
    """
    if args.task not in TASKS:
        raise InputError(f"no task '{args.task}'. Known: {', '.join(TASKS)}.")
    if not 0 <= args.threads <= 1024:
        raise InputError(f"--threads is {args.threads}; give 0 to 1024.")
    if name == OWN:
        if given:
            raise InputError(f"a learner takes no --classifier-options, but {', '.join(given)} is given; leave it out.")
        return {}
    known = CLASSIFIERS.entry(name).options
    flags = {flag: getattr(args, flag) for flag in ("particles", "budget") if flag in known}
    check_values(CLASSIFIERS, name, given)
    return {**flags, **given}


def _print(what: str, rows: list[dict[str, Any]]) -> None:
    first = rows[0]
    particles = first["classifier"]["options"].get("particles")
    print(
        f"{what}: accuracy by {first['classifier']['name']}" + f", K = {particles}" * bool(particles) + "; "
        f"{first['data']['name']} {first['data']['split']}, {first['task']} classes, {first['episodes']} episodes of "
        f"{first['queries']} {'query' if first['queries'] == 1 else 'queries'} a class"
    )
    print(f"{'ways':>5} {'shots':>5} {'accuracy':>8} {'95 % interval':>17} {'chance':>7} {'log loss':>8} {'ECE':>6}")
    for row in rows:
        span = f"{row['low']:.1%} to {row['high']:.1%}"
        print(
            f"{row['ways']:5d} {row['shots']:5d} {row['accuracy']:8.1%} {span:>17} {row['chance']:7.1%} "
            f"{row['log_loss']:8.3f} {row['ece']:6.1%}"
        )
    for row in rows:
        if row["confusion"]:
            _print_confusion(row)


def _print_confusion(row: dict[str, Any]) -> None:
    """The errors of a task with the same classes in every episode, by true class."""
    print(f"answers in percent of the true class, {row['ways']} ways, {row['shots']} shots")
    width = max(5, *(len(name) + 1 for name in row["names"]))
    print(" " * width + "".join(f"{name:>{width}}" for name in row["names"]))
    for name, counts in zip(row["names"], row["confusion"], strict=True):
        print(f"{name:>{width}}" + "".join(f"{100 * n / sum(counts):{width}.1f}" for n in counts))
