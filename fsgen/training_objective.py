"""What a step maximises and what a validation reports, on sequential and on support/query episodes."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from fsgen.config import TrainConfig
from fsgen.data.sampler import EpisodeSampler
from fsgen.episode import Episode
from fsgen.evaluation import sequential_nats, support_query_nats
from fsgen.inference import Discriminative, of_own_class, terms
from fsgen.inference_labels import log_labels
from fsgen.model import Trainable


def objective_terms(
    model: Trainable, episode: Episode, particles: int, label_weight: float
) -> tuple[dict[str, Tensor], int]:
    r"""Terms by site of what is maximised, [K, R, U], and how many images each of the R rows scores.

    .. math:: \log p(x \mid X_c) + \lambda \log p(c \mid x, X_1 \dots X_C)

    A generative model scores the queries of a support/query episode given their own class, each class a row; where
    lambda is not 0 the site "label" holds the second summand, by Bayes' rule over the episode's classes. A learner has
    that term alone.
    """
    if isinstance(model, Discriminative) or episode.ways == 1:
        return terms(model, episode, particles), episode.queries
    apart = episode.by_class()
    parts = terms(model, apart, particles)
    if label_weight:
        own = of_own_class(log_labels(model, episode, particles)).reshape(-1, apart.queries)
        own = label_weight * own
        parts["label"] = (own if parts["x"].shape[-1] > 1 else own.sum(-1, keepdim=True)).expand_as(parts["x"])
    return parts, apart.queries


def validate(model: Trainable, sampler: EpisodeSampler, config: TrainConfig, seed: int) -> tuple[float, dict[str, Any]]:
    """What weights are selected by, lower is better, and the figures of a validation.

    NLL in nats per image, of the label for a learner; in mixed training that of the image plus lambda times that of
    the label, whose own figures stand beside it.
    """
    v, weight = config.validation, config.objective.label_weight
    if sampler.shots is None:
        by_shots = sequential_nats(model, sampler, v.sets, v.particles, seed=seed)
        rounded = [round(x, 3) for x in by_shots.mean(0).tolist()]
        found = {**_summary("validation", by_shots), "validation_by_shots": rounded}
        return found["validation_nats"], found
    nats, right = support_query_nats(model, sampler, v.sets, v.particles, labels=weight > 0, seed=seed)
    found = _summary("validation", nats["label" if "x" not in nats else "x"])
    criterion = found["validation_nats"]
    if "x" in nats and "label" in nats:
        found |= _summary("validation_label", nats["label"])
        criterion += weight * found["validation_label_nats"]
    return criterion, {**found, **({} if right is None else {"validation_accuracy": right.mean().item()})}


def _summary(name: str, nats: Tensor) -> dict[str, Any]:
    error = nats.mean(1).std() / math.sqrt(len(nats))
    return {f"{name}_nats": nats.mean().item(), f"{name}_se": error.item()}
