"""Patch memory: attention to patches of the visible images."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.sets.encoder import SetEncoder


class PatchMemory(SetEncoder):
    r"""What a query reads from the patches of the elements, with several heads.

    Every element is a grid of patches e_{sp}. A head of size d = R / heads reads

    .. math::
        k_{sp} = W_k e_{sp} + \kappa_p, \quad v_{sp} = W_v e_{sp} + \nu_p, \quad
        a = \mathrm{softmax}_{sp} (q^\top k_{sp} / \sqrt d), \quad r = \sum_{sp} a_{sp} v_{sp}

    over the patches of the visible elements and a learned null patch that every query sees, so that the empty set
    has a code. The codes kappa and nu of the grid's positions are learned; q is an affine map of the query. Any
    leading axis of ``query`` (particles, pixel positions) costs queries alone: the memory is neither copied nor
    mapped again for it.

    Args:
        element: network [N, C, H, W] -> [N, D], a flattened grid [dim_patch, h, w] (:class:`fsgen.nets.GridEncoder`).
        grid: (h, w); P = h w patches an element.
        dim_patch: channels of the grid.
        dim_query: E; 0 where one learned question is asked of every set.
        dim: R, size of the code; a multiple of ``heads``.
        fused: torch's fused attention, which keeps no attention matrix and leaves out elements that no query of the
            call sees. False: plain tensor operations, for second derivatives and ``torch.func.vmap``.

    Source: Reed et al. (2018), the attention PixelCNN, arXiv:1710.10304; heads and scale of Vaswani et al. (2017),
    sec. 3.2, arXiv:1706.03762.
    """

    def __init__(
        self,
        element: nn.Module | None,
        grid: tuple[int, int],
        dim_patch: int,
        dim_query: int,
        *,
        heads: int = 4,
        dim: int = 64,
        fused: bool = True,
    ) -> None:
        super().__init__(element)
        if dim % heads:
            raise ValueError(f"PatchMemory: {heads} heads do not divide the code of size {dim}.")
        self.patches, self.dim_patch, self.heads, self.dim = math.prod(grid), dim_patch, heads, dim
        self.fused = fused
        self.ask = nn.Linear(dim_query, dim, bias=False) if dim_query else None
        self.question = nn.Parameter(torch.empty(dim).uniform_(-0.1, 0.1))
        self.key, self.value = (nn.Linear(dim_patch, dim, bias=False) for _ in range(2))
        self.key_place, self.value_place = (nn.Parameter(0.1 * torch.randn(self.patches, dim)) for _ in range(2))
        self.null_key, self.null_value = (nn.Parameter(0.1 * torch.randn(dim)) for _ in range(2))

    def keys_values(
        self, embedded: Float[Tensor, "B S D"]
    ) -> tuple[Float[Tensor, "B heads M d"], Float[Tensor, "B heads M d"]]:
        """Keys and values of the M = S P + 1 patches, the null patch last; once for all queries of an episode."""
        patches = embedded.unflatten(-1, (self.dim_patch, self.patches)).transpose(-1, -2)
        keys = self._memory(self.key(patches), self.key_place, self.null_key)
        return keys, self._memory(self.value(patches), self.value_place, self.null_value)

    def attend(
        self,
        query: Float[Tensor, "*K B Q E"] | None,
        keys: Float[Tensor, "B heads M d"],
        values: Float[Tensor, "B heads M d"],
        visible: Bool[Tensor, "B Q S"],
        *,
        weights: bool = False,
    ) -> tuple[Float[Tensor, "*K B Q R"], Float[Tensor, "*K B Q heads M"] | None]:
        """The read-out of each query, and the attention where ``weights`` are asked for."""
        asked, seen = self._questions(query, visible, keys.dtype), self._seen(visible)
        attention = None
        if weights or not self.fused:
            attention = self._attention(asked, keys, seen)
        if self.fused:
            read = _fused(asked.reshape(-1, *asked.shape[-4:]), keys, values, seen).reshape(asked.shape)
        else:
            read = torch.einsum("...bqhm,bhmd->...bqhd", attention, values)
        return read.flatten(-2), attention if weights else None

    def attention(
        self,
        embedded: Float[Tensor, "B S D"],
        visible: Bool[Tensor, "B Q S"],
        query: Float[Tensor, "*K B Q E"] | None = None,
    ) -> Float[Tensor, "*K B Q heads M"]:
        """How much each head reads of each of the M = S P + 1 patches, the null patch last; sums to one."""
        keys, _ = self.keys_values(embedded)
        return self._attention(self._questions(query, visible, keys.dtype), keys, self._seen(visible))

    def pool(
        self,
        embedded: Float[Tensor, "B S D"],
        visible: Bool[Tensor, "B Q S"],
        query: Float[Tensor, "*K B Q E"] | None = None,
    ) -> Float[Tensor, "*K B Q R"]:
        read, _ = self.attend(query, *self.keys_values(embedded), visible)
        return read

    def _memory(self, mapped: Tensor, place: Tensor, null: Tensor) -> Tensor:
        """[B, S, P, R] with the position codes and the null patch: [B, heads, M, d]."""
        placed = (mapped + place.to(mapped.dtype)).flatten(1, 2)
        memory = torch.cat([placed, null.to(placed.dtype).expand(len(placed), 1, -1)], 1)
        return memory.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _questions(self, query: Tensor | None, visible: Tensor, dtype: torch.dtype) -> Tensor:
        """[*K, B, Q, heads, d]"""
        leading = visible.shape[:2] if query is None else query.shape[:-1]
        asked = self.question.expand(*leading, -1)
        if query is not None and self.ask is not None:
            asked = self.ask(query) + asked
        return asked.to(dtype).unflatten(-1, (self.heads, -1))

    def _seen(self, visible: Tensor) -> Tensor:
        """Which of the M patches each query sees, [B, Q, M]."""
        return F.pad(visible.repeat_interleave(self.patches, -1), (0, 1), value=True)

    def _attention(self, asked: Tensor, keys: Tensor, seen: Tensor) -> Tensor:
        match = torch.einsum("...bqhd,bhmd->...bqhm", asked, keys) / math.sqrt(asked.shape[-1])
        return match.masked_fill(~seen[..., None, :], -torch.inf).softmax(-1)


@torch.compiler.disable  # which branch to take is read from the mask
def _fused(asked: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """Read-outs [K, B, Q, heads, d] of ``asked``; queries with the same memory are rows of one product."""
    if bool((seen == seen[:, :1]).all()):
        rows = asked.permute(1, 3, 0, 2, 4)  # [B, heads, K, Q, d]
        read = _read(rows.flatten(2, 3), keys, values, seen[:, 0])
        return read.reshape(rows.shape).permute(2, 0, 3, 1, 4)
    rows = asked.permute(2, 1, 3, 0, 4)  # [Q, B, heads, K, d]
    read = torch.stack([_read(row, keys, values, seen[:, q]) for q, row in enumerate(rows)])
    return read.permute(3, 1, 0, 2, 4)


def _read(rows: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """Attention of rows [B, heads, N, d] to the patches seen [B, M]; those that nobody sees are left out."""
    if bool(seen.all()):
        return F.scaled_dot_product_attention(rows, keys, values)
    some = seen.any(0).nonzero().flatten()
    return F.scaled_dot_product_attention(rows, keys[:, :, some], values[:, :, some], seen[:, None, None, some])
