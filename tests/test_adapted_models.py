"""Gradient adaptation of every registered model, and plain fine-tuning."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from adapting import EVENT, Plain, Tied, adapted, images, loud, nearly, normal

from fsgen.adaptation import Adapted, InnerLoss, Likelihood, fine_tune
from fsgen.episode import Episode
from fsgen.errors import CheckpointError, InputError
from fsgen.inference import couples_queries, latent_sites, log_weights, simulate
from fsgen.registry import MODELS, build

BASES = [name for name in sorted(MODELS.discover()) if not issubclass(MODELS.require(name), Adapted)]  # type: ignore[arg-type]


# Every model


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("inner", [Likelihood(), Likelihood(leave_one_out=False)], ids=["others", "alone"])
def test_any_model_adapts(name: str, inner: InnerLoss) -> None:
    model = adapted(loud(name), inner, rate=0.01)
    x = images(2, 4).round()
    e = Episode(x[:, :3], x[:, 2:])
    units = 1 if couples_queries(model, e) else 2
    w = log_weights(model, e, 3)
    assert w.shape == (3, 2, units)
    assert w.isfinite().all()
    w.sum().backward()
    assert model.log_rates.grad is not None
    assert model.log_rates.grad.any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    reached = [p.grad is not None and bool(p.grad.any()) for p in model.base.parameters()]
    assert sum(reached) > len(reached) / 2
    assert simulate(model, e, 4)["x"].shape == (4, 2, 2, *EVENT)
    assert latent_sites(model, e) == latent_sites(model.base, e)


def test_a_parameter_that_is_used_twice_moves_in_both_places() -> None:
    model, x = Adapted(Tied(), Likelihood(), rate=0.01).double(), images(1, 3)
    weight = model.base.first.weight.detach()
    moved = weight - 0.01 * 3 * (3 * weight - x[:, :2].mean(1)).sum()
    found = log_weights(model, Episode(x[:, :2], x[:, 2:]))[0, :, 0]
    torch.testing.assert_close(found, normal(x[:, 2], 3 * moved.expand(EVENT)), **nearly)


@pytest.mark.parametrize("name", BASES)
def test_adaptation_leaves_the_parameters_in_place(name: str) -> None:
    model = adapted(loud(name), Likelihood(leave_one_out=False))
    before = {slot: (p, p.detach().clone()) for slot, p in model.named_parameters(remove_duplicate=False)}
    log_weights(model, Episode.sequential(images(1, 3).round()))
    for slot, parameter in model.named_parameters(remove_duplicate=False):
        assert parameter is before[slot][0]
        assert torch.equal(parameter, before[slot][1])


@pytest.mark.parametrize("name", BASES)
def test_the_empty_support_leaves_any_model_as_it_is(name: str) -> None:
    model = adapted(loud(name), Likelihood(), rate=0.5)
    x = images(1, 1).round()
    for e in (Episode(x[:, :0], x), Episode(x, x, torch.zeros(1, 1, 1, dtype=torch.bool))):
        scores = []
        for scored in (model, model.base):
            torch.manual_seed(1)
            scores.append(log_weights(scored, e, 4))
        torch.testing.assert_close(*scores, **nearly)


@pytest.mark.parametrize("vectorised", [False, True])
def test_the_hidden_contribute_exactly_nothing(vectorised: bool) -> None:
    visible = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]]).bool()[None]
    for inner, steps in itertools.product((Likelihood(), Likelihood(leave_one_out=False)), (1, 2)):
        model = adapted(loud("pixelcnn"), inner, steps=steps, vectorised=vectorised)
        x = torch.eye(4).double().reshape(1, 4, *EVENT)  # no two alike
        other = x.clone()
        other[:, 3] = 1 - x[:, 3]
        own, changed = (model.by_view(Episode(s, x[:, :3], visible)) for s in (x, other))
        for name, value in own.items():
            assert torch.equal(value, changed[name])
            assert torch.equal(value[0, 1], dict(model.base.named_parameters())[name])
        assert any(not torch.equal(value[0, 0], value[0, 2]) for value in own.values())  # not each: some may be dead


def test_adaptation_is_the_same_without_gradients() -> None:
    """Evaluation runs without; the inner gradient is needed all the same."""
    model, e = adapted(loud("pixelcnn"), Likelihood(), steps=2), Episode.sequential(images(2, 3).round())
    with torch.no_grad():
        found = log_weights(model, e)
    assert not found.requires_grad
    torch.testing.assert_close(found, log_weights(model, e).detach(), **nearly)


def test_only_the_named_parameters_move() -> None:
    model = adapted(loud("pixelcnn"), only=["net.last", "net.top.bias"])
    assert set(model.by_view(Episode.sequential(images(1, 3).round()))) == {
        "net.last.weight",
        "net.last.bias",
        "net.top.bias",
    }
    assert len(model.log_rates) == 3


# Fine-tuning


def test_fine_tuning_is_adaptation_at_a_fixed_rate() -> None:
    support, asked = images(3).round(), images(4).round()
    for name in ("beta-bernoulli", "pixelcnn"):
        base = loud(name)
        tuned = fine_tune(base, support, steps=4, rate=0.05, optimiser=torch.optim.SGD)
        wrapped = Adapted(base, Likelihood(), steps=4, rate=0.05, learned_rates=False).double()
        scores = [m.condition(support).log_prob(asked) for m in (tuned, wrapped)]
        torch.testing.assert_close(*scores, **nearly)
        assert not torch.allclose(scores[0], base.condition(support).log_prob(asked))
        assert [n for n, p in wrapped.named_parameters() if not p.requires_grad] == ["log_rates"]


def test_fine_tuning_leaves_the_model_and_the_generator_alone() -> None:
    model, before = loud("vae"), torch.get_rng_state()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    twice = [fine_tune(model, images(3).round(), steps=2) for _ in range(2)]
    del twice
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    torch.set_rng_state(before)
    support = images(3).round()
    first, second = (fine_tune(model, support, steps=2).state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    same = fine_tune(model, support[:0]).state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in same.items())


# Messages


@pytest.mark.usefixtures("as_a_user")
def test_what_cannot_be_adapted_is_refused() -> None:
    for options in ({"steps": 0}, {"rate": 0.0}, {"rate": float("nan")}):
        with pytest.raises(
            InputError, match=r"adaptation: \d+ steps of rate \S+; give 1 step or more and a positive rate"
        ):
            Adapted(Plain(), Likelihood(), **options)
    with pytest.raises(InputError, match=r"no parameter begins with \['nett'\]; leave it out to adapt all"):
        Adapted(Plain(), Likelihood(), only=["nett"])
    with pytest.raises(InputError, match=r"meta-pixelcnn: no inner loss 'likelyhood'. Known: learned"):
        MODELS.require("meta-pixelcnn")(inner="likelyhood")
    with pytest.raises(InputError, match=r"support: expected .* got \[2, 2\]"):
        fine_tune(Plain(), torch.zeros(2, 2))


# Warm start


def test_training_may_start_from_the_weights_of_the_base() -> None:
    meta: Any = MODELS.require("meta-pixelcnn").tiny(EVENT)  # type: ignore[attr-defined]
    grid = {"context": 2, "stages": (4,), "dim_condition": 3}
    base = build("pixelcnn", event_shape=EVENT, channels=4, layers=2, first_kernel=3, **grid)
    inner = {name: value.clone() for name, value in meta.inner.state_dict().items()}
    meta.start_from(base.state_dict(), "a run")
    assert all(torch.equal(value, meta.base.state_dict()[name]) for name, value in base.state_dict().items())
    assert all(torch.equal(value, inner[name]) for name, value in meta.inner.state_dict().items())
    meta.log_rates.data += 1
    other: Any = MODELS.require("meta-pixelcnn").tiny(EVENT)  # type: ignore[attr-defined]
    other.start_from(meta.state_dict(), "a run")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in meta.state_dict().items())
    plain = build("pixelcnn", event_shape=EVENT, channels=4, layers=2, first_kernel=3)
    plain.load_state_dict({name: 0.5 * torch.randn_like(value) for name, value in plain.state_dict().items()})
    other.start_from(plain.state_dict(), "a run")
    for layer in other.base.net.stack:  # without what the layers read of the new context it is the plain one
        layer.link.weight.data[:, 2 * layer.out.in_channels :] = 0
    e = Episode(images(2, 0).float(), images(2, 3).round().float())
    torch.testing.assert_close(log_weights(other, e), log_weights(plain, e), rtol=1e-5, atol=1e-5)
    wider = build("pixelcnn", event_shape=EVENT, channels=6, layers=2, first_kernel=3)
    with pytest.raises(CheckpointError, match="a run"):
        meta.start_from(wider.state_dict(), "a run")
