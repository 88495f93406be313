"""fsgen evaluate: held-out likelihood of a run, as a table and as lines of results.jsonl."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from fsgen.cli.parsing import Parser, check_values
from fsgen.errors import DataError, InputError
from fsgen.registry import LEARNERS, SOURCES
from fsgen.run import Run, provenance


def parser() -> Parser:
    """The options of an evaluation."""
    p = Parser(
        "evaluate",
        "Negative log-likelihood in nats per image of the last image of each set, given its first t images, with "
        "standard errors over sets. Every run is scored on the same sets for the same data, protocol and seed.",
    )
    p.add_argument("run", type=str, metavar="RUN", help="folder written by `fsgen train` or model.save")
    p.add_argument("--data", type=str, default=None, metavar="NAME", help="data source; default that of the training")
    p.add_argument("--data-options", type=dict[str, Any], default={}, metavar="{K: V}", help="options of the source")
    p.add_argument(
        "--data-root", type=str, default=None, metavar="DIR", help="data files; default $FSGEN_DATA or ./data"
    )
    p.add_argument("--split", type=str, default="test", help="train, validation or test")
    p.add_argument(
        "--protocol", type=str, default="strict", help="strict: no image twice; published: drawn with replacement"
    )
    p.add_argument("--classes", type=int, nargs="+", default=[1], metavar="C", help="classes a set")
    p.add_argument(
        "--shots", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5, 10, 19], metavar="T", help="images given, in all"
    )
    p.add_argument("--length", type=int, default=20, help="images a set; the last one is the target")
    p.add_argument("--sets", type=int, default=200, metavar="N", help="sets scored")
    p.add_argument("--particles", type=int, default=1000, metavar="K", help="importance samples of the bound")
    p.add_argument("--seed", type=int, default=0, help="of the list of sets and of the importance samples")
    p.add_argument("--budget", type=int, default=512, help="images decoded at a time; bounds the memory")
    p.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's choice")
    p.add_argument("--out", type=str, default=None, metavar="FILE", help="results file; default RUN/results.jsonl")
    p.add_argument("--against", type=str, default=None, metavar="RUN", help="also print paired differences to this run")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    return p


def run(args: Namespace) -> int:
    """Evaluates, prints the table, appends one line a row to the results file."""
    folder = Path(args.run)
    if args.budget < 1:
        raise InputError(f"--budget is {args.budget}; give 1 or more.")
    if not 0 <= args.threads <= 1024:
        raise InputError(f"--threads is {args.threads}; give 0 to 1024.")
    refuse_learner(folder)
    name, options = data_of(folder, args.data, args.data_options)
    check_values(SOURCES, name, options)

    import torch

    from fsgen.data.sampler import EpisodeSampler
    from fsgen.data.sources import load_images
    from fsgen.evaluation import evaluate
    from fsgen.model import load
    from fsgen.run.log import Log

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.distributions.Distribution.set_default_validate_args(False)
    model = load(folder)
    images = load_images(name, args.split, args.data_root, **options)
    require_fit(folder, model, images)
    settings: dict[str, Any] = {
        "kind": "likelihood",
        "run": folder.name,
        "model": model.recipe,
        "weights_sha256": hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest(),
        "data": {"name": name, "options": options, "split": args.split, "digest": images.digest},
        "protocol": args.protocol,
        "length": args.length,
        "seed": args.seed,
        "budget": args.budget,
    }
    log, made_by = Log(Path(args.out) if args.out else folder / "results.jsonl"), provenance()
    rows = []
    for ways in args.classes:
        sampler = EpisodeSampler(images, ways=ways, length=args.length, protocol=args.protocol, seed=args.seed)
        with progress(args.sets, f"{ways} class{'es' * (ways > 1)}", args.quiet) as advance:
            scores = evaluate(
                model,
                sampler,
                args.shots,
                args.sets,
                args.particles,
                seed=args.seed,
                budget=args.budget,
                advance=advance,
            )
        listed = sampler.digest(args.sets)
        for score in scores:
            row = {**settings, "list_digest": listed, **score.record(), "provenance": made_by}
            log.append(row)
            rows.append(row)
    _print(folder, rows, in_bits=model.levels > 2 and model.discrete)
    if args.against:
        _print_differences(rows, Path(args.against))
    print(f"results: {args.out or folder / 'results.jsonl'}")
    return 0


def data_of(folder: Path, name: str | None, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The data source that was asked for, else that of the training.

    Raises:
        InputError: neither is known.
    """
    trained = Run.open(folder).config.get("training", {}).get("data", {})
    if name is None and not trained:
        raise InputError(f"{folder} does not say what it was trained on; name a data source with --data.")
    if name is None or name == trained.get("name"):
        return trained["name"], {**trained.get("options", {}), **options}
    return name, dict(options)


