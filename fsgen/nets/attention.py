"""Spatial attention by separable filter banks: read a window of a map, write a patch into one.

A window is axis-aligned, with a centre and a scale an axis (y before x) in the coordinates of
``torch.nn.functional.grid_sample(align_corners=False)``: the map spans -1 to 1, scale 1 at centre 0 is the whole map.
A rotated window is not separable, and so left out. Maps have the layout [..., H, C, W], in which a window of all
channels is two batched matrix products.

References:
    Gregor et al. (2015), "DRAW: a recurrent neural network for image generation", arXiv:1502.04623, sec. 3.2.
    Jaderberg et al. (2015), "Spatial transformer networks", arXiv:1506.02025, sec. 3.2 and 3.3.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

LEAST, MOST = 0.1, 1.5  # scales a network may ask for


class Window(NamedTuple):
    """Where to look: ``centre`` and ``scale``, [..., 2] each, y before x."""

    centre: Tensor
    scale: Tensor

    def inverse(self) -> Window:
        """The window through which a patch has to be read, so that it fills this one of the map."""
        return Window(-self.centre / self.scale, 1 / self.scale)

    def banks(self, points: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Filter banks [..., points, size] of both axes, for ``points`` samples of a map of ``size``, (y, x) each."""
        over_y, over_x = (filter_bank(self.centre[..., i], self.scale[..., i], points[i], size[i]) for i in (0, 1))
        return over_y, over_x


def filter_bank(
    centre: Float[Tensor, "*batch"], scale: Float[Tensor, "*batch"], points: int, size: int
) -> Float[Tensor, "*batch points size"]:
    r"""Weights of ``size`` pixels in each of ``points`` samples, evenly spaced over a window of one axis.

    .. math:: F_{ij} = \max(0, 1 - |p_i - j| / w) / w, \quad w = \max(1, \text{scale} \cdot \text{size} / \text{points})

    with p_i the place of sample i in pixels. Where samples are denser than pixels this is bilinear sampling
    (Jaderberg et al., 2015, eq. 5, zeros outside the map); where they are sparser the tent is as wide as their
    spacing, so that no pixel goes unseen and every one gives the window a gradient.

    >>> filter_bank(torch.tensor(0.0), torch.tensor(1.0), 2, 2)
    tensor([[1., 0.],
            [0., 1.]])
    """
    offsets = (2 * torch.arange(points, device=centre.device, dtype=centre.dtype) + 1) / points - 1
    place = ((centre[..., None] + scale[..., None] * offsets + 1) * size - 1) / 2
    width = (scale * (size / points)).clamp(min=1)[..., None, None]
    distance = (place[..., None] - torch.arange(size, device=centre.device, dtype=centre.dtype)).abs()
    return (1 - distance / width).clamp(min=0) / width


def resample(
    maps: Float[Tensor, "*batch H C W"], over_y: Float[Tensor, "*batch N H"], over_x: Float[Tensor, "*batch M W"]
) -> Float[Tensor, "*batch N C M"]:
    """over_y X over_x^T for every channel X; linear in the maps, so the window of a mean is the mean of windows."""
    rows = over_y @ maps.flatten(-2).to(over_y.dtype)
    rows = rows.unflatten(-1, maps.shape[-2:])
    return (rows.flatten(-3, -2) @ over_x.mT.to(rows.dtype)).unflatten(-2, rows.shape[-3:-1])


def whole(like: Tensor) -> Window:
    """The window that is the whole map, in the device and (at least single) precision of ``like``."""
    centre = like.new_zeros(2, dtype=torch.promote_types(like.dtype, torch.float32))
    return Window(centre, torch.ones_like(centre))


class Locate(nn.Module):
    """From a state to the :class:`Window` it looks at, about the whole map at first.

    Args:
        dim_state: size of the state.
    """

    def __init__(self, dim_state: int) -> None:
        super().__init__()
        self.layer = nn.Linear(dim_state, 4)
        one = (1 - LEAST) / (MOST - LEAST)
        with torch.no_grad():
            self.layer.bias.copy_(torch.tensor([0.0, 0.0, 1.0, 1.0]) * math.log(one / (1 - one)))

    def forward(self, state: Float[Tensor, "*batch D"]) -> Window:
        raw = self.layer(state)
        centre, scale = raw.to(torch.promote_types(raw.dtype, torch.float32)).chunk(2, -1)
        return Window(centre.tanh(), LEAST + (MOST - LEAST) * scale.sigmoid())
