"""Plain networks and the tensor idioms every model shares."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


def mlp(inputs: int, outputs: int, width: int = 64) -> nn.Sequential:
    """One hidden layer of ELU units."""
    return nn.Sequential(nn.Linear(inputs, width), nn.ELU(), nn.Linear(width, outputs))


def join(*parts: Tensor) -> Tensor:
    """Concatenates on the last axis after broadcasting the leading ones."""
    leading = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
    return torch.cat([p.expand(*leading, -1) for p in parts], -1)


def over_images(net: nn.Module, images: Tensor) -> Tensor:
    """``net`` [N, C, H, W] -> [N, ...] applied to images with any leading axes, none of them empty or not."""
    leading = images.shape[:-3]
    out = net(images.reshape(-1, *images.shape[-3:]))
    return out.reshape(*leading, *out.shape[1:])


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Parametric ReLU over the last axis."""
    return F.prelu(x.reshape(-1, x.shape[-1]), slope.to(x.dtype)).reshape(x.shape)


def he_normal(weight: Tensor, fan_in: int) -> None:
    """He et al. (2015): normal with variance 2 / fan_in."""
    nn.init.normal_(weight, std=math.sqrt(2 / fan_in))


def Affine(inputs: int, outputs: int) -> nn.Linear:
    """A weight-normalised affine map (Salimans & Kingma, 2016, eq. 2), He-initialised."""
    layer = nn.Linear(inputs, outputs)
    he_normal(layer.weight, inputs)
    nn.init.zeros_(layer.bias)
    return weight_norm(layer)


class GatedUnit(nn.Module):
    r"""Gated recurrent cell with a PReLU candidate.

    .. math::
        [g, u] = \sigma(W_g [x, h] + b_g), \quad c = \mathrm{prelu}(W_c [x, g h] + b_c), \quad h' = u h + (1 - u) c

    Source: Cho et al. (2014); candidate non-linearity as in Bartunov & Vetrov (2018), appendix.
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.gates = nn.Linear(inputs + units, 2 * units)
        self.candidate = nn.Linear(inputs + units, units)
        self.slope = nn.Parameter(torch.empty(units).uniform_(-0.02, 0.02))
        for layer in (self.gates, self.candidate):
            he_normal(layer.weight, inputs + units)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        keep, update = self.gates(torch.cat([x, state], -1)).sigmoid().chunk(2, -1)
        candidate = prelu(self.candidate(torch.cat([x, keep * state], -1)), self.slope)
        return update * state + (1 - update) * candidate


def channel_slopes(channels: int) -> nn.PReLU:
    """PReLU with one slope a channel, drawn near zero."""
    unit = nn.PReLU(channels)
    nn.init.uniform_(unit.weight, -0.01, 0.01)
    return unit


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
        self.act = channel_slopes(channels)

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
        self.act = channel_slopes(outputs)
        self.blocks = nn.Sequential(*(ResidualBlock(outputs, min(kernel, 3)) for _ in range(blocks)))
        self.shortcut = _initialised(nn.Conv2d(inputs, outputs, 1), gain=0.5, normalise=True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        if self.up:
            shortcut = F.interpolate(shortcut, self.after, mode="bilinear")
        else:
            shortcut = F.avg_pool2d(shortcut, self.kernel, 2)
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


class PreActivated(nn.Module):
    """x + conv(relu(conv(relu(x)))), the identity at first (He et al., 2016, arXiv:1603.05027)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.two = nn.Conv2d(channels, channels, 3, padding=1)
        he_normal(self.one.weight, 9 * channels)
        nn.init.zeros_(self.two.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.relu(self.one(F.relu(x))))


class ResidualEncoder(nn.Module):
    """Images [N, C, H, W] to features [N, dim]: pixels folded 2x2 into channels, then residual stages.

    Args:
        channels: of each stage; every stage after the first halves the size.
        dim: of the features.
        blocks: residual blocks a stage.
    """

    def __init__(self, event_shape: Sequence[int], channels: Sequence[int], dim: int, blocks: int) -> None:
        super().__init__()
        self.margins, start = _folded(event_shape, len(channels))
        stages: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(4 * event_shape[0], channels[0], 3, padding=1)]
        for i, width in enumerate(channels):
            if i:
                stages.append(nn.Conv2d(channels[i - 1], width, 2, 2))
            stages += [PreActivated(width) for _ in range(blocks)]
        self.stages = nn.Sequential(*stages, nn.ReLU(), nn.Flatten(), nn.Linear(channels[-1] * math.prod(start), dim))
        self.dim = dim

    def forward(self, images: Tensor) -> Tensor:
        return self.stages(F.pad(images, self.margins))


class ResidualDecoder(nn.Module):
    """A code [N, inputs] to pixel parameters [N, C, H, W]; the mirror of ResidualEncoder, same ``channels``."""

    def __init__(self, inputs: int, event_shape: Sequence[int], channels: Sequence[int], blocks: int) -> None:
        super().__init__()
        _, start = _folded(event_shape, len(channels))
        self.size = tuple(event_shape[1:])
        stages: list[nn.Module] = [
            nn.Linear(inputs, channels[-1] * math.prod(start)),
            nn.Unflatten(1, (channels[-1], *start)),
        ]
        for i, width in reversed(list(enumerate(channels))):
            stages += [PreActivated(width) for _ in range(blocks)]
            if i:
                stages.append(nn.ConvTranspose2d(width, channels[i - 1], 2, 2))
        last = nn.Conv2d(channels[0], 4 * event_shape[0], 3, padding=1)
        nn.init.normal_(last.weight, std=0.01)
        self.stages = nn.Sequential(*stages, nn.ReLU(), last, nn.PixelShuffle(2))

    def forward(self, code: Tensor) -> Tensor:
        return self.stages(code)[..., : self.size[0], : self.size[1]]


def _folded(event_shape: Sequence[int], stages: int) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """Margins (for F.pad) that make the size a multiple of 2**stages, and the size of the smallest map."""
    height, width = (-(-n // 2**stages) for n in event_shape[1:])
    return (0, width * 2**stages - event_shape[2], 0, height * 2**stages - event_shape[1]), (height, width)


def image_encoder(
    event_shape: Sequence[int], channels: Sequence[int], blocks: int, dim: int, kernels: Sequence[int] | None = None
) -> SectionEncoder | ResidualEncoder:
    """Images to features: residual stages, or the published sections where ``kernels`` are given."""
    if kernels is None:
        return ResidualEncoder(event_shape, channels, dim, blocks)
    return SectionEncoder(event_shape, channels, kernels, blocks)


def image_decoder(
    inputs: int, event_shape: Sequence[int], channels: Sequence[int], blocks: int, kernels: Sequence[int] | None = None
) -> SectionDecoder | ResidualDecoder:
    """Codes to pixel parameters; the mirror of :func:`image_encoder` with the same arguments."""
    if kernels is None:
        return ResidualDecoder(inputs, event_shape, channels, blocks)
    return SectionDecoder(inputs, event_shape, channels, kernels, blocks)
