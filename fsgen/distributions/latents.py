"""Distributions of latents, from network outputs."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn import functional as F

LEAST_SCALE = 1e-4


def gaussian(parameters: Tensor) -> dist.Distribution:
    """Diagonal normal over the last axis: its first half the mean, softplus of its second half the scale."""
    loc, raw = full_precision(parameters).chunk(2, -1)
    return dist.Normal(loc, F.softplus(raw) + LEAST_SCALE).to_event(1)


def standard_normal(like: Tensor, dim: int) -> dist.Distribution:
    """N(0, I) over ``dim`` dimensions, of the device and precision of ``like``."""
    loc = full_precision(like).new_zeros(dim)
    return dist.Normal(loc, torch.ones_like(loc)).to_event(1)


def full_precision(x: Tensor) -> Tensor:
    """``x`` in float32 if autocast made it shorter: densities are summed over hundreds of pixels."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
