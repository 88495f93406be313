"""Images drawn pixel by pixel in one of several orders, none of which is preferred."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fsgen.distributions.autoregressive import Autoregressive, PixelProgram, distinct
from fsgen.distributions.heads import Head

ORDERS = ("raster", "dihedral")


def turns(orders: str, height: int, width: int) -> Int[Tensor, "G N"]:
    """Places of the pixels, in raster order, of each turned image: ``turned = image.flatten()[turns[g]]``.

    Reading a turned image in raster order reads the image in another order: "raster" is that order alone, "dihedral"
    those of the rotations by 90 degrees and their mirror images, 8 of them, or the 4 that keep the shape where the
    image is not square. The first is raster order.

    Raises:
        ValueError: unknown name.
    """
    if orders not in ORDERS:
        raise ValueError(f"no orders '{orders}'. Known: {', '.join(ORDERS)}.")
    grid = torch.arange(height * width).view(height, width)
    if orders == "raster":
        return grid.view(1, -1)
    quarters = range(4) if height == width else (0, 2)
    return torch.stack([g.flatten() for k in quarters for g in (grid.rot90(k), grid.rot90(k).flip(1))])


def turned(images: Float[Tensor, "*N C H W"], turn: Int[Tensor, " P"]) -> Float[Tensor, "*N C H W"]:
    """Images whose pixel i is the one that was at place ``turn[i]``; what is one image expanded stays one."""
    few, _ = distinct(images)
    return few.flatten(-2)[..., turn].unflatten(-1, images.shape[-2:]).expand(images.shape)


class OrderAverage(dist.TorchDistribution):
    r"""The mean of distributions that read the image in different orders; as exact as each of them.

    .. math:: \log p(x) = \log \frac1G \sum_g p_g(T_g x)

    T_g turns the image and keeps its pixels: every p_g, an :class:`Autoregressive`, is a distribution over images.

    Args:
        turns: [G, H W], see :func:`turns`. programs: of p_g, of turned images. head, batch_shape, event_shape, like: as
            of :class:`Autoregressive`.

    Source: Uria et al. (2014), "A deep and tractable density estimator", sec. 4, arXiv:1310.1757, where the density is
    the mean over orders; of images: Jain et al. (2020), "Locally masked convolution for autoregressive models", sec. 5,
    arXiv:2006.12486.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(
        self,
        turns: Int[Tensor, "G P"],
        programs: Sequence[PixelProgram],
        head: Head,
        batch_shape: Sequence[int],
        event_shape: Sequence[int],
        like: Tensor,
    ) -> None:
        self.turns, self.programs, self.head, self.like = turns, tuple(programs), head, like
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> OrderAverage:
        """The same distribution for a larger batch."""
        return OrderAverage(self.turns, self.programs, self.head, batch_shape, self.event_shape, self.like)

    def log_prob(self, value: Tensor) -> Tensor:
        """Exact, in nats, by one pass over the images an order."""
        nats = [self._read(g, self.batch_shape).log_prob(turned(value, turn)) for g, turn in enumerate(self.turns)]
        return torch.stack(nats).logsumexp(0) - math.log(len(nats))

    def _read(self, order: int, batch_shape: Sequence[int]) -> dist.Distribution:
        return Autoregressive(self.programs[order], self.head, batch_shape, self.event_shape, self.like)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Exact draws [*sample, *batch, *event], each in an order of its own."""
        shape = torch.Size((*sample_shape, *self.batch_shape))
        own = shape[-2:]
        order = torch.randint(len(self.turns), (math.prod(shape[:-2]), *own)).to(self.turns.device)
        images = self.like.new_zeros(*order.shape, *self.event_shape)
        for g, turn in enumerate(self.turns):
            chosen = order == g
            if rows := int(chosen.sum(0).max()):
                drawn = turned(self._read(g, (rows, *own)).sample(), turn.argsort())
                row = chosen.cumsum(0)[chosen] - 1
                images[chosen] = drawn[(row, *chosen.nonzero()[:, 1:].unbind(1))]
        return images.view(*shape, *self.event_shape)
