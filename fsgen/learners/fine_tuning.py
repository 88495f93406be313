"""A head that is trained on the support, over an embedding that was trained before.

References:
    Vinyals et al. (2016), "Matching networks for one shot learning", arXiv:1606.04080 (the baseline with fine-tuning).
    Raghu, Raghu, Bengio & Vinyals (2020), "Rapid learning or feature reuse?", arXiv:1909.09157 (steps of the head).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from fsgen.classification import Decision, Learner
from fsgen.errors import InputError
from fsgen.registry import learner


@learner("fine-tuning")
class FineTuning(Learner):
    r"""Fine-tuning: softmax regression on embeddings of the support, by gradient steps from zero.

    .. math:: W_{i+1} = W_i - \alpha \nabla_W \Bigl(\frac1C \sum_c \frac1{|X_c|} \sum_{s \in X_c}
        -\log \mathrm{softmax}_c(W_i f(s)) + \frac{\lambda}{2} \|W_i\|^2\Bigr)

    with f of length sqrt(D), so that rates mean the same for every embedding. The embedding is trained on episodes
    through the steps (almost no inner loop), or taken from another learner by ``--model.init``: it holds all the
    parameters there are. Classes count alike, however many images they hold.

    Options:
        event_shape: one image, (C, H, W). levels: values a pixel can take.
        channels: of each block of the embedding. blocks: 0 for plain convolution blocks, else residual blocks a stage.
        dim: of the features where there are residual blocks.
        steps: of the head. rate: alpha. decay: lambda.

    Source: the baseline of Vinyals et al. (2016), sec. 4; training through the steps: Raghu et al. (2020), sec. 4.
    """

    def __init__(
        self,
        *,
        event_shape: tuple[int, int, int] = (1, 28, 28),
        levels: int = 2,
        channels: Sequence[int] = (64, 64, 64, 64),
        blocks: int = 0,
        dim: int = 64,
        steps: int = 20,
        rate: float = 0.1,
        decay: float = 1e-3,
    ) -> None:
        super().__init__(event_shape, levels, channels, blocks, dim)
        if steps < 1 or not 0 < rate < math.inf or decay < 0:
            raise InputError(
                f"FineTuning: {steps} steps of rate {rate}, decay {decay}; give 1 step or more, a positive rate and a "
                f"decay of 0 or more."
            )
        self.steps, self.rate, self.decay = steps, rate, decay

    @classmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> FineTuning:
        return cls(event_shape=event_shape, channels=[8], steps=5, rate=1.0)

    def log_scores(self, decision: Decision) -> Float[Tensor, "B Q C"]:
        """Outputs of the head after its steps."""
        decision = decision.to(self.like())
        held = decision.seen()
        sets, query = (math.sqrt(part.shape[-1]) * F.normalize(part, dim=-1) for part in self.embedded(decision))
        features, ways = sets.flatten(1, 2), held.shape[1]
        truth = torch.eye(ways, dtype=features.dtype, device=features.device).repeat_interleave(held.shape[2], 0)
        there = held.to(features.dtype)
        shares = (there / (ways * there.sum(-1, keepdim=True))).flatten(1)[..., None]
        head = features.new_zeros(len(features), ways, features.shape[-1])
        with torch.autocast(features.device.type, enabled=False):
            for _ in range(self.steps):
                error = (features @ head.transpose(1, 2)).softmax(-1) - truth
                head = head - self.rate * ((shares * error).transpose(1, 2) @ features + self.decay * head)
            return query @ head.transpose(1, 2)
