"""Labels of support/query episodes, by Bayes' rule over the classes of an episode."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fsgen.episode import Episode
from fsgen.inference import Discriminative, couples_queries, log_weights, same_noise


def log_labels(model: Any, episode: Episode, particles: int = 1) -> Float[Tensor, "B Q C"]:
    r"""log p(class | query, support) of a support/query episode, nats, float64: by Bayes' rule in a generative model.

    .. math:: \log p(c \mid x) = \log p(x \mid X_c) - \log \sum_k p(x \mid X_k)

    with the importance-weighted bound of K particles, whose noise the classes share, in place of a likelihood that is
    not exact.
    """
    if isinstance(model, Discriminative):
        return model.log_labels(episode).double()
    sets = episode.support.unflatten(1, (episode.ways, -1))
    two = Episode(sets[:1, 0], episode.query[:1, :1].expand(-1, 2, *episode.query.shape[2:]))
    state = torch.get_rng_state()
    apart = couples_queries(model, two)
    torch.set_rng_state(state)  # looking at the program runs it
    rows = [weights_by_class(model, s, q, particles, apart=apart) for s, q in zip(sets, episode.query, strict=True)]
    return torch.stack(rows, 1).logsumexp(0).log_softmax(-1)


def weights_by_class(
    model: Any,
    sets: Float[Tensor, "C S *event"],
    query: Float[Tensor, "Q ..."],
    particles: int = 1,
    *,
    apart: bool = False,
) -> Float[Tensor, "K Q C"]:
    """Log-weights of every query under every class, with noise that the classes share.

    Classes are the episodes of a batch, whose supports are encoded once; queries are shared by them and encoded once.

    Args:
        apart: each query in an episode of its own, as for a model whose latent couples them.
    """
    ways, count = len(sets), len(query)
    if apart:
        queries = query.repeat(ways, *[1] * (query.ndim - 1))[:, None]
        episode = Episode(sets.repeat_interleave(count, 0), queries)
    else:
        episode = Episode(sets, query.expand(ways, *query.shape))
    with same_noise():
        weights = log_weights(model, episode, particles)
    return weights.reshape(particles, ways, count).transpose(1, 2)
