"""A canvas that is written step by step, and read out once."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.nets.attention import Locate, resample, whole
from fsgen.nets.residual import PreActivated


def half(event_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Size of maps at half the resolution of images, rounded up."""
    return -(-event_shape[1] // 2), -(-event_shape[2] // 2)


class HalfMaps(nn.Module):
    """Images [N, C, H, W] to maps [N, H/2, channels, W/2]: pixels folded 2x2 into channels, two convolutions."""

    def __init__(self, event_shape: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        rows, columns = half(event_shape)
        self.margins = (0, 2 * columns - event_shape[2], 0, 2 * rows - event_shape[1])
        self.one = nn.Conv2d(4 * event_shape[0], channels, 3, padding=1)
        self.two = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        folded = F.pixel_unshuffle(F.pad(images, self.margins), 2)
        return self.two(F.relu(self.one(folded))).transpose(1, 2)


class Canvas(nn.Module):
    r"""Patches added up at the windows the states choose, then residual blocks and the output map, once.

    .. math:: c_T = c_0 + \sum_t B_y(h_t)\, P(h_t)\, B_x(h_t)^\top, \quad \text{parameters} = f_o(c_T)

    The canvas has half the resolution of the image and several channels; c_0 is learned. B are the filter banks of
    :func:`fsgen.nets.attention.filter_bank` that stretch the patch P over its window.

    Args:
        dim_state: size of a state.
        event_shape: (parameters a pixel, H, W) of the output.
        channels: of the canvas. patch: side of P. blocks: residual blocks between canvas and output.
        attention: choose the window from the state; otherwise every patch covers the whole canvas.

    Source: Rezende et al. (2016), arXiv:1603.05106, sec. 3.2 (additive canvas, written with attention).
    """

    def __init__(
        self,
        dim_state: int,
        event_shape: tuple[int, int, int],
        *,
        channels: int,
        patch: int,
        blocks: int,
        attention: bool = True,
    ) -> None:
        super().__init__()
        self.event_shape, self.size = event_shape, half(event_shape)
        self.patch = nn.Linear(dim_state, patch * channels * patch)
        self.shape = (patch, channels, patch)
        self.locate = Locate(dim_state) if attention else None
        self.initial = nn.Parameter(torch.zeros(self.size[0], channels, self.size[1]))
        last = nn.Conv2d(channels, 4 * event_shape[0], 3, padding=1)
        nn.init.normal_(last.weight, std=0.01)
        self.output = nn.Sequential(
            *(PreActivated(channels) for _ in range(blocks)), nn.ReLU(), last, nn.PixelShuffle(2)
        )

    def write(self, states: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch H C W"]:
        """What each state adds to the canvas."""
        patches = self.patch(states).unflatten(-1, self.shape)
        window = whole(states) if self.locate is None else self.locate(states)
        over_y, over_x = window.inverse().banks(self.size, (self.shape[0], self.shape[2]))
        over_y, over_x = (bank.expand(*states.shape[:-1], -1, -1) for bank in (over_y, over_x))
        return resample(patches, over_y, over_x)

    def paint(self, states: Float[Tensor, "T *batch D"]) -> Float[Tensor, "*batch H C W"]:
        """c_T, from the states of all steps."""
        return self.initial + self.write(states).sum(0)

    def forward(self, states: Float[Tensor, "T *batch D"]) -> Float[Tensor, "*batch P H W"]:
        """Pixel parameters."""
        canvas = self.paint(states).transpose(-3, -2)
        images = canvas.flatten(0, -4).contiguous(memory_format=torch.channels_last)
        return self.output(images)[..., : self.event_shape[1], : self.event_shape[2]].unflatten(0, canvas.shape[:-3])
