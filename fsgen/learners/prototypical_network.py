"""Prototypical networks.

References: Snell, Swersky & Zemel (2017), "Prototypical networks for few-shot learning", arXiv:1703.05175.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from fsgen.classification import Decision, Learner
from fsgen.registry import learner


@learner("prototypical-network")
class PrototypicalNetwork(Learner):
    r"""Prototypical network: the class whose mean embedding is the nearest by squared distance.

    .. math:: p(c \mid x) \propto \exp(-\|f(x) - \mu_c\|^2), \qquad \mu_c = \frac1{|X_c|} \sum_{s \in X_c} f(s)

    Options:
        event_shape: one image, (C, H, W). levels: values a pixel can take.
        channels: of each block of the embedding. blocks: 0 for plain convolution blocks, else residual blocks a stage.
        dim: of the features where there are residual blocks.

    Source: Snell et al. (2017), eqs. 1 and 2.
    """

    def __init__(
        self,
        *,
        event_shape: tuple[int, int, int] = (1, 28, 28),
        levels: int = 2,
        channels: Sequence[int] = (64, 64, 64, 64),
        blocks: int = 0,
        dim: int = 64,
    ) -> None:
        super().__init__(event_shape, levels, channels, blocks, dim)

    @classmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> PrototypicalNetwork:
        return cls(event_shape=event_shape, channels=[8])

    def log_scores(self, decision: Decision) -> Float[Tensor, "B Q C"]:
        """Minus the squared distance of a query from the mean of each class."""
        decision = decision.to(self.like())
        (sets, query), held = self.embedded(decision), decision.seen()[..., None]
        means = (held * sets).sum(2) / held.sum(2)
        return -(query[:, :, None] - means[:, None]).square().sum(-1)
