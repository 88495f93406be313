"""Bounds as tensor functions: their formulas, their limits and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import ProbabilisticPCA
from torch import Tensor

from fsgen.episode import Episode
from fsgen.inference import log_weights, terms
from fsgen.objectives import OBJECTIVES, combine, elbo, ess, iwae, iwae_of_groups, two_term_weights

shapes = given(
    particles=st.integers(1, 9),
    batch=st.integers(1, 3),
    units=st.integers(1, 3),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    seed=st.integers(0, 2**31),
)
often = settings(max_examples=60)


def draw(particles: int, batch: int, units: int, scale: float, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return scale * torch.randn(particles, batch, units, dtype=torch.float64)


@shapes
@often
def test_bounds_are_their_formulas(particles: int, batch: int, units: int, scale: float, seed: int) -> None:
    w = draw(particles, batch, units, scale, seed)
    torch.testing.assert_close(elbo(w), w.sum(0) / particles, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(iwae(w), (w.exp().sum(0) / particles).log(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ess(w), w.exp().sum(0) ** 2 / w.exp().square().sum(0) / particles, rtol=1e-12, atol=0)


@shapes
@often
def test_bounds_are_ordered_and_move_with_the_weights(
    particles: int, batch: int, units: int, scale: float, seed: int
) -> None:
    w = draw(particles, batch, units, scale, seed)
    assert (elbo(w) <= iwae(w) + 1e-12).all()
    assert (iwae(w) <= w.amax(0) + 1e-12).all()
    moved = w - 80_000  # nats: exp of it is 0
    torch.testing.assert_close(iwae(moved), iwae(w) - 80_000, rtol=0, atol=1e-9)
    torch.testing.assert_close(ess(moved), ess(w), rtol=0, atol=1e-9)
    assert (ess(w) <= 1 + 1e-12).all()
    assert (ess(w) >= 1 / particles - 1e-12).all()


@shapes
@often
def test_the_bound_of_groups_is_the_mean_bound_of_each(
    particles: int, batch: int, units: int, scale: float, seed: int
) -> None:
    w = draw(particles, batch, units, scale, seed)
    torch.testing.assert_close(iwae_of_groups(w, particles), iwae(w), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(iwae_of_groups(w, 1), elbo(w), rtol=1e-12, atol=1e-12)
    for k in range(1, particles + 1):
        groups = [w[g :: particles // k][:k] for g in range(particles // k)]
        found = torch.stack([iwae(group) for group in groups]).mean(0)
        torch.testing.assert_close(iwae_of_groups(w, k), found, rtol=1e-12, atol=1e-12)
    half = max(1, particles // 2)
    assert (iwae_of_groups(w, half) <= iwae(w[: particles // half * half]) + 1e-9).all()


def test_groups_of_particles_have_the_bound_of_an_evaluation_with_as_many() -> None:
    oracle, query = ProbabilisticPCA(5, 2, shift=0.2, widen=1.3), torch.randn(1, 1, 5, dtype=torch.float64)
    episode = Episode(query[:, :0], query)
    for k in (1, 4):
        apart = torch.cat([iwae(log_weights(oracle, episode, k)) for _ in range(400)])
        parts = torch.cat([iwae_of_groups(log_weights(oracle, episode, 50), k) for _ in range(40)])
        error = math.hypot(apart.std().item() / 20, parts.std().item() / 40**0.5)
        assert abs(apart.mean() - parts.mean()).item() < 5 * error
        assert abs(apart.mean() - parts.mean() - math.log(2)).item() > 5 * error  # a group counted as twice as large


@pytest.mark.parametrize("particles", [0, 8])
def test_groups_that_do_not_exist_are_refused(particles: int) -> None:
    with pytest.raises(ValueError, match=f"groups of {particles} of 7 particles; give 1 to K"):
        iwae_of_groups(torch.zeros(7, 1, 1), particles)


def test_one_particle_makes_every_bound_the_weight_itself() -> None:
    w = draw(1, 2, 3, 5.0, 0)
    for bound in OBJECTIVES.values():
        torch.testing.assert_close(bound(w), w[0], rtol=0, atol=1e-14)
    assert torch.equal(ess(w), torch.ones(2, 3).double())


def test_the_effective_share_reaches_its_limits() -> None:
    even, single = torch.full((8, 1, 1), -3e4).double(), torch.full((8, 1, 1), -5e4).double()
    single[3] = 0.0
    assert ess(even).item() == pytest.approx(1.0, abs=1e-9)
    assert ess(single).item() == pytest.approx(1 / 8, abs=1e-9)
    half = torch.tensor([0.0, 0.0, -torch.inf, -torch.inf]).reshape(4, 1, 1)
    assert ess(half).item() == pytest.approx(0.5)


def test_an_impossible_particle_counts_as_weight_zero() -> None:
    w = torch.tensor([0.0, -torch.inf]).reshape(2, 1, 1)
    assert iwae(w).item() == pytest.approx(-math.log(2))
    assert elbo(w).item() == -math.inf


@pytest.mark.parametrize("bound", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused_with_their_episodes(
    bound: Callable[[Tensor], Tensor], bad: float
) -> None:
    w = torch.zeros(4, 3, 2)
    w[2, 1, 0] = w[3, 2, 1] = bad
    with pytest.raises(ValueError, match=r"NaN or \+inf log-weight in episodes \[1, 2\] of 3\."):
        bound(w)


def test_the_gradient_of_the_importance_weighted_bound_is_the_normalised_weight() -> None:
    w = draw(5, 2, 2, 2.0, 0).requires_grad_()
    (slope,) = torch.autograd.grad(iwae(w).sum(), w)
    torch.testing.assert_close(slope, w.detach().softmax(0), rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(iwae, (w,))
    assert torch.autograd.gradcheck(elbo, (w,))
    assert torch.autograd.gradcheck(ess, (w,))


@pytest.fixture
def parts() -> dict[str, Tensor]:
    """Terms of a likelihood and two latents with mean divergences of 0.2 and 3 nats."""
    small, large = draw(6, 2, 3, 0.1, 1), draw(6, 2, 3, 0.1, 2)
    found = {"c": small - small.mean() - 0.2, "x": draw(6, 2, 3, 5.0, 3), "z": large - large.mean() - 3.0}
    return {name: term.requires_grad_() for name, term in found.items()}


def slopes(parts: dict[str, Tensor], total: Tensor) -> dict[str, float | None]:
    """What one nat more in each term adds to the total, if it is the same everywhere."""
    found = torch.autograd.grad(total.sum(), list(parts.values()), allow_unused=True)
    return {name: None if slope is None else slope.unique().item() for name, slope in zip(parts, found, strict=True)}


def test_combined_terms_are_the_weights_of_the_model() -> None:
    oracle = ProbabilisticPCA(3, 2, shift=0.5)
    episode = Episode(torch.randn(2, 3, 3).double(), torch.randn(2, 2, 3).double())
    torch.manual_seed(1)
    wanted = log_weights(oracle, episode, 4)
    torch.manual_seed(1)
    torch.testing.assert_close(combine(terms(oracle, episode, 4)), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_warm_up_weighs_the_latents_and_never_the_likelihood(parts: dict[str, Tensor], weight: float) -> None:
    total = combine(parts, kl_weight=weight)
    torch.testing.assert_close(total, parts["x"] + weight * (parts["z"] + parts["c"]), rtol=0, atol=1e-12)
    assert slopes(parts, total) == {"c": weight, "x": 1.0, "z": weight}


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_a_latent_below_its_free_nats_counts_as_them_and_has_no_gradient(
    parts: dict[str, Tensor], weight: float
) -> None:
    total = combine(parts, kl_weight=weight, free_nats=0.5)
    torch.testing.assert_close(total, parts["x"] + weight * (parts["z"] - 0.5), rtol=0, atol=1e-12)
    assert slopes(parts, total) == {"c": None, "x": 1.0, "z": weight}
    assert slopes(parts, combine(parts, free_nats=4.0)) == {"c": None, "x": 1.0, "z": None}
    assert slopes(parts, combine(parts, free_nats=0.1)) == {"c": 1.0, "x": 1.0, "z": 1.0}


def test_free_nats_are_counted_over_all_processes(parts: dict[str, Tensor]) -> None:
    assert slopes(parts, combine(parts, free_nats=0.5, pooled=lambda mean: -9.0)) == {"c": 1.0, "x": 1.0, "z": 1.0}
    assert slopes(parts, combine(parts, free_nats=0.5, pooled=lambda mean: -0.1)) == {"c": None, "x": 1.0, "z": None}


def test_a_negative_divergence_estimate_is_not_free_by_default(parts: dict[str, Tensor]) -> None:
    parts["c"] = (parts["c"].detach() + 1.0).requires_grad_()  # log p - log q above 0 on these draws
    assert slopes(parts, combine(parts)) == {"c": 1.0, "x": 1.0, "z": 1.0}
    assert slopes(parts, combine(parts, free_nats=0.01)) == {"c": None, "x": 1.0, "z": 1.0}


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_the_likelihood_weight_weighs_the_likelihood_alone(parts: dict[str, Tensor], weight: float) -> None:
    total = combine(parts, likelihood_weight=weight, kl_weight=0.5)
    torch.testing.assert_close(total, weight * parts["x"] + 0.5 * (parts["z"] + parts["c"]), rtol=0, atol=1e-12)
    assert slopes(parts, total) == {"c": 0.5, "x": weight, "z": 0.5}


@pytest.mark.parametrize("step", [0, 7, 10**6])
def test_without_alpha_the_annealed_terms_are_the_plain_bound(parts: dict[str, Tensor], step: int) -> None:
    for halving in (0, 10):
        likelihood, kl = two_term_weights(0.0, halving, step)
        assert torch.equal(combine(parts, likelihood_weight=likelihood, kl_weight=kl), combine(parts))


def test_annealed_weights_are_reciprocal_and_end_at_the_plain_bound() -> None:
    weights = [two_term_weights(1.0, 10, step) for step in (0, 10, 20, 10**5)]
    assert weights == [(2.0, 0.5), (1.5, 1 / 1.5), (1.25, 0.8), (1.0, 1.0)]
    assert [two_term_weights(3.0, 0, step) for step in (0, 99)] == [(4.0, 0.25)] * 2
