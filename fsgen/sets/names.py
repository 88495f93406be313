"""Set encoders by name, for models that take any of them."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from fsgen.sets.encoder import SetEncoder
from fsgen.sets.pooling import MaxPool, MeanPool, SumPool
from fsgen.sets.statistic import StatisticNetwork
from fsgen.sets.transformer import SetTransformer

SET_ENCODERS: dict[str, Callable[[nn.Module | None, int], SetEncoder]] = {
    "mean": MeanPool,
    "max": MaxPool,
    "sum": SumPool,
    "statistic": StatisticNetwork,
    "transformer": SetTransformer,
}


def set_encoder(name: str, element: nn.Module | None, dim_element: int) -> SetEncoder:
    """The set encoder of a model's option ``set_encoder``.

    Args:
        element: network [N, C, H, W] -> [N, D], or None where the caller embeds the elements itself.
        dim_element: D.

    Raises:
        ValueError: an unknown name.
    """
    if name not in SET_ENCODERS:
        raise ValueError(f"no set encoder '{name}'. Known: {', '.join(sorted(SET_ENCODERS))}.")
    return SET_ENCODERS[name](element, dim_element)
