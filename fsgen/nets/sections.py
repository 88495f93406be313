"""The published residual sections: encoder and decoder of Bartunov & Vetrov (2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from fsgen.nets.layers import prelu


class ChannelSlopes(nn.Module):
    """PReLU with one slope a channel, drawn near zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels).uniform_(-0.01, 0.01))

    def forward(self, x: Tensor) -> Tensor:
        return prelu(x, self.weight, 1)


def _initialised(conv: nn.Conv2d | nn.ConvTranspose2d, *, gain: float = 1.0, normalise: bool = False) -> nn.Module:
    taps = math.prod(conv.kernel_size) / (math.prod(conv.stride) if isinstance(conv, nn.ConvTranspose2d) else 1)
    nn.init.normal_(conv.weight, std=gain * math.sqrt(2 / (conv.in_channels * taps)))
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return weight_norm(conv) if normalise else conv


class ResidualBlock(nn.Module):
    """h -> act(h + conv(h)), size and channels kept; begins near the identity."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        before, after = (kernel - 1) // 2, kernel // 2
        self.pad = nn.ZeroPad2d((before, after, before, after)) if kernel % 2 == 0 else nn.Identity()
        conv = nn.Conv2d(channels, channels, kernel, padding=0 if kernel % 2 == 0 else before)
        self.conv = _initialised(conv, gain=0.1, normalise=True)
        self.act = ChannelSlopes(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.conv(self.pad(x)))


class Section(nn.Module):
    """A strided convolution, residual blocks, and a shortcut around them that pools or resizes.

    Args:
        inputs, outputs: channels.
        sizes: spatial size (height, width) before and after; upwards where the second is larger.
        kernel: of the strided (or transposed) convolution; stride 2, no padding.

    Source: the residual sections of Bartunov & Vetrov (2018), appendix, arXiv:1612.02192.
    """

    def __init__(
        self, inputs: int, outputs: int, sizes: tuple[tuple[int, int], tuple[int, int]], kernel: int, blocks: int
    ) -> None:
        super().__init__()
        before, self.after = sizes
        self.up, self.kernel = self.after > before, kernel
        if self.up:
            extra = [b - ((a - 1) * 2 + kernel) for a, b in zip(before, self.after, strict=True)]
            self.scale = _initialised(
                nn.ConvTranspose2d(inputs, outputs, kernel, 2, output_padding=(extra[0], extra[1]))
            )
        else:
            self.scale = _initialised(nn.Conv2d(inputs, outputs, kernel, 2))
        self.act = ChannelSlopes(outputs)
        self.blocks = nn.Sequential(*(ResidualBlock(outputs, min(kernel, 3)) for _ in range(blocks)))
        self.shortcut = _initialised(nn.Conv2d(inputs, outputs, 1), gain=0.5, normalise=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            shortcut = F.interpolate(self.shortcut(x), self.after, mode="bilinear")
        else:
            shortcut = self.shortcut(F.avg_pool2d(x, self.kernel, 2))  # they commute, and the small map is cheaper
        return shortcut + self.blocks(self.act(self.scale(x)))


def section_sizes(size: tuple[int, int], kernels: Sequence[int]) -> list[tuple[int, int]]:
    """Spatial sizes before and after each stride-2 section without padding.

    >>> section_sizes((28, 28), (4, 3, 2))
    [(28, 28), (13, 13), (6, 6), (3, 3)]
    """
    sizes = [size]
    for kernel in kernels:
        height, width = ((n - kernel) // 2 + 1 for n in sizes[-1])
        if min(height, width) < 1:
            raise ValueError(f"images of {size[0]}x{size[1]} are too small for sections with kernels {tuple(kernels)}.")
        sizes.append((height, width))
    return sizes


class SectionEncoder(nn.Module):
    """Images [N, C, H, W] to features [N, dim] by downward sections.

    Args:
        channels, kernels: one number a section.
        blocks: residual blocks a section.
    """

    def __init__(
        self, event_shape: Sequence[int], channels: Sequence[int], kernels: Sequence[int], blocks: int
    ) -> None:
        super().__init__()
        sizes = section_sizes((event_shape[1], event_shape[2]), kernels)
        widths = [event_shape[0], *channels]
        self.sections = nn.Sequential(
            *(Section(widths[i], widths[i + 1], (sizes[i], sizes[i + 1]), k, blocks) for i, k in enumerate(kernels))
        )
        self.dim = channels[-1] * math.prod(sizes[-1])

    def forward(self, images: Tensor) -> Tensor:
        return self.sections(images).flatten(1)


class SectionDecoder(nn.Module):
    """A code [N, inputs] to pixel parameters [N, C, H, W] by upward sections.

    Takes the encoder's ``channels`` and ``kernels`` and mirrors them; the last section has half of its first channels.
    """

    def __init__(
        self, inputs: int, event_shape: Sequence[int], channels: Sequence[int], kernels: Sequence[int], blocks: int
    ) -> None:
        super().__init__()
        sizes = section_sizes((event_shape[1], event_shape[2]), kernels)[::-1]
        widths = [*channels[::-1], max(1, channels[0] // 2)]
        self.first = (widths[0], *sizes[0])
        self.start = nn.Linear(inputs, math.prod(self.first))
        nn.init.normal_(self.start.weight, std=inputs**-0.5)
        nn.init.zeros_(self.start.bias)
        self.sections = nn.Sequential(
            *(
                Section(widths[i], widths[i + 1], (sizes[i], sizes[i + 1]), kernel, blocks)
                for i, kernel in enumerate(reversed(kernels))
            )
        )
        self.last = _initialised(nn.Conv2d(widths[-1], event_shape[0], 1), gain=0.1)

    def forward(self, code: Tensor) -> Tensor:
        return self.last(self.sections(self.start(code).unflatten(1, self.first)))
