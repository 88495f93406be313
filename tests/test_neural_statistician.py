"""The neural statistician: its structure against a closed form, what its proposal knows, its summaries and codes."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from oracles import HierarchicalGaussian
from pyro import poutine
from test_contract import identical, louder, same_noise
from torch import Tensor, nn
from torch.distributions import kl_divergence

from fsgen.distributions.latents import LEAST_SCALE
from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.inference import log_weights, terms
from fsgen.models.neural_statistician import NeuralStatistician
from fsgen.sets import MeanPool

EVENT, PIXELS = (1, 2, 2), 4
STEPS, NOISE = (0.5, 0.3, 0.2), 0.4  # variances of each layer of z, and of a pixel


def parameters(mean: Tensor, variance: Tensor | float) -> Tensor:
    """What ``gaussian`` turns into this mean and variance."""
    raw = (torch.as_tensor(variance, dtype=torch.float64).sqrt() - LEAST_SCALE).expm1().log()
    return torch.cat([mean, raw.expand(mean.shape)], -1)


class Exact(nn.Module):
    """A network that is a formula, of inputs that are its pieces of as many numbers as an image has pixels."""

    def __init__(self, formula: Any) -> None:
        super().__init__()
        self.formula = formula

    def forward(self, joined: Tensor) -> Tensor:
        return self.formula(*joined.split(PIXELS, -1))


class Pixels:
    """Normal pixels around the decoded image."""

    def __call__(self, mean: Tensor) -> Any:
        return dist.Normal(mean, NOISE**0.5).to_event(3)


def posterior_of_context(mean: Tensor, log_count: Tensor) -> Tensor:
    """p(c | n images of this mean) where c ~ N(0, 1) and an image is c and the noise of every layer below."""
    count = log_count.expm1()
    pull = count / (sum(STEPS) + NOISE)
    return parameters(mean * pull / (1 + pull), 1 / (1 + pull))


def layer(depth: int) -> tuple[Exact, Exact]:
    """Prior and posterior of the layer ``depth`` below c, a walk from what is above it to the image."""
    step, below = STEPS[depth], sum(STEPS[depth + 1 :]) + NOISE
    variance = 1 / (1 / step + 1 / below)

    def posterior(*inputs: Tensor) -> Tensor:
        above, image = inputs[-2:]
        return parameters(variance * (above / step + image / below), variance)

    return Exact(lambda *above: parameters(above[-1], step)), Exact(posterior)


def exact(**options: Any) -> NeuralStatistician:
    """c ~ N(0, I), z_3 ~ N(c, .), z_2 ~ N(z_3, .), z_1 ~ N(z_2, .), x ~ N(z_1, .), with the posteriors as proposals."""
    model = NeuralStatistician(
        event_shape=EVENT, dim_c=PIXELS, dim_z=PIXELS, layers=len(STEPS), dim_features=PIXELS, channels=(4,), **options
    )
    model.features, model.instance = nn.Flatten(), nn.Identity()
    model.statistic, model.to_context = MeanPool(None, PIXELS), Exact(posterior_of_context)
    layers = [layer(depth) for depth in range(len(STEPS))]
    model.priors, model.posteriors = (nn.ModuleList(networks) for networks in zip(*layers, strict=True))
    model.decode = Exact(lambda *latents: latents[-1].unflatten(-1, EVENT))
    model.likelihood = Pixels()
    return model


def closed_form() -> HierarchicalGaussian:
    """The same distribution of images; its one layer of z has the noise of all of them."""
    oracle = HierarchicalGaussian(PIXELS, PIXELS, PIXELS)
    oracle.to_z = oracle.to_x = torch.eye(PIXELS).double()
    oracle.noise_z, oracle.noise_x = sum(STEPS), NOISE
    return oracle


def flat(episode: Episode) -> Episode:
    return Episode(episode.support.flatten(2), episode.query.flatten(2))


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, *EVENT).double()


@pytest.mark.parametrize("shots", [0, 1, 5])
@pytest.mark.parametrize("queries", [1, 4])
def test_with_exact_networks_every_weight_is_the_closed_form(shots: int, queries: int) -> None:
    """c is counted once an episode, every layer of z once a query, and the prior of c is its posterior."""
    episode = Episode(images(3, shots), images(3, queries))
    wanted = closed_form().log_prob(flat(episode))
    found = log_weights(exact(), episode, 5)
    torch.testing.assert_close(found, wanted.expand(5, 3, 1), rtol=0, atol=1e-10)


def test_a_sequential_episode_is_the_joint_of_the_set() -> None:
    x = images(3, 4)
    found = log_weights(exact(), Episode.sequential(x), 5)
    torch.testing.assert_close(found, closed_form().joint(x.flatten(2)).expand(5, 3)[..., None], rtol=0, atol=1e-10)


def test_in_predictive_mode_a_sequential_episode_is_the_chain_of_predictives() -> None:
    x = images(3, 4)
    found = log_weights(exact(predictive=True), Episode.sequential(x), 5)
    terms = [closed_form().log_prob(flat(Episode(x[:, :t], x[:, [t]]))) for t in range(4)]
    torch.testing.assert_close(found, torch.cat(terms, -1).expand(5, 3, 4), rtol=0, atol=1e-10)


@pytest.mark.parametrize("shots", [0, 1, 3])
def test_given_one_query_both_modes_are_one_model(shots: int) -> None:
    """With any weights: they are trained by one and can be used by the other."""
    model = louder(NeuralStatistician.tiny(EVENT))
    support, query = images(2, 3).round().clamp(0, 1), images(2, 1).round().clamp(0, 1)
    visible = (torch.arange(3) < shots).expand(2, 1, 3)
    with same_noise():
        together = log_weights(model, Episode(support, query, visible), 3)
        model.predictive = True
        torch.testing.assert_close(log_weights(model, Episode(support, query, visible), 3), together, **identical)


def parts(model: NeuralStatistician, episode: Episode) -> Tensor:
    """The number of images each proposal of c knows [B, U], from its width."""
    scale = poutine.trace(model.guide).get_trace(episode).nodes["c"]["fn"].base_dist.scale[..., 0]
    return ((scale**-2 - 1) * (sum(STEPS) + NOISE)).round().long()


@pytest.mark.parametrize("predictive", [False, True])
def test_sample_dropout_leaves_parts_of_every_size_and_works_in_training_alone(predictive: bool) -> None:
    model = exact(sample_dropout=1.0, predictive=predictive)
    episode = Episode.sequential(images(1, 5).expand(4000, 5, *EVENT))
    most = torch.arange(1, 6) if predictive else torch.tensor([5])
    for column, number in zip(parts(model, episode).T, most.tolist(), strict=True):
        share = torch.bincount(column, minlength=number + 1) / 4000
        expected = torch.tensor([0.0, *[1 / (number + 1)] * number])
        expected[1] *= 2  # one is kept where the draw would keep none
        torch.testing.assert_close(share, expected, rtol=0, atol=5 * 0.5 / 4000**0.5)
        assert share[0] == 0
    assert torch.equal(parts(model.eval(), episode), most.expand(4000, -1))


def test_a_share_of_sample_dropout_bounds_what_is_left_out() -> None:
    model = exact(sample_dropout=0.2)
    kept = parts(model, Episode(images(1, 0).expand(2000, 0, *EVENT), images(1, 20).expand(2000, 20, *EVENT)))
    assert kept.double().mean().item() == pytest.approx(18.0, abs=0.2)
    assert len(kept.unique()) > 4


def test_a_proposal_that_knows_a_part_gives_unbiased_weights() -> None:
    """The proposal is wider than the posterior then, so that the weights have finite variance."""
    torch.manual_seed(0)
    episode = Episode(images(2, 2), 0.5 * images(2, 3))
    with torch.no_grad():
        off = (log_weights(exact(sample_dropout=1.0), episode, 20_000) - closed_form().log_prob(flat(episode))).exp()
    assert off.std() > 0.1
    error = off.std(0) / math.sqrt(len(off))
    assert ((off.mean(0) - 1).abs() < 5 * error).all()


@pytest.mark.parametrize("shots", [0, 1, 3])
@pytest.mark.parametrize("predictive", [False, True])
def test_proposed_from_the_support_the_context_costs_nothing_and_weights_stay_unbiased(
    shots: int, predictive: bool
) -> None:
    torch.manual_seed(0)
    model = exact(predictive=predictive, proposal="support")
    episode = Episode(images(2, shots), 0.5 * images(2, 1))
    with torch.no_grad():
        found = terms(model, episode, 20_000)
        off = (torch.stack(tuple(found.values())).sum(0) - closed_form().log_prob(flat(episode))).exp()
    if shots:
        assert (found["c"] == 0).all()
        assert off.std() > 0.1
    else:  # of no support it is the posterior given the query, as ever
        assert found["c"].std() > 0.1
    torch.testing.assert_close(
        off.mean(0), torch.ones_like(off[0]), rtol=0, atol=1e-9 + 5 * off.std(0).max().item() / 141
    )


def test_at_first_the_context_tells_sets_apart() -> None:
    """Noise of c that is wide beside the differences of sets teaches decoders to ignore it for good."""
    torch.manual_seed(0)
    model = NeuralStatistician(layers=1, proposal="support")
    strokes = (torch.rand(8, 1, 1, 7, 7) < 0.2).float().repeat_interleave(4, -1).repeat_interleave(4, -2)
    loc, scale = model.codes(strokes.expand(8, 3, 1, 28, 28))
    assert (loc.std(0) > 0.3 * scale.mean(0)).double().mean() > 0.5


@pytest.fixture
def loud() -> NeuralStatistician:
    return louder(NeuralStatistician.tiny(EVENT))


def drawn(*shape: int) -> Tensor:
    """Binary images of 2 x 2 pixels."""
    return torch.rand(*shape, *EVENT).double().round()


def removed_one_by_one(model: NeuralStatistician, images: Tensor, size: int) -> set[int]:
    """The published algorithm by the model's own codes of each subset, computed from its images alone."""

    def code(indices: list[int]) -> Any:
        loc, scale = model.codes(images[indices][None])
        return dist.Normal(loc[0], scale[0])

    kept = list(range(len(images)))
    whole = code(kept)
    while len(kept) > size:
        gaps = [kl_divergence(whole, code([i for i in kept if i != j])).sum().item() for j in kept]
        kept.remove(kept[gaps.index(min(gaps))])
    return set(kept)


