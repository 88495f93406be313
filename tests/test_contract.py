"""What every registered model satisfies. A model is covered by being registered; no test here names one.

Double precision, 2x2 binary images, weights noisier than at initialisation, so that dependence shows.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from fsgen.episode import Episode
from fsgen.errors import UnknownNameError, UnknownOptionError
from fsgen.inference import couples_queries, latent_sites, log_weights, simulate
from fsgen.model import FewShotModel, load
from fsgen.objectives import ess, iwae
from fsgen.registry import MODELS, build

EVENT = (1, 2, 2)
EVERY = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).double().reshape(16, 1, *EVENT)
NAMES = sorted(MODELS.discover())
identical = {"rtol": 1e-10, "atol": 1e-10}


def louder(model: Any, noise: float = 0.5) -> Any:
    """The model in double precision with noise on every weight: at the usual initialisation a leak is too faint to
    see, and a block that begins as the identity hides what is in it."""
    model = model.double()
    for parameter in model.parameters():
        parameter.data += noise * torch.randn_like(parameter)
    return model


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def loud(name: str) -> FewShotModel:
    return louder(MODELS.require(name).tiny(EVENT))


@pytest.fixture
def quiet(name: str) -> FewShotModel:
    """Quiet enough that 150 steps fit the guide, and that its weights have finite variance."""
    return louder(MODELS.require(name).tiny(EVENT), 0.2)


def binary(*shape: int) -> Tensor:
    return torch.rand(*shape, *EVENT).double().round()


def episode(batch: int = 3, shots: int = 4, queries: int = 2) -> Episode:
    return Episode(binary(batch, shots), binary(batch, queries))


def coupled(model: Any) -> bool:
    return couples_queries(model, episode())


@contextlib.contextmanager
def same_noise() -> Iterator[None]:
    """Normal draws whose noise depends on the particle and on the latent's index alone, whatever the other axes."""

    def rsample(self: dist.Normal, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(sample_shape)
        particles = shape[-4] if len(shape) > 3 else 1  # none where a program is only looked at
        particle, index = torch.arange(particles).reshape(-1, 1, 1, 1), torch.arange(shape[-1])
        return self.loc + self.scale * (1 + 3 * particle + 2 * index).double().sin()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributions.Normal, "rsample", rsample)
        yield


# 1


@pytest.mark.parametrize("shots", [0, 1, 5])
@pytest.mark.parametrize("proposal", ["guide", "prior"])
def test_log_weights_are_finite_and_one_a_particle_an_episode_and_a_unit(loud: Any, shots: int, proposal: str) -> None:
    w = log_weights(loud, episode(3, shots, 2), 4, proposal)
    assert w.shape == (4, 3, 1 if coupled(loud) else 2)
    assert w.dtype == torch.float64
    assert w.isfinite().all()
    assert (w < 0).any()


# 2


def test_gradient_reaches_every_parameter(loud: Any) -> None:
    """From a pass over all shot counts, from one with support and from one without, so that pseudo-inputs count.

    A tiny network may be dead at some weights: a parameter is reached if it is at one of four draws of them.
    """
    unreached = set(dict(loud.named_parameters()))
    for _ in range(4):
        episodes = [Episode.sequential(binary(3, 4)), episode(), episode(shots=0)]
        torch.stack([log_weights(loud, e, 2).mean() for e in episodes]).sum().backward()
        assert [n for n, p in loud.named_parameters() if p.grad is not None and not p.grad.isfinite().all()] == []
        unreached -= {n for n, p in loud.named_parameters() if p.grad is not None and p.grad.any()}
        loud.zero_grad()
        louder(loud)
    assert unreached == set()


# 3


def test_an_episode_is_scored_alone(loud: Any) -> None:
    e = episode()
    e.query.requires_grad_()
    e.support.requires_grad_()
    own = log_weights(loud, e, 2)[:, 0].sum()
    leaks = torch.autograd.grad(own, [e.query, e.support], allow_unused=True, materialize_grads=True)
    assert leaks[0][0].any()
    assert not any(leak[1:].any() for leak in leaks)


def test_a_query_is_scored_alone_where_no_latent_couples_them(loud: Any) -> None:
    e = episode(queries=3)
    e.query.requires_grad_()
    w = log_weights(loud, e, 2)
    (slope,) = torch.autograd.grad(w[..., 0].sum(), e.query)
    assert slope[:, 0].any()
    assert bool(slope[:, 1:].any()) == coupled(loud)


# 4


def test_the_generative_program_never_reads_the_query(loud: Any) -> None:
    support, draws = binary(3, 4), []
    for query in (torch.zeros(3, 2, *EVENT).double(), torch.ones(3, 2, *EVENT).double()):
        torch.manual_seed(1)
        draws.append(simulate(loud, Episode(support, query), 50))
    torch.testing.assert_close(*draws, rtol=0, atol=0)


# 5


