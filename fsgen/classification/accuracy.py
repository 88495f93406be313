"""Accuracy of a classifier over episodes, with its uncertainty and its calibration."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fsgen.classification.classifier import EpisodicClassifier
from fsgen.classification.decision import Decision
from fsgen.data.sampler import EpisodeSampler
from fsgen.errors import InputError
from fsgen.evaluation import own_random_state

BINS = 15


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers over a list of episodes.

    Attributes:
        ways: classes an episode. shots, queries: images a class that are shown, and that are asked about.
        accuracy: share of queries answered right; se: its standard error over episodes, whose queries are not
            independent; low, high: its 95 % interval.
        log_loss: mean -log p(true class | query), nats. chance: of an accuracy by guessing.
        ece: expected calibration error, the mean distance of confidence from accuracy over ``bins``.
        bins: of the queries by the probability of their answer: from, to, queries, confidence and accuracy.
        confusion: answers [true, given] of the classes of ``names`` where every episode has the same; else None.
        per_episode: share of right answers of every episode in list order, for paired comparisons.
    """

    ways: int
    shots: int
    queries: int
    episodes: int
    accuracy: float
    se: float
    low: float
    high: float
    chance: float
    log_loss: float
    ece: float
    bins: list[dict[str, float]]
    confusion: list[list[int]] | None
    names: list[str] | None
    per_episode: list[float] = field(repr=False)

    def record(self) -> dict[str, Any]:
        """Plain numbers for results.jsonl."""
        return asdict(self)


@torch.no_grad()
def accuracy(
    classifier: EpisodicClassifier,
    sampler: EpisodeSampler,
    episodes: int,
    *,
    seed: int = 0,
    advance: Callable[[int], None] = lambda n: None,
) -> Accuracy:
    """How often a classifier is right, over the sampler's episodes 0, 1, ...

    What an episode draws is drawn under a seed of its own, so that it is answered the same whatever else is asked.

    Args:
        sampler: support/query episodes of two ways or more and one shot or more.
        advance: called with the number of episodes done since its last call.

    Raises:
        InputError: another kind of episodes, too few of them, or images that the classifier does not take.
    """
    _refuse(classifier, sampler, episodes)
    ways, shots = sampler.ways[0], int(sampler.shots or 0)
    truth = torch.arange(ways).repeat_interleave(sampler.queries)
    same = len(sampler.classes) == ways
    log_p, owners = [], []
    for i in range(episodes):
        draw = sampler.draw(i)
        images = sampler.gather([draw])
        decision = Decision(images[:, : ways * shots].unflatten(1, (ways, shots)), images[:, ways * shots :])
        with own_random_state(classifier.like()):
            torch.manual_seed(int(np.random.SeedSequence([seed, i]).generate_state(1)[0]))
            log_p.append(classifier.log_scores(decision)[0].double().cpu().log_softmax(-1))
        owners.append(torch.tensor(sampler.images.labels[draw.images[: ways * shots : shots]]))
        advance(1)
    found = torch.stack(log_p)
    confidence, answer = found.max(-1)
    right = answer == truth
    mean, se, (low, high) = share(right)
    bins = reliability(confidence.exp().flatten(), right.flatten())
    classes = torch.stack(owners)
    return Accuracy(
        ways=ways,
        shots=shots,
        queries=sampler.queries,
        episodes=episodes,
        accuracy=mean,
        se=se,
        low=low,
        high=high,
        chance=1 / ways,
        log_loss=-found.gather(-1, truth.expand(episodes, -1)[..., None]).mean().item(),
        ece=calibration_error(bins),
        bins=bins,
        confusion=_confusion(classes[:, truth], classes.gather(1, answer), ways) if same else None,
        names=[sampler.images.class_names[c] for c in sampler.classes] if same else None,
        per_episode=[round(v, 4) for v in right.double().mean(-1).tolist()],
    )


def share(right: Bool[Tensor, "N Q"]) -> tuple[float, float, tuple[float, float]]:
    """Share of right answers, its standard error over episodes, and its :func:`interval`.

    The queries of an episode share its classes and its support: to pool them would make the error too small.
    """
    episodes = right.double().mean(-1)
    mean, se = episodes.mean().item(), episodes.std().item() / math.sqrt(len(episodes))
    return mean, se, interval(mean, se, len(episodes))


def interval(mean: float, se: float, episodes: int) -> tuple[float, float]:
    """95 % interval of an accuracy: normal over episodes, within 0 and 1.

    Where all episodes are right (or wrong) there is no spread to go by: then the bound is that of the share of such
    episodes, which is no larger than the accuracy (Clopper & Pearson, 1934).

    >>> interval(0.5, 0.05, 100), interval(1.0, 0.0, 100)
    ((0.402, 0.598), (0.9637..., 1.0))
    """
    if se == 0 and mean in (0.0, 1.0):
        bound = 0.025 ** (1 / episodes)
        return (bound, 1.0) if mean == 1 else (0.0, 1 - bound)
    return max(0.0, mean - 1.96 * se), min(1.0, mean + 1.96 * se)


def reliability(confidence: Float[Tensor, " N"], right: Bool[Tensor, " N"]) -> list[dict[str, float]]:
    """Answers by their probability, in ``BINS`` bins of one width; empty ones are left out."""
    number = (confidence.clamp(0, 1) * BINS).long().clamp(max=BINS - 1)
    return [
        {
            "from": b / BINS,
            "to": (b + 1) / BINS,
            "queries": int(inside.sum()),
            "confidence": confidence[inside].mean().item(),
            "accuracy": right[inside].double().mean().item(),
        }
        for b in range(BINS)
        if bool((inside := number == b).any())
    ]


def calibration_error(bins: list[dict[str, float]]) -> float:
    r"""Expected calibration error.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{N} |\mathrm{acc}_b - \mathrm{conf}_b|

    Source: Guo et al. (2017), "On calibration of modern neural networks", eq. 3.
    """
    total = sum(b["queries"] for b in bins)
    return sum(b["queries"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / total


def _refuse(classifier: EpisodicClassifier, sampler: EpisodeSampler, episodes: int) -> None:
    if not sampler.shots or len(sampler.ways) != 1 or sampler.ways[0] < 2:
        raise InputError("accuracy: give a sampler of support/query episodes of 2 ways or more and 1 shot or more.")
    if episodes < 2:
        raise InputError(f"accuracy: {episodes} episodes; give 2 or more.")
    images, who = sampler.images, type(classifier).__name__
    if classifier.event_shape not in (None, images.event_shape) or (classifier.levels == 2 and images.levels > 2):
        raise InputError(
            f"{who} takes images of {classifier.levels} levels and shape "
            f"{list(classifier.event_shape or images.event_shape)}, but these are {images} of {images.levels} levels; "
            f"choose others."
        )


def _confusion(true: Tensor, given: Tensor, ways: int) -> list[list[int]]:
    """Counts [true, given]; the classes of the list are numbered by their order."""
    order = torch.unique(true)
    cells = torch.searchsorted(order, true) * ways + torch.searchsorted(order, given)
    found: list[list[int]] = torch.bincount(cells.flatten(), minlength=ways * ways).reshape(ways, ways).tolist()
    return found
