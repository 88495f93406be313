"""Embeddings of images that discriminative few-shot learners share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.nets.layers import he_normal
from fsgen.nets.residual import ResidualEncoder

GROUPS = 8


class ConvEmbedding(nn.Module):
    """Images [N, C, H, W] to features [N, dim]: blocks of a 3x3 convolution, normalisation, ReLU and 2x2 max-pooling.

    The published blocks normalise over the batch, so that an image's features depend on the images beside it; here each
    image is normalised alone, over groups of channels (Wu & He, 2018, arXiv:1803.08494).

    Args:
        channels: of each block; multiples of 8 are normalised in 8 groups, others in one.

    Attributes:
        dim: of the features, channels[-1] times the pixels that are left: 64 for four blocks of 64 and 28x28 images.

    Source: Vinyals et al. (2016), sec. 4.1.
    """

    def __init__(self, event_shape: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        blocks, (inputs, height, width) = [], event_shape
        for outputs in channels:
            blocks.append(ConvBlock(inputs, outputs))
            inputs, height, width = outputs, max(1, height // 2), max(1, width // 2)
        self.blocks = nn.Sequential(*blocks, nn.Flatten())
        self.dim = channels[-1] * math.prod((height, width))

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(images)


class ConvBlock(nn.Module):
    """One block of :class:`ConvEmbedding`; a side of one pixel is left as it is."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.GroupNorm(GROUPS if outputs % GROUPS == 0 else 1, outputs)
        he_normal(self.conv.weight, 9 * inputs)

    def forward(self, images: Tensor) -> Tensor:
        found = F.relu(self.norm(self.conv(images)))
        return F.max_pool2d(found, [min(2, side) for side in found.shape[-2:]])


def image_embedding(
    event_shape: Sequence[int], channels: Sequence[int], blocks: int, dim: int
) -> ConvEmbedding | ResidualEncoder:
    """The library's residual encoder with ``blocks`` a stage, or with 0 the plain blocks, which know no ``dim``."""
    if blocks:
        return ResidualEncoder(event_shape, channels, dim, blocks)
    return ConvEmbedding(event_shape, channels)
