"""Commands run by one process of a job, in float64, with tiny models on the strokes.

``python -m torch.distributed.run ... tests/job.py FILE`` runs the commands of a JSON list
one after the other in one job; process r writes their exit statuses to ``FILE.r``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tiny import strokes

import fsgen.cli.train
from fsgen import cli, training
from fsgen.parallel import joined
from fsgen.registry import MODELS, SOURCES
from fsgen.training import Trainer


def tiny_build(name: str, *, preset: None, event_shape: tuple[int, int, int], likelihood: str = "bernoulli") -> Any:
    """The tiny instance of a registered model, in the place of ``fsgen.build``."""
    kind: Any = MODELS.require(name)
    model = kind.tiny(event_shape)
    model.recipe = {"name": name, "options": {}}
    return model


@contextlib.contextmanager
def tiny_float64() -> Iterator[None]:
    """Trainings of the block take tiny models in float64; what guards against a power cut is off."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with (
            mock.patch.dict(SOURCES.members, {"strokes": strokes}),
            mock.patch.object(training, "build", tiny_build),
            mock.patch.object(os, "fsync"),
        ):
            yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def spoilt(step: int | None, episode: int) -> Iterator[None]:
    """Trainings of the block meet NaN in one episode of a batch, at one step (from 0)."""
    trainers: list[Trainer] = []
    advance, combine = Trainer._advance, training.combine

    def noting(self: Trainer, *args: Any) -> tuple[float, float]:
        trainers.append(self)
        return advance(self, *args)

    def spoiling(*args: Any, **options: Any) -> torch.Tensor:
        log_weights = combine(*args, **options).clone()
        trainer = trainers[-1]
        mine = range(trainer.config.episodes.batch)[trainer.share]
        if trainer.step == step and episode in mine:
            log_weights[:, mine.index(episode)] = torch.nan
        return log_weights

    with mock.patch.object(Trainer, "_advance", noting), mock.patch.object(training, "combine", spoiling):
        yield


def main(path: Path) -> None:
    """Runs the commands of a file."""
    statuses = []
    with joined(600.0) as job, tiny_float64():
        with mock.patch.object(fsgen.cli.train, "joined", return_value=contextlib.nullcontext(job)):
            for command in json.loads(path.read_text(encoding="utf-8")):
                with spoilt(command["spoilt"], episode=3):
                    statuses.append(cli.main(command["words"]))
        path.with_suffix(f".{job.rank}").write_text(json.dumps(statuses), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
