"""fsgen train: one run from a configuration."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from fsgen.cli.parsing import Parser, check_values
from fsgen.config import TrainConfig, as_plain, flat, from_plain
from fsgen.errors import CheckpointError
from fsgen.parallel import joined
from fsgen.registry import SOURCES, trained_by
from fsgen.run import CONFIG, Run

if TYPE_CHECKING:
    from fsgen.training import Outcome

# What may differ between a run and its continuation without changing what is learnt.
MOVABLE = ("data.root", "device", "threads", "checkpoint_every", "episodes.workers")


def parser() -> Parser:
    """The options: every field of TrainConfig by its dotted name, and what concerns this call alone."""
    p = Parser(
        "train",
        "Trains a model on episodes and leaves a run folder: configuration, selected weights, checkpoints, logs. "
        "Ctrl-C (or SIGTERM) saves a checkpoint first; the same command with --resume goes on from there.",
    )
    p.add_argument("--config", action="config", help="YAML file of the options below; later flags override it")
    p.add_argument("--out", type=str, required=True, metavar="RUN", help="run folder to make, or to resume")
    p.add_argument("--resume", action="store_true", help="continue the run in --out; a new run if there is none")
    p.add_argument(
        "--max-minutes", type=float, default=math.inf, metavar="M", help="stop with a checkpoint after M minutes"
    )
    p.add_argument(
        "--peer-timeout",
        type=float,
        default=600.0,
        metavar="S",
        help="of several processes (torchrun): seconds without an answer after which one counts as lost",
    )
    p.add_argument("--quiet", action="store_true", help="no progress and no TensorBoard")
    p.add_class_arguments(TrainConfig)
    return p


def run(args: Namespace) -> int:
    """Trains; returns 0, or 128 + n after signal n."""
    with joined(args.peer_timeout) as job, contextlib.ExitStack() as held:
        config, known = job.from_lead(lambda: _asked(args))

        import pyro
        import torch

        from fsgen.monitor import Monitor
        from fsgen.training import Trainer, TrainingError

        pyro.enable_validation(False)
        torch.distributions.Distribution.set_default_validate_args(False)
        trainer = job.together(lambda: Trainer(config, job))

        def locked() -> Run:
            folder = known or Run.create(args.out, {"model": trainer.model.recipe, "training": as_plain(config)})
            held.enter_context(folder.lock())
            return folder

        folder = job.from_lead(locked)
        monitor = Monitor(folder.path, quiet=args.quiet or not job.lead)
        try:
            outcome = trainer.fit(folder, resume=args.resume, max_minutes=args.max_minutes, monitor=monitor)
        except TrainingError as error:  # which every process meets at the same step
            raise job.common(error) from None
        if job.lead:
            _say(folder.path, outcome, config.steps)
        return outcome.exit_status


def _say(folder: Path, outcome: Outcome, steps: int) -> None:
    best = "" if outcome.best_nats is None else f", best validation {outcome.best_nats:.2f} nats"
    print(f"{folder}: {outcome.reason} at step {outcome.step} of {steps}{best}")
    if outcome.step < steps:
        print(f"continue with: fsgen train --out {folder} --resume")


def _asked(args: Namespace) -> tuple[TrainConfig, Run | None]:
    """The configuration to train, and the run that it continues, if it does."""
    config, folder, known = _config(args), Path(args.out), None
    if args.resume and os.path.lexists(folder / CONFIG):
        known = Run.open(folder)
        config = _continued(config, args.given, known.config, folder)
    config.check()
    registry = trained_by(config.model.name)
    registry.check_preset(config.model.name, config.model.preset)
    check_values(SOURCES, config.data.name, config.data.options)
    check_values(registry, config.model.name, config.model.options)
    return config, known


def _config(args: Namespace) -> TrainConfig:
    fields = {f.name for f in dataclasses.fields(TrainConfig)}
    return from_plain(TrainConfig, {key: value for key, value in args.as_dict().items() if key in fields})


def _continued(call: TrainConfig, given: Collection[str], stored: dict[str, Any], folder: Path) -> TrainConfig:
    """The run's own configuration, with what may differ taken from the call.

    Args:
        given: the keys that this call names; the others of ``call`` are defaults.

    Raises:
        CheckpointError: an option of this call contradicts the run.
    """
    if "training" not in stored:
        raise CheckpointError(f"{folder} holds a model but no training to resume; choose another --out.")
    merged = from_plain(TrainConfig, stored["training"])
    ours, theirs = flat(as_plain(call)), flat(as_plain(merged))
    for key in (k for k in theirs if k in given):
        if key in MOVABLE:
            owner: Any = merged
            *path, last = key.split(".")
            for name in path:
                owner = getattr(owner, name)
            setattr(owner, last, ours[key])
        elif not _agree(ours[key], theirs[key]):
            raise CheckpointError(
                f"{folder} was begun with {key} {theirs[key]}, not {ours[key]}; leave the option out to resume, "
                f"or choose another --out."
            )
    return merged


def _agree(ours: Any, theirs: Any) -> bool:
    """Whether a value is that of the run; of options, whether each that is given is."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return all(key in theirs and value == theirs[key] for key, value in ours.items())
    return bool(ours == theirs)
