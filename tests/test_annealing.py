"""Annealed importance sampling against closed forms: unbiased weights, and a bound closer than one particle's."""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import HierarchicalGaussian, ProbabilisticPCA
from torch import Tensor

from fsgen import annealing
from fsgen.annealing import Tuning, annealed_log_weights, temperatures, tuned
from fsgen.distributions import plates
from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.inference import draw_latents, latent_sites, log_densities, log_weights
from fsgen.objectives import iwae
from fsgen.registry import MODELS

EVENT = (1, 2, 2)
LATENT = sorted(
    name
    for name in MODELS
    if latent_sites(MODELS[name].tiny(EVENT), Episode(torch.zeros(1, 1, *EVENT), torch.zeros(1, 1, *EVENT)))
)


def vectors(batch: int, shots: int, queries: int, dim: int) -> Episode:
    support, query = (torch.randn(batch, n, dim, dtype=torch.float64) for n in (shots, queries))
    return Episode(support, query)


def within_errors(sample: Tensor, value: float, errors: float = 5.0) -> bool:
    return abs(sample.mean().item() - value) <= errors * sample.std().item() / math.sqrt(sample.numel())


@pytest.fixture
def wrong() -> tuple[ProbabilisticPCA, Episode]:
    """A proposal that is far off and too wide, and two queries."""
    return ProbabilisticPCA(5, 2, shift=0.7, widen=2.0), vectors(1, 2, 2, 5)


@pytest.mark.parametrize("proposal", ["guide", "prior"])
def test_annealed_weights_are_unbiased_and_closer_than_one_particle(
    proposal: str, wrong: tuple[ProbabilisticPCA, Episode]
) -> None:
    oracle, episode = wrong
    exact = oracle.log_prob(episode)
    tuning = tuned(oracle, episode, 30, proposal=proposal)
    w = annealed_log_weights(oracle, episode, 2000, tuning, proposal=proposal)
    plain = log_weights(oracle, episode, 2000, proposal)
    for unit in range(2):
        share, gap = (w - exact)[:, 0, unit].exp(), (exact - w)[:, 0, unit]
        assert within_errors(share, 1.0)
        assert not within_errors(1.3 * share, 1.0)
        assert -5 * gap.std().item() / math.sqrt(2000) < gap.mean().item() < 0.3 * (exact - plain)[:, 0, unit].mean()
        assert iwae(w)[0, unit].item() == pytest.approx(exact[0, unit].item(), abs=0.15)


def test_annealed_weights_of_a_latent_that_couples_queries_are_unbiased() -> None:
    oracle, episode = HierarchicalGaussian(3, 2, 2, widen=3.0), vectors(2, 2, 3, 3)
    w = annealed_log_weights(oracle, episode, 1500, tuned(oracle, episode, 12))
    assert w.shape == (1500, 2, 1)
    assert w.dtype == torch.float64
    plain = log_weights(oracle, episode, 1500)
    for b in range(2):
        share = (w - oracle.log_prob(episode))[:, b].exp()
        assert within_errors(share, 1.0)
        assert share.std() < 0.7 * (plain - oracle.log_prob(episode))[:, b].exp().std()


def test_a_transition_that_takes_every_proposal_is_found_out(
    wrong: tuple[ProbabilisticPCA, Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle, episode = wrong
    tuning = tuned(oracle, episode, 15)
    coarse = Tuning(2 * tuning.steps, tuning.scale, tuning.accepted)
    share = (annealed_log_weights(oracle, episode, 2000, coarse) - oracle.log_prob(episode)).exp()
    assert within_errors(share[:, 0, 0], 1.0)
    monkeypatch.setattr(torch, "rand_like", torch.zeros_like)
    planted = (annealed_log_weights(oracle, episode, 2000, coarse) - oracle.log_prob(episode)).exp()
    assert not within_errors(planted[:, 0, 0], 1.0)


def test_pilots_reach_the_wanted_share_and_their_steps_are_kept(wrong: tuple[ProbabilisticPCA, Episode]) -> None:
    oracle, episode = wrong
    tuning = tuned(oracle, episode, 40, pilots=32)
    assert tuning.steps.shape == (39, 1, 2)
    assert tuning.scale.shape == (1, 2, 2)
    assert tuning.accepted[20:].mean().item() == pytest.approx(annealing.ACCEPTED, abs=0.1)
    before = tuning.steps.clone()
    annealed_log_weights(oracle, episode, 3, tuning)
    assert torch.equal(before, tuning.steps)


def test_one_interval_is_importance_sampling(wrong: tuple[ProbabilisticPCA, Episode]) -> None:
    oracle, episode = wrong
    for proposal in ("guide", "prior"):
        tuning = tuned(oracle, episode, 1, proposal=proposal)
        torch.manual_seed(1)
        w = annealed_log_weights(oracle, episode, 7, tuning, proposal=proposal)
        torch.manual_seed(1)
        torch.testing.assert_close(w, log_weights(oracle, episode, 7, proposal), rtol=0, atol=1e-10)


def test_temperatures_rise_from_the_proposal_to_the_joint() -> None:
    for count in (1, 2, 7):
        betas = temperatures(count)
        assert (betas[0], betas[-1], len(betas)) == (0.0, 1.0, count + 1)
        assert all(a < b for a, b in itertools.pairwise(betas))
        assert betas == pytest.approx([1 - beta for beta in reversed(betas)])


@pytest.mark.parametrize("name", LATENT)
def test_every_model_with_latents_can_be_annealed(name: str) -> None:
    model = MODELS[name].tiny(EVENT).double()
    support, query = (torch.rand(2, n, *EVENT, dtype=torch.float64).round() for n in (3, 2))
    episode = Episode(support, query)
    for proposal in ("guide", "prior"):
        torch.manual_seed(0)
        plain = log_weights(model, episode, 4, proposal)
        torch.manual_seed(0)
        latents = draw_latents(model, episode, 4, proposal)
        log_q, log_p = log_densities(model, episode, latents, proposal)
        torch.testing.assert_close((log_p - log_q).detach(), plain.detach(), rtol=0, atol=1e-10)
        w = annealed_log_weights(model, episode, 4, tuned(model, episode, 3, pilots=3, proposal=proposal), leaps=2)
        assert w.shape == plain.shape
        assert w.isfinite().all()
    assert all(parameter.grad is None for parameter in model.parameters())


class Coin:
    """A discrete latent."""

    def model(self, episode: Episode) -> None:
        with plates(episode):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Normal(c[..., None].expand(*c.shape, 3), 1.0).to_event(1), obs=episode.query)

    guide = model


def test_what_cannot_be_annealed_is_refused() -> None:
    episode = Episode(torch.zeros(1, 0, 3), torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="Coin: a site is discrete, so it cannot be annealed"):
        tuned(Coin(), episode, 3, proposal="prior")
    exact, images = MODELS["beta-bernoulli"].tiny(EVENT), torch.zeros(1, 1, *EVENT)
    with pytest.raises(ValueError, match="BetaBernoulli: no site is latent, so it cannot be annealed"):
        tuned(exact, Episode(images, images), 3, proposal="prior")
    for options in ({"count": 0}, {"leaps": 0}, {"pilots": 1}):
        with pytest.raises(InputError, match="give 1 or more of each, and 2 pilots"):
            tuned(Coin(), episode, **{"count": 3, **options})