EVERY_IMAGE = torch.tensor([[n >> i & 1 for i in range(4)] for n in range(16)]).double().reshape(16, *EVENT)


def test_a_summary_is_what_is_left_of_removing_one_by_one(loud: NeuralStatistician) -> None:
    held = EVERY_IMAGE[torch.randperm(16)[:7]]
    order = loud.summarise(held, 7).tolist()
    assert sorted(order) == list(range(7))
    for size in range(1, 8):
        assert loud.summarise(held, size).tolist() == order[:size]
        assert set(order[:size]) == removed_one_by_one(loud, held, size)


def test_a_summary_names_the_same_images_in_any_order(loud: NeuralStatistician) -> None:
    held, order = EVERY_IMAGE[torch.randperm(16)[:7]], torch.randperm(7)
    assert torch.equal(order[loud.summarise(held[order], 4)], loud.summarise(held, 4))


def test_among_equal_images_the_first_is_removed() -> None:
    assert exact().summarise(drawn(1).expand(4, *EVENT), 4).tolist() == [3, 2, 1, 0]


def test_a_summary_takes_one_image_or_more_of_those_there_are(loud: NeuralStatistician) -> None:
    for size in (0, 4):
        with pytest.raises(InputError, match=rf"size is {size}; give 1 to 3"):
            loud.summarise(drawn(3), size)
    with pytest.raises(InputError, match=r"images: expected \[N, 1, 2, 2\]"):
        loud.summarise(drawn(3)[..., :1], 1)


def test_codes_are_the_statistic_of_each_set_alone(loud: NeuralStatistician) -> None:
    sets = drawn(3, 5)
    loc, scale = loud.codes(sets)
    assert loc.shape == scale.shape == (3, 2)
    for one, mean, width in zip(sets, loc, scale, strict=True):
        with torch.no_grad():
            prior = poutine.trace(loud.model).get_trace(Episode(one[None], drawn(1, 2))).nodes["c"]["fn"].base_dist
        torch.testing.assert_close(prior.loc[0, 0], mean, **identical)
        torch.testing.assert_close(prior.scale[0, 0], width, **identical)
    empty = loud.codes(sets[:, :0])
    assert torch.equal(empty[0], torch.zeros(3, 2).double())
    assert torch.equal(empty[1], torch.ones(3, 2).double())


@pytest.mark.parametrize("options", [{"layers": 0}, {"sample_dropout": 1.5}, {"sample_dropout": math.nan}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"no proposal 'sets'\. Known: set, support"):
        NeuralStatistician(event_shape=EVENT, proposal="sets")
    with pytest.raises(InputError, match=r"neural-statistician: .*; give 1 layer or more"):
        NeuralStatistician(event_shape=EVENT, **options)
