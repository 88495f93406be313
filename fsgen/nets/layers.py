"""The tensor idioms and small layers every model shares."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


def mlp(inputs: int, outputs: int, width: int = 64) -> nn.Sequential:
    """One hidden layer of ELU units."""
    return nn.Sequential(nn.Linear(inputs, width), nn.ELU(), nn.Linear(width, outputs))


def dense(inputs: int, outputs: int) -> nn.Sequential:
    """A He-initialised layer of ELU units, which passes on how far apart its inputs are."""
    layer = nn.Linear(inputs, outputs)
    he_normal(layer.weight, inputs)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(layer, nn.ELU())


def join(*parts: Tensor) -> Tensor:
    """Concatenates on the last axis after broadcasting the leading ones."""
    leading = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
    return torch.cat([p.expand(*leading, -1) for p in parts], -1)


def over_images(net: nn.Module, images: Tensor) -> Tensor:
    """``net`` [N, C, H, W] -> [N, ...] applied to images with any leading axes, none of them empty or not."""
    leading = images.shape[:-3]
    flat = images.reshape(leading.numel(), *images.shape[-3:])
    out = net(flat) if len(flat) else net(flat.new_zeros(1, *flat.shape[1:]))[:0]  # pixel_unshuffle needs an image
    return out.reshape(*leading, *out.shape[1:])


def prelu(x: Tensor, slope: Tensor, dim: Literal[1, -1] = -1) -> Tensor:
    r"""Parametric ReLU with one slope a channel, the channels on the last axis or, dim = 1, on the second.

    .. math:: \mathrm{prelu}(x) = x + (a - 1) \min(x, 0)

    Written out where gradients are wanted, because the backward pass of torch's own kernel takes twice as long on the
    CPU; the kernel itself, which is faster forwards, where they are not.
    """
    slope = slope.to(x.dtype)
    if not torch.is_grad_enabled():
        return F.prelu(x, slope) if dim == 1 else F.prelu(x.reshape(-1, x.shape[-1]), slope).reshape(x.shape)
    shape = [1] * x.ndim
    shape[dim] = len(slope)
    return torch.addcmul(x, slope.reshape(shape) - 1, x - x.relu())


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
