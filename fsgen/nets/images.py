"""Which encoder and decoder of images a model asks for."""

from __future__ import annotations

from collections.abc import Sequence

from fsgen.nets.residual import ResidualDecoder, ResidualEncoder
from fsgen.nets.sections import SectionDecoder, SectionEncoder


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
