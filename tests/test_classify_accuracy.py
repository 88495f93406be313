"""Accuracy over episodes: its interval covers, its calibration adds up, an episode is answered alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import SMALL_MODELS, strokes
from torch import Tensor

from fsgen.classification import Accuracy, Decision, EpisodicClassifier, accuracy
from fsgen.classification.accuracy import BINS, calibration_error, interval, reliability, share
from fsgen.data.images import Images
from fsgen.data.sampler import EpisodeSampler
from fsgen.errors import DataError, InputError
from fsgen.registry import CLASSIFIERS, build

MEMBERS: dict[str, Any] = dict(CLASSIFIERS.discover())


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return strokes("test", tmp_path, classes=6, images=8)


class KnowsClasses(EpisodicClassifier):
    """Finds each query's class by its rows of ink, and says so with a confidence; wrong by one class at times."""

    def __init__(self, confidence: float, wrong: float = 0.0) -> None:
        super().__init__()
        self.confidence, self.wrong = confidence, wrong

    def log_scores(self, decision: Decision) -> Tensor:
        batch, queries = decision.query.shape[:2]
        truth = torch.arange(queries) * decision.ways // queries
        said = (truth + (torch.rand(batch, queries) < self.wrong).long()) % decision.ways
        p = torch.full((batch, queries, decision.ways), (1 - self.confidence) / (decision.ways - 1))
        return p.scatter(-1, said[..., None], self.confidence).log()


def coverage(pooled: bool) -> float:
    """Share of 1000 synthetic evaluations whose interval holds the truth, 3/4: 150 episodes of 20 queries."""
    rng, hits = np.random.default_rng(5), 0
    for _ in range(1000):
        ease = rng.beta(3, 1, size=(150, 1))
        right = torch.from_numpy(rng.random((150, 20)) < ease)
        low, high = share(right.reshape(-1, 1) if pooled else right)[2]
        hits += low <= 0.75 <= high
    return hits / 1000


def test_the_interval_is_over_episodes_and_covers_the_truth() -> None:
    assert 0.92 <= coverage(pooled=False) <= 0.97
    assert coverage(pooled=True) < 0.85, "pooling the queries of an episode makes its interval too short"


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_an_interval_without_spread_is_that_of_counting(mean: float) -> None:
    low, high = interval(mean, 0.0, 100)
    assert abs(mean - (low + high - mean)) == pytest.approx(1 - 0.025**0.01)
    assert 0.975**100 > 0.07  # at 97.5 %, a hundred right answers in a row are no surprise
    assert interval(0.99, 0.02, 100)[1] == 1.0


def test_accuracy_counts_right_answers_episode_by_episode(images: Images) -> None:
    sampler = EpisodeSampler(images, ways=3, shots=2, queries=2, seed=1)
    found = accuracy(KnowsClasses(0.8, wrong=0.3), sampler, 400)
    assert abs(found.accuracy - 0.7) < 5 * found.se
    assert found.se == pytest.approx((0.21 / 6 / 400) ** 0.5, rel=0.2)
    assert found.accuracy == pytest.approx(np.mean(found.per_episode), abs=1e-4)
    assert (found.low, found.high) == interval(found.accuracy, found.se, 400)
    assert (found.ways, found.shots, found.queries, found.episodes, found.chance) == (3, 2, 2, 400, 1 / 3)
    assert found.log_loss == pytest.approx(-found.accuracy * np.log(0.8) - (1 - found.accuracy) * np.log(0.1))
    assert found.ece == pytest.approx(abs(found.accuracy - 0.8))
    assert [b["queries"] for b in found.bins] == [2400]
    assert found.confusion is None


def test_calibration_is_the_mean_distance_of_confidence_from_accuracy() -> None:
    confidence = torch.tensor([0.31, 0.33, 0.9, 0.95, 1.0]).double()
    bins = reliability(confidence, torch.tensor([True, False, True, True, False]))
    assert [b["queries"] for b in bins] == [2, 1, 2]
    assert bins[-1] == pytest.approx({"from": 14 / BINS, "to": 1.0, "queries": 2, "confidence": 0.975, "accuracy": 0.5})
    assert calibration_error(bins) == pytest.approx((2 * abs(0.5 - 0.32) + 0.1 + 2 * 0.475) / 5)


def test_a_calibrated_classifier_has_no_calibration_error(images: Images) -> None:
    sampler = EpisodeSampler(images, ways=5, shots=1, queries=2)
    assert accuracy(KnowsClasses(0.7, wrong=0.3), sampler, 1000).ece < 0.03


