"""Pooling: the code is a statistic of the visible elements."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fsgen.sets.encoder import SetEncoder


class MeanPool(SetEncoder):
    r"""Mean of the visible elements, and their number: r = [mean_s h_s, log(1 + n)].

    The mean alone cannot tell one shot from twenty; the count can. The mean of an empty set is 0.

    Source: Zaheer et al. (2017), "Deep sets", arXiv:1703.06114, with the count as a further statistic.
    """

    def __init__(self, element: nn.Module | None, dim_element: int) -> None:
        super().__init__(element)
        self.dim = dim_element + 1

    def pool(
        self,
        embedded: Float[Tensor, "B S D"],
        visible: Bool[Tensor, "B Q S"],
        query: Float[Tensor, "*K B Q E"] | None = None,
    ) -> Float[Tensor, "*K B Q R"]:
        weight = visible.to(embedded.dtype)
        count = weight.sum(-1, keepdim=True)
        code = torch.cat([weight @ embedded / count.clamp(min=1), count.log1p()], -1)
        return code if query is None else code.expand(*query.shape[:-1], -1)
