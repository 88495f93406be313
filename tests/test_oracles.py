"""Estimators against closed forms: exact proposals to 1e-10, wrong ones to five standard errors, twins that fail."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import HierarchicalGaussian, ProbabilisticPCA, beta_bernoulli_joint
from pyro import poutine
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence
from torch.nn import functional as F

from fsgen.distributions import plates
from fsgen.episode import Episode
from fsgen.inference import couples_queries, latent_sites, log_weights, log_weights_and_terms, simulate, terms
from fsgen.objectives import elbo, iwae
from fsgen.registry import build

EVENT = (1, 2, 2)
Estimator = Callable[[Tensor], Tensor]


def vectors(batch: int, shots: int, queries: int, dim: int) -> Episode:
    support, query = (torch.randn(batch, n, dim, dtype=torch.float64) for n in (shots, queries))
    return Episode(support, query, torch.rand(batch, queries, shots) < 0.7)


def images(batch: int, shots: int, queries: int) -> Episode:
    support, query = (torch.rand(batch, n, *EVENT, dtype=torch.float64).round() for n in (shots, queries))
    return Episode(support, query)


def everything(episode: Episode) -> Episode:
    return Episode(episode.support, episode.query)


def within_errors(sample: Tensor, value: float, errors: float = 5.0) -> bool:
    """Whether the mean of independent numbers lies within five standard errors of ``value``."""
    return abs(sample.mean().item() - value) <= errors * sample.std().item() / math.sqrt(sample.numel())


sizes = {
    "seed": st.integers(0, 2**31),
    "particles": st.integers(1, 7),
    "batch": st.integers(1, 3),
    "shots": st.integers(0, 4),
    "queries": st.integers(1, 3),
    "dim_x": st.integers(1, 5),
    "dim_z": st.integers(1, 3),
}


@given(**sizes)
@settings(max_examples=100)
def test_with_the_exact_posterior_every_weight_is_log_p(
    seed: int, particles: int, batch: int, shots: int, queries: int, dim_x: int, dim_z: int
) -> None:
    torch.manual_seed(seed)
    oracle, episode = ProbabilisticPCA(dim_x, dim_z), vectors(batch, shots, queries, dim_x)
    w = log_weights(oracle, episode, particles, chunk=3)
    wanted = oracle.log_prob(episode)
    for found in (w, elbo(w), iwae(w)):
        torch.testing.assert_close(found, wanted.expand_as(found), rtol=0, atol=1e-10)


@given(**sizes)
@settings(max_examples=100)
def test_with_the_exact_posterior_of_a_set_latent_every_weight_is_log_p(
    seed: int, particles: int, batch: int, shots: int, queries: int, dim_x: int, dim_z: int
) -> None:
    torch.manual_seed(seed)
    oracle = HierarchicalGaussian(dim_x, dim_z, dim_c=2)
    episode = everything(vectors(batch, shots, queries, dim_x))
    w = log_weights(oracle, episode, particles)
    assert w.shape == (particles, batch, 1)
    torch.testing.assert_close(w, oracle.log_prob(episode).expand_as(w), rtol=0, atol=1e-10)


def test_the_terms_of_a_set_latent_stand_for_all_queries() -> None:
    oracle, episode = HierarchicalGaussian(3, 2, 2), everything(vectors(2, 3, 4, 3))
    assert couples_queries(oracle, episode)
    assert latent_sites(oracle, episode) == ["c", "z"]
    parts = terms(oracle, episode, 5)
    assert {name: tuple(part.shape) for name, part in parts.items()} == dict.fromkeys("czx", (5, 2, 1))
    prior = terms(oracle, episode, 5, "prior")
    assert not prior["c"].any()
    assert not prior["z"].any()


def test_the_predictive_of_a_set_latent_obeys_the_chain_rule() -> None:
    oracle, x = HierarchicalGaussian(3, 2, 2), torch.randn(2, 5, 3, dtype=torch.float64)
    steps = [log_weights(oracle, Episode(x[:, :t], x[:, [t]]))[0, :, 0] for t in range(5)]
    torch.testing.assert_close(sum(steps), oracle.joint(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("bound", [elbo, iwae])
def test_gradients_of_a_bound_with_the_exact_posterior_are_those_of_log_p(bound: Estimator) -> None:
    oracle, episode = ProbabilisticPCA(4, 2), vectors(2, 3, 2, 4)
    parameters = [oracle.weight.requires_grad_(), oracle.raw_noise.requires_grad_()]
    found = torch.autograd.grad(bound(log_weights(oracle, episode, 6)).sum(), parameters)
    wanted = torch.autograd.grad(oracle.log_prob(episode).sum(), parameters)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)


@pytest.fixture
def wrong() -> tuple[ProbabilisticPCA, Episode]:
    """A proposal that is off and a third too wide, and one query."""
    return ProbabilisticPCA(5, 2, shift=0.2, widen=1.3), vectors(1, 2, 1, 5)


def test_with_a_wrong_proposal_the_mean_weight_is_log_p_minus_the_divergence(
    wrong: tuple[ProbabilisticPCA, Episode],
) -> None:
    oracle, episode = wrong
    w = log_weights(oracle, episode, 200_000)
    exact, gap = oracle.log_prob(episode).item(), oracle.gap(episode).item()
    assert w.std().item() / math.sqrt(len(w)) < 0.01
    assert gap > 0.2
    assert within_errors(w, exact - gap)
    parts = terms(oracle, episode, 200_000)
    for planted in (parts["x"], parts["x"] - parts["z"], w + 0.05):  # no divergence; its sign; too much by 0.05
        assert not within_errors(planted, exact - gap)


def test_the_terms_of_the_same_particles_add_up_to_their_weights(wrong: tuple[ProbabilisticPCA, Episode]) -> None:
    oracle, episode = wrong
    state = torch.get_rng_state()
    w, parts = log_weights_and_terms(oracle, episode, 7, chunk=3)
    torch.testing.assert_close(parts["x"] + parts["z"], w, rtol=0, atol=1e-12)
    torch.set_rng_state(state)
    assert torch.equal(log_weights(oracle, episode, 7, chunk=3), w)


def test_the_terms_are_the_divergence_from_the_prior_and_the_expected_likelihood(
    wrong: tuple[ProbabilisticPCA, Episode],
) -> None:
    oracle, episode = wrong
    _, parts = log_weights_and_terms(oracle, episode, 200_000)
    mean, covariance = oracle.posterior(episode)
    guide = MultivariateNormal(mean[0, 0] + oracle.shift, oracle.widen * covariance)
    prior = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    divergence = kl_divergence(guide, prior).item()
    assert within_errors(-parts["z"], divergence)
    assert within_errors(-parts["x"], -(oracle.log_prob(episode) - oracle.gap(episode)).item() - divergence)


def nested(w: Tensor, bound: Estimator) -> Tensor:
    """Mean bound over groups of 1, 2, 4 ... of the same weights, each group made of two of the groups before."""
    return torch.stack([bound(w.reshape(-1, k, 1).transpose(0, 1)).mean() for k in 2 ** torch.arange(10)])


def test_the_importance_weighted_bound_rises_with_nested_groups(wrong: tuple[ProbabilisticPCA, Episode]) -> None:
    oracle, episode = wrong
    w = log_weights(oracle, episode, 512)
    rise = nested(w, iwae).diff()
    assert rise.min() >= -1e-12
    assert rise.sum() > 0.2
    planted = nested(w, lambda group: iwae(group) - 0.5 * math.log(len(group))).diff()  # log K taken off too often
    assert planted.min() < -1e-12
    assert nested(w, elbo).diff().abs().max() < 1e-12  # the mean of logarithms gains nothing


def test_the_importance_weighted_bound_stays_below_log_p_and_closes_in(wrong: tuple[ProbabilisticPCA, Episode]) -> None:
    oracle, episode = wrong
    exact = oracle.log_prob(episode).item()

    def above(bounds: Tensor) -> bool:
        return bounds.mean().item() > exact + 5 * bounds.std().item() / math.sqrt(bounds.numel())

    w = log_weights(oracle, episode, 100_000)
    for particles in (1, 5, 50, 500):
        groups = w.reshape(particles, -1, 1)
        assert not above(iwae(groups))
        if particles > 1:
            assert above(groups.logsumexp(0))  # the twin without log K
    assert iwae(w.reshape(500, -1, 1)).mean().item() == pytest.approx(exact, abs=0.02)


def test_the_prior_as_proposal_is_unbiased(wrong: tuple[ProbabilisticPCA, Episode]) -> None:
    oracle, episode = wrong
    share = (log_weights(oracle, episode, 200_000, "prior") - oracle.log_prob(episode)).exp()
    assert within_errors(share, 1.0)
    assert not within_errors(1.1 * share, 1.0)


def test_weights_of_a_set_latent_with_a_wide_proposal_are_unbiased() -> None:
    oracle, episode = HierarchicalGaussian(3, 2, 2, widen=1.5), everything(vectors(1, 2, 3, 3))
    share = (log_weights(oracle, episode, 100_000) - oracle.log_prob(episode)).exp()
    assert share.std() > 0.1
    assert within_errors(share, 1.0)
    one_query = everything(Episode(episode.support, episode.query[:, :1]))
    assert not within_errors((log_weights(oracle, episode, 100_000) - oracle.log_prob(one_query)).exp(), 1.0)


def test_simulated_sets_have_the_mean_and_covariance_of_the_model() -> None:
    oracle, support = HierarchicalGaussian(2, 2, 2), torch.randn(1, 3, 2, dtype=torch.float64)
    x = simulate(oracle, Episode(support, torch.zeros(1, 2, 2).double()), 100_000)["x"][:, 0]  # [K, Q, D]
    c = oracle.set_latent(support)
    through = oracle.to_x @ oracle.to_z
    mean, shared = (through @ c.mean[0, 0]), through @ c.covariance_matrix[0, 0] @ through.T
    centred = x - mean
    for i, j in itertools.product(range(2), repeat=2):
        assert within_errors(centred[:, 0, i], 0.0)
        assert within_errors(centred[:, 0, i] * centred[:, 1, j], shared[i, j].item())  # through c alone
        own = shared + oracle.element_covariance()
        assert within_errors(centred[:, 0, i] * centred[:, 0, j], own[i, j].item())
    assert not within_errors(centred[:, 0, 0] * centred[:, 1, 0], 0.9 * shared[0, 0].item())


def test_particles_in_chunks_are_the_particles_drawn_one_chunk_after_another() -> None:
    oracle, episode = ProbabilisticPCA(3, 2, shift=0.5), vectors(2, 3, 2, 3)
    torch.manual_seed(1)
    chunked = log_weights(oracle, episode, 7, chunk=3)
    torch.manual_seed(1)
    assert torch.equal(chunked, torch.cat([log_weights(oracle, episode, k) for k in (3, 3, 1)]))
    assert chunked.unique().numel() == chunked.numel()  # no chunk repeats another
    w = log_weights(oracle, everything(vectors(1, 2, 1, 3)), 20_000, chunk=999)
    assert w.shape == (20_000, 1, 1)


def test_chunks_share_what_depends_on_the_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = build("gmn", event_shape=EVENT, dim_z=2, dim_state=4, channels=(4,), dim_features=4).double(), []
    embed = model.embed
    monkeypatch.setattr(model, "embed", lambda x: calls.append(x.shape) or embed(x))
    log_weights(model, images(2, 3, 1), 6, chunk=2)
    assert calls == [(2, 4, *EVENT)]


@pytest.fixture
def independent() -> tuple[Any, Tensor, Tensor]:
    """The conjugate model of two pixels with its strengths a and b."""
    model = build("beta-bernoulli", event_shape=(1, 1, 2)).double()
    model.raw.data = torch.randn_like(model.raw)
    a, b = F.softplus(model.raw.detach())
    return model, a, b


def test_conjugate_pixels_score_every_sequence_in_closed_form(independent: tuple[Any, Tensor, Tensor]) -> None:
    model, a, b = independent
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=8))).double().reshape(256, 4, 1, 1, 2)
    with torch.no_grad():
        found = log_weights(model, Episode.sequential(every))[0].sum(-1)
    assert found.logsumexp(0).item() == pytest.approx(0.0, abs=1e-12)
    torch.testing.assert_close(found, beta_bernoulli_joint(a, b, every), rtol=0, atol=1e-12)
    counts = every.sum(1).flatten(1) @ torch.tensor([10.0, 1.0]).double()  # order is irrelevant: counts say all
    for count in counts.unique():
        assert np.ptp(found[counts == count].numpy()) < 1e-12


def test_conjugate_pixels_are_exact_whatever_the_particles(independent: tuple[Any, Tensor, Tensor]) -> None:
    model, a, b = independent
    support, query = torch.ones(1, 3, 1, 1, 2).double(), torch.zeros(1, 2, 1, 1, 2).double()
    w = log_weights(model, Episode(support, query), 5, chunk=2)
    wanted = (b / (a + b + 3)).log().sum()
    torch.testing.assert_close(w, wanted.expand(5, 1, 2), rtol=0, atol=1e-12)
    assert model.condition(support[0].float()).exact


@pytest.fixture
def network() -> Any:
    """A matching network with one latent number and weights loud enough that everything shows."""
    model = build(
        "gmn", event_shape=EVENT, dim_z=1, steps=2, dim_state=4, dim_prior=4, channels=(4,), dim_features=4
    ).double()
    for parameter in model.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    model.posterior.bias.data[1] = 3.0  # a guide wider than the posterior: weights of finite variance
    return model


@pytest.mark.parametrize(("estimator", "bound"), [("Trace_ELBO", elbo), ("RenyiELBO", iwae)])
def test_bounds_of_one_episode_are_those_of_pyro(network: Any, estimator: str, bound: Estimator) -> None:
    options = {"alpha": 0.0} if estimator == "RenyiELBO" else {}
    theirs = getattr(pyro.infer, estimator)(num_particles=50, vectorize_particles=True, max_plate_nesting=2, **options)
    episode = images(1, 3, 1)
    torch.manual_seed(7)
    wanted = -theirs.loss(network.model, network.guide, episode)
    torch.manual_seed(7)
    found = bound(log_weights(network, episode, 50)).item()
    assert found == pytest.approx(wanted, abs=1e-10)
    torch.manual_seed(8)
    assert bound(log_weights(network, episode, 50)).item() != pytest.approx(wanted, abs=1e-4)


def quadrature(model: Any, episode: Episode, nodes: int = 200) -> float:
    """log of the integral over a latent number, by Gauss-Hermite nodes spread as the prior."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    prior = poutine.trace(model.model).get_trace(episode).nodes["z"]["fn"].base_dist
    z = prior.loc + prior.scale * torch.from_numpy(points).reshape(nodes, 1, 1, 1)
    trace = poutine.trace(poutine.condition(model.model, {"z": z})).get_trace(episode)
    trace.compute_log_prob()
    share = torch.from_numpy(weights / weights.sum()).log()
    return (trace.nodes["x"]["log_prob"].reshape(nodes) + share).logsumexp(0).item()


