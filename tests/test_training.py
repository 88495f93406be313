"""The one training loop: it learns, it survives bad numbers, and nothing beside it changes what it learns."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from tiny import SMALL_MODELS, before_each, config, differences, left_by, strokes
from torch import Tensor

import fsgen.training as training
from fsgen import training_objective
from fsgen.config import OptimiserConfig, TrainConfig, as_plain
from fsgen.data.sampler import EpisodeSampler
from fsgen.errors import FsgenError
from fsgen.evaluation import sequential_nats
from fsgen.model import load
from fsgen.monitor import Monitor
from fsgen.registry import MODELS, SOURCES
from fsgen.run import Run
from fsgen.training import Outcome, Trainer, TrainingError, learning_rate


@pytest.fixture(autouse=True)
def strokes_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES.members, "strokes", strokes)
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def train(path: Path, settings: TrainConfig, **options: Any) -> tuple[Trainer, Outcome]:
    trainer = Trainer(settings)
    run = Run.create(path, {"model": trainer.model.recipe, "training": as_plain(settings)})
    return trainer, trainer.fit(run, **options)


def metrics(path: Path) -> list[dict[str, Any]]:
    return Run.open(path).records("metrics")


def parameters(trainer: Trainer) -> dict[str, Tensor]:
    return dict(trainer.model.state_dict())


@pytest.mark.parametrize("name", sorted(MODELS.catalogue()))
def test_every_model_learns(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tiny(model: str, *, preset: None, event_shape: tuple[int, int, int], likelihood: str = "bernoulli") -> Any:
        made: Any = MODELS.require(model)
        made = made.tiny(event_shape)
        made.recipe = {"name": model, "options": {}}
        return made

    monkeypatch.setattr(training, "build", tiny)
    trainer = Trainer(config(name, options={}, steps=40, optimiser={"learning_rate": 0.05, "ema": 0.5}))
    before = sequential_nats(trainer.model, trainer.held_out, 4, 2, seed=training.VALIDATION_SEED).mean().item()
    run = Run.create(tmp_path / "run", {"model": trainer.model.recipe})
    outcome = trainer.fit(run)
    assert (outcome.reason, outcome.step, outcome.exit_status) == ("finished", 40, 0)
    assert outcome.best_nats is not None
    assert outcome.best_nats < before - 0.5
    losses = [r["train_nats"] for r in run.records("metrics")]
    assert min(losses[-3:]) < max(losses[:3])
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_the_same_seed_gives_the_same_run_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tmp_path / name, config(seed=seed))
    a, b, c = (left_by(tmp_path / name) for name in "abc")
    assert differences(a, b) == []
    assert differences(a["weights"], c["weights"])


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_bad_step_changes_nothing_and_is_logged(
    where: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(config("gmn", optimiser={"clip": 1.0}))
    spoil(monkeypatch, trainer, where, value, steps={6})
    before: dict[str, Any] = {}
    held = lambda: copy.deepcopy({"model": parameters(trainer), "optimiser": trainer.optimiser.state_dict()})  # noqa: E731
    advance = trainer._advance

    def watched(episode: Any) -> tuple[float, float]:
        start = held()
        result = advance(episode)
        if trainer.step == 5:
            before["changed"] = differences(start, held())
            before["result"] = result
        else:
            assert differences(start, held()), "a good step moves the parameters"
        return result

    monkeypatch.setattr(trainer, "_advance", watched)
    run = Run.create(tmp_path / "run", {"model": trainer.model.recipe})
    assert trainer.fit(run).reason == "finished"
    assert before["changed"] == []
    assert all(math.isnan(x) for x in before["result"])
    (skipped,) = [r for r in run.records("metrics") if "skipped" in r]
    assert skipped["step"] == 6
    assert skipped["in_a_row"] == 1
    assert ("posterior" if where == "gradient" else "[15, 17]") in skipped["skipped"]
    assert trainer.bad_steps == 0


def spoil(monkeypatch: pytest.MonkeyPatch, trainer: Trainer, where: str, value: float, steps: set[int]) -> None:
    """Puts ``value`` into the log-weights of the first and last episode, or one gradient, of these steps (from 1)."""
    if where == "loss":

        def combine(*args: Any, **kwargs: Any) -> Tensor:
            log_weights = original(*args, **kwargs).clone()
            if trainer.step + 1 in steps:
                log_weights[0, [0, -1], 1] = value
            return log_weights

        original = training.combine
        monkeypatch.setattr(training, "combine", combine)
        return

    def on_gradient(gradient: Tensor) -> Tensor | None:
        if trainer.step + 1 not in steps:
            return None
        gradient = gradient.clone()
        gradient.view(-1)[-1] = value
        return gradient

    next(p for n, p in trainer.model.named_parameters() if n.startswith("posterior")).register_hook(on_gradient)


@pytest.mark.parametrize(
    ("where", "said"), [("loss", ["episodes [27, 29]"]), ("gradient", ["gradient of posterior", "episodes 27-29"])]
)
def test_five_bad_steps_in_a_row_end_the_run_with_a_good_checkpoint(
    where: str, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(config("gmn", checkpoint_every=100))
    spoil(monkeypatch, trainer, where, math.nan, steps={3, *range(6, 11)})
    run = Run.create(tmp_path / "run", {"model": trainer.model.recipe, "training": as_plain(trainer.config)})
    with pytest.raises(TrainingError) as refused:
        trainer.fit(run)
    message = str(refused.value)
    assert "\n" not in message
    for words in [*said, str(run.path), "step 10 after 5 bad steps", "--optimiser.learning_rate", "--out"]:
        assert words in message
    assert refused.value.exit_status == 1
    assert [r["in_a_row"] for r in run.records("metrics") if "skipped" in r] == [1, 1, 2, 3, 4, 5]
    checkpoint = run.load_checkpoint()
    assert checkpoint is not None
    assert checkpoint.step == 9
    assert all(t.isfinite().all() for t in checkpoint.weights.values())
    assert differences(checkpoint.weights, parameters(trainer)) == []


def test_a_parameter_that_overflows_never_reaches_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(config("beta-bernoulli", steps=4, checkpoint_every=2, validation={"every": 1}))

    def overflow(count: int) -> None:
        if count == 4:
            trainer.model.raw.data.fill_(math.inf)

    monkeypatch.setattr(trainer, "_validate", before_each(trainer._validate, overflow))
    run = Run.create(tmp_path / "run", {"model": trainer.model.recipe})
    with pytest.raises(TrainingError, match=r"raw is not finite after step 4.*--optimiser\.learning_rate"):
        trainer.fit(run)
    checkpoint = run.load_checkpoint()
    assert checkpoint is not None
    assert checkpoint.step == 2


def test_weights_that_score_nan_are_logged_and_never_selected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyro.enable_validation(False)  # as `fsgen train` does
    torch.distributions.Distribution.set_default_validate_args(False)
    trainer = Trainer(config(steps=3, validation={"every": 1}, optimiser={"ema": 0.0}))
    monkeypatch.setattr(trainer, "_checkpoint", lambda: None)
    good: dict[str, Tensor] = {}

    def ruin(count: int) -> None:
        if count == 2:
            good.update(copy.deepcopy(parameters(trainer)))
            trainer.model.posterior.bias.data.fill_(math.nan)

    monkeypatch.setattr(trainer, "_validate", before_each(trainer._validate, ruin))
    run = Run.create(tmp_path / "run", {"model": trainer.model.recipe})
    trainer.fit(run, monitor=Monitor(run.path))
    first, *rest = [r for r in run.records("metrics") if "validation_nats" in r]
    assert isinstance(first["validation_nats"], float)
    assert [r["validation_nats"] for r in rest] == [None, None]
    assert all(t.isfinite().all() for t in run.load_weights().values())


@pytest.mark.parametrize(("protocol", "other"), [("strict", "published"), ("published", "strict")])
def test_the_average_is_validated_and_saved(protocol: str, other: str, tmp_path: Path) -> None:
    validated = {"protocol": protocol, "sets": 20}
    trainer, outcome = train(tmp_path / "run", config(steps=4, optimiser={"ema": 0.5}, validation=validated))
    assert trainer.average is not None
    kept, last = load(tmp_path / "run"), parameters(trainer)
    assert differences(dict(kept.state_dict()), dict(trainer.selected.state_dict())) == []
    assert differences(dict(kept.state_dict()), last)

    def nats(protocol: str) -> float:
        held_out = strokes("validation", tmp_path)
        sampler = EpisodeSampler(held_out, length=4, protocol=protocol, seed=training.VALIDATION_SEED)
        return sequential_nats(kept, sampler, 20, 2, seed=training.VALIDATION_SEED).mean().item()

    assert metrics(tmp_path / "run")[-1]["validation_nats"] == pytest.approx(nats(protocol), abs=1e-9)
    assert outcome.best_nats == pytest.approx(nats(protocol), abs=1e-9)
    assert outcome.best_nats != pytest.approx(nats(other), abs=1e-3)


def test_the_average_is_the_moving_average_of_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(config(steps=6, optimiser={"ema": 0.75}))
    expected: list[Tensor] = []

    def follow(count: int) -> None:
        bias = trainer.model.posterior.bias.detach().clone()
        if trainer.step > 0:  # before the first step there is nothing to average
            expected.append(bias if len(expected) == 0 else 0.75 * expected[-1] + 0.25 * bias)

    monkeypatch.setattr(trainer, "_advance", before_each(trainer._advance, follow))
    trainer.fit(Run.create(tmp_path / "run", {"model": trainer.model.recipe}))
    follow(0)
    assert torch.allclose(trainer.selected.posterior.bias, expected[-1], atol=1e-7)


def test_the_weights_with_the_lowest_validation_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([5.0, 3.0, 4.0, 3.0])
    seen: list[dict[str, Tensor]] = []

    def scripted(model: Any, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(copy.deepcopy(dict(model.state_dict())))
        return torch.full((4, 4), next(scores)) + torch.tensor([-1.0, 0.0, 0.0, 1.0])[:, None]

    monkeypatch.setattr(training_objective, "sequential_nats", scripted)
    _, outcome = train(tmp_path / "run", config(steps=4, validation={"every": 1}))
    assert outcome.best_nats == 3.0
    assert differences(Run.open(tmp_path / "run").load_weights(), seen[1]) == []
    assert [r["validation_nats"] for r in metrics(tmp_path / "run")] == [5.0, 3.0, 4.0, 3.0]
    assert metrics(tmp_path / "run")[0]["validation_se"] == pytest.approx(math.sqrt(2 / 3) / 2, abs=1e-4)


@pytest.mark.parametrize(
    ("schedule", "warmup", "at"),
    [
        ("constant", 0, {0: 2.0, 99: 2.0}),
        ("constant", 10, {0: 0.2, 4: 1.0, 9: 2.0, 50: 2.0}),
        ("cosine", 0, {0: 2.0, 50: 2.0 * (0.01 + 0.99 / 2), 100: 0.02}),
        ("cosine", 10, {4: 0.5 * 2.0 * (0.01 + 0.99 * (1 + math.cos(0.04 * math.pi)) / 2)}),
        ("thirds", 0, {0: 2.0, 33: 2.0, 34: 0.6, 66: 0.6, 67: 0.2, 99: 0.2}),
    ],
)
def test_learning_rates(schedule: Any, warmup: int, at: dict[int, float]) -> None:
    settings = OptimiserConfig(learning_rate=2.0, schedule=schedule, warmup=warmup)
    assert {step: learning_rate(settings, step, 100) for step in at} == pytest.approx(at)


def test_the_schedule_reaches_the_optimiser(tmp_path: Path) -> None:
    settings = config(steps=6, validation={"every": 1}, optimiser={"schedule": "thirds", "warmup": 0})
    train(tmp_path / "run", settings)
    rates = [r["learning_rate"] for r in metrics(tmp_path / "run")]
    assert rates == pytest.approx([0.01, 0.01, 0.003, 0.003, 0.001, 0.001])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_what_watches_a_run_does_not_change_it(tmp_path: Path) -> None:
    steps = 8
    train(tmp_path / "rare", config("gmn", steps=steps, validation={"every": 8}))
    train(tmp_path / "often", config("gmn", steps=steps, validation={"every": 1}, checkpoint_every=1))
    shown = config("gmn", steps=steps, validation={"every": 2}, episodes={"workers": 2})
    train(tmp_path / "shown", shown, monitor=Monitor(tmp_path / "shown"))
    rare, often, other = (left_by(tmp_path / name) for name in ("rare", "often", "shown"))
    for part in ("weights", "step"):
        assert differences(rare[part], often[part]) == []
        assert differences(rare[part], other[part]) == []
    for part in ("optimiser", "average", "random"):
        assert differences(rare["state"][part], often["state"][part]) == []
        assert differences(rare["state"][part], other["state"][part]) == []


def test_kl_terms_grow_to_full_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights: list[tuple[float, float]] = []
    original: Callable[..., Tensor] = training.combine

    def noted(parts: Any, *, likelihood_weight: float, kl_weight: float, free_nats: float, pooled: Any) -> Tensor:
        weights.append((likelihood_weight, kl_weight))
        assert free_nats == 0.5
        return original(
            parts, likelihood_weight=likelihood_weight, kl_weight=kl_weight, free_nats=free_nats, pooled=pooled
        )

    monkeypatch.setattr(training, "combine", noted)
    train(tmp_path / "warm", config(steps=6, objective={"kl_warmup": 4, "free_nats": 0.5}))
    assert weights == [(1.0, weight) for weight in (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)]
    weights.clear()
    train(tmp_path / "cold", config(steps=2, objective={"free_nats": 0.5}))
    assert weights == [(1.0, 1.0), (1.0, 1.0)]
    weights.clear()
    settings = {"kl_warmup": 2, "free_nats": 0.5, "alpha": 1.0, "alpha_halving": 2}
    train(tmp_path / "two-term", config(steps=5, objective=settings))
    assert weights[::2] == [(2.0, 0.25), (1.5, 1 / 1.5), (1.25, 0.8)]


def test_metrics_hold_what_was_measured_and_no_times(tmp_path: Path) -> None:
    train(tmp_path / "run", config(steps=10))
    records = metrics(tmp_path / "run")
    assert [r["step"] for r in records] == [4, 8, 10]
    names = ["step", "train_nats", "gradient_norm", "learning_rate"]
    names += ["validation_nats", "validation_se", "validation_by_shots"]
    for record in records:
        assert list(record) == names
        assert len(record["validation_by_shots"]) == 4
        assert record["validation_nats"] == pytest.approx(sum(record["validation_by_shots"]) / 4, abs=1e-3)
        assert record["gradient_norm"] > 0
    assert "seconds" not in json.dumps(records)


def test_tensorboard_files_are_written_unless_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path / "loud", config(steps=4), monitor=Monitor(tmp_path / "loud"))
    said = capsys.readouterr()
    train(tmp_path / "quiet", config(steps=4), monitor=Monitor(tmp_path / "quiet", quiet=True))
    assert not (tmp_path / "quiet" / "tensorboard").exists()
    assert capsys.readouterr() == ("", "")
    assert said.out == ""
    assert "step 4/4" in said.err
    board = EventAccumulator(str(tmp_path / "loud" / "tensorboard")).Reload()
    assert {"train_nats", "validation_nats", "validation_shots/0", "learning_rate"} <= set(board.Tags()["scalars"])
    assert board.Tags()["images"] == ["samples"]
    (logged,) = board.Scalars("validation_nats")
    assert logged.value == pytest.approx(metrics(tmp_path / "loud")[-1]["validation_nats"], rel=1e-5)


def test_a_time_limit_leaves_a_checkpoint(tmp_path: Path) -> None:
    _, outcome = train(tmp_path / "run", config(steps=10**6), max_minutes=0.2 / 60)
    assert outcome.reason == "time"
    assert outcome.exit_status == 0
    assert 0 < outcome.step < 10**6
    checkpoint = Run.open(tmp_path / "run").load_checkpoint()
    assert checkpoint is not None
    assert checkpoint.step == outcome.step


def test_bfloat16_trains_and_keeps_full_precision_weights(tmp_path: Path) -> None:
    trainer, outcome = train(tmp_path / "run", config("gmn", steps=4, bf16=True))
    assert outcome.reason == "finished"
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert math.isfinite(outcome.best_nats or math.nan)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"device": "abacus"}, "device is abacus"),
        ({"device": "cuda:77"}, "--device cpu"),
        ({"device": "meta"}, "--device cpu"),
        ({"threads": 10**9}, "give 1024 or less"),
        ({"optimiser": {"betas": (0.9, 1.5)}}, "1.5; betas"),
        ({"seed": 2**64}, "seed is"),
        ({"episodes": {"length": 30}}, "30 images a class"),
        ({"options": {**SMALL_MODELS["vae"], "event_shape": (1, 5, 5)}}, "takes images [1, 5, 5]"),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(FsgenError) as refused:
        Trainer(config(**settings))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
