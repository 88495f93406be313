"""Recognizability and diversity: what must come out for draws whose quality is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import SMALL_MODELS, strokes
from torch import Tensor

from fsgen.classification import Learner
from fsgen.data.images import Images
from fsgen.data.sampler import EpisodeSampler
from fsgen.errors import InputError
from fsgen.quality import Quality, draws_of, judged, quality, ratio
from fsgen.registry import LEARNERS, build

WAYS, SAMPLES, EPISODES = 5, 6, 40
SHAPE = (1, 8, 8)  # large enough that no two images of a class are alike


@pytest.fixture(scope="module")
def images() -> Images:
    return strokes("test", Path(), classes=9, images=20, size=SHAPE[-1])


@pytest.fixture(scope="module")
def critic() -> Learner:
    """A prototypical network as it begins: its random features tell the rows apart well enough."""
    torch.manual_seed(0)
    made: Learner = build("prototypical-network", event_shape=SHAPE, channels=[16])
    return made


def episodes(images: Images, shots: int = 1) -> EpisodeSampler:
    return EpisodeSampler(images, ways=WAYS, shots=shots, queries=SAMPLES, seed=4)


def others_of(images: Images, seed: int = 0) -> Callable[[Tensor, int], Tensor]:
    """Other images of the class whose support is shown, found by their pixels."""
    values = torch.from_numpy(images.pixels.copy()).float()

    def draw(sets: Tensor, count: int) -> Tensor:
        rng, rows = np.random.default_rng([seed, int(torch.randint(2**31, ()))]), []
        for support in sets:
            same = (values[:, None] == support).flatten(2).all(2).any(1)
            (label,) = set(images.labels[same.numpy()])
            free = ~same.numpy() & (images.labels == label)
            rows.append(values[rng.choice(np.flatnonzero(free), count, replace=False)])
        return torch.stack(rows)

    return draw


def copies(sets: Tensor, count: int) -> Tensor:
    return sets[:, torch.randint(sets.shape[1], (count,))]


def blind(images: Images) -> Callable[[Tensor, int], Tensor]:
    """Images of any class, whatever the support."""
    values = torch.from_numpy(images.pixels.copy()).float()
    return lambda sets, count: values[torch.randint(len(values), (len(sets), count))]


def test_the_very_images_have_their_own_figures(images: Images, critic: Learner) -> None:
    sampler = episodes(images)
    shown = iter([sampler.gather([sampler.draw(i)])[0, WAYS:].unflatten(0, (WAYS, SAMPLES)) for i in range(EPISODES)])
    found = quality(lambda sets, count: next(shown), critic, sampler, EPISODES)
    assert found.recognizability == found.real_recognizability
    assert (found.diversity.mean, found.novelty.mean) == (1.0, 1.0)
    assert found.diversity.se < 1e-9
    assert found.recognizability.low > 2 * found.chance


@pytest.mark.parametrize("shots", [1, 3])
def test_other_images_of_the_class_have_the_figures_of_the_images(shots: int, images: Images, critic: Learner) -> None:
    found = quality(others_of(images), critic, episodes(images, shots), EPISODES)
    apart = found.recognizability.mean - found.real_recognizability.mean
    assert abs(apart) < 5 * (found.recognizability.se + found.real_recognizability.se)
    for figure in (found.diversity, found.novelty):
        assert abs(figure.mean - 1) < 5 * figure.se
        assert 0 < figure.se < 0.05


def test_copies_of_one_image_have_no_diversity_and_copies_of_several_no_novelty(
    images: Images, critic: Learner
) -> None:
    one, several = (quality(copies, critic, episodes(images, shots), EPISODES) for shots in (1, 3))
    assert one.recognizability.mean > 0.95  # two classes of few rows can share an image
    assert (one.diversity.mean, one.diversity.high) == pytest.approx((0, 0), abs=1e-6)
    assert several.diversity.low > 0.5
    assert (several.novelty.mean, several.novelty.high) == pytest.approx((0, 0), abs=1e-6)


def test_what_ignores_the_support_is_recognized_by_chance_and_more_diverse_than_the_class(
    images: Images, critic: Learner
) -> None:
    found = quality(blind(images), critic, episodes(images), EPISODES)
    assert abs(found.recognizability.mean - 1 / WAYS) < 5 * found.recognizability.se
    assert found.real_recognizability.low > found.recognizability.high
    assert found.diversity.low > 1


@pytest.mark.parametrize("name", sorted(LEARNERS.discover()))
def test_the_order_of_the_classes_changes_nothing(name: str) -> None:
    critic: Any = LEARNERS[name].tiny((1, 4, 4)).double().eval()
    sets, asked = (torch.rand(WAYS, n, 1, 4, 4, dtype=torch.float64) for n in (2, 7))
    order = torch.tensor([3, 0, 4, 1, 2])
    straight, turned = judged(critic, sets, asked), judged(critic, sets[order], asked[order])
    assert torch.equal(turned.right, straight.right[order])
    assert straight.right.any()
    torch.testing.assert_close(turned.spread, straight.spread[order])
    torch.testing.assert_close(turned.distance, straight.distance[order])


def test_spread_is_the_variance_without_bias(critic: Learner) -> None:
    sets, asked = torch.rand(2, 1, *SHAPE), torch.rand(2, 5, *SHAPE)
    found = judged(critic, sets, asked)
    features = torch.stack([critic.embed(part) for part in asked]).double()
    torch.testing.assert_close(found.spread, features.var(1).sum(-1))
    support = torch.stack([critic.embed(part) for part in sets]).double()
    torch.testing.assert_close(found.distance, (features - support).square().sum(-1))


def test_the_interval_of_a_ratio_covers_it() -> None:
    rng, hits = np.random.default_rng(3), 0
    for _ in range(1000):
        common = rng.gamma(4, size=(100, 1))
        ours, theirs = torch.from_numpy(common * rng.gamma(5, [0.5, 1.0], size=(100, 2))).T
        found = ratio(ours, theirs)
        hits += found.low <= 0.5**0.5 <= found.high
    assert 0.92 <= hits / 1000 <= 0.97


@pytest.mark.parametrize("name", ["beta-bernoulli", "gmn", "neural-statistician"])
def test_an_episode_is_the_same_whatever_is_asked_beside_it(name: str, images: Images, critic: Learner) -> None:
    sizes = {**SMALL_MODELS, "neural-statistician": {"dim_c": 2, "dim_z": 1, "channels": [4], "dim_features": 6}}
    draw, before = draws_of(build(name, event_shape=SHAPE, **sizes[name]), budget=12), torch.get_rng_state()
    done: list[int] = []
    few = quality(draw, critic, episodes(images), 3, advance=done.append)
    many = quality(draw, critic, episodes(images), 5)
    assert {k: v[:3] for k, v in many.per_episode.items()} == few.per_episode
    assert sum(done) == 3
    assert torch.equal(before, torch.get_rng_state())
    assert many.recognizability.mean == pytest.approx(np.mean(many.per_episode["right"]), abs=1e-4)
    squares = [np.mean(many.per_episode[name]) for name in ("spread", "real_spread")]
    assert many.diversity.mean == pytest.approx((squares[0] / squares[1]) ** 0.5, rel=1e-4)
    record = many.record()
    assert record["diversity"]["mean"] == many.diversity.mean
    assert record.keys() == Quality.__dataclass_fields__.keys()


def test_samples_share_no_latent() -> None:
    model = build("neural-statistician", event_shape=(1, 4, 4), dim_c=2, dim_z=1, channels=[4], dim_features=6)
    with torch.no_grad():
        model.to_context.weight.zero_()
        model.to_context.bias.zero_()
        last = [part for part in model.decode.modules() if list(part.parameters(recurse=False))][-1]
        last.weight.mul_(50)
    drawn = draws_of(model)(torch.zeros(2, 3, 1, 4, 4), 40)
    assert drawn.shape == (2, 40, 1, 4, 4)
    assert drawn.flatten(2).unique(dim=1).shape[1] > 5


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("settings", "number", "said"),
    [
        ({"ways": 1, "shots": 1, "queries": 2}, 5, "2 ways, 1 shot and 2 samples a class"),
        ({"ways": 2, "shots": 0, "queries": 2}, 5, "2 ways, 1 shot and 2 samples a class"),
        ({"ways": 2, "shots": 1, "queries": 1}, 5, "2 ways, 1 shot and 2 samples a class"),
        ({"ways": 2, "length": 4}, 5, "support/query episodes"),
        ({"ways": 2, "shots": 1, "queries": 2}, 1, "1 episodes; give 2 or more"),
    ],
    ids=str,
)
def test_what_cannot_be_judged_is_refused(
    settings: dict[str, Any], number: int, said: str, images: Images, critic: Learner
) -> None:
    with pytest.raises(InputError, match=said):
        quality(copies, critic, EpisodeSampler(images, **settings), number)


@pytest.mark.usefixtures("as_a_user")
def test_critics_that_cannot_judge_are_refused(images: Images, critic: Learner) -> None:
    sampler = episodes(images)
    with pytest.raises(InputError, match="BetaBernoulli is no critic; give a learner"):
        quality(copies, build("beta-bernoulli", event_shape=SHAPE), sampler, 2)
    with pytest.raises(InputError, match=r"takes images of 2 levels and shape \[1, 5, 5\]"):
        quality(copies, build("prototypical-network", event_shape=(1, 5, 5), channels=[4]), sampler, 2)
    still = build("prototypical-network", event_shape=SHAPE, channels=[4])
    torch.nn.init.zeros_(still.embed.blocks[0].norm.weight)
    with pytest.raises(InputError, match="no difference between images of a class"):
        quality(copies, still, sampler, 2)
