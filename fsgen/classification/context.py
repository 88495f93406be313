"""The class whose set latent is the nearest: the rule of the neural statistician."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from fsgen.classification.classifier import ModelClassifier, still
from fsgen.classification.decision import Decision
from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.inference import PerView, latents
from fsgen.registry import classifier


@classifier("context")
class ContextClassifier(ModelClassifier):
    r"""The neural statistician's rule: compare the latent c of each class with that of the image as a set of one.

    .. math:: \hat c = \arg\min_c KL\bigl(q(c \mid X_c) \,\|\, q(c \mid \{x\})\bigr)

    The score of a class is minus the divergence, in nats.

    Args:
        model: one with a latent c of the set whose prior given the support is q(c | support), such as
            neural-statistician. prior, seed: see :class:`EpisodicClassifier`.

    Raises:
        InputError: a model without such a latent, when it is asked.

    Source: Edwards & Storkey (2017), sec. 5.3.
    """

    @torch.no_grad()
    def log_scores(self, decision: Decision) -> Float[Tensor, "B Q C"]:
        """- KL(q(c | X_c) || q(c | x)), nats, float64."""
        decision = decision.to(self.like())
        with still(self.model):
            ours = self._context(decision.sets.flatten(0, 1), decision.seen().flatten(0, 1), decision.sets.shape[:2])
            asked = decision.query.shape[:2]
            alone = torch.ones(*asked, 1, dtype=torch.bool, device=decision.query.device)
            theirs = self._context(decision.query.flatten(0, 1)[:, None], alone.flatten(0, 1), asked)
        (loc, scale), (loc_x, scale_x) = ours, theirs
        return -kl_divergence(Normal(loc[:, None], scale[:, None]), Normal(loc_x[:, :, None], scale_x[:, :, None])).sum(
            -1
        )

    def _context(
        self, sets: Float[Tensor, "N S *event"], seen: Bool[Tensor, "N S"], shape: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Mean and scale of q(c | set) of N sets, [*shape, D], float64: the model's prior of c given each."""
        if isinstance(self.model, PerView):
            raise InputError(
                f"{type(self.model).__name__} adapts its parameters; give a model with a latent c instead."
            )
        episode = Episode(sets, sets.new_zeros(len(sets), 1, *sets.shape[2:]), seen[:, None])
        c = latents(self.model.model, episode.sharing()).get("c")
        if not (isinstance(c, Independent) and isinstance(c.base_dist, Normal)):
            raise InputError(
                f"{type(self.model).__name__} has no normal latent c of the set; give a model that does, such as "
                f"neural-statistician."
            )
        whole = c.batch_shape + c.event_shape
        found = [value.double().expand(whole)[:, 0] for value in (c.base_dist.loc, c.base_dist.scale)]
        return found[0].unflatten(0, shape), found[1].unflatten(0, shape)
