"""Encoders that keep where things are: images to a grid of features, or to a map of their own size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.nets.residual import decoder_stages, encoder_stages, folded


class GridEncoder(nn.Module):
    """Images [N, C, H, W] to a flattened grid of features [N, dim_patch * h * w].

    The stages of :class:`fsgen.nets.ResidualEncoder`, then a ReLU and a 1x1 convolution instead of the map to one
    vector; n stages make the sides H and W smaller by 2**n (28x28 in two stages: 7x7).

    Args:
        channels: of each stage; every stage after the first halves the size.
        dim_patch: channels of the grid.
        blocks: residual blocks a stage.
        normalised: features of an image are brought to mean 0 and variance 1 before the ReLU, for dense pixels: those
            of colour images have driven every unit of that ReLU below zero for good early in training.

    Attributes:
        grid: (h, w).
        dim: dim_patch * h * w, in the order [dim_patch, h, w].
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: Sequence[int],
        dim_patch: int,
        blocks: int = 1,
        *,
        normalised: bool = False,
    ) -> None:
        super().__init__()
        self.margins, self.grid = folded(event_shape, len(channels))
        self.dim_patch, self.dim = dim_patch, dim_patch * math.prod(self.grid)
        stages = encoder_stages(event_shape[0], channels, blocks)
        if normalised:
            stages.append(nn.GroupNorm(1, channels[-1], affine=False))
        self.stages = nn.Sequential(*stages, nn.ReLU(), nn.Conv2d(channels[-1], dim_patch, 1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        return self.stages(F.pad(images, self.margins))


class GridDecoder(nn.Module):
    """A flattened grid [N, dim_patch * h * w] to a map [N, outputs, H, W]; mirrors GridEncoder, same ``channels``.

    Convolutions all the way, so that what stands at a place of the grid is decoded at that place.

    Attributes:
        dim: dim_patch * h * w, in the order [dim_patch, h, w].
    """

    def __init__(
        self, event_shape: Sequence[int], channels: Sequence[int], dim_patch: int, outputs: int, blocks: int = 1
    ) -> None:
        super().__init__()
        _, grid = folded(event_shape, len(channels))
        self.size, self.dim = tuple(event_shape[1:]), dim_patch * math.prod(grid)
        stages: list[nn.Module] = [nn.Unflatten(1, (dim_patch, *grid)), nn.Conv2d(dim_patch, channels[-1], 1)]
        stages += decoder_stages(channels, blocks)
        last = nn.Conv2d(channels[0], 4 * outputs, 3, padding=1)
        self.stages = nn.Sequential(*stages, nn.ReLU(), last, nn.PixelShuffle(2))

    def forward(self, code: Tensor) -> Tensor:
        return self.stages(code)[..., : self.size[0], : self.size[1]]


class MapEncoder(nn.Module):
    """Images [N, C, H, W] to a flattened map of features at every pixel [N, dim_pixel * H * W].

    Attributes:
        dim: dim_pixel * H * W, in the order [dim_pixel, H, W].
    """

    def __init__(self, event_shape: Sequence[int], dim_pixel: int) -> None:
        super().__init__()
        self.dim = dim_pixel * math.prod(event_shape[1:])
        self.stages = nn.Sequential(
            nn.Conv2d(event_shape[0], dim_pixel, 5, padding=2),
            nn.ELU(),
            nn.Conv2d(dim_pixel, dim_pixel, 3, padding=1),
            nn.Flatten(),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.stages(images)


class MapDecoder(nn.Module):
    """A flattened map [N, dim_pixel * H * W] to a map [N, outputs, H, W], zero at first.

    Attributes:
        dim: dim_pixel * H * W, in the order [dim_pixel, H, W].
    """

    def __init__(self, event_shape: Sequence[int], dim_pixel: int, outputs: int) -> None:
        super().__init__()
        self.dim = dim_pixel * math.prod(event_shape[1:])
        last = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.stages = nn.Sequential(
            nn.Unflatten(1, (dim_pixel, *event_shape[1:])), nn.Conv2d(dim_pixel, outputs, 5, padding=2), nn.ELU(), last
        )
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, code: Tensor) -> Tensor:
        return self.stages(code)
