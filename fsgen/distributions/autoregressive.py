"""Images drawn pixel by pixel, each given those before it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from fsgen.distributions.heads import Head
from fsgen.nets import Copies, GatedPixelCNN, PixelRefinement

Read = Callable[[Tensor], Tensor]
PixelParameters = Callable[[int, int], Tensor]  # row, column -> [*batch, P, 1, 1]


class PixelProgram(ABC):
    """Pixel parameters from the pixels before, for a batch of images [..., B, Q, C, H, W]."""

    @abstractmethod
    def parameters(self, images: Tensor) -> Tensor:
        """Parameters [..., B, Q, P, H, W] of all pixels at once, each from the pixels before it in raster order."""

    @abstractmethod
    def walk(self, images: Tensor) -> PixelParameters:
        """The same of one pixel after the other, in raster order, from ``images`` that the caller fills meanwhile."""


class GatedProgram(PixelProgram):
    """A gated PixelCNN, what it is conditioned on, and what its attention reads.

    Args:
        condition: map [B, Q, c, H, W] that every layer reads.
        read: answers [*K, B, Q, R] to queries [*K, B, Q, E]; the leading axes are pixels and particles.
    """

    def __init__(self, net: GatedPixelCNN, condition: Tensor | None = None, read: Read | None = None) -> None:
        self.net, self.condition, self.read = net, condition, read

    def parameters(self, images: Tensor) -> Tensor:
        leading = images.shape[:-3]
        images, copies = distinct(images)
        if self.condition is None and self.read is None:
            few = images.shape[:-3]
            return self.net(images.flatten(0, len(few) - 1)).unflatten(0, few).expand(*leading, -1, -1, -1)
        found = self.net(images.reshape(-1, *images.shape[-3:]), *self._context(leading), copies)
        return found.unflatten(0, leading)

    def walk(self, images: Tensor) -> PixelParameters:
        leading = images.shape[:-3]
        walk = self.net.walk(images.view(-1, *images.shape[-3:]), *self._context(leading))
        return lambda row, column: walk.parameters(row, column).unflatten(0, leading)

    def _context(self, leading: Sequence[int]) -> tuple[Tensor | None, Read | None]:
        """The condition and the reader for images whose leading axes are flattened into one."""
        condition, read = self.condition, self.read
        if condition is not None:
            condition = condition.expand(*leading, *condition.shape[-3:]).flatten(0, len(leading) - 1)
        if read is None:
            return condition, None
        whole = read

        def flat(queries: Tensor) -> Tensor:
            asked = queries.unflatten(0, tuple(leading)).flatten(-2).movedim(-1, 0)
            found = whole(asked)  # [h w, ..., B, Q, R]
            return found.movedim(0, -1).flatten(0, -3).unflatten(-1, tuple(queries.shape[-2:]))

        return condition, flat


def distinct(images: Tensor) -> tuple[Tensor, Copies | None]:
    """Images [..., C, H, W] without the copies of an axis that one image was expanded over: tasks, queries, shots."""
    leading = images.shape[:-3]
    same = [axis for axis, stride in enumerate(images.stride()[: len(leading)]) if stride == 0]
    for axis in same:
        images = images.narrow(axis, 0, 1)
    return images, Copies(tuple(images.shape[:-3]), tuple(leading)) if same else None


class RefinedProgram(PixelProgram):
    """Decoded maps, refined at each pixel by the pixels before it.

    Args:
        maps: [*K, B, Q, maps, H, W]; the images have no particles where they are observed.
    """

    def __init__(self, refinement: PixelRefinement, maps: Tensor) -> None:
        self.refinement, self.maps = refinement, maps

    def parameters(self, images: Tensor) -> Tensor:
        images, _ = distinct(images)
        return self.refinement(self.maps, images)

    def walk(self, images: Tensor) -> PixelParameters:
        mixed = self.refinement.mixed(self.maps)
        seen = GatedProgram(self.refinement.net).walk(images)

        def parameters(row: int, column: int) -> Tensor:
            here = (..., slice(row, row + 1), slice(column, column + 1))
            return self.refinement.joined(self.maps[here], mixed[here], seen(row, column))

        return parameters


class Autoregressive(dist.TorchDistribution):
    r"""p(x) as a product over pixels in raster order.

    .. math:: \log p(x) = \sum_i \log p(x_i \mid x_{<i})

    Scored in one pass over the image, drawn in one walk over its pixels. ``cached=False`` draws by a full pass a pixel
    instead: slower by the number of pixels, and the reference for the walk.

    Args:
        program: parameters of each pixel from those before it. head: distribution of a pixel from its parameters.
        batch_shape: (B, Q). event_shape: (C, H, W). like: a tensor of the device and precision of the images.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(
        self,
        program: PixelProgram,
        head: Head,
        batch_shape: Sequence[int],
        event_shape: Sequence[int],
        like: Tensor,
        *,
        cached: bool = True,
    ) -> None:
        self.program, self.head, self.like, self.cached = program, head, like, cached
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> Autoregressive:
        """The same distribution for a larger batch."""
        shape = torch.Size(batch_shape)
        return Autoregressive(self.program, self.head, shape, self.event_shape, self.like, cached=self.cached)

    def log_prob(self, value: Tensor) -> Tensor:
        """Exact, in nats, by one pass over the images."""
        nats = self.head(self.program.parameters(value)).log_prob(value)
        return nats.expand(torch.broadcast_shapes(self.batch_shape, nats.shape))

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Exact draws [*sample, *batch, *event]."""
        images = self.like.new_zeros(*sample_shape, *self.batch_shape, *self.event_shape)
        parameters = self.program.walk(images) if self.cached else self._passes(images)
        for row in range(self.event_shape[-2]):
            for column in range(self.event_shape[-1]):
                pixel = self.head(parameters(row, column)).sample()
                images[..., row : row + 1, column : column + 1] = pixel
        return images

    def _passes(self, images: Tensor) -> PixelParameters:
        return lambda row, column: self.program.parameters(images)[..., row : row + 1, column : column + 1]


def decoded(
    maps: Tensor, head: Head, event_shape: Sequence[int], refinement: PixelRefinement | None
) -> dist.Distribution:
    """p(x | z) from decoded maps [*K, B, Q, maps, H, W]: independent pixels, or each refined by those before it."""
    if refinement is None:
        return head(maps)
    like = refinement.last.weight
    return Autoregressive(RefinedProgram(refinement, maps), head, maps.shape[:-3], event_shape, like)
