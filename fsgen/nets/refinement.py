"""What the pixels before a pixel add to the parameters that a decoder gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.nets.gated import GatedPixelCNN
from fsgen.nets.layers import over_images


class PixelRefinement(nn.Module):
    r"""Pixel parameters from decoded maps and the pixels before; zero at first, so that training starts at the decoder.

    .. math:: \theta_i = m_i + W\, \mathrm{relu}(V[m, e]_i + \phi_i(x_{<i}))

    with m and e the decoded maps, V a 3x3 convolution and phi a gated PixelCNN, which reads the image alone: for any
    number of latents it is computed once an image.

    Args:
        inputs: channels of the image. outputs: parameters a pixel, m. channels, layers: of the PixelCNN.
        hints: further maps e that the decoder makes for it. read: maps that follow and that no decoder makes.

    Attributes:
        maps: what the decoder has to give a pixel, without those ``read``.

    Source: Gulrajani et al. (2017), "PixelVAE: a latent variable model for natural images", sec. 3.1, arXiv:1611.05013.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        channels: int,
        layers: int,
        size: tuple[int, int],
        *,
        hints: int = 7,
        read: int = 0,
    ) -> None:
        super().__init__()
        self.outputs, self.maps = outputs, outputs + hints
        self.net = GatedPixelCNN(inputs, 2 * channels, channels, layers, size=size)
        self.mix = nn.Conv2d(self.maps + read, 2 * channels, 3, padding=1)
        self.last = nn.Conv2d(2 * channels, outputs, 1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Tensor, images: Tensor) -> Tensor:
        """theta [*K, B, Q, outputs, H, W] of all pixels from maps [*K, B, Q, maps, H, W] and images [B, Q, C, H, W]."""
        return self.joined(maps, self.mixed(maps), over_images(self.net, images))

    def mixed(self, maps: Tensor) -> Tensor:
        """V[m, e] of decoded maps [..., maps, H, W]."""
        return over_images(self.mix, maps)

    def joined(self, maps: Tensor, mixed: Tensor, seen: Tensor) -> Tensor:
        """theta [..., outputs, h, w] of some pixels or all, from the maps there and phi [..., 2 channels, h, w]."""
        return maps[..., : self.outputs, :, :] + over_images(self.last, F.relu(mixed + seen))


def refinement(
    event_shape: Sequence[int], outputs: int, channels: int, layers: int, *, read: int = 0
) -> PixelRefinement | None:
    """The refinement that a model's options ask for; None without layers."""
    size = event_shape[1], event_shape[2]
    return PixelRefinement(event_shape[0], outputs, channels, layers, size, read=read) if layers else None


def with_refinement(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a model completed by what its ``own`` state has more: a refinement, or maps that it reads.

    The model holds the refinement as ``refine`` and, as ``decode``, the decoder, whose last layer makes the hints too.
    """
    found = dict(weights)
    mix, wider = found.get("refine.mix.weight"), own.get("refine.mix.weight")
    if mix is not None and wider is not None and mix.shape[:1] == wider.shape[:1] and mix.shape[1] < wider.shape[1]:
        found["refine.mix.weight"] = F.pad(mix, (0, 0, 0, 0, 0, wider.shape[1] - mix.shape[1]))
    if any(name.startswith("refine.") for name in found) or not any(name.startswith("refine.") for name in own):
        return found
    for name, value in own.items():
        if name.startswith("refine."):
            found[name] = value
        elif name.startswith("decode.") and name in found and found[name].shape[1:] == value.shape[1:]:
            found[name] = torch.cat([found[name], value[len(found[name]) :].to(found[name])])
    return found
