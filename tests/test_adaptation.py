"""Gradient adaptation: closed forms, finite differences, views."""

from __future__ import annotations

import itertools
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from adapting import EVENT, Curved, Plain, adapted, images, loud, nearly, normal, signed
from planted import Coupled
from torch import Tensor, nn

from fsgen.adaptation import Adapted, InnerLoss, Learned, Likelihood
from fsgen.episode import Episode
from fsgen.inference import couples_queries, log_weights, simulate

# One step against a closed form


@pytest.mark.parametrize("vectorised", [False, True])
def test_a_step_on_a_gaussian_moves_its_mean_towards_the_mean_of_what_is_seen(vectorised: bool) -> None:
    """theta' = theta - rate (theta - mean), k times: theta + (1 - (1 - rate)^k) (mean - theta)."""
    x = images(3, 5)
    for steps in (1, 3):
        model = adapted(Plain(), steps=steps, vectorised=vectorised)
        rate = 0.1 * model.log_rates[0].exp()
        found = log_weights(model, Episode.sequential(x))[0]
        for t in range(5):
            mean = x[:, :t].mean(1) if t else model.base.mu.expand(3, *EVENT)
            mu = model.base.mu + (1 - (1 - rate) ** steps) * (mean - model.base.mu)
            torch.testing.assert_close(found[:, t], normal(x[:, t], mu), **nearly)


def test_leaving_one_out_scores_each_image_given_the_others() -> None:
    """Beta-Bernoulli: the slope of -mean_s log p(x_s | the others) by hand."""
    base, x = loud("beta-bernoulli"), images(1, 4).round()
    raw = base.raw.detach().clone().requires_grad_()
    a, b = nn.functional.softplus(raw)
    loss = 0.0
    for s in range(3):
        others = [i for i in range(3) if i != s]
        p = (a + x[0, others].sum(0)) / (a + b + 2)
        loss = loss - dist.Bernoulli(p).log_prob(x[0, s]).sum() / 3
    (slope,) = torch.autograd.grad(loss, raw)
    model = adapted(base, Likelihood())
    moved = model.by_view(Episode(x[:, :3], x[:, 3:]))["raw"]
    torch.testing.assert_close(moved[0, 0], raw - 0.1 * model.log_rates[0].exp() * slope, **nearly)


def test_a_learned_loss_moves_the_parameters_down_its_slope() -> None:
    model = adapted(Plain(), Learned(signed, 2, 3))
    x, mu = images(1, 3), model.base.mu.detach().clone().requires_grad_()
    told = torch.cat([x[0], (mu - x[0]).square()], 1)
    loss = model.inner.net(told).square().mean((-1, -2)).sum(-1).mean()
    (slope,) = torch.autograd.grad(loss, mu)
    moved = model.by_view(Episode(x, x[:, :1]))["mu"][0, 0]
    torch.testing.assert_close(moved, mu - 0.1 * model.log_rates[0].exp() * slope, **nearly)
    assert slope.abs().min() > 0


# The gradient through the steps


def along(parameter: Tensor, direction: Tensor, loss: Any, step: float = 1e-5) -> float:
    """Central difference of ``loss()`` as ``parameter`` moves."""
    ends = []
    for sign in (1, -1):
        parameter.data += sign * step * direction
        ends.append(loss().item())
        parameter.data -= sign * step * direction
    return (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("inner", ["likelihood", "learned"])
def test_the_meta_gradient_is_that_of_finite_differences(inner: str, steps: int) -> None:
    loss = Likelihood(leave_one_out=False) if inner == "likelihood" else Learned(signed, 2, 2)
    model, x = adapted(Curved(), loss, steps=steps, vectorised=True), images(2, 4)

    def score() -> Tensor:
        return log_weights(model, Episode.sequential(x)).sum()

    score().backward()
    for parameter in model.parameters():
        direction = torch.randn_like(parameter)
        assert parameter.grad is not None
        assert (parameter.grad * direction).sum().item() == pytest.approx(along(parameter, direction, score), rel=1e-6)


def test_the_first_order_gradient_is_that_of_the_adapted_parameters() -> None:
    """d/d theta of log p_theta'(x) with theta' - theta held fixed; the rates keep their exact gradient."""
    x, slopes = images(1, 4), {}
    e = Episode(x[:, :3], x[:, 3:])
    for first in (True, False):
        model = Adapted(Curved(), Likelihood(leave_one_out=False), rate=0.1, first_order=first).double()
        log_weights(model, e).sum().backward()
        slopes[first] = {n: p.grad for n, p in model.named_parameters()}
    moved = {name: value[0, 0].detach().requires_grad_() for name, value in model.by_view(e).items()}
    by_hand = torch.autograd.grad(normal(x[0, 3], moved["mu"] ** 2 * moved["b"]), list(moved.values()))
    for name, slope in zip(moved, by_hand, strict=True):
        torch.testing.assert_close(slopes[True][f"base.{name}"], slope, **nearly)
        assert not torch.allclose(slopes[False][f"base.{name}"], slope, rtol=1e-3)
    torch.testing.assert_close(slopes[True]["log_rates"], slopes[False]["log_rates"], **nearly)


def test_a_learned_loss_is_trained_without_second_derivatives_of_the_model_too() -> None:
    model = adapted(Curved(), Learned(signed, 2, 2), first_order=True)
    log_weights(model, Episode.sequential(images(2, 4))).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.inner.parameters())


# Views


