"""Sample quality beside likelihood: are samples taken for their class, and do they vary as its own images do?

References: Boutin, Singhal, Thomas & Serre (2022), "Diversity vs. recognizability: human-like generalization in
one-shot generative models", arXiv:2205.10370.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fsgen.classification import Decision, Learner
from fsgen.classification.accuracy import share
from fsgen.classification.classifier import still
from fsgen.data.sampler import EpisodeSampler
from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.evaluation import own_random_state
from fsgen.inference import simulate
from fsgen.model import FewShotModel

Draw = Callable[[Tensor, int], Tensor]  # sets [C, S, *event] and a number M to samples [C, M, *event]


@dataclass(frozen=True)
class Estimate:
    """A figure over episodes, its standard error and its 95 % interval."""

    mean: float
    se: float
    low: float
    high: float


@dataclass(frozen=True)
class Quality:
    """What a critic finds of samples, and of as many other images of the same classes, over a list of episodes.

    Attributes:
        ways: classes an episode. shots: images a class that the samples are like. samples: M, a class.
        recognizability: share of samples that the critic puts into the class of their support; real_recognizability: of
            images. chance: of either by guessing.
        diversity: standard deviation of the critic's features within a class, samples over images: 1 is the spread of
            the class itself, 0 is one sample for all.
        novelty: distance of the features from those of the nearest support image, samples over images: 0 is a copy of
            the support, which is recognized always and, of several images, as diverse as they are.
        per_episode: shares and mean squares behind these figures, in list order, for paired comparisons.
    """

    ways: int
    shots: int
    samples: int
    episodes: int
    chance: float
    recognizability: Estimate
    real_recognizability: Estimate
    diversity: Estimate
    novelty: Estimate
    per_episode: dict[str, list[float]] = field(repr=False)

    def record(self) -> dict[str, Any]:
        """Plain numbers for results.jsonl."""
        return asdict(self)


@dataclass(frozen=True)
class Verdict:
    """A critic on the images of C classes: who is put into the own class, and the features' squares.

    Attributes:
        right: [C, M]. spread: of each class, their mean squared distance from its mean, without bias.
        distance: squared, from the nearest support image.
    """

    right: Bool[Tensor, "C M"]
    spread: Float[Tensor, " C"]
    distance: Float[Tensor, "C M"]


@torch.no_grad()
def quality(
    draw: Draw,
    critic: Learner,
    sampler: EpisodeSampler,
    episodes: int,
    *,
    seed: int = 0,
    advance: Callable[[int], None] = lambda n: None,
) -> Quality:
    r"""Recognizability, diversity and novelty of samples, over the sampler's episodes 0, 1, ...

    Each class is given by its S support images, to the model and to the critic alike; the images that samples are
    compared with are the queries of the episode, M other images of the class. With f the critic's embedding,

    .. math::
        \text{diversity}^2 = \frac{\mathbb E \sum_m \|f(\tilde x_m) - \bar f(\tilde x)\|^2}
            {\mathbb E \sum_m \|f(x_m) - \bar f(x)\|^2}, \qquad
        \text{novelty}^2 = \frac{\mathbb E \min_s \|f(\tilde x_m) - f(x_s)\|^2}
            {\mathbb E \min_s \|f(x_m) - f(x_s)\|^2}

    Args:
        draw: samples of each class, such as :func:`draws_of` a model; what it draws comes from torch's global
            generator, under a seed of its own for each episode.
        critic: a learner that was trained apart from the model, on other classes.
        sampler: support/query episodes of two ways or more, one shot or more and two queries or more.
        advance: called with the number of episodes done since its last call.

    Raises:
        InputError: another kind of episodes, too few of them, or images that the critic does not take.

    Source: Boutin et al. (2022), sec. 3.2: accuracy of a prototypical network, and the standard deviation of features
    within a class; here both beside the class's own images, and by one critic.
    """
    _refuse(critic, sampler, episodes)
    ways, shots, count = sampler.ways[0], int(sampler.shots or 0), sampler.queries
    found: list[tuple[Verdict, Verdict]] = []
    with still(critic):
        for i in range(episodes):
            images = sampler.gather([sampler.draw(i)])[0]
            sets = images[: ways * shots].unflatten(0, (ways, shots))
            real = images[ways * shots :].unflatten(0, (ways, count))
            with own_random_state(critic.like()):
                torch.manual_seed(int(np.random.SeedSequence([seed, i]).generate_state(1)[0]))
                samples = draw(sets, count).to(real).clamp(0, 1)  # a density may draw values beyond
                found.append((judged(critic, sets, samples), judged(critic, sets, real)))
            advance(1)
    ours, theirs = (
        {
            "right": torch.stack([v.right.flatten() for v in side]),
            "spread": torch.stack([v.spread.mean() for v in side]),
            "distance": torch.stack([v.distance.mean() for v in side]),
        }
        for side in zip(*found, strict=True)
    )
    return Quality(
        ways=ways,
        shots=shots,
        samples=count,
        episodes=episodes,
        chance=1 / ways,
        recognizability=_share(ours["right"]),
        real_recognizability=_share(theirs["right"]),
        diversity=ratio(ours["spread"], theirs["spread"]),
        novelty=ratio(ours["distance"], theirs["distance"]),
        per_episode={
            f"{prefix}{name}": [float(f"{v:.6g}") for v in _by_episode(values).tolist()]
            for prefix, side in (("", ours), ("real_", theirs))
            for name, values in side.items()
        },
    )


def draws_of(model: FewShotModel, budget: int = 256) -> Draw:
    """Independent samples of a model, each with latents of its own.

    Args:
        budget: samples drawn at a time, one a class at least, which bounds the memory.
    """

    def draw(sets: Tensor, count: int) -> Tensor:
        like, size = next(model.parameters()), max(1, budget // len(sets))
        episode = Episode(sets.to(like), like.new_zeros(len(sets), 1, *sets.shape[2:]))
        with still(model):
            parts = [
                simulate(model, episode, min(size, count - start))["x"][:, :, 0] for start in range(0, count, size)
            ]
        return torch.cat(parts).transpose(0, 1)

    return draw


def judged(critic: Learner, sets: Float[Tensor, "C S *event"], images: Float[Tensor, "C M *event"]) -> Verdict:
    """What the critic, shown the sets, finds of M images of each class; features and squares in float64."""
    decision = Decision(sets[None], images.flatten(0, 1)[None]).to(critic.like())
    answer = critic.log_scores(decision)[0].argmax(-1).cpu().unflatten(0, images.shape[:2])
    shown, asked = (part[0].double().cpu() for part in critic.embedded(decision))
    asked = asked.unflatten(0, images.shape[:2])
    off = (asked - asked.mean(1, keepdim=True)).square().sum(-1)
    apart = (asked[:, :, None] - shown[:, None]).square().sum(-1)
    return Verdict(answer == torch.arange(len(sets))[:, None], off.sum(1) / (images.shape[1] - 1), apart.amin(-1))


def ratio(ours: Float[Tensor, " N"], theirs: Float[Tensor, " N"]) -> Estimate:
    """Square root of the ratio of two means of squares over the same episodes; its interval is normal in the ratio.

    >>> ratio(torch.tensor([1.0, 3.0]), torch.tensor([4.0, 12.0]))
    Estimate(mean=0.5, se=0.0, low=0.5, high=0.5)
    """
    scale = theirs.mean()
    if not scale > 0:
        raise InputError("quality: the critic sees no difference between images of a class; give a trained one.")
    square = ours.mean() / scale
    error = ((ours - square * theirs) / scale).std() / math.sqrt(len(ours))
    mean, se = square.sqrt().item(), error.item()
    low, high = (math.sqrt(max(0.0, square.item() + end * se)) for end in (-1.96, 1.96))
    return Estimate(mean, se / (2 * mean) if mean else 0.0, low, high)


def _share(right: Bool[Tensor, "N Q"]) -> Estimate:
    mean, se, (low, high) = share(right)
    return Estimate(mean, se, low, high)


def _by_episode(values: Tensor) -> Tensor:
    return values.double().mean(-1) if values.ndim > 1 else values


def _refuse(critic: Any, sampler: EpisodeSampler, episodes: int) -> None:
    if not isinstance(critic, Learner):
        raise InputError(
            f"quality: {type(critic).__name__} is no critic; give a learner, such as prototypical-network."
        )
    if not sampler.shots or len(sampler.ways) != 1 or sampler.ways[0] < 2 or sampler.queries < 2:
        raise InputError("quality: give support/query episodes of 2 ways, 1 shot and 2 samples a class, or more.")
    if episodes < 2:
        raise InputError(f"quality: {episodes} episodes; give 2 or more.")
    images = sampler.images
    if (critic.event_shape, critic.levels) != (images.event_shape, images.levels):
        raise InputError(
            f"quality: the critic takes images of {critic.levels} levels and shape {list(critic.event_shape)}, but "
            f"these are {images} of {images.levels} levels; give another critic."
        )
