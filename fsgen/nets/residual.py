"""The library's own stages: residual encoder and decoder over folded pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.nets.layers import he_normal


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
        self.margins, start = folded(event_shape, len(channels))
        stages = encoder_stages(event_shape[0], channels, blocks)
        self.stages = nn.Sequential(*stages, nn.ReLU(), nn.Flatten(), nn.Linear(channels[-1] * math.prod(start), dim))
        self.dim = dim

    def forward(self, images: Tensor) -> Tensor:
        return self.stages(F.pad(images, self.margins))


class ResidualDecoder(nn.Module):
    """A code [N, inputs] to pixel parameters [N, C, H, W]; the mirror of ResidualEncoder, same ``channels``."""

    def __init__(self, inputs: int, event_shape: Sequence[int], channels: Sequence[int], blocks: int) -> None:
        super().__init__()
        _, start = folded(event_shape, len(channels))
        self.size = tuple(event_shape[1:])
        stages: list[nn.Module] = [
            nn.Linear(inputs, channels[-1] * math.prod(start)),
            nn.Unflatten(1, (channels[-1], *start)),
        ]
        stages += decoder_stages(channels, blocks)
        last = nn.Conv2d(channels[0], 4 * event_shape[0], 3, padding=1)
        nn.init.normal_(last.weight, std=0.01)
        self.stages = nn.Sequential(*stages, nn.ReLU(), last, nn.PixelShuffle(2))

    def forward(self, code: Tensor) -> Tensor:
        return self.stages(code)[..., : self.size[0], : self.size[1]]


def folded(event_shape: Sequence[int], stages: int) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """Margins (for F.pad) that make the size a multiple of 2**stages, and the size of the smallest map."""
    height, width = (-(-n // 2**stages) for n in event_shape[1:])
    return (0, width * 2**stages - event_shape[2], 0, height * 2**stages - event_shape[1]), (height, width)


def encoder_stages(image_channels: int, channels: Sequence[int], blocks: int) -> list[nn.Module]:
    """Pixels folded 2x2 into channels, then ``blocks`` residual blocks a stage; all but the first halve the size."""
    stages: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(4 * image_channels, channels[0], 3, padding=1)]
    for i, width in enumerate(channels):
        if i:
            stages.append(nn.Conv2d(channels[i - 1], width, 2, 2))
        stages += [PreActivated(width) for _ in range(blocks)]
    return stages


def decoder_stages(channels: Sequence[int], blocks: int) -> list[nn.Module]:
    """The mirror of :func:`encoder_stages`, from the last stage to the first, without the output."""
    stages: list[nn.Module] = []
    for i, width in reversed(list(enumerate(channels))):
        stages += [PreActivated(width) for _ in range(blocks)]
        if i:
            stages.append(nn.ConvTranspose2d(width, channels[i - 1], 2, 2))
    return stages
