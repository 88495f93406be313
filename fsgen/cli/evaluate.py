"""fsgen evaluate: held-out likelihood of a run, as a table and as lines of results.jsonl."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from fsgen.cli.likelihoods import append_covariates, covariates_line, print_table
from fsgen.cli.parsing import Parser, check_values
from fsgen.errors import DataError, InputError
from fsgen.evaluation_shards import KIND, WHOLE, Shard, refuse_other_lines
from fsgen.published import located
from fsgen.registry import LEARNERS, SOURCES
from fsgen.run import WEIGHTS, Run, provenance
from fsgen.run.log import Log


def parser() -> Parser:
    """The options of an evaluation."""
    p = Parser(
        "evaluate",
        "Negative log-likelihood in nats per image of the last image of each set, given its first t images, with "
        "standard errors over sets; for models with latents the results hold each site's term of the bound as well. "
        "Every run is scored on the same sets for the same data, protocol and seed. A long evaluation is cut into "
        "shards: they run anywhere and in any order, one that was stopped is run again, and `fsgen merge` joins them "
        "into the same numbers.",
    )
    p.add_argument("run", type=str, metavar="RUN", help="folder written by `fsgen train`, or a published model")
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
    p.add_argument(
        "--budget",
        type=int,
        default=512,
        help="particles x shot counts x sets computed at a time, at least one particle at all shot counts; peak memory "
        "grows with it and not with --particles; bounds depend on it a little, as other random numbers are drawn",
    )
    p.add_argument(
        "--shard",
        type=str,
        default=None,
        metavar="I/N",
        help="score the I-th of N parts of the list, for `fsgen merge`",
    )
    p.add_argument(
        "--by-particles",
        action="store_true",
        help="also record the bound at 1, 2, 5, 10 ... particles, from the same samples, for the report",
    )
    p.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's choice")
    p.add_argument(
        "--out",
        type=str,
        default=None,
        metavar="FILE",
        help="results file; default RUN/results.jsonl, or RUN/shard-I-of-N.jsonl",
    )
    p.add_argument("--against", type=str, default=None, metavar="RUN", help="also print paired differences to this run")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    return p


def run(args: Namespace) -> int:
    """Evaluates, prints the table, appends one line a row to the results file; or leaves the file of a shard."""
    folder = located(args.run)
    if args.budget < 1:
        raise InputError(f"--budget is {args.budget}; give 1 or more.")
    if not 0 <= args.threads <= 1024:
        raise InputError(f"--threads is {args.threads}; give 0 to 1024.")
    shard = None if args.shard is None else Shard.parse(args.shard)
    if shard and args.against:
        raise InputError("--shard scores a part of the sets; leave out --against, which compares all of them.")
    refuse_learner(folder)
    name, options = data_of(folder, args.data, args.data_options)
    check_values(SOURCES, name, options)
    usual = f"shard-{shard.index}-of-{shard.of}.jsonl" if shard else "results.jsonl"
    out = Path(args.out) if args.out else folder / usual
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: no such folder; create it, so that hours of scoring are not lost.")

    import torch

    from fsgen.data.sources import load_images
    from fsgen.model import load

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.distributions.Distribution.set_default_validate_args(False)
    model = load(folder)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster, as in training
    images = load_images(name, args.split, args.data_root, **options)
    require_fit(folder, model, images)
    data = {"name": name, "options": options, "split": args.split, "digest": images.digest}
    settings = _settings(args, folder, model, data)
    scored = _scored(args, model, images, shard or WHOLE)
    if shard:
        settings |= {"kind": KIND, "shard": asdict(shard), "sets": args.sets, "levels": model.levels}
        refuse_other_lines(out, settings, [(c, t) for c in args.classes for t in args.shots], args.particles)
        _leave_shard(out, settings, scored)
        return 0
    log, made_by, rows = Log(out), provenance(), []
    described = []
    for listed, cell in scored:
        rows.append({**settings, "list_digest": listed["list_digest"], **cell.score().record(), "provenance": made_by})
        log.append(rows[-1])
        described.append(covariates_line(rows[-1], listed["covariates"]))
    append_covariates(log, described)
    print_table(str(folder), rows, described, in_bits=model.levels > 2 and model.discrete)
    if args.against:
        _print_differences(rows, Path(args.against))
    print(f"results: {out}")
    return 0


def _settings(args: Namespace, folder: Path, model: Any, data: dict[str, Any]) -> dict[str, Any]:
    """What every line of the evaluation holds."""
    return {
        "kind": "likelihood",
        **identity(folder, model),
        "data": data,
        "protocol": args.protocol,
        "length": args.length,
        "seed": args.seed,
        "budget": args.budget,
    }


def _scored(args: Namespace, model: Any, images: Any, shard: Shard) -> Iterator[tuple[dict[str, Any], Any]]:
    """The list of sets and what was found of them, for each number of classes and shot count."""
    from fsgen.data.covariates import covariates_record
    from fsgen.data.sampler import EpisodeSampler
    from fsgen.evaluation import score_sets

    for ways in args.classes:
        sampler = EpisodeSampler(images, ways=ways, length=args.length, protocol=args.protocol, seed=args.seed)
        with progress(-(-args.sets // shard.of), f"{ways} class{'es' * (ways > 1)}", args.quiet) as advance:
            cells = score_sets(
                model,
                sampler,
                args.shots,
                args.sets,
                args.particles,
                seed=args.seed,
                budget=args.budget,
                shard=shard,
                by_particles=args.by_particles,
                advance=advance,
            )
        listed = {"list_digest": sampler.digest(args.sets), "covariates": covariates_record(sampler, args.sets)}
        for cell in cells:
            yield listed, cell


def _leave_shard(out: Path, settings: dict[str, Any], scored: Iterable[tuple[dict[str, Any], Any]]) -> None:
    """Writes the file of a shard whole, so that it is there if and only if the shard was scored to its end."""
    made_by = provenance()
    lines = [{**settings, **listed, "per_set": c.record(), "provenance": made_by} for listed, c in scored]
    Log(out).replace(lines)
    first, count = lines[0]["per_set"]["first"], len(lines[0]["per_set"]["nats"])
    print(
        f"shard {Shard(**settings['shard'])}: sets {first + 1} to {first + count} of {settings['sets']} scored; "
        f"join all shards with `fsgen merge`\nresults: {out}"
    )


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


def identity(folder: Path, model: Any) -> dict[str, Any]:
    """Which weights these are, for a line of results."""
    weights = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    return {"run": folder.name, "model": model.recipe, "weights_sha256": weights}


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


def _print_differences(rows: list[dict[str, Any]], other: Path) -> None:
    from fsgen.evaluation import paired

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
