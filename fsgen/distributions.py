"""Distributions from network outputs, and the plates they live in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn import functional as F

from fsgen.episode import Episode

LEAST_SCALE = 1e-4


@contextmanager
def plates(episode: Episode) -> Iterator[None]:
    """The plates "episodes" [B] and "queries" [Q]: sites inside have batch shape [K, B, Q]."""
    with pyro.plate("episodes", episode.batch, dim=-2), pyro.plate("queries", episode.queries, dim=-1):
        yield


def gaussian(parameters: Tensor) -> dist.Distribution:
    """Diagonal normal over the last axis: its first half the mean, softplus of its second half the scale."""
    loc, raw = full_precision(parameters).chunk(2, -1)
    return dist.Normal(loc, F.softplus(raw) + LEAST_SCALE).to_event(1)


def standard_normal(like: Tensor, dim: int) -> dist.Distribution:
    """N(0, I) over ``dim`` dimensions, of the device and precision of ``like``."""
    loc = full_precision(like).new_zeros(dim)
    return dist.Normal(loc, torch.ones_like(loc)).to_event(1)


def bernoulli(logits: Tensor, event_shape: tuple[int, ...]) -> dist.Distribution:
    """Independent pixels from logits [..., *event_shape]."""
    return dist.Bernoulli(logits=full_precision(logits)).to_event(len(event_shape))


def full_precision(x: Tensor) -> Tensor:
    """``x`` in float32 if autocast made it shorter: densities are summed over hundreds of pixels."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
