"""Learners through the trainer and the commands, like any model; wrong settings are refused."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from commands import Command, refusal
from tiny import config, differences, left_by, strokes

from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.registry import LEARNERS, MODELS, SOURCES, build, trained_by
from fsgen.run import Run
from fsgen.training import Trainer

EVENT = (1, 4, 4)
MEMBERS = sorted(LEARNERS)


@pytest.fixture(autouse=True)
def strokes_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES.members, "strokes", strokes)
    monkeypatch.setattr(os, "fsync", lambda fd: None)


LABELLED = {"ways": [3], "shots": 2, "queries": 2}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_resumed_run_ends_as_one_that_was_never_stopped(name: str, tmp_path: Path) -> None:
    settings = config(name, episodes=LABELLED, options={"channels": [4]})
    left = []
    for stops in ((12,), (5, 12)):
        run = Run.create(
            tmp_path / str(len(stops)), {"model": build(name, event_shape=EVENT, channels=[4]).recipe, "training": {}}
        )
        for stop in stops:
            trainer = Trainer(settings)
            with run.lock():
                stopped_at(trainer, stop)
                trainer.fit(run, resume=True)
        left.append(left_by(run.path))
    for found in left:
        found.pop("config")
    assert differences(*left) == []
    last = Run.open(tmp_path / "1").records("metrics")[-1]
    assert 0 <= last["validation_accuracy"] <= 1
    assert last["validation_nats"] > 0


def stopped_at(trainer: Trainer, step: int) -> None:
    """Makes the trainer stop as after a signal once it has taken ``step`` steps."""
    advance = trainer._advance

    def counted(episode: Episode) -> tuple[float, float]:
        found = advance(episode)
        if trainer.step + 1 == step:
            os.kill(os.getpid(), 10)  # SIGUSR1
        return found

    trainer._advance = counted  # type: ignore[method-assign]


GLYPHS = ["--data.name", "glyphs", "--data.options", "{alphabets: 6, characters: 5, drawers: 5, size: 12}"]
SHORT = ["--steps", 4, "--episodes.ways", "[3]", "--episodes.shots", 1, "--episodes.batch", 2, "--validation.every", 2]


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", MEMBERS)
def test_a_trained_learner_is_its_own_classifier(name: str, tmp_path: Path, fsgen_: Command) -> None:
    run = tmp_path / "run"
    words = ["--model.options.channels", "[8, 8]", "--validation.sets", 2, "--quiet", "--out", run]
    status, _, err = fsgen_("train", "--model.name", name, *GLYPHS, *SHORT, *words)
    assert (status, err) == (0, "")
    status, said, err = fsgen_("classify", run, "--ways", 2, 4, "--shots", 1, "--episodes", 5, "--quiet")
    assert (status, err) == (0, "")
    assert f"{run}: accuracy by own; glyphs test" in said
    first, second = Run.open(run).records("results")
    assert (first["model"]["name"], first["ways"], second["ways"]) == (name, 2, 4)
    assert first["classifier"] == {"name": "own", "options": {}}
    refusal(fsgen_("evaluate", run), "holds a learner", "use fsgen classify")
    refusal(fsgen_("sample", run, "--data", "glyphs", "--out", tmp_path / "x.png"), "holds a learner")
    refusal(fsgen_("classify", run, "--classifier", "likelihood"), "holds a learner", "without --classifier")
    refusal(fsgen_("classify", run, "--classifier-options.margin=2"), "takes no --classifier-options", "margin")


@pytest.mark.usefixtures("as_a_user")
def test_a_mixed_run_reports_both_terms(tmp_path: Path, fsgen_: Command) -> None:
    small = ["--model.name", "vae", "--model.options", "{dim_z: 2, channels: [4], dim_features: 6}"]
    words = ["--validation.sets", 2, "--validation.particles", 2, "--quiet", "--out", tmp_path / "run"]
    assert fsgen_("train", *small, *GLYPHS, *SHORT, "--objective.label_weight", 0.5, *words)[0] == 0
    last = Run.open(tmp_path / "run").records("metrics")[-1]
    assert {"validation_nats", "validation_label_nats", "validation_accuracy"} < set(last)


WRONG: list[tuple[list[Any], list[str]]] = [
    (
        ["--model.name", "prototypical-network", "--episodes.length", 3],
        ["2 ways or more and 1 shot or more", "--episodes.shots"],
    ),
    (["--model.name", "prototypical-network", "--episodes.shots", 1], ["episodes.ways is [1, 2]", "give one number"]),
    (["--model.name", "prototypical-network", "--episodes.shots", 1, "--episodes.ways", "[1]"], ["2 ways or more"]),
    (["--model.name", "prototypical-network", "--episodes.shots", 0, "--episodes.ways", "[5]"], ["1 shot or more"]),
    (["--model.name", "prototypical-netwrok"], ["Did you mean 'prototypical-network'?"]),
    (["--model.name", "maml", *SHORT, "--model.options.step", 3], ["learner 'maml' has no option 'step'", "'steps'"]),
    (["--model.name", "maml", *SHORT, "--model.options.steps", 0], ["0 steps"]),
    (["--model.name", "vae", "--objective.label_weight", 1], ["objective.label_weight needs --episodes.shots"]),
    (["--model.name", "vae", *SHORT, "--objective.label_weight", -1], ["objective.label_weight is -1"]),
]


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(("words", "said"), WRONG, ids=lambda value: " ".join(map(str, value)))
def test_wrong_settings_are_refused_in_one_line(
    words: list[Any], said: list[str], tmp_path: Path, fsgen_: Command
) -> None:
    refusal(fsgen_("train", *GLYPHS, *words, "--quiet", "--out", tmp_path / "run"), *said)
    assert not (tmp_path / "run").exists()


def test_learners_and_models_have_names_of_their_own() -> None:
    assert not set(LEARNERS) & set(MODELS)
    assert trained_by("maml") is LEARNERS
    assert trained_by("gmn") is MODELS


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("maml", {"rate": 0.0}, "rate 0.0; give"),
        ("matching-network", {"temperature": 0.0}, "temperature 0.0"),
        ("fine-tuning", {"decay": -1.0}, "decay -1.0"),
        ("prototypical-network", {"channels": []}, "channels []"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        build(name, event_shape=EVENT, **options)
