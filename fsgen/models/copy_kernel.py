"""A mixture of noisy copies of the support: what a likelihood looks like that knows nothing but repeats.

References:
    Parzen (1962), "On estimation of a probability density function and mode".
    Aitchison & Aitken (1976), "Multivariate binary discrimination by the kernel method".
"""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from fsgen.distributions import bernoulli, full_precision, plates
from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.model import FewShotModel
from fsgen.registry import register


@register("copy-kernel")
class CopyKernel(FewShotModel):
    r"""Noisy copies of the support, and independent pixels for what is no copy; exact in closed form.

    .. math:: p(x \mid X) = w \prod_i \mathrm{Bern}(x_i; \pi_i)
        + \frac{1 - w}{|X|} \sum_{s \in X} \prod_i \varepsilon^{[x_i \ne s_i]} (1 - \varepsilon)^{[x_i = s_i]}

    without the second term where nothing is shown. It learns of a class nothing but which images it has seen: where a
    target may repeat an image of its support its score falls with every shot, and where it may not it hardly does.

    Options:
        event_shape: one image, (C, H, W), values 0 and 1.
        flip: initial epsilon, the chance that a pixel of a copy is another one. share: initial w. Both are learned, as
            are the pi.
    """

    def __init__(
        self, *, event_shape: tuple[int, int, int] = (1, 28, 28), flip: float = 0.05, share: float = 0.5
    ) -> None:
        super().__init__()
        if not (0 < flip < 0.5 and 0 < share < 1):
            raise InputError(f"copy-kernel: flip {flip}, share {share}; give flip of (0, 1/2) and share of (0, 1).")
        self.event_shape = event_shape
        self.flip = nn.Parameter(torch.tensor(math.log(flip / (1 - flip))))
        self.share = nn.Parameter(torch.tensor(math.log(share / (1 - share))))
        self.pixels = nn.Parameter(torch.zeros(event_shape))

    @classmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> CopyKernel:
        return cls(event_shape=event_shape)

    def model(self, episode: Episode) -> None:
        """p(x | support), one component an image of the support and one for all others."""
        shape = (episode.batch, episode.queries, episode.shots + 1, *self.event_shape)
        copies = full_precision(1 - 2 * episode.support) * self.flip
        logits = torch.cat([self.pixels.expand(episode.batch, 1, *self.event_shape), copies], 1)
        which = dist.Categorical(logits=self._weights(episode.seen()))
        images = bernoulli(logits[:, None].expand(shape), self.event_shape)
        with plates(episode):
            pyro.sample("x", dist.MixtureSameFamily(which, images), obs=episode.query)

    def guide(self, episode: Episode) -> None:
        """Nothing is latent."""

    def _weights(self, visible: Tensor) -> Tensor:
        """Log-weights [B, Q, 1 + S] of the components, up to a constant."""
        shown = visible.sum(-1, keepdim=True, dtype=self.share.dtype)
        odds = self.share + shown.clamp(min=1).log()
        return torch.cat([odds, torch.zeros_like(odds).expand(visible.shape).masked_fill(~visible, -torch.inf)], -1)
