"""Gated PixelCNN: parameters of each pixel from the pixels before it, in one pass or pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Read = Callable[[Tensor], Tensor]  # queries [N, E, h, w] -> what they find [N, R, h, w]


@dataclass(frozen=True)
class Copies:
    """How images stand for more of them: axis by axis of a batch, either all are different or all are the same.

    Args:
        distinct: sizes of the axes, 1 where all are the same. total: sizes of the axes.
    """

    distinct: tuple[int, ...]
    total: tuple[int, ...]

    def add(self, each: Tensor, common: Tensor) -> Tensor:
        """[prod(total), ...] from ``common`` [prod(distinct), ...] and ``each``, which has either number."""
        sizes = self.total if len(each) == math.prod(self.total) else self.distinct
        found = each.unflatten(0, sizes) + common.unflatten(0, self.distinct)
        return found.expand(*self.total, *found.shape[len(self.total) :]).flatten(0, len(self.total) - 1)


class GatedLayer(nn.Module):
    r"""One layer of two stacks: the vertical one sees rows above, the horizontal one the row to the left.

    .. math::
        v' = \tanh(\tfrac12 a_v) \odot \sigma(b_v), \quad [a_v, b_v] = \mathrm{conv}_{\text{above}}(v), \qquad
        h' = h + W(\tanh(\tfrac12 a_h) \odot \sigma(b_h)), \quad
        [a_h, b_h] = \mathrm{conv}_{\text{left}}(h) + L [a_v, b_v, s]

    with s the condition at the pixel. In the first layer neither stack sees the pixel itself (mask A) and there is
    no residual connection; in the later ones both do (mask B). Kernels hold only the taps a mask would leave, and the
    vertical stack feeds the horizontal one at the same row, so no pixel before the present one is out of sight.

    Args:
        inputs, channels: of the stacks before and after; they differ in the first layer alone.
        kernel: (rows, columns to either side, pixels to the left) that a stack sees.
        condition: channels of s; 0 for none.

    Source: van den Oord et al. (2016), sec. 2.2 and 2.3, eq. 2, fig. 2, arXiv:1606.05328.
    """

    def __init__(
        self, inputs: int, channels: int, kernel: tuple[int, int, int], condition: int, *, first: bool = False
    ) -> None:
        super().__init__()
        rows, sides, left = kernel
        shift = 0 if first else 1  # mask B sees one pixel more in each stack: its own
        self.first, self.rows, self.sides, self.left, self.before = first, rows, sides, left, left - shift
        # margins for F.pad before, which is cheaper than padding on all sides and cutting the gates; negative ones cut
        self.margins_above = (sides, sides, rows - shift, shift - 1)
        self.margins_left = (self.before, shift - 1, 0, 0)
        self.vertical = nn.Conv2d(inputs, 2 * channels, (rows, 2 * sides + 1))
        self.horizontal = nn.Conv2d(inputs, 2 * channels, (1, left), bias=False)
        self.link = nn.Conv2d(2 * channels + condition, 2 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, v: Tensor, h: Tensor, condition: Tensor | None, copies: Copies | None) -> tuple[Tensor, Tensor]:
        above = self.vertical(F.pad(v, self.margins_above))
        left = self.horizontal(F.pad(h, self.margins_left))
        if copies is None:
            gates = left + self.linked(above, condition)
        else:
            weight, inside = self.link.weight, above.shape[1]
            gates = copies.add(left, F.conv2d(above, weight[:, :inside], self.link.bias))
            if condition is not None:
                gates = gates + F.conv2d(condition.to(gates.dtype), weight[:, inside:])
        return gate(above), self.joined(gates, h)

    def linked(self, above: Tensor, condition: Tensor | None) -> Tensor:
        """What the vertical stack and the condition add to the gates of the horizontal one."""
        return self.link(above if condition is None else torch.cat([above, condition.to(above.dtype)], 1))

    def joined(self, gates: Tensor, h: Tensor) -> Tensor:
        """The horizontal stack after its gates."""
        out = self.out(gate(gates))
        return out if self.first else h + out


def gate(x: Tensor) -> Tensor:
    """tanh(a / 2) sigmoid(b) of the two halves a and b of the channels.

    As tanh(a / 2) = 2 sigmoid(a) - 1, both halves are one pass of the sigmoid, which is faster than the tanh.
    """
    a, b = x.sigmoid().chunk(2, 1)
    return (2 * a - 1) * b


class GatedPixelCNN(nn.Module):
    """Parameters of every pixel from the pixels before it in raster order.

    Args:
        inputs: channels of the image; the channels of one pixel never see each other (that is for the likelihood).
        outputs: parameters a pixel.
        channels, layers: width and depth. kernel: side of the receptive field a layer adds, odd.
        first_kernel: the same of the first layer, which sees the image.
        condition: channels of a map [N, condition, H, W] that every layer reads; 0 for none.
        asks: sizes (E, R) of the queries and answers of an attention half-way up the layers; None for none.
        size: (H, W), for the positions in the queries.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        channels: int,
        layers: int,
        *,
        kernel: int = 3,
        first_kernel: int = 7,
        condition: int = 0,
        asks: tuple[int, int] | None = None,
        size: tuple[int, int] = (28, 28),
    ) -> None:
        super().__init__()
        if layers < 1 or kernel < 3 or kernel % 2 == 0 or first_kernel < 3 or first_kernel % 2 == 0:
            raise ValueError(
                f"GatedPixelCNN: {layers} layers, kernels {first_kernel} and {kernel}; give 1 layer or more and odd "
                f"kernels from 3."
            )
        reach, far = kernel // 2, first_kernel // 2
        self.layers = nn.ModuleList([GatedLayer(inputs + 1, channels, (far, far, far), condition, first=True)])
        for _ in range(1, layers):
            self.layers.append(GatedLayer(channels, channels, (reach + 1, reach, reach + 1), condition))
        self.top = nn.Conv2d(channels, 2 * channels, 1)
        self.last = nn.Conv2d(2 * channels, outputs, 1)
        nn.init.normal_(self.last.weight, std=0.01)
        self.asking = layers // 2 if asks else None
        if asks:
            self.ask = nn.Conv2d(channels, asks[0], 1)
            self.position = nn.Parameter(0.1 * torch.randn(asks[0], *size))
            self.answer = nn.Conv2d(asks[1], channels, 1)

    def forward(
        self,
        images: Tensor,
        condition: Tensor | None = None,
        read: Read | None = None,
        copies: Copies | None = None,
    ) -> Tensor:
        """Parameters [N, outputs, H, W] of images [N, C, H, W] with values in [0, 1].

        Args:
            condition: [N, condition, H, W]. read: answers the queries of the attention.
            copies: the images are fewer than N and stand for N. The vertical stack, most of the work, sees neither
                condition nor attention and is computed for each of the fewer ones.
        """
        v = h = self.prepared(images)
        for number, layer in enumerate(self.stack):
            v, h = layer(v, h, condition, copies)
            if number == self.asking:
                h = self.informed(h, self.position, read)
        return self.read_out(h)

    @property
    def stack(self) -> list[GatedLayer]:
        """The layers, from the image up."""
        return [cast(GatedLayer, layer) for layer in self.layers]

    def prepared(self, images: Tensor) -> Tensor:
        """Values in [-1, 1], and a channel of ones that tells the image from the zeros around it."""
        return torch.cat([2 * images - 1, torch.ones_like(images[:, :1])], 1)

    def informed(self, h: Tensor, position: Tensor, read: Read | None) -> Tensor:
        """The horizontal stack after asking; ``position`` is that of the pixels in ``h``."""
        assert read is not None
        return h + self.answer(read(self.ask(h) + position))

    def read_out(self, h: Tensor) -> Tensor:
        """Parameters of the pixels of ``h``."""
        return self.last(F.relu(self.top(F.relu(h))))

    def walk(self, images: Tensor, condition: Tensor | None = None, read: Read | None = None) -> Walk:
        """The same network one pixel at a time over images that fill up as it goes."""
        return Walk(self, images, condition, read)


