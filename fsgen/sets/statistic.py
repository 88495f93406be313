"""The statistic network of the neural statistician."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.nets import dense
from fsgen.sets.encoder import SetEncoder, for_each_query
from fsgen.sets.pooling import mean_and_count


class StatisticNetwork(SetEncoder):
    r"""Instance encoder, mean with the count as a feature, dense layers: r = f([mean_s h_s, log(1 + n)]).

    In training mode each query pools a random part of what it may see (sample dropout), and n counts that part; in
    evaluation mode all of it. The draws come from torch's global generator.

    Args:
        element: the instance encoder, [N, C, H, W] -> [N, D], or None where the caller embeds the elements itself.
        dim_element: D.
        dim: R, units of every dense layer; None for D.
        layers: dense layers after pooling, each followed by an ELU; 0 leaves mean and count as they are.
        sample_dropout: probability that a visible element is left out in training; one at least is always kept.

    Source: Edwards & Storkey (2017), "Towards a neural statistician", sec. 3; sample dropout and count as in its
    experiments on Omniglot, arXiv:1606.02185.
    """

    def __init__(
        self,
        element: nn.Module | None,
        dim_element: int,
        *,
        dim: int | None = None,
        layers: int = 2,
        sample_dropout: float = 0.0,
    ) -> None:
        super().__init__(element)
        if not 0 <= sample_dropout < 1:
            raise ValueError(f"StatisticNetwork: sample_dropout is {sample_dropout}; give 0 <= p < 1.")
        self.sample_dropout = sample_dropout
        widths = [dim_element + 1, *[dim_element if dim is None else dim] * layers]
        self.dim = widths[-1]
        self.dense = nn.Sequential(*(dense(a, b) for a, b in pairwise(widths)))

    def pool(
        self,
        embedded: Float[Tensor, "B S D"],
        visible: Bool[Tensor, "B Q S"],
        query: Float[Tensor, "*K B Q E"] | None = None,
    ) -> Float[Tensor, "*K B Q R"]:
        kept = some_of(visible, self.sample_dropout) if self.training and self.sample_dropout else visible
        return for_each_query(self.dense(mean_and_count(embedded, kept)), query)


def some_of(visible: Bool[Tensor, "B Q S"], dropout: float | Float[Tensor, "B Q 1"]) -> Bool[Tensor, "B Q S"]:
    """Each visible element with probability 1 - dropout, one for all or one a query; never none of some."""
    draw = torch.rand(visible.shape, device=visible.device)
    last = F.pad(draw.masked_fill(~visible, -1), (0, 1), value=-1).amax(-1, keepdim=True)  # S may be 0
    return visible & ((draw >= dropout) | (draw == last))
