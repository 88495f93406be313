"""Set transformer: elements attend to each other through inducing points, seeds read them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.sets.encoder import SetEncoder, for_each_query


class AttentionBlock(nn.Module):
    r"""Rows attend to a memory, with residual connections.

    .. math::
        H = \mathrm{LN}(X + \mathrm{Multihead}(X, Y, Y)), \quad \mathrm{MAB}(X, Y) = \mathrm{LN}(H + \mathrm{rFF}(H))

    The attention is written out, not fused: sets are small, and it stays twice differentiable.

    Source: Lee et al. (2019), "Set transformer", sec. 3.1, arXiv:1810.00825.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ask, self.value, self.out = (nn.Linear(dim, dim) for _ in range(3))
        self.key = nn.Linear(dim, dim, bias=False)  # a bias would shift all matches alike, and softmax forgets it
        self.feed = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.norm_read, self.norm_fed = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(
        self,
        rows: Float[Tensor, "N n dim"],
        memory: Float[Tensor, "N M dim"],
        seen: Bool[Tensor, "N M"] | None = None,
    ) -> Float[Tensor, "N n dim"]:
        asked, keys, values = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.ask, rows), (self.key, memory), (self.value, memory))
        )
        match = asked @ keys.transpose(-1, -2) / math.sqrt(asked.shape[-1])  # [N, heads, n, M]
        if seen is not None:
            match = match.masked_fill(~seen[:, None, None], -torch.inf)
        read = (match.softmax(-1).to(values.dtype) @ values).transpose(1, 2).flatten(2)
        hidden = self.norm_read(rows + self.out(read))
        return self.norm_fed(hidden + self.feed(hidden))


class InducedBlock(nn.Module):
    """ISAB: m inducing points read the set, the elements read the points; O(S m) (Lee et al., sec. 3.1)."""

    def __init__(self, dim: int, heads: int, inducing: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.randn(inducing, dim))
        self.gather, self.spread = AttentionBlock(dim, heads), AttentionBlock(dim, heads)

    def forward(self, elements: Float[Tensor, "N M dim"], seen: Bool[Tensor, "N M"]) -> Float[Tensor, "N M dim"]:
        points = self.points.to(elements.dtype).expand(len(elements), -1, -1)
        return self.spread(elements, self.gather(points, elements, seen))


class SetTransformer(SetEncoder):
    """Set transformer: induced attention blocks over the visible elements, then seeds that read them.

    A learned element that every query sees stands beside the set, so that the empty set has a code. What the blocks
    compute at hidden elements is never read.

    Args:
        element: network [N, C, H, W] -> [N, D], or None where the caller embeds the elements itself.
        dim_element: D.
        dim: width of the blocks; a multiple of ``heads``.
        heads: of every attention. blocks: induced blocks. inducing: points m of each.
        seeds: k read-outs, which attend to each other after reading; the code has R = k * dim numbers.

    Source: Lee et al. (2019), "Set transformer", sec. 3, arXiv:1810.00825.
    """

    def __init__(
        self,
        element: nn.Module | None,
        dim_element: int,
        *,
        dim: int = 128,
        heads: int = 4,
        blocks: int = 2,
        inducing: int = 16,
        seeds: int = 1,
    ) -> None:
        super().__init__(element)
        if dim % heads:
            raise ValueError(f"SetTransformer: {heads} heads do not divide the width {dim}.")
        self.dim = seeds * dim
        self.enter = nn.Linear(dim_element, dim)
        self.always = nn.Parameter(torch.randn(dim))
        self.blocks = nn.ModuleList(InducedBlock(dim, heads, inducing) for _ in range(blocks))
        self.seeds = nn.Parameter(torch.randn(seeds, dim))
        self.prepare = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.read = AttentionBlock(dim, heads)
        self.among_seeds = AttentionBlock(dim, heads) if seeds > 1 else None
        self.leave = nn.Linear(dim, dim)

    def pool(
        self,
        embedded: Float[Tensor, "B S D"],
        visible: Bool[Tensor, "B Q S"],
        query: Float[Tensor, "*K B Q E"] | None = None,
    ) -> Float[Tensor, "*K B Q R"]:
        elements, seen = self._sets(embedded, visible)
        for block in self.blocks:
            elements = block(elements, seen)
        seeds = self.seeds.to(elements.dtype).expand(len(elements), -1, -1)
        read = self.read(seeds, self.prepare(elements), seen)
        if self.among_seeds is not None:
            read = self.among_seeds(read, read)
        return for_each_query(self.leave(read).flatten(1).unflatten(0, visible.shape[:2]), query)

    def _sets(self, embedded: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """One set a query, [B Q, S+1, dim], with the learned element last, and what is seen of it [B Q, S+1]."""
        entered = self.enter(embedded)
        always = self.always.to(entered.dtype).expand(len(entered), 1, -1)
        elements = torch.cat([entered, always], 1)[:, None].expand(-1, visible.shape[1], -1, -1)
        return elements.flatten(0, 1), F.pad(visible, (0, 1), value=True).flatten(0, 1)
