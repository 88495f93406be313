"""The class of the nearest images: by pixels, or by what a model infers about them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from fsgen.classification.classifier import EpisodicClassifier, ModelClassifier, Prior, still
from fsgen.classification.decision import Decision
from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.inference import PerView, latents
from fsgen.model import FewShotModel
from fsgen.registry import classifier


@classifier("pixel-neighbours")
class PixelNeighbours(EpisodicClassifier):
    r"""Cosine nearest neighbours on pixels: the baseline that knows nothing.

    .. math:: \mathrm{score}_c(x) = \frac1{\tau k} \sum_{s \in N_k(x, c)} \cos(x, x_s)

    over the k images of the class that are nearest; k = 1 is the nearest neighbour of all.

    Args:
        neighbours: k; a class of fewer images takes them all. temperature: tau, which only probabilities depend on.
        prior, seed: see :class:`EpisodicClassifier`.

    Raises:
        InputError: a number out of range.

    Source: the baseline "Pixels" of Vinyals et al. (2016), table 1.
    """

    def __init__(
        self, *, neighbours: int = 1, temperature: float = 0.1, prior: Prior = "uniform", seed: int = 0
    ) -> None:
        super().__init__(prior=prior, seed=seed)
        self.neighbours, self.temperature = _checked(type(self).__name__, neighbours, temperature)

    def log_scores(self, decision: Decision) -> Float[Tensor, "B Q C"]:
        """Mean cosine of the nearest images of a class, by the temperature; float64."""
        likeness = cosines(decision.query.flatten(2), decision.sets.flatten(3))
        return nearest_of(likeness, decision.seen(), self.neighbours) / self.temperature


@classifier("cosine")
class FeatureClassifier(ModelClassifier):
    r"""Cosine nearest neighbours on what a model infers about each image: the means of q(z | x, support).

    Scores are those of :class:`PixelNeighbours`, on the concatenated means of the latents of an image, which are named
    z, z1, z_2 and so on; a latent takes its mean where others depend on it. The support is that of all classes.

    Args:
        model: one with such latents.
        conditional: infer given the support of all classes; otherwise given none, as if each image stood alone.
        neighbours, temperature: see :class:`PixelNeighbours`. prior, seed: see :class:`EpisodicClassifier`.

    Raises:
        InputError: a model without such latents; a number out of range.

    Source: Bartunov & Vetrov (2018), sec. 5.3.
    """

    def __init__(
        self,
        model: FewShotModel,
        *,
        conditional: bool = True,
        neighbours: int = 1,
        temperature: float = 0.1,
        prior: Prior = "uniform",
        seed: int = 0,
    ) -> None:
        super().__init__(model, prior=prior, seed=seed)
        self.neighbours, self.temperature = _checked(type(self).__name__, neighbours, temperature)
        self.conditional = conditional

    @torch.no_grad()
    def log_scores(self, decision: Decision) -> Float[Tensor, "B Q C"]:
        """Mean cosine of the nearest images of a class, by the temperature; float64."""
        decision = decision.to(self.like())
        with still(self.model):
            found = torch.stack(
                [self._features(*one) for one in zip(decision.sets, decision.seen(), decision.query, strict=True)]
            )
        held, asked = found.split([decision.sets.shape[1] * decision.sets.shape[2], decision.query.shape[1]], 1)
        likeness = cosines(asked, held.unflatten(1, decision.sets.shape[1:3]))
        return nearest_of(likeness, decision.seen(), self.neighbours) / self.temperature

    def _features(self, sets: Tensor, seen: Tensor, query: Tensor) -> Float[Tensor, "N D"]:
        """Posterior means of the images of the sets, padding and all, then of the queries; each inferred apart."""
        images = torch.cat([sets.flatten(0, 1), query])
        support = sets[seen] if self.conditional else sets[seen][:0]
        episode = Episode(support.expand(len(images), *support.shape), images[:, None])
        return latent_means(self.model, episode)


def latent_means(model: FewShotModel, episode: Episode) -> Float[Tensor, "B D"]:
    """Means of q(z | query, support) of every latent of an image, concatenated; one query an episode.

    Raises:
        InputError: the model has none.
    """
    if isinstance(model, PerView):
        raise InputError(f"{type(model).__name__} adapts its parameters; give a model with latents z instead.")
    found = {name: q for name, q in latents(model.guide, episode.sharing()).items() if name.startswith("z")}
    if not found:
        raise InputError(f"{type(model).__name__} infers no latent z of an image; give a model that does, such as gmn.")
    return torch.cat([q.mean.expand(*q.shape())[:, 0] for q in found.values()], -1)


def cosines(query: Float[Tensor, "B Q D"], sets: Float[Tensor, "B C S D"]) -> Float[Tensor, "B Q C S"]:
    """Cosine of every query with every image of the sets, float64; 0 where one of them is zero."""
    return torch.einsum("bqd,bcsd->bqcs", F.normalize(query.double(), dim=-1), F.normalize(sets.double(), dim=-1))


def nearest_of(
    likeness: Float[Tensor, "B Q C S"], held: Bool[Tensor, "B C S"], neighbours: int
) -> Float[Tensor, "B Q C"]:
    """Mean likeness of the nearest images of each class, of as many as there are up to ``neighbours``."""
    near = likeness.masked_fill(~held[:, None], -torch.inf).sort(-1, descending=True).values[..., :neighbours]
    there = near.isfinite()
    return near.masked_fill(~there, 0).sum(-1) / there.sum(-1)


def _checked(who: str, neighbours: int, temperature: float) -> tuple[int, float]:
    if neighbours < 1 or not temperature > 0:
        raise InputError(f"{who}: neighbours {neighbours} and temperature {temperature}; give 1 or more and above 0.")
    return neighbours, temperature