@pytest.mark.parametrize("proposal", ["guide", "prior"])
def test_a_deep_decoder_with_one_latent_number_integrates_to_its_quadrature(network: Any, proposal: str) -> None:
    episode = images(1, 3, 1)
    with torch.no_grad():
        exact = quadrature(network, episode)
        share = (log_weights(network, episode, 50_000, proposal) - exact).exp()
    assert share.std() > 0.01
    assert within_errors(share, 1.0)
    assert share.mean().log().item() == pytest.approx(0.0, abs=0.01)
    assert not within_errors(share * 1.1, 1.0)


def test_a_site_outside_the_episode_plate_is_refused() -> None:
    class Unplated:
        def model(self, e: Episode) -> None:
            pyro.sample("x", dist.Bernoulli(torch.full(e.query.shape, 0.5)).to_event(5), obs=e.query)

        def guide(self, e: Episode) -> None: ...

    class UnplatedGuide(Unplated):
        def model(self, e: Episode) -> None:
            with plates(e):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Bernoulli(logits=z[..., None, None, None].expand(*z.shape, *EVENT)).to_event(3))

        def guide(self, e: Episode) -> None:
            pyro.sample("z", dist.Normal(torch.zeros(3, 2), 1.0).to_event(2))

    with pytest.raises(ValueError, match=r"Unplated: site 'x' is outside the plate 'episodes'.*with plates\(episode\)"):
        log_weights(Unplated(), images(3, 4, 2))
    with pytest.raises(ValueError, match="UnplatedGuide: site 'z' is outside the plate 'episodes'"):
        log_weights(UnplatedGuide(), images(3, 4, 2))


def test_an_unknown_proposal_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no proposal 'posterior'\. Known: guide, prior"):
        log_weights(ProbabilisticPCA(3, 2), vectors(1, 2, 1, 3), 1, "posterior")


def test_a_guide_site_that_the_model_lacks_is_named() -> None:
    class Misspelt(ProbabilisticPCA):
        def guide(self, episode: Episode) -> None:
            with plates(episode):
                pyro.sample("zz", pyro.distributions.Normal(torch.zeros(()), 1.0))

    with pytest.raises(ValueError, match="the guide samples 'zz', which the model does not; the model's sites are"):
        log_weights(Misspelt(2, 1), Episode(torch.zeros(1, 0, 2).double(), torch.zeros(1, 1, 2).double()))
