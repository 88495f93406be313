"""Likelihood heads: the distribution of an image from the parameters a network gives at each pixel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor

from fsgen.distributions.latents import full_precision


class Head(ABC):
    """From pixel parameters [..., outputs, H, W] to a distribution over images [..., C, H, W].

    Pixels are independent given the parameters; the channels of a pixel need not be. H and W may be those of a part
    of an image, such as the one pixel that is drawn next.

    Args:
        channels: C, of the image.

    Attributes:
        outputs: parameters a pixel. levels: values a pixel can take. discrete: whether ``log_prob`` is that of a
            probability mass (so that bits per dimension are defined), not of a density.
    """

    outputs: int
    levels: int
    discrete: bool = True

    def __init__(self, channels: int) -> None:
        self.channels = channels

    @abstractmethod
    def __call__(self, parameters: Float[Tensor, "*batch P H W"]) -> dist.Distribution:
        """Event shape [C, H, W], values in [0, 1]."""


class BernoulliHead(Head):
    """Binary pixels from logits, one a channel."""

    levels = 2

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.outputs = channels

    def __call__(self, parameters: Float[Tensor, "*batch P H W"]) -> dist.Distribution:
        return dist.Bernoulli(logits=full_precision(parameters)).to_event(3)


def bernoulli(logits: Tensor, event_shape: Sequence[int]) -> dist.Distribution:
    """Independent pixels from logits [..., *event_shape]."""
    return dist.Bernoulli(logits=full_precision(logits)).to_event(len(event_shape))


HEADS: dict[str, type[Head]] = {"bernoulli": BernoulliHead}


def head(name: str, channels: int) -> Head:
    """The likelihood head of a model's option ``likelihood``, for images of ``channels`` channels.

    Raises:
        ValueError: an unknown name.
    """
    if name not in HEADS:
        raise ValueError(f"no likelihood '{name}'. Known: {', '.join(sorted(HEADS))}.")
    return HEADS[name](channels)
