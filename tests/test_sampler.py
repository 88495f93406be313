"""Episodes: what they hold, how often, and that episode i depends on the seed and on i alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from fsgen.data.augment import transforms
from fsgen.data.images import Images
from fsgen.data.sampler import Draw, EpisodeSampler
from fsgen.episode import Episode
from fsgen.errors import DataError, FsgenError, InputError

MANY = 100_000
GOLDEN = "d08020b350ffc122a0281da2146480466417e282d2539e8ea569ae5f8a61986f"


def images(counts: Sequence[int] = (20,) * 12, shape: tuple[int, int, int] = (1, 4, 4), levels: int = 2) -> Images:
    """Random pixels from a fixed linear congruence, so that their digest does not depend on numpy's generators."""
    total = sum(counts) * int(np.prod(shape))
    values = (np.arange(total, dtype=np.uint64) * 1_103_515_245 + 12_345) >> np.uint64(8)
    pixels = (values % np.uint64(levels)).astype(np.uint8).reshape(-1, *shape)
    names = tuple(f"letters/{c:02d}" for c in range(len(counts)))
    return Images("letters", "train", pixels, np.repeat(np.arange(len(counts)), counts), names, levels)


@pytest.fixture(scope="module")
def strict_draws() -> list[Draw]:
    """Many strict episodes of one or two classes of 12."""
    sampler = EpisodeSampler(images(), ways=[1, 2], length=6, augment="dihedral")
    return [sampler.draw(i) for i in range(MANY)]


def classes(sampler: EpisodeSampler, draw: Draw) -> list[int]:
    """The class of each way of an episode, in order of way; -1 where none of its images was drawn."""
    labels = sampler.images.labels[draw.images]
    held = [set(labels[draw.ways == way].tolist()) for way in range(draw.ways.max() + 1)]
    assert all(len(found) <= 1 for found in held), "images of two classes in one way"
    return [found.pop() if found else -1 for found in held]


def uniform_p(values: np.ndarray, kinds: int) -> float:
    return float(stats.chisquare(np.bincount(values, minlength=kinds)).pvalue)


def test_strict_sequences_hold_no_image_twice_and_distinct_classes(strict_draws: list[Draw]) -> None:
    sampler = EpisodeSampler(images(), ways=[1, 2], length=6)
    for draw in strict_draws:
        assert len(set(draw.images.tolist())) == 6
    for draw in strict_draws[::10]:
        found = [c for c in classes(sampler, draw) if c >= 0]
        assert len(set(found)) == len(found)


def test_strict_support_and_query_are_disjoint() -> None:
    sampler = EpisodeSampler(images(), ways=3, shots=2, queries=3)
    for i in range(5_000):
        draw = sampler.draw(i)
        assert len(set(draw.images.tolist())) == 15
        assert len(set(classes(sampler, draw))) == 3


def test_images_ways_and_transforms_are_drawn_uniformly(strict_draws: list[Draw]) -> None:
    first = np.array([d.images[0] for d in strict_draws])
    last = np.array([d.images[-1] for d in strict_draws])
    turned = np.array([d.transform[0] for d in strict_draws])
    labels = images().labels
    assert uniform_p(first, 240) > 1e-6
    assert uniform_p(last, 240) > 1e-6
    assert uniform_p(labels[first], 12) > 1e-6
    assert uniform_p(turned, 8) > 1e-6
    two = np.array([d.ways.max() > 0 for d in strict_draws])
    unseen = np.prod(np.arange(15, 21) / np.arange(35, 41))  # all six images from the first of two classes
    assert stats.binomtest(int(two.sum()), MANY, 0.5 * (1 - unseen)).pvalue > 1e-6