@pytest.mark.parametrize("name", sorted(MEMBERS))
def test_an_episode_is_answered_the_same_whatever_is_asked_beside_it(name: str, images: Images) -> None:
    options = {"context": "neural-statistician", "likelihood": "gmn", "cosine": "gmn"}
    sizes = {**SMALL_MODELS, "neural-statistician": {"dim_c": 2, "dim_z": 1, "channels": [4], "dim_features": 6}}
    member = MEMBERS[name]
    classifier = member(build(m := options[name], event_shape=(1, 4, 4), **sizes[m])) if name in options else member()
    sampler, before = EpisodeSampler(images, ways=3, shots=2, queries=1), torch.get_rng_state()
    done: list[int] = []
    few, many = accuracy(classifier, sampler, 5, advance=done.append), accuracy(classifier, sampler, 12)
    assert few.per_episode == many.per_episode[:5]
    assert sum(done) == 5
    assert torch.equal(before, torch.get_rng_state())
    assert 0 <= many.low <= many.accuracy <= many.high <= 1
    record = many.record()
    assert Accuracy(**record) == many
    assert {type(v) for v in record.values()} <= {int, float, list, type(None)}


def test_what_knows_the_strokes_is_far_above_chance_and_guessing_is_not(images: Images) -> None:
    sampler = EpisodeSampler(images, ways=5, shots=5, queries=1)
    assert accuracy(MEMBERS["kernel-density"](), sampler, 60).low > 0.4
    blind = build("pixelcnn", event_shape=(1, 4, 4), channels=4, layers=1)
    found = accuracy(MEMBERS["likelihood"](blind), sampler, 10)
    assert found.accuracy == pytest.approx(0.2)
    assert found.log_loss == pytest.approx(np.log(5))


def test_confusion_is_kept_where_every_episode_has_the_same_classes(images: Images) -> None:
    sampler = EpisodeSampler(images, ways=6, shots=2, queries=2)
    found = accuracy(KnowsClasses(0.9), sampler, 30)
    assert found.confusion == (60 * np.eye(6, dtype=int)).tolist()
    assert found.names == list(images.class_names)
    confused = accuracy(KnowsClasses(0.9, wrong=0.5), sampler, 30).confusion
    assert confused is not None
    assert np.array(confused).sum(1).tolist() == [60] * 6
    assert np.trace(np.array(confused)) < 300


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("settings", "episodes", "said"),
    [
        ({"ways": 1, "shots": 1}, 5, "2 ways or more and 1 shot or more"),
        ({"ways": 2, "shots": 0}, 5, "2 ways or more and 1 shot or more"),
        ({"ways": 2, "length": 4}, 5, "support/query episodes"),
        ({"ways": [2, 3], "shots": 1}, 5, "support/query episodes"),
        ({"ways": 2, "shots": 1}, 1, "1 episodes; give 2 or more"),
    ],
    ids=str,
)
def test_episodes_that_ask_nothing_are_refused(
    settings: dict[str, Any], episodes: int, said: str, images: Images
) -> None:
    with pytest.raises(InputError, match=said):
        accuracy(KnowsClasses(0.9), EpisodeSampler(images, **settings), episodes)


def test_images_that_a_classifier_does_not_take_are_refused(images: Images) -> None:
    sampler = EpisodeSampler(images, ways=2, shots=1)
    with pytest.raises(InputError, match=r"LikelihoodClassifier takes images of 2 levels and shape \[1, 5, 5\]"):
        accuracy(MEMBERS["likelihood"](build("beta-bernoulli", event_shape=(1, 5, 5))), sampler, 5)
    grey = Images("grey", "test", images.pixels * 255, images.labels, images.class_names, levels=256)
    with pytest.raises(InputError, match="KernelDensity takes images of 2 levels"):
        accuracy(MEMBERS["kernel-density"](), EpisodeSampler(grey, ways=2, shots=1), 5)


# Classes of one alphabet


def alphabets(sizes: dict[str, int]) -> Images:
    names = tuple(sorted(f"{group}/{c}" for group, size in sizes.items() for c in range(size)))
    labels = np.repeat(np.arange(len(names)), 3)
    return Images("alphabets", "test", np.zeros((len(labels), 1, 2, 2), np.uint8), labels, names)


def test_grouped_classes_come_from_one_group_and_groups_are_alike() -> None:
    images = alphabets({"large": 12, "medium": 6, "small": 2})
    sampler = EpisodeSampler(images, ways=4, shots=1, queries=1, grouped=True)
    drawn = []
    for i in range(400):
        (group,) = {images.groups[c] for c in images.labels[sampler.draw(i).images]}
        assert len(set(images.labels[sampler.draw(i).images])) == 4
        drawn.append(group)
    assert abs(drawn.count("large") - 200) < 50
    assert drawn.count("small") == 0


@pytest.mark.usefixtures("as_a_user")
def test_groups_that_cannot_fill_an_episode_are_refused(images: Images) -> None:
    with pytest.raises(DataError, match=r"the largest of 2 groups holds 6 usable classes, an episode 7"):
        EpisodeSampler(alphabets({"a": 6, "b": 2}), ways=7, shots=1, grouped=True)
    flat = Images("flat", "test", images.pixels, images.labels, tuple("abcdef"))
    with pytest.raises(InputError, match="in no groups"):
        EpisodeSampler(flat, ways=2, shots=1, grouped=True)
