"""Pooling: the code is a statistic of the visible elements."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fsgen.sets.encoder import SetEncoder, for_each_query


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
        return for_each_query(mean_and_count(embedded, visible), query)


class MaxPool(SetEncoder):
    r"""The largest value of each feature among the visible elements: r = max_s h_s.

    The empty set has a learned code of its own; no other set sees it, so negative features are kept as they are.
    An element that is nowhere the largest leaves no trace, and repeating an element changes nothing.

    Source: Qi et al. (2017), "PointNet", eq. 1, arXiv:1612.00593.
    """

    def __init__(self, element: nn.Module | None, dim_element: int) -> None:
        super().__init__(element)
        self.dim = dim_element
        self.empty = nn.Parameter(torch.zeros(dim_element))

    def pool(
        self,
        embedded: Float[Tensor, "B S D"],
        visible: Bool[Tensor, "B Q S"],
        query: Float[Tensor, "*K B Q E"] | None = None,
    ) -> Float[Tensor, "*K B Q R"]:
        stand_in = self.empty.to(embedded.dtype).expand(len(embedded), 1, -1)
        elements = torch.cat([embedded, stand_in], 1)[:, None]  # [B, 1, S+1, D]
        seen = torch.cat([visible, ~visible.any(-1, keepdim=True)], -1)[..., None]
        return for_each_query(elements.masked_fill(~seen, -torch.inf).amax(-2), query)


class SumPool(SetEncoder):
    r"""Sum of the visible elements: r = sum_s h_s; 0 for the empty set.

    The code grows with the number of elements: a network that reads it has to bear sets larger than those it was
    trained on.

    Source: Zaheer et al. (2017), "Deep sets", theorem 2, arXiv:1703.06114.
    """

    def __init__(self, element: nn.Module | None, dim_element: int) -> None:
        super().__init__(element)
        self.dim = dim_element

    def pool(
        self,
        embedded: Float[Tensor, "B S D"],
        visible: Bool[Tensor, "B Q S"],
        query: Float[Tensor, "*K B Q E"] | None = None,
    ) -> Float[Tensor, "*K B Q R"]:
        return for_each_query(visible.to(embedded.dtype) @ embedded, query)


def mean_and_count(embedded: Float[Tensor, "B S D"], visible: Bool[Tensor, "B Q S"]) -> Float[Tensor, "B Q D_and_1"]:
    """[mean_s h_s, log(1 + n)] of the n elements each query sees; zeros for the empty set."""
    weight = visible.to(embedded.dtype)
    count = weight.sum(-1, keepdim=True)
    return torch.cat([weight @ embedded / count.clamp(min=1), count.log1p()], -1)