def test_uniformity_is_refused_where_one_class_comes_a_tenth_too_often(strict_draws: list[Draw]) -> None:
    labels = images().labels[[d.images[0] for d in strict_draws]]
    favoured = np.concatenate([labels, np.zeros(int((labels == 0).sum()) // 10, int)])
    assert uniform_p(favoured, 12) < 1e-6


@pytest.mark.parametrize("ways", [1, 2])
def test_a_published_target_repeats_a_conditioning_image_as_often_as_the_formula_says(ways: int) -> None:
    tasks, counts = images((20,) * 2000, (1, 1, 1)), {"strict": 1000, "published": 5000}
    drawn = {
        protocol: np.stack([EpisodeSampler(tasks, ways=ways, protocol=protocol).draw(i).images for i in range(count)])
        for protocol, count in counts.items()
    }
    for t in (1, 5, 19):
        rates = {p: float((d[:, :t] == d[:, -1:]).any(1).mean()) for p, d in drawn.items()}
        expected, of_the_other = (1 - (1 - 1 / (20 * c)) ** t for c in (ways, 3 - ways))
        se = np.sqrt(expected * (1 - expected) / counts["published"])
        assert rates["strict"] == 0
        assert abs(rates["published"] - expected) < 5 * se
        assert abs(rates["published"] - of_the_other) > 5 * se


def test_published_support_query_episodes_repeat_images_within_their_class() -> None:
    sampler = EpisodeSampler(images((3,) * 12), ways=2, shots=4, queries=2, protocol="published")
    draws = [sampler.draw(i) for i in range(200)]
    assert all(len(set(d.images.tolist())) < 12 for d in draws)
    assert all(len(classes(sampler, d)) == 2 for d in draws)
    assert any(len(set(classes(sampler, d))) == 1 for d in draws), "classes are drawn with replacement too"


SETTINGS: list[dict[str, Any]] = [
    {"ways": [1, 2], "length": 6, "augment": "dihedral"},
    {"ways": 2, "length": 6, "protocol": "published"},
    {"ways": 2, "shots": 2, "queries": 1, "augment": "dihedral"},
]


def equal(a: Episode, b: Episode) -> bool:
    return torch.equal(a.support, b.support) and torch.equal(a.query, b.query) and torch.equal(a.seen(), b.seen())


@pytest.mark.parametrize("settings", SETTINGS, ids=["strict", "published", "support and query"])
def test_episode_i_does_not_depend_on_batch_order_or_what_was_drawn_before(settings: dict[str, Any]) -> None:
    sampler, other = (EpisodeSampler(images(), seed=3, **settings) for _ in range(2))
    whole = sampler.episode(range(12))
    for i in (7, 2, 11, 0, 2):
        alone = other.episode([i])
        assert torch.equal(alone.support[0], whole.support[i])
        assert torch.equal(alone.query[0], whole.query[i])
    batches = list(sampler.stream(batch=4, start=1, steps=2))
    assert [len(b.query) for b in batches] == [4, 4]
    assert torch.equal(torch.cat([b.query for b in batches]), whole.query[4:])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_neither_the_stream_nor_the_random_state(workers: int) -> None:
    sampler = EpisodeSampler(images(), **SETTINGS[0])
    before = torch.get_rng_state()
    alone, helped = (list(sampler.stream(batch=3, start=5, steps=6, workers=w)) for w in (0, workers))
    assert len(alone) == len(helped) == 6
    assert all(equal(a, b) for a, b in zip(alone, helped, strict=True))
    assert all(e.query is e.support for e in (*alone, *helped)), "features are shared only where they are one tensor"
    assert torch.equal(before, torch.get_rng_state())


def test_a_stream_without_steps_goes_on() -> None:
    stream = EpisodeSampler(images(), length=2).stream(batch=2, start=10**9)
    assert equal(next(stream), EpisodeSampler(images(), length=2).episode([2 * 10**9, 2 * 10**9 + 1]))
    assert next(stream).batch == 2


def test_seeds_give_different_episodes() -> None:
    drawn = {s: [EpisodeSampler(images(), seed=s).draw(i).images.tolist() for i in range(50)] for s in (0, 1, 2**63)}
    assert not any(a == b for a in drawn[0] for b in drawn[1] + drawn[2**63])
    assert not any(a == b for n, a in enumerate(drawn[0]) for b in drawn[0][:n])


def test_dihedral_is_the_group_of_eight_symmetries_of_the_square() -> None:
    group = transforms("dihedral", 4, 4)
    assert {tuple(p) for p in group} == {tuple(p[q]) for p in group for q in group}, "closed under composition"
    assert len({tuple(p) for p in group}) == 8
    assert (np.sort(group, 1) == np.arange(16)).all()
    assert (group[0] == np.arange(16)).all()
    square = np.arange(16).reshape(4, 4)
    for picture in (np.rot90(square), square[::-1], square.T):
        assert any((square.ravel()[p] == picture.ravel()).all() for p in group)


def test_images_that_are_not_square_keep_their_shape() -> None:
    flat, group = np.arange(8), transforms("dihedral", 2, 4)
    pictures = [flat.reshape(2, 4)[::a, ::b].ravel() for a in (1, -1) for b in (1, -1)]
    assert {tuple(flat[p]) for p in group} == {tuple(p) for p in pictures}
    assert transforms("none", 2, 4).tolist() == [flat.tolist()]


def test_one_transform_turns_all_images_of_a_class() -> None:
    held = images(shape=(2, 4, 4))
    sampler = EpisodeSampler(held, ways=2, length=10, augment="dihedral")
    turn = [lambda x, r=r, m=m: np.rot90(x, r, (-2, -1))[..., :: 1 - 2 * m] for r in range(4) for m in (0, 1)]
    used = set()
    for i in range(40):
        draw = sampler.draw(i)
        shown = sampler.gather([draw])[0].numpy()
        for way in range(2):
            mine = np.flatnonzero(draw.ways == way)
            fitting = [k for k in range(8) if (turn[k](held.pixels[draw.images[mine]]) == shown[mine]).all()]
            assert fitting, "no single transform explains the images of a class"
            used |= {k for k in fitting if len(fitting) == 1}
    assert used == set(range(8))


def test_a_share_of_the_classes_is_transformed() -> None:
    def transforms_of(share: float) -> np.ndarray:
        sampler = EpisodeSampler(images(), ways=2, length=40, augment="dihedral", augment_share=share)
        return np.concatenate([sampler.draw(i).transform[:1] for i in range(4000)])

    assert not transforms_of(0.0).any()
    half = transforms_of(0.5)
    assert uniform_p(half[half > 0] - 1, 7) > 1e-6
    kept = (half == 0).mean()  # a transform drawn is the identity once in eight
    assert abs(kept - (0.5 + 0.5 / 8)) < 5 * np.sqrt(0.25 / 4000)
    assert abs((transforms_of(1.0) == 0).mean() - 1 / 8) < 5 * np.sqrt(0.11 / 4000)


def test_sequential_episodes_show_each_image_those_before_it() -> None:
    episode = EpisodeSampler(images(), length=5).episode(range(3))
    assert episode.support.shape == (3, 5, 1, 4, 4)
    assert episode.query is episode.support
    assert torch.equal(episode.seen(), torch.ones(5, 5).tril(-1).bool().expand(3, 5, 5))


def test_support_and_query_are_laid_out_by_class() -> None:
    sampler = EpisodeSampler(images(), ways=3, shots=2, queries=4)
    episode, draw = sampler.episode([0, 1]), sampler.draw(1)
    assert episode.support.shape == (2, 6, 1, 4, 4)
    assert episode.query.shape == (2, 12, 1, 4, 4)
    assert episode.visible is None
    assert draw.ways.tolist() == [0, 0, 1, 1, 2, 2, *[0] * 4, *[1] * 4, *[2] * 4]
    pixels = torch.from_numpy(sampler.images.pixels[draw.images]).float()
    assert torch.equal(torch.cat([episode.support[1], episode.query[1]]), pixels)


def test_no_shots_give_an_empty_support() -> None:
    episode = EpisodeSampler(images(), ways=2, shots=0, queries=3).episode([0])
    assert episode.support.shape == (1, 0, 1, 4, 4)
    assert episode.query.shape == (1, 6, 1, 4, 4)


def test_grey_values_lie_between_0_and_1() -> None:
    held = images(levels=256)
    sampler = EpisodeSampler(held, length=20, ways=12)
    values = sampler.gather([sampler.draw(0)])
    assert values.dtype == torch.float32
    assert torch.equal(values[0], torch.from_numpy(held.pixels[sampler.draw(0).images]).float() / 255)


def test_the_digest_names_data_protocol_seed_and_episodes() -> None:
    def name(count: int = 9, held: Images | None = None, **settings: Any) -> str:
        return EpisodeSampler(held or images(), **{"length": 6, **settings}).digest(count)

    changed = images().pixels.copy()
    changed[0] ^= 1
    other = Images("letters", "train", changed, images().labels, images().class_names)
    names = [
        name(),
        name(count=10),
        name(seed=1),
        name(protocol="published"),
        name(ways=2),
        name(length=7),
        name(augment="dihedral"),
        name(held=other),
        name(shots=5),
    ]
    assert len(set(names)) == len(names)
    assert name() == names[0]


def test_the_evaluation_list_is_what_it_was() -> None:
    """A changed constant means that results are no longer of the same sets: raise LIST_VERSION with it."""
    assert EpisodeSampler(images(), ways=2, length=6, seed=7).digest(25) == GOLDEN


SHORT = images((20, 3, 20, 0, 20))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"length": 6}, ["6 images a class", "'letters/01' (3)", "'letters/03' (0)", "--episodes.small skip"]),
        ({"ways": 2, "length": 7}, ["4 images a class", "'letters/01' (3)"]),
        ({"shots": 5, "queries": 2}, ["7 images a class", "'letters/01' (3)"]),
        ({"protocol": "published"}, ["1 images a class", "'letters/03' (0)"]),
        ({"length": 6, "small": "skip", "ways": 5}, ["4 classes", "5 ways", "--episodes.ways"]),
        ({"length": 100, "small": "skip"}, ["0 classes"]),
        ({"small": "drop"}, ["small='drop'", "skip"]),
        ({"protocol": "strickt"}, ["'strickt'", "strict, published"]),
        ({"augment": "rotate"}, ["'rotate'", "none, dihedral"]),
        ({"augment": "dihedral", "augment_share": 1.5}, ["augment_share is 1.5", "0 to 1"]),
        ({"ways": 0}, ["ways is 0", "1 or more"]),
        ({"ways": []}, ["ways is 0"]),
        ({"length": 0}, ["length is 0"]),
        ({"queries": 0}, ["queries is 0"]),
        ({"shots": -1}, ["shots is -1"]),
        ({"seed": -1}, ["seed is -1"]),
        ({"seed": 2**64}, ["seed is 18446744073709551616"]),
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_refused_with_the_edit(settings: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(FsgenError) as refused:
        EpisodeSampler(SHORT, **settings)
    message = str(refused.value)
    assert "\n" not in message
    assert [words for words in said if words not in message] == []


def test_a_long_list_of_short_classes_is_cut() -> None:
    with pytest.raises(DataError, match=r"'letters/04' \(3\) and 7 more hold fewer"):
        EpisodeSampler(images((3,) * 12), length=6)


def test_small_classes_can_be_skipped() -> None:
    sampler = EpisodeSampler(SHORT, length=6, small="skip")
    assert {c for i in range(200) for c in classes(sampler, sampler.draw(i))} == {0, 2, 4}


def test_episodes_of_different_sizes_do_not_share_a_batch() -> None:
    sampler = EpisodeSampler(images(), ways=[1, 2], shots=1)
    with pytest.raises(InputError, match="different numbers of ways"):
        sampler.episode(range(20))