def test_the_order_of_the_support_is_irrelevant(loud: Any) -> None:
    e, order = episode(shots=5), torch.randperm(5)
    shown = torch.rand(3, 1 if coupled(loud) else 2, 5).expand(3, 2, 5) < 0.6
    for visible in (None, shown):
        shuffled = None if visible is None else visible[..., order]
        with same_noise():
            found = log_weights(loud, Episode(e.support[:, order], e.query, shuffled), 3)
            torch.testing.assert_close(found, log_weights(loud, Episode(e.support, e.query, visible), 3), **identical)


# 6


def test_masking_is_deletion(loud: Any) -> None:
    """Where a latent couples the queries, they see the same support and are scored together."""
    batch, shots, queries = 3, 4, 3
    together = coupled(loud)
    visible = (torch.rand(batch, 1 if together else queries, shots) < 0.5).expand(-1, queries, -1)
    e = Episode(binary(batch, shots), binary(batch, queries), visible)
    with same_noise():
        whole = log_weights(loud, e, 2)
        for b, u in itertools.product(range(batch), range(whole.shape[-1])):
            asked = e.query[[b]] if together else e.query[[b]][:, [u]]
            alone = log_weights(loud, Episode(e.support[b, visible[b, u]][None], asked), 2)
            torch.testing.assert_close(whole[:, [b], u : u + 1], alone, **identical)


def test_one_causal_pass_is_an_episode_for_every_shot_count(loud: Any) -> None:
    """Where a latent couples the queries, the pass is their joint: what all of them see is nothing."""
    x = binary(2, 5)
    with same_noise():
        whole = log_weights(loud, Episode.sequential(x), 2)
        if coupled(loud):
            apart = log_weights(loud, Episode(x[:, :0], x), 2)
        else:
            apart = torch.cat([log_weights(loud, Episode(x[:, :t], x[:, [t]]), 2) for t in range(5)], -1)
    torch.testing.assert_close(whole, apart, **identical)


# 7


def chances(model: Any, support: Tensor, particles: int) -> Tensor:
    """p(x | support) [K, 16] of all 16 images, every one under the same draws of the latents."""
    columns = []
    with torch.no_grad():
        for image in EVERY:
            torch.manual_seed(5)
            columns.append(log_weights(model, Episode(support, image[None]), particles, "prior")[:, 0, 0].exp())
    return torch.stack(columns, -1)


@pytest.mark.parametrize("shots", [0, 1, 3])
def test_probabilities_of_all_sixteen_images_sum_to_one(loud: Any, shots: int) -> None:
    """Exactly, for each draw of the latents: the draws do not depend on the image, so no average is needed."""
    total = chances(loud, binary(1, shots), 100).sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


# 8


def test_simulated_images_have_the_frequencies_of_their_scores(loud: Any) -> None:
    support, count, particles = binary(1, 3), 10_000, 2_000
    p = chances(loud, support, particles).mean(0)
    with torch.no_grad():
        x = simulate(loud, Episode(support, torch.zeros(1, 1, *EVENT).double()), count)["x"].flatten(1)
    codes = (x @ torch.tensor([8.0, 4.0, 2.0, 1.0]).double()).long()
    seen = torch.bincount(codes, minlength=16) / count
    error = (p * (1 - p) * (1 / count + 1 / particles)).sqrt()
    assert p.max() < 0.99, "too little to compare"
    assert ((seen - p).abs() <= 5 * error + 1e-4).all()


# 9


def fit(model: Any, e: Episode, steps: int, rate: float, particles: int = 1) -> None:
    optimiser = torch.optim.Adam(model.parameters(), rate)
    for _ in range(steps):
        optimiser.zero_grad()
        (-iwae(log_weights(model, e, particles)).mean()).backward()
        optimiser.step()


def bound_and_error(model: Any, e: Episode, particles: int, proposal: str) -> tuple[Tensor, Tensor]:
    """IWAE [B, U] and its standard error by the delta method; 0 where the weights are equal."""
    with torch.no_grad():
        w = log_weights(model, e, particles, proposal)
    return iwae(w), ((1 / ess(w) - 1).clamp(min=0) / particles).sqrt()


def test_a_fitted_guide_agrees_with_the_prior_as_proposal(quiet: Any) -> None:
    e = episode(batch=8, shots=3, queries=1)
    fit(quiet, e, steps=150, rate=0.02, particles=4)
    guided, guided_error = bound_and_error(quiet, e, 5_000, "guide")
    free, free_error = bound_and_error(quiet, e, 20_000, "prior")
    error = (guided_error**2 + free_error**2).sqrt()
    assert error.max() < 0.03, "too little to compare"
    assert ((guided - free).abs() <= 5 * error + 1e-9).all()
    if not latent_sites(quiet, e):
        torch.testing.assert_close(guided, free, rtol=0, atol=1e-12)


# 10


def same_state(one: Any, other: Any) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def score(model: Any, support: Tensor, images: Tensor) -> Tensor:
    return model.condition(support).log_prob(images, particles=5, seed=3)


