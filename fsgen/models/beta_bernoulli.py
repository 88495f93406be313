"""Independent pixels with a conjugate prior: the exact baseline.

References: Bernardo & Smith (2000), "Bayesian theory", sec. 5.2.
"""

from __future__ import annotations

import pyro
import torch
from torch import nn
from torch.nn import functional as F

from fsgen.distributions import bernoulli, plates
from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.model import FewShotModel
from fsgen.registry import register


@register("beta-bernoulli")
class BetaBernoulli(FewShotModel):
    r"""Independent pixels, each with a Beta prior updated by the support; exact in closed form.

    .. math:: p(x_i = 1 \mid \text{support}) = \frac{a_i + \sum_s x_{si}}{a_i + b_i + S}

    Options:
        event_shape: one image, (C, H, W), values 0 and 1.
        strength: initial a + b of every pixel, in pseudo-images; a and b are then learned.
    """

    def __init__(self, *, event_shape: tuple[int, int, int] = (1, 28, 28), strength: float = 2.0) -> None:
        super().__init__()
        if strength <= 0:
            raise InputError(f"beta-bernoulli: strength must be positive, got {strength}.")
        self.event_shape = event_shape
        raw = torch.full((2, *event_shape), strength / 2).expm1().log()
        self.raw = nn.Parameter(raw)

    @classmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> BetaBernoulli:
        return cls(event_shape=event_shape)

    def model(self, episode: Episode) -> None:
        """p(x | support), pixel by pixel."""
        a, b = F.softplus(self.raw)
        seen = episode.seen().to(episode.support.dtype)
        ink = torch.einsum("bqs,bschw->bqchw", seen, episode.support)
        count = seen.sum(-1)[..., None, None, None]
        logits = (a + ink).log() - (b + count - ink).log()
        with plates(episode):
            pyro.sample("x", bernoulli(logits, self.event_shape), obs=episode.query)

    def guide(self, episode: Episode) -> None:
        """Nothing is latent."""