def holds_learner(folder: Path) -> bool:
    """Whether the model of a folder is a learner, which classifies and knows no likelihood of images."""
    recipe = Run.open(folder).config.get("model")
    return isinstance(recipe, dict) and str(recipe.get("name")) in LEARNERS


def refuse_learner(folder: Path) -> None:
    """Refuses the folder of a learner where a generative model is needed.

    Raises:
        InputError: names the command that takes it.
    """
    if holds_learner(folder):
        raise InputError(
            f"{folder} holds a learner, which classifies images and does not generate them; "
            f"use fsgen classify {folder} without --classifier."
        )


def require_fit(folder: Path, model: Any, images: Any) -> None:
    """Refuses images of another size or kind than the model's.

    Raises:
        DataError: says what each holds.
    """
    if tuple(model.event_shape) != images.event_shape or model.levels != images.levels:
        raise DataError(
            f"{folder} knows images of {list(model.event_shape)} with {model.levels} levels, but {images} has "
            f"{list(images.event_shape)} with {images.levels}; choose another --data or its --data-options."
        )


def progress(total: int, what: str, quiet: bool) -> Any:
    """A progress bar with rate and time left; the block gets a function that advances it."""
    import contextlib
    import sys

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    @contextlib.contextmanager
    def bar() -> Any:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        with Progress(*columns, console=console, disable=quiet or not sys.stderr.isatty()) as shown:
            task = shown.add_task("", total=total)
            yield lambda n: shown.advance(task, n)

    return bar()


def _print(folder: Path, rows: list[dict[str, Any]], *, in_bits: bool) -> None:
    first = rows[0]
    unit = "nats per image" if first["bits_per_dim"] is not None else "nats per image of a density over [0, 1]"
    bound = "exact likelihood" if first["exact"] else f"importance-weighted bound, K = {first['particles']}"
    print(
        f"{folder}: NLL in {unit}, lower is better; {first['data']['name']} {first['data']['split']}, "
        f"{first['protocol']}, {first['sets']} sets, {bound}"
    )
    split = first["protocol"] == "published"
    bits = f" {'bits/dim':>8}" * in_bits
    print(
        f"{'classes':>7} {'shots':>5} {'nats':>8} {'+- s.e.':>8}{bits} {'ESS':>7}"
        + "   unrepeated        repeated" * split
    )
    for row in rows:
        bits = f" {row['bits_per_dim']:8.4f}" if in_bits else ""
        line = f"{row['ways']:7d} {row['shots']:5d} {row['nats']:8.2f} {row['se']:8.2f}{bits} {row['ess']:7.1%}"
        if split:
            line += "".join(f"   {_cell(row[part])}" for part in ("unrepeated", "repeated"))
        print(line)


def _cell(part: dict[str, Any]) -> str:
    value = "-" if part["nats"] is None else f"{part['nats']:.2f}"
    return f"{value:>7} ({part['sets']})"


def _print_differences(rows: list[dict[str, Any]], other: Path) -> None:
    from fsgen.evaluation import paired
    from fsgen.run.log import Log

    records = [r for r in Log(other / "results.jsonl").records() if r.get("kind") == "likelihood"]
    theirs = {(r.get("list_digest"), r.get("shots")): r for r in records}
    print(f"difference to {other} on the same sets (negative: this run is better)")
    found = False
    for row in rows:
        if match := theirs.get((row["list_digest"], row["shots"])):
            difference, se = paired(row["per_set"], match["per_set"])
            print(f"{row['ways']:7d} {row['shots']:5d} {difference:+8.2f} {se:8.2f}")
            found = True
    if not found:
        raise InputError(
            f"{other}/results.jsonl holds no scores of these sets; evaluate it with the same options first."
        )