def test_a_saved_model_is_the_same_model_when_loaded(name: str, tmp_path: Path) -> None:
    model = build(name, event_shape=EVENT)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.eval().save(tmp_path / "model")
    back = load(tmp_path / "model")
    assert type(back) is type(model)
    assert not back.training
    assert json.dumps(back.recipe) == json.dumps(model.recipe)  # tuples and lists are one
    assert same_state(back, model)
    support, images = binary(3).float(), binary(4).float()
    assert torch.equal(score(back, support, images), score(model, support, images))
    other = build(name, event_shape=EVENT)
    assert not same_state(other, model)


def test_every_preset_is_rebuilt_from_its_recipe(name: str) -> None:
    for preset in (None, *MODELS.entry(name).presets):
        model = build(name, preset=preset)
        back = build(model.recipe["name"], **model.recipe["options"])
        shapes = [{key: value.shape for key, value in m.state_dict().items()} for m in (model, back)]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("shots", [0, 1, 3])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)], ids=str)
def test_a_density_gives_images_and_scores_of_the_shape_asked_for(
    loud: Any, shots: int, shape: tuple[int, ...]
) -> None:
    density = loud.condition(binary(shots))
    images = density.sample(shape, seed=1)
    assert images.shape == (*shape, *EVENT)
    assert ((images == 0) | (images == 1)).all()
    nats = density.log_prob(images, particles=3, seed=1)
    assert nats.shape == shape
    assert nats.dtype == torch.float64
    assert nats.isfinite().all()
    assert density.exact == (not latent_sites(loud, episode()))


def test_a_seed_repeats_draws_and_leaves_the_generator_alone(loud: Any) -> None:
    support, before = binary(3), torch.get_rng_state()
    density = loud.condition(support)
    draws = [density.sample((200,), seed=seed, batch=64) for seed in (1, 1, 2)]
    scores = [density.log_prob(draws[0], particles=3, seed=seed) for seed in (1, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(*scores)
    assert not torch.equal(density.sample((200,)), density.sample((200,)))


def test_a_density_scores_each_image_on_its_own(loud: Any) -> None:
    """More images than are scored at a time, in another order and without their neighbours."""
    density, images = loud.condition(binary(3)), binary(40)
    with same_noise():
        together = density.log_prob(images, particles=5)
        torch.testing.assert_close(density.log_prob(images.flip(0), particles=5).flip(0), together, **identical)
        torch.testing.assert_close(density.log_prob(images[7], particles=5), together[7], **identical)


# What the design's figures add


def test_every_model_learns_eight_tiny_episodes(name: str) -> None:
    """Sets of one image each, of two that differ in a pixel: all but ln 2 nats an image are within reach of a model
    that ignores the support, or that takes pixels for independent."""
    model = MODELS.require(name).tiny(EVENT)
    kinds = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]]).reshape(2, 1, *EVENT)
    e = Episode.sequential(kinds.repeat(4, 4, 1, 1, 1))

    def nats() -> float:
        torch.manual_seed(1)
        return bound_and_error(model, e, 100, "guide")[0].sum(-1).mean().item() / 4

    start = nats()
    aim = start + 0.9 * (-math.log(2) - start)
    assert aim - start > 0.5
    for _ in range(12):
        fit(model, e, steps=25, rate=0.03)
        if nats() >= aim:
            return
    pytest.fail(f"{name}: {nats():.3f} nats an image after 300 steps, from {start:.3f}; {aim:.3f} is asked for")


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shots", [0, 1, 64])
@pytest.mark.parametrize("ink", [0.0, 1.0])
def test_extreme_sets_have_finite_scores_and_gradients(loud: Any, ink: float, shots: int, autocast: bool) -> None:
    loud.float()
    e = Episode(torch.full((1, shots, *EVENT), ink), torch.full((1, 1, *EVENT), ink))
    for seen in (e, Episode(e.support, 1 - e.query)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            w = log_weights(loud, seen, 2)
        assert w.dtype == torch.float64  # sums of hundreds of pixels, whatever the network computes in
        assert w.isfinite().all()
        w.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in loud.parameters())


# Messages


def test_unknown_names_are_answered_with_the_nearest(name: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"no model '{name[:-1]}'\. Did you mean '{name}'\? Known: .*{name}"):
        build(name[:-1])
    with pytest.raises(
        UnknownOptionError, match=rf"'{name}' has no option 'event_shap'\. Did you mean 'event_shape'\?"
    ):
        build(name, event_shap=EVENT)
    for preset in MODELS.entry(name).presets:
        with pytest.raises(UnknownNameError, match=rf"has no preset '{preset}r'\. Did you mean '{preset}'\?"):
            build(name, preset=f"{preset}r")
    with pytest.raises(UnknownNameError, match=r"has no preset 'zzz'\. Known: "):
        build(name, preset="zzz")