@pytest.mark.parametrize("name", ["beta-bernoulli", "pixelcnn"])
@pytest.mark.parametrize("inner", [Likelihood(), Likelihood(leave_one_out=False)], ids=["others", "alone"])
@pytest.mark.parametrize("steps", [1, 2])
def test_one_vectorised_pass_is_a_loop_over_views_is_an_episode_each(name: str, inner: InnerLoss, steps: int) -> None:
    model, x = adapted(loud(name), inner, steps=steps), images(3, 4).round()
    visible = torch.rand(3, 4, 4) < 0.5
    e = Episode(x, x.flip(1), visible)
    looped = log_weights(model, e)
    model.vectorised = True
    torch.testing.assert_close(log_weights(model, e), looped, **nearly)
    for b, q in itertools.product(range(3), range(4)):
        alone = Episode(x[b, visible[b, q]][None], e.query[[b]][:, [q]])
        torch.testing.assert_close(log_weights(model, alone)[0, 0, 0], looped[0, b, q], **nearly)


def test_images_that_the_same_views_see_may_share_a_slope() -> None:
    """Nested sets, as evaluation has them: few groups of images, each with one slope for all of its images."""
    model, x = adapted(loud("pixelcnn"), Likelihood(leave_one_out=False)), images(2, 9).round()
    nested = (torch.arange(9) < torch.tensor([0, 1, 4, 8])[:, None]).expand(2, -1, -1)
    e = Episode(x, images(2, 4).round(), nested)
    found = log_weights(model, e)
    for b, q in itertools.product(range(2), range(4)):
        alone = Episode(x[b, nested[b, q]][None], e.query[[b]][:, [q]])
        torch.testing.assert_close(log_weights(model, alone)[0, 0, 0], found[0, b, q], **nearly)


class Counted(Likelihood):
    """Counts the images it is asked about."""

    def __init__(self) -> None:
        super().__init__(leave_one_out=False)
        self.asked = 0

    def forward(self, model: Any, support: Tensor, visible: Tensor) -> Tensor:
        self.asked += len(support)
        return super().forward(model, support, visible)


def test_queries_that_see_the_same_share_one_adaptation() -> None:
    model, x = Adapted(Plain(), Counted(), steps=3).double(), images(2, 4)
    e = Episode(x, images(2, 7))
    parameters = model.by_view(e)
    assert parameters["mu"].shape == (2, 1, *EVENT)
    assert model.inner.asked == 2 * 4 * 3
    told_apart = log_weights(model, Episode(e.support, e.query, torch.ones(2, 7, 4, dtype=torch.bool)))
    torch.testing.assert_close(log_weights(model, e), told_apart, **nearly)


def test_the_first_slope_of_an_image_serves_all_that_see_it_and_chunks_share_it() -> None:
    model, x = Adapted(Plain(), Counted()).double(), images(2, 5)
    log_weights(model, Episode.sequential(x), particles=6, chunk=2)
    assert model.inner.asked == 2 * 4  # the last image is seen by none


def test_a_model_that_couples_its_queries_adapts_to_what_all_of_them_see() -> None:
    model = adapted(Coupled(EVENT).double(), Likelihood())
    x = images(2, 4).round()
    visible = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 1], [1, 1, 0, 1]]).bool().expand(2, 3, 4)
    e = Episode(x, images(2, 3).round(), visible)
    assert couples_queries(model, e)
    assert model.views(e).tolist() == [[[False, True, False, True]]] * 2
    torch.manual_seed(3)
    common = model.by_view(Episode(x[:, [1, 3]], e.query))
    torch.manual_seed(3)
    for name, value in model.by_view(e).items():
        torch.testing.assert_close(value, common[name], **nearly)
    assert log_weights(model, e, 5).shape == (5, 2, 1)


def test_the_losses_of_a_coupled_model_are_of_one_image_each() -> None:
    """Scored together they would share a latent, and be one number."""
    base, x = Coupled(EVENT).double(), images(3).round()
    visible = torch.tensor([True, True, False])
    assert Likelihood()(base, x, visible).shape == (3,)
    assert Likelihood(leave_one_out=False)(base, x, visible).shape == (3,)


@pytest.mark.parametrize("particles", [None, 5])
def test_a_simulation_runs_each_view_under_its_own_parameters(particles: int | None) -> None:
    """Gaussians moved all the way to what they see: draws of a view have the mean of its support."""
    model = Adapted(Plain(), Likelihood(leave_one_out=False), rate=1.0).double()
    x = 10 * images(2, 3)
    visible = torch.tensor([[1, 0, 0], [0, 1, 1]]).bool().expand(2, 2, 3)
    with torch.no_grad():
        drawn = [simulate(model, Episode(x, torch.zeros_like(x[:, :2]), visible), particles)["x"] for _ in range(20)]
    assert drawn[0].shape == ((2, 2, *EVENT) if particles is None else (particles, 2, 2, *EVENT))
    mean = torch.stack(drawn).flatten(0, -6).mean(0)
    error = 5 / (20 * (particles or 1)) ** 0.5
    torch.testing.assert_close(mean, torch.stack([x[:, 0], x[:, 1:].mean(1)], 1), rtol=0, atol=error)


def test_an_adapted_model_is_not_one_program() -> None:
    for program in (adapted(Plain()).model, adapted(Plain()).guide):
        with pytest.raises(TypeError, match=r"one trace holds one set of them; use fsgen.inference.log_weights"):
            program(Episode(images(1, 2), images(1, 2)))
