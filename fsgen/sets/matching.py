"""Matching: attention steered by a recurrent controller, as in generative matching networks."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.nets import Affine, GatedUnit, prelu
from fsgen.sets.encoder import SetEncoder


class Controller(nn.Module):
    """What matching steps share: recurrent cell, initial state and pseudo-input.

    Args:
        dim_element: D, size of a memory cell.
        dim_state: size of the controller's state.
        pseudo_input: keep the learned pseudo-input in every memory; otherwise it stands in for the empty set alone.
    """

    def __init__(self, dim_element: int, dim_state: int, *, pseudo_input: bool = True) -> None:
        super().__init__()
        self.dim_element, self.dim_state, self.always = dim_element, dim_state, pseudo_input
        self.cell = GatedUnit(dim_element + dim_state, dim_state)
        bound = 1 / dim_element
        self.initial = nn.Parameter(torch.empty(dim_state).uniform_(-bound, bound))
        self.pseudo = nn.Parameter(torch.empty(dim_element).uniform_(-bound, bound))

    def memory(self, embedded: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Memory cells [B, S+1, D], the pseudo-input last, and which of them each query sees [B, Q, S+1]."""
        pseudo = self.pseudo.to(embedded.dtype).expand(len(embedded), 1, -1)
        nothing = ~visible.any(-1, keepdim=True)  # also where S = 0
        seen = torch.ones_like(nothing) if self.always else nothing
        return torch.cat([embedded, pseudo], 1), torch.cat([visible, seen], -1)


class Matching(SetEncoder):
    r"""Attention over the memory in several steps, steered by a recurrent controller.

    .. math::
        a_s = \mathrm{softmax}_s \bigl(\beta(h) \cos(q(h, e), m_s)\bigr), \quad
        r = \sum_s a_s m_s, \quad h \leftarrow \mathrm{cell}([r, h], h)

    with e the query, beta a learned temperature. The code is [r, h]. With ``steps = 0`` the read-out is the plain
    mean of the memory, followed by one update of the controller.

    Args:
        controller: cell, initial state and pseudo-input; may be shared with another Matching.
        dim_query: E, size of the query; 0 where nothing but the controller asks (the prior).
        steps: attention steps.

    Source: Bartunov & Vetrov (2018), sec. 3.1 and 3.2, arXiv:1612.02192.
    """

    def __init__(self, controller: Controller, dim_query: int, steps: int) -> None:
        super().__init__(None)
        if steps < 0:
            raise ValueError(f"Matching: {steps} attention steps; give 0 (mean pooling) or more.")
        self.controller, self.steps = controller, steps
        self.dim = controller.dim_element + controller.dim_state
        if steps:
            self.ask = Affine(controller.dim_state + dim_query, controller.dim_element)
            self.ask_slope = nn.Parameter(torch.empty(controller.dim_element).uniform_(-0.01, 0.01))
            self.strength = Affine(controller.dim_state, 1)

    def pool(
        self,
        embedded: Float[Tensor, "B S D"],
        visible: Bool[Tensor, "B Q S"],
        query: Float[Tensor, "*K B Q E"] | None = None,
    ) -> Float[Tensor, "*K B Q R"]:
        code, _ = self.attend(embedded, visible, query)
        return code

    def attend(
        self,
        embedded: Float[Tensor, "B S D"],
        visible: Bool[Tensor, "B Q S"],
        query: Float[Tensor, "*K B Q E"] | None = None,
    ) -> tuple[Float[Tensor, "*K B Q R"], list[Float[Tensor, "*K B Q M"]]]:
        """The code, and how much each step read of each of the M = S + 1 cells, the pseudo-input last; sums to one.

        With ``steps = 0`` that is one reading, of the plain mean.
        """
        memory, seen = self.controller.memory(embedded, visible)
        leading = visible.shape[:2] if query is None else query.shape[:-1]
        state = self.controller.initial.to(memory.dtype).expand(*leading, -1)
        if not self.steps:
            weight = seen.to(memory.dtype)
            weight = weight / weight.sum(-1, keepdim=True)
            read = (weight @ memory).expand(*leading, -1)
            code = torch.cat([read, self.controller.cell(torch.cat([read, state], -1), state)], -1)
            return code, [weight.expand(*leading, -1)]
        keys, readings = F.normalize(memory, dim=-1), []
        wanted = self._fixed_part_of_the_question(query)
        for _ in range(self.steps):
            question = F.linear(state, self.ask.weight[:, : state.shape[-1]]) + wanted
            question = prelu(question, self.ask_slope)
            match = torch.einsum("...bqd,bsd->...bqs", F.normalize(question, dim=-1), keys)
            readings.append((self.strength(state) * match).masked_fill(~seen, -torch.inf).softmax(-1))
            read = torch.einsum("...bqs,bsd->...bqd", readings[-1], memory)
            state = self.controller.cell(torch.cat([read, state], -1), state)
        return torch.cat([read, state], -1), readings

    def _fixed_part_of_the_question(self, query: Tensor | None) -> Tensor:
        """The affine map of [state, query] splits; the query's share is the same at every step."""
        if query is None:
            return self.ask.bias
        return F.linear(query, self.ask.weight[:, -query.shape[-1] :], self.ask.bias)
