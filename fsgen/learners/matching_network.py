"""Matching networks.

References: Vinyals, Blundell, Lillicrap, Kavukcuoglu & Wierstra (2016), "Matching networks for one shot learning",
arXiv:1606.04080.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fsgen.classification import Decision, Learner
from fsgen.errors import InputError
from fsgen.registry import learner


@learner("matching-network")
class MatchingNetwork(Learner):
    r"""Matching network: labels of the support, weighted by attention to the cosine of embeddings.

    .. math:: p(c \mid x) \propto \frac1{|X_c|} \sum_{s \in X_c} \exp(\cos(f(x), g(s)) / \tau)

    Where classes hold equally many images this is the attention-weighted sum of their labels; the division keeps the
    number of images of a class from being evidence.

    With full context embeddings f and g read the whole support: g by an LSTM in both directions, f by an LSTM that
    attends to g for a number of steps. The paper leaves the order open in which g reads; here it is that of the first
    feature of each image's embedding, so that neither classes nor images have an order that means anything.

    Options:
        event_shape: one image, (C, H, W). levels: values a pixel can take.
        channels: of each block of the embedding. blocks: 0 for plain convolution blocks, else residual blocks a stage.
        dim: of the features where there are residual blocks.
        temperature: tau; 1 in the paper, under which no probability of 1 in C exceeds 1 / (1 + (C - 1) / e^2).
        context: full context embeddings. steps: of f over the support, with them.

    Source: Vinyals et al. (2016), eqs. 1 and 2, sec. 2.1; full context embeddings: sec. 2.2 and appendix A.
    """

    def __init__(
        self,
        *,
        event_shape: tuple[int, int, int] = (1, 28, 28),
        levels: int = 2,
        channels: Sequence[int] = (64, 64, 64, 64),
        blocks: int = 0,
        dim: int = 64,
        temperature: float = 0.1,
        context: bool = False,
        steps: int = 5,
    ) -> None:
        super().__init__(event_shape, levels, channels, blocks, dim)
        if not temperature > 0 or steps < 1:
            raise InputError(f"MatchingNetwork: temperature {temperature}, {steps} steps; give above 0 and 1 or more.")
        self.temperature = temperature
        self.context = FullContext(self.embed.dim, steps) if context else None

    @classmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> MatchingNetwork:
        return cls(event_shape=event_shape, channels=[8], context=True, steps=2)

    def log_scores(self, decision: Decision) -> Float[Tensor, "B Q C"]:
        """Log of the mean attention to the images of each class, up to a constant of the query."""
        decision = decision.to(self.like())
        (sets, query), held = self.embedded(decision), decision.seen()
        if self.context is not None:
            support, query = self.context(sets.flatten(1, 2), query, held.flatten(1))
            sets = support.unflatten(1, sets.shape[1:3])
        cosines = (F.normalize(query, dim=-1)[:, :, None, None] * F.normalize(sets, dim=-1)[:, None]).sum(-1)
        attention = (cosines / self.temperature).masked_fill(~held[:, None], -torch.inf)
        return attention.logsumexp(-1) - held.sum(-1)[:, None].log()


class FullContext(nn.Module):
    r"""Full context embeddings: features that know the support.

    .. math::
        g_i = \overrightarrow{h}_i + \overleftarrow{h}_i + g'_i, \qquad
        r_k = \sum_i \mathrm{softmax}_i(h_k^\top g_i)\, g_i, \quad h_{k+1} = \mathrm{LSTM}(f', [h_k, r_k]) + f'

    with h_0 = f', and f is h after the last step.

    Source: Vinyals et al. (2016), appendix A, eqs. 3 to 7.
    """

    def __init__(self, dim: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.both_ways = nn.LSTM(dim, dim, batch_first=True, bidirectional=True)
        self.cell = nn.LSTMCell(2 * dim, dim)

    def forward(
        self, support: Float[Tensor, "B N D"], query: Float[Tensor, "B Q D"], held: Bool[Tensor, "B N"]
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B Q D"]]:
        with torch.autocast(support.device.type, enabled=False):
            support = self._read(support, held)
            return support, self._attend(support, query, held)

    def _read(self, support: Tensor, held: Tensor) -> Tensor:
        """g, in the order it was given; images that are not there come last and are not read."""
        order = support[..., 0].masked_fill(~held, torch.inf).argsort(dim=-1, stable=True)[..., None].expand_as(support)
        packed = pack_padded_sequence(support.gather(1, order), held.sum(-1).cpu(), True, enforce_sorted=False)
        read, _ = pad_packed_sequence(self.both_ways(packed)[0], True, total_length=support.shape[1])
        return support + torch.zeros_like(support).scatter(1, order, read.unflatten(-1, (2, -1)).sum(-2))

    def _attend(self, support: Tensor, query: Tensor, held: Tensor) -> Tensor:
        """f."""
        state, memory = query, torch.zeros_like(query).flatten(0, 1)
        for _ in range(self.steps):
            likeness = (state @ support.transpose(1, 2)).masked_fill(~held[:, None], -torch.inf)
            given = torch.cat([query, likeness.softmax(-1) @ support], -1)
            hidden, memory = self.cell(given.flatten(0, 1), (state.flatten(0, 1), memory))
            state = hidden.unflatten(0, query.shape[:2]) + query
        return state
