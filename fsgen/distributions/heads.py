"""Likelihood heads: the distribution of an image from the parameters a network gives at each pixel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from fsgen.distributions.latents import full_precision
from fsgen.distributions.logistics import LogisticMixture, parameters_of


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
        return bernoulli(parameters, parameters.shape[-3:])


class LogisticMixtureHead(Head):
    """Pixels of 256 values by :class:`fsgen.distributions.LogisticMixture`; a mass, so bits per dimension are defined.

    Args:
        components: logistics a pixel, M; M (1 + 2C + C(C-1)/2) outputs.
    """

    levels = 256

    def __init__(self, channels: int, components: int = 5) -> None:
        super().__init__(channels)
        self.components = components
        self.outputs = components * parameters_of(channels)

    def __call__(self, parameters: Float[Tensor, "*batch P H W"]) -> dist.Distribution:
        return LogisticMixture(full_precision(parameters), self.channels, self.components)


class GaussianHead(Head):
    r"""Pixels of 256 values as points of [0, 1] under independent normals: a density, not a mass.

    .. math:: x \sim N\!\left(\tfrac12 + \mu,\ \tfrac1{255} + \mathrm{softplus}(\rho - 1)\right)

    Zero outputs give mean 1/2 and scale 0.32, near the 0.29 of a uniform pixel. The scale is at least the distance
    of two values, 1/255: without such a floor the density of a pixel that is the same in all images has no upper
    bound; with it density times distance stays below 0.4, as a mass would. Samples may leave [0, 1].
    """

    levels = 256
    discrete = False
    least_scale = 1 / 255

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.outputs = 2 * channels

    def __call__(self, parameters: Float[Tensor, "*batch P H W"]) -> dist.Distribution:
        loc, raw = full_precision(parameters).chunk(2, -3)
        return dist.Normal(0.5 + loc, self.least_scale + F.softplus(raw - 1)).to_event(3)


def bernoulli(logits: Tensor, event_shape: Sequence[int]) -> dist.Distribution:
    """Independent pixels from logits [..., *event_shape]."""
    return dist.Bernoulli(logits=full_precision(logits)).to_event(len(event_shape))


HEADS: dict[str, type[Head]] = {
    "bernoulli": BernoulliHead,
    "gaussian": GaussianHead,
    "logistic-mixture": LogisticMixtureHead,
}
DEFAULTS = {2: "bernoulli", 256: "logistic-mixture"}


def head(name: str, channels: int) -> Head:
    """The likelihood head of a model's option ``likelihood``, for images of ``channels`` channels.

    Raises:
        ValueError: an unknown name.
    """
    if name not in HEADS:
        raise ValueError(f"no likelihood '{name}'. Known: {', '.join(sorted(HEADS))}.")
    return HEADS[name](channels)


def head_for(levels: int) -> str:
    """The name of the likelihood for images of so many values a pixel, where a user names none.

    Raises:
        ValueError: a number of levels that no head takes.

    >>> head_for(2), head_for(256)
    ('bernoulli', 'logistic-mixture')
    """
    if levels not in DEFAULTS:
        raise ValueError(f"no likelihood for pixels of {levels} levels. Known: {', '.join(map(str, DEFAULTS))}.")
    return DEFAULTS[levels]
