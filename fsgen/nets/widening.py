"""Wider networks that start from the weights of a narrower one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fsgen.nets.gated import GatedPixelCNN


def widened(weights: Mapping[str, Tensor], net: GatedPixelCNN) -> dict[str, Tensor]:
    """A state of ``net`` that computes what the narrower network of ``weights`` computes.

    Every channel stands k times. What reads it divides the weight it had among the k in shares drawn at random, other
    ones for every weight: the network computes the same, and training can tell the k apart.

    Args:
        weights: state of a network with the options of ``net`` but 1/k of the channels; one that is none is returned
            as it is, which loading refuses.

    Source: Chen et al. (2016), "Net2Net: accelerating learning via knowledge transfer", sec. 2.3, arXiv:1511.05641.
    """
    narrow, wide = weights.get("last.weight"), net.last.weight
    times, rest = (1, 0) if narrow is None or narrow.dim() < 2 else divmod(wide.shape[1], narrow.shape[1])
    if times < 2 or rest:
        return dict(weights)
    return {name: _widened(weights[name], like, times) for name, like in net.state_dict().items() if name in weights}


def _widened(tensor: Tensor, like: Tensor, times: int) -> Tensor:
    """Rows (axis 0) repeated, and columns (axis 1) repeated and divided, where ``like`` has more of them."""
    if len(like) == times * len(tensor):
        tensor = tensor.repeat_interleave(times, 0)
    if tensor.dim() == 1 or tensor.shape[1] == like.shape[1]:
        return tensor
    others, rest = divmod(times * tensor.shape[1] - like.shape[1], times - 1)  # columns that read something else
    if rest or not 0 <= others < tensor.shape[1]:
        return tensor
    read, kept = tensor[:, : tensor.shape[1] - others], tensor[:, tensor.shape[1] - others :]
    shares = torch.rand(len(read), read.shape[1], times, *read.shape[2:]).to(read)
    shares = shares / shares.sum(2, keepdim=True)
    return torch.cat([(read[:, :, None] * shares).flatten(1, 2), kept], 1)
