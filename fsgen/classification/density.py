"""The class under whose kernel density an image is most likely: a likelihood without any training."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fsgen.classification.classifier import EpisodicClassifier, Prior
from fsgen.classification.decision import Decision
from fsgen.errors import InputError
from fsgen.registry import classifier

Kernel = Callable[[Tensor, Tensor, float], Tensor]


def bernoulli_kernel(
    x: Float[Tensor, "B Q D"], centre: Float[Tensor, "B N D"], bandwidth: float
) -> Float[Tensor, "B Q N"]:
    """log of the chance that each pixel of the centre flips with probability ``bandwidth``; pixels 0 and 1."""
    flipped = torch.cdist(x, centre, p=1)
    return flipped * math.log(bandwidth) + (x.shape[-1] - flipped) * math.log1p(-bandwidth)


def gaussian_kernel(
    x: Float[Tensor, "B Q D"], centre: Float[Tensor, "B N D"], bandwidth: float
) -> Float[Tensor, "B Q N"]:
    """log N(x; centre, bandwidth^2 I)."""
    far = torch.cdist(x, centre, compute_mode="donot_use_mm_for_euclid_dist").square()
    return -far / (2 * bandwidth**2) - x.shape[-1] * math.log(bandwidth * math.sqrt(2 * math.pi))


KERNELS: dict[str, Kernel] = {"bernoulli": bernoulli_kernel, "gaussian": gaussian_kernel}


@classifier("kernel-density")
class KernelDensity(EpisodicClassifier):
    r"""Kernel density estimate on pixels, with a bandwidth that is given and never fitted.

    .. math:: \mathrm{score}_c(x) = \log \frac{1}{S_c} \sum_{s=1}^{S_c} K_h(x; x_s)

    Args:
        kernel: bernoulli (each pixel flips with probability h) or gaussian (of standard deviation h).
        bandwidth: h; of a bernoulli kernel between 0 and 1/2.
        prior, seed: see :class:`EpisodicClassifier`.

    Raises:
        InputError: an unknown kernel or a bandwidth out of range; grey images under a bernoulli kernel.

    Source: Parzen (1962), "On estimation of a probability density function and mode"; the kernel of binary data is
    that of Aitchison & Aitken (1976).
    """

    def __init__(
        self, *, kernel: str = "bernoulli", bandwidth: float = 0.05, prior: Prior = "uniform", seed: int = 0
    ) -> None:
        super().__init__(prior=prior, seed=seed)
        if kernel not in KERNELS:
            raise InputError(f"KernelDensity: no kernel '{kernel}'. Known: {', '.join(KERNELS)}.")
        if not 0 < bandwidth < (0.5 if kernel == "bernoulli" else math.inf):
            raise InputError(f"KernelDensity: bandwidth {bandwidth}; give a positive one, below 1/2 for bernoulli.")
        self.kernel, self.bandwidth = kernel, bandwidth
        self.levels = 2 if kernel == "bernoulli" else 256

    def log_scores(self, decision: Decision) -> Float[Tensor, "B Q C"]:
        """log of the density of each query, nats, float64."""
        held, sets = decision.seen(), decision.sets.double().flatten(3)
        query = decision.query.double().flatten(2)
        found = KERNELS[self.kernel](query, sets.flatten(1, 2), self.bandwidth)
        nats = found.unflatten(-1, held.shape[1:]).masked_fill(~held[:, None], -torch.inf)
        return nats.logsumexp(-1) - held.sum(-1, dtype=torch.float64)[:, None].log()
