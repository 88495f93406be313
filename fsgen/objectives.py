"""Bounds on log p(query | support). Pure tensor functions: no model, no Pyro, no state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from jaxtyping import Float
from torch import Tensor


def elbo(log_weights: Float[Tensor, "K B U"]) -> Float[Tensor, "B U"]:
    r"""Evidence lower bound of each unit, in nats: the mean log-weight over K particles.

    .. math:: \frac1K \sum_{k=1}^K \log w_k \quad\text{with}\quad E \log w \le \log p(\text{query} \mid \text{support})

    Raises:
        ValueError: if any weight is NaN or +inf.

    Source: Kingma & Welling (2014), eq. 2, arXiv:1312.6114.

    >>> import torch
    >>> elbo(torch.tensor([[[0.0]], [[2.0]]]))
    tensor([[1.]])
    """
    _refuse_nonfinite("elbo", log_weights)
    return log_weights.mean(0)


def iwae(log_weights: Float[Tensor, "K B U"]) -> Float[Tensor, "B U"]:
    r"""Importance-weighted bound of each unit, in nats.

    .. math:: \log \frac1K \sum_{k=1}^K w_k \le \log p(\text{query} \mid \text{support})

    in expectation, tight as K grows; K = 1 is the ELBO. Average over B *after* this call: averaging
    weights over episodes would bound the minibatch, not the episode.

    Args:
        log_weights: log p(query, z | support) - log q(z | query, support), nats; K particles.

    Returns:
        One bound per unit, nats (bits per dimension are -nats / (ln 2 C H W)).

    Raises:
        ValueError: if any weight is NaN or +inf; -inf is legal (a particle outside the support of p).

    Source: Burda, Grosse & Salakhutdinov (2016), eq. 8, arXiv:1509.00519.

    >>> import math, torch
    >>> iwae(torch.tensor([[[0.0]], [[math.log(3.0)]]]))  # log of the mean of 1 and 3
    tensor([[0.6931]])
    """
    _refuse_nonfinite("iwae", log_weights)
    return log_weights.logsumexp(0) - math.log(log_weights.shape[0])


def iwae_of_groups(log_weights: Float[Tensor, "K B U"], particles: int) -> Float[Tensor, "B U"]:
    r"""The bound with fewer particles, from the same weights: its mean over disjoint groups of k of the K, in nats.

    .. math:: \frac{1}{\lfloor K / k \rfloor} \sum_g \log \frac1k \sum_{i \in g} w_i

    Its expectation is that of :func:`iwae` with k particles. What is left over of K is not used.

    Raises:
        ValueError: fewer than 1 or more than K particles; any weight is NaN or +inf.

    >>> import math, torch
    >>> iwae_of_groups(torch.tensor([0.0, 1.0, math.log(3.0), 1.0])[:, None, None], 2)  # of log 2 and 1
    tensor([[0.8466]])
    """
    if not 1 <= particles <= len(log_weights):
        raise ValueError(f"iwae_of_groups: groups of {particles} of {len(log_weights)} particles; give 1 to K.")
    groups = len(log_weights) // particles
    apart = log_weights[: groups * particles].unflatten(0, (particles, groups))
    return iwae(apart.flatten(1, 2)).unflatten(0, (groups, -1)).mean(0)


def ess(log_weights: Float[Tensor, "K B U"]) -> Float[Tensor, "B U"]:
    r"""Effective sample share of each unit, in (0, 1].

    .. math:: \frac{(\sum_k w_k)^2}{K \sum_k w_k^2}

    1 means that every particle counts, 1/K that one particle carries the bound.

    Source: Kong (1992); Owen (2013), "Monte Carlo theory, methods and examples", eq. 9.13.

    >>> import torch
    >>> ess(torch.tensor([[[0.0]], [[0.0]], [[-100.0]], [[-100.0]]]))
    tensor([[0.5000]])
    """
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp() / log_weights.shape[0]


def combine(
    terms: Mapping[str, Float[Tensor, "K B U"]],
    *,
    kl_weight: float = 1.0,
    free_nats: float = 0.0,
    likelihood_weight: float = 1.0,
    pooled: Callable[[float], float] = float,
) -> Float[Tensor, "K B U"]:
    r"""Log-weights from named terms: the sum over sites, optionally annealed for training.

    .. math:: \log w = \gamma \log p(x \mid \cdot)
        + \beta \sum_{\text{sites } z} (\log p(z \mid \cdot) - \log q(z \mid \cdot))
        + \lambda \log p(c \mid x, \cdot)

    Args:
        terms: nats by site; site "x" is the likelihood, "label" the log-probability of the query's class, times
            its weight lambda in a mixed objective, and every other one is log p - log q of a latent.
        kl_weight: beta of the KL warm-up; 1 gives a true bound.
        free_nats: a latent site whose mean KL is below this many nats counts as exactly that many and
            gets no gradient, so that it is not switched off early in training.
        likelihood_weight: gamma, see :func:`two_term_weights`; 1 gives a true bound.
        pooled: gives a mean over this batch as that over all batches of the step, where processes share one.

    Source: Bowman et al. (2016), sec. 3.1; Kingma et al. (2016), appendix C.8 (free bits).
    """
    observed = {"x": likelihood_weight, "label": 1.0}
    total: Float[Tensor, "K B U"] | float = 0.0
    for site, term in terms.items():
        if site in observed:
            total = total + observed[site] * term
        else:
            idle = free_nats > 0 and -pooled(term.mean().item()) < free_nats
            total = total + kl_weight * (term.detach() * 0 - free_nats if idle else term)
    assert not isinstance(total, float)
    return total


def two_term_weights(alpha: float, halving: int, step: int) -> tuple[float, float]:
    r"""Weights (gamma, beta) of the likelihood and of the KL terms in the neural statistician's annealed loss.

    .. math:: \gamma = 1 + \alpha_t, \quad \beta = 1 / (1 + \alpha_t), \quad \alpha_t = \alpha\, 2^{-t / \text{halving}}

    Args:
        alpha: at step 0; 0 gives the plain bound at every step.
        halving: steps in which alpha falls to its half; 0 keeps it.

    Source: the two-term loss of public implementations of Edwards & Storkey (2017), where alpha is 1 and halves every
    epoch, such as github.com/conormdurkan/neural-statistician.

    >>> two_term_weights(1.0, 100, 0), two_term_weights(1.0, 100, 200)
    ((2.0, 0.5), (1.25, 0.8))
    """
    now = alpha * 0.5 ** (step / halving) if halving else alpha
    return 1 + now, 1 / (1 + now)


OBJECTIVES: dict[str, Callable[[Float[Tensor, "K B U"]], Float[Tensor, "B U"]]] = {"elbo": elbo, "iwae": iwae}


def _refuse_nonfinite(name: str, log_weights: Float[Tensor, "K B U"]) -> None:
    bad = (log_weights.isnan() | log_weights.isposinf()).any(0).any(-1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"{name}: NaN or +inf log-weight in episodes {bad} of {log_weights.shape[1]}.")
