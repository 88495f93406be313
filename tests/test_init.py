"""Starting from the weights of another run."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from tiny import config, differences, left_by, strokes

from fsgen.config import TrainConfig, as_plain
from fsgen.errors import CheckpointError
from fsgen.model import load
from fsgen.registry import SOURCES
from fsgen.run import Run
from fsgen.training import Trainer


@pytest.fixture(autouse=True)
def strokes_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES.members, "strokes", strokes)
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def train(path: Path, settings: TrainConfig, **options: Any) -> Trainer:
    trainer = Trainer(settings)
    run = Run.create(path, {"model": trainer.model.recipe, "training": as_plain(settings)})
    trainer.fit(run, **options)
    return trainer


def starting_from(folder: Path, **changes: Any) -> TrainConfig:
    settings = config(**changes)
    return dataclasses.replace(settings, model=dataclasses.replace(settings.model, init=str(folder)))


def test_a_run_begins_at_the_weights_it_is_given(tmp_path: Path) -> None:
    train(tmp_path / "first", config())
    frozen = {"learning_rate": 1e-12, "ema": 0.5}
    train(tmp_path / "second", starting_from(tmp_path / "first", steps=1, seed=5, optimiser=frozen))
    first, second = load(tmp_path / "first").state_dict(), load(tmp_path / "second").state_dict()
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-6
    apart = load(tmp_path / "first").state_dict()
    train(tmp_path / "third", config(steps=1, seed=5, optimiser=frozen))
    assert differences(apart, load(tmp_path / "third").state_dict())


def test_a_resumed_run_needs_the_given_weights_no_more(tmp_path: Path) -> None:
    train(tmp_path / "first", config())
    settings = starting_from(tmp_path / "first", seed=5)
    train(tmp_path / "whole", settings)
    train(tmp_path / "parts", settings, max_minutes=0.0)
    (tmp_path / "first").rename(tmp_path / "gone")
    Trainer(settings).fit(Run.open(tmp_path / "parts"), resume=True)
    assert differences(left_by(tmp_path / "whole"), left_by(tmp_path / "parts")) == []


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    train(tmp_path / "first", config("gmn", steps=1))
    with pytest.raises(CheckpointError, match="first holds the weights of another model"):
        train(tmp_path / "second", starting_from(tmp_path / "first"))