class Walk:
    """Parameters of one pixel after the other in raster order, each layer computed once a row or a pixel.

    The vertical stack needs the rows above alone: it is computed a row at a time. The horizontal stack needs a few
    pixels to the left: they are kept. So an image costs about as much arithmetic as one pass over it.

    Args:
        images: [N, C, H, W], read as it is filled by the caller: before parameters of pixel (i, j) are asked for,
            every pixel before it holds its value.
    """

    def __init__(self, net: GatedPixelCNN, images: Tensor, condition: Tensor | None, read: Read | None) -> None:
        self.net, self.images, self.condition, self.read = net, images, condition, read
        count, _, _, width = images.shape
        self.stack = net.stack
        self.above: list[Tensor] = []
        self.left: list[Tensor] = []
        self.linked = [images] * len(self.stack)
        for layer in self.stack:
            channels = layer.vertical.in_channels
            self.above.append(images.new_zeros(count, channels, layer.rows, width))
            self.left.append(images.new_zeros(count, channels, 1, layer.before + width))

    def parameters(self, row: int, column: int) -> Tensor:
        """[N, outputs, 1, 1] of pixel (row, column), the next one in raster order."""
        if column == 0:
            self._begin(row)
        else:
            self.left[0][..., self.stack[0].before + column - 1] = self._image(row, slice(column - 1, column))[..., 0]
        h = self.images
        for number, layer in enumerate(self.stack):
            if not layer.first:
                self.left[number][..., layer.before + column] = h[..., 0]
            seen = self.left[number][..., column : column + layer.left]
            gates = F.conv2d(seen, layer.horizontal.weight) + self.linked[number][..., column : column + 1]
            h = layer.joined(gates, h)
            if number == self.net.asking:
                place = self.net.position[:, row : row + 1, column : column + 1]
                h = self.net.informed(h, place, self.read)
        return self.net.read_out(h)

    def _begin(self, row: int) -> None:
        """The vertical stack of a row, from the rows above."""
        v = self._image(row - 1, slice(None)) if row else torch.zeros_like(self.above[0][:, :, :1])
        here = None if self.condition is None else self.condition[:, :, row : row + 1]
        for number, layer in enumerate(self.stack):
            self.above[number] = torch.cat([self.above[number][:, :, 1:], v], 2)
            above = F.conv2d(self.above[number], layer.vertical.weight, layer.vertical.bias, padding=(0, layer.sides))
            self.linked[number] = layer.linked(above, here)
            self.left[number].zero_()
            v = gate(above)

    def _image(self, row: int, columns: slice) -> Tensor:
        return self.net.prepared(self.images[:, :, row : row + 1, columns])
