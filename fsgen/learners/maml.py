"""Model-agnostic meta-learning of a classifier.

References:
    Finn, Abbeel & Levine (2017), "Model-agnostic meta-learning for fast adaptation of deep networks", arXiv:1703.03400.
    Ye & Chao (2022), "How to train your MAML to excel in few-shot classification", arXiv:2106.16245 (one initial row of
    the head for all classes).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call, grad

from fsgen.classification import Decision, Learner
from fsgen.errors import InputError
from fsgen.registry import learner

HEAD = "head"


@learner("maml")
class MAML(Learner):
    r"""MAML: embedding and head take gradient steps on the support, and are trained through the steps.

    .. math:: \theta_{i+1} = \theta_i - \alpha \nabla_\theta \frac1C \sum_c \frac1{|X_c|} \sum_{s \in X_c}
        -\log p_{\theta_i}(c \mid s)

    Classes count alike, however many images they hold. The head's rows all begin as one learned row, so that the order
    of classes means nothing and any number of them will do; the published head has an initial row for each output.

    Options:
        event_shape: one image, (C, H, W). levels: values a pixel can take.
        channels: of each block of the embedding. blocks: 0 for plain convolution blocks, else residual blocks a stage.
        dim: of the features where there are residual blocks.
        steps: inner steps. rate: alpha.
        first_order: drop the second derivatives, so that a slope counts as a constant in training.

    Source: Finn et al. (2017), algorithm 2; first order: sec. 5.2.
    """

    def __init__(
        self,
        *,
        event_shape: tuple[int, int, int] = (1, 28, 28),
        levels: int = 2,
        channels: Sequence[int] = (64, 64, 64, 64),
        blocks: int = 0,
        dim: int = 64,
        steps: int = 5,
        rate: float = 0.1,
        first_order: bool = False,
    ) -> None:
        super().__init__(event_shape, levels, channels, blocks, dim)
        if steps < 1 or not 0 < rate < math.inf:
            raise InputError(f"MAML: {steps} steps of rate {rate}; give 1 step or more and a positive rate.")
        self.head = nn.Parameter(torch.randn(self.embed.dim + 1) / math.sqrt(self.embed.dim))  # weights and bias
        self.steps, self.rate, self.first_order = steps, rate, first_order

    @classmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> MAML:
        return cls(event_shape=event_shape, channels=[8], steps=2, rate=0.5)

    def log_scores(self, decision: Decision) -> Float[Tensor, "B Q C"]:
        """Outputs of the head after the inner steps, one decision after the other."""
        decision = decision.to(self.like())
        parts = zip(decision.sets, decision.seen(), decision.query, strict=True)
        return torch.stack([self.outputs(self.adapted(sets, held), query) for sets, held, query in parts])

    def adapted(self, sets: Float[Tensor, "C S *event"], held: Bool[Tensor, "C S"]) -> dict[str, Tensor]:
        """Parameters by name after the inner steps; those of the head are [C, D + 1]."""
        images, owner = sets[held], held.nonzero()[:, 0]
        shares = 1 / (len(held) * held.sum(1)[owner].to(self.head.dtype))
        values: dict[str, Tensor] = {**dict(self.embed.named_parameters()), HEAD: self.head.expand(len(sets), -1)}

        def loss(values: Mapping[str, Tensor]) -> Tensor:
            of_own = self.outputs(values, images).log_softmax(-1).gather(1, owner[:, None])[:, 0]
            return -(shares * of_own).sum()

        for _ in range(self.steps):
            at = {name: value.detach() for name, value in values.items()} if self.first_order else values
            slopes = grad(loss)(at)
            values = {name: value - self.rate * slopes[name] for name, value in values.items()}
        return values

    def outputs(self, values: Mapping[str, Tensor], images: Float[Tensor, "N ..."]) -> Float[Tensor, "N C"]:
        """Outputs of the network whose parameters are ``values``."""
        embedding = {name: value for name, value in values.items() if name != HEAD}
        features = functional_call(self.embed, embedding, (images,)).to(values[HEAD].dtype)
        return (features[:, None] * values[HEAD][:, :-1]).sum(-1) + values[HEAD][:, -1]
