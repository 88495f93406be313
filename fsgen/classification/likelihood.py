"""The class under which an image is most likely."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fsgen.classification.classifier import ModelClassifier, Prior, still
from fsgen.classification.decision import Decision
from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.inference import couples_queries, latent_sites, log_weights, same_noise
from fsgen.model import FewShotModel
from fsgen.objectives import iwae
from fsgen.registry import classifier


@classifier("likelihood")
class LikelihoodClassifier(ModelClassifier):
    r"""Bayes' rule with any model: a class is as probable as it makes the image likely.

    .. math:: p(c \mid x) \propto \pi_c\, p(x \mid X_c)

    Exact where the model has no latent. Otherwise log p(x | X_c) is the importance-weighted bound of K particles, whose
    noise the classes that are scored together share, so that it mostly cancels between them; and a class that is far
    behind after the first few particles gets no more: it keeps the distance to the leader that it had on that noise.

    All classes, queries and particles are scored together, ``budget`` images at a time: classes are the episodes of a
    batch, whose supports are encoded once a pass, and queries are shared by them and encoded once.

    Example:
        >>> import torch, fsgen
        >>> images = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
        >>> model = fsgen.build("beta-bernoulli", event_shape=(1, 4, 4))
        >>> LikelihoodClassifier(model).fit(images, ["paper", "ink"]).predict(images).tolist()
        ['paper', 'ink']

    Args:
        model: any model. prior, seed: see :class:`EpisodicClassifier`.
        particles: K, for models with latents.
        screen: particles after which classes may be left behind; 0 gives all particles to all classes.
        margin: a class is left behind if it is more nats behind the best one of an image than this and the standard
            deviation, over particles, of the difference of their log-weights together.
        budget: particles x classes x queries computed at a time, which bounds the memory.

    Raises:
        InputError: a number out of range.

    Source: Bartunov & Vetrov (2018), sec. 5.3; the bound is eq. 8 of Burda et al. (2016).
    """

    def __init__(
        self,
        model: FewShotModel,
        *,
        particles: int = 100,
        screen: int = 6,
        margin: float = 2.0,
        budget: int = 256,
        prior: Prior = "uniform",
        seed: int = 0,
    ) -> None:
        super().__init__(model, prior=prior, seed=seed)
        if particles < 1 or budget < 1 or screen < 0 or not margin > 0:
            raise InputError(
                f"LikelihoodClassifier: particles {particles}, budget {budget}, screen {screen}, margin {margin}; "
                f"give particles and budget of 1 or more, screen of 0 or more and a positive margin."
            )
        self.particles, self.screen, self.margin, self.budget = particles, screen, margin, budget

    @torch.no_grad()
    def log_scores(self, decision: Decision) -> Float[Tensor, "B Q C"]:
        """log p(x | X_c), nats, float64: exact, or the bound."""
        decision = decision.to(self.like())
        with still(self.model):
            exact, apart = self._kind(decision)
            held = decision.seen()
            rows = [
                self._one(sets, query, None if bool(seen.all()) else seen, exact, apart)
                for sets, query, seen in zip(decision.sets, decision.query, held, strict=True)
            ]
        return torch.stack(rows)

    def _kind(self, decision: Decision) -> tuple[bool, bool]:
        """Whether the score is exact, and whether each query has to be an episode of its own."""
        two = decision.query[:1, :1].expand(-1, 2, *decision.query.shape[2:])
        look, state = Episode(decision.sets[:1, 0], two), torch.get_rng_state()
        found = not latent_sites(self.model, look), couples_queries(self.model, look)
        torch.set_rng_state(state)  # looking at the program runs it
        return found

    def _one(self, sets: Tensor, query: Tensor, held: Tensor | None, exact: bool, apart: bool) -> Tensor:
        """Scores [Q, C] of one decision between sets [C, S, ...]."""
        screened = not exact and 0 < self.screen < self.particles
        first = 1 if exact else self.screen if screened else self.particles
        if apart:
            every = torch.cartesian_prod(torch.arange(len(query)), torch.arange(len(sets)))
            weights = self._pairs(sets, query, held, every, first).unflatten(1, (len(query), len(sets)))
        else:
            weights = self._together(sets, query, held, first)
        scores = iwae(weights)
        return self._finished(weights, scores, sets, query, held) if screened else scores

    def _finished(
        self,
        weights: Float[Tensor, "K Q C"],
        early: Float[Tensor, "Q C"],
        sets: Tensor,
        query: Tensor,
        held: Tensor | None,
    ) -> Float[Tensor, "Q C"]:
        """Scores from all particles of the classes still in question; the others keep their distance to the leader."""
        best, leader = early.max(-1, keepdim=True)
        noise = (weights - weights.gather(-1, leader.expand(len(weights), -1, 1))).std(0, correction=0)
        left = (early >= best - self.margin - noise).nonzero()  # [P, 2]: query and class
        more = self._pairs(sets, query, held, left, self.particles - len(weights))
        whole = early.clone()
        whole[left[:, 0], left[:, 1]] = iwae(torch.cat([weights[:, left[:, 0], left[:, 1]], more])[:, None])[0]
        kept = torch.zeros_like(early, dtype=torch.bool)
        kept[left[:, 0], left[:, 1]] = True
        return torch.where(kept, whole, early - best + whole.gather(-1, leader))

    def _together(self, sets: Tensor, query: Tensor, held: Tensor | None, particles: int) -> Float[Tensor, "K Q C"]:
        """Log-weights of every query under every class."""
        rows = []
        for queries in query.split(max(1, self.budget // len(sets))):
            columns = []
            for part in _slices(len(sets), self.budget):
                own, seen = sets[part], None if held is None else held[part][:, None].expand(-1, len(queries), -1)
                episode = Episode(own, queries[None].expand(len(own), *queries.shape), seen)
                columns.append(self._weights(episode, particles).transpose(1, 2))
            rows.append(torch.cat(columns, -1))
        return torch.cat(rows, 1)

    def _pairs(
        self, sets: Tensor, query: Tensor, held: Tensor | None, pairs: Int[Tensor, "P 2"], particles: int
    ) -> Float[Tensor, "K P"]:
        """Log-weights of pairs of a query and a class, each an episode."""
        columns = []
        for part in pairs.split(self.budget):
            asked, of = part.to(sets.device).unbind(-1)
            seen = None if held is None else held[of][:, None]
            columns.append(self._weights(Episode(sets[of], query[asked][:, None], seen), particles)[..., 0])
        return torch.cat(columns, 1)

    def _weights(self, episode: Episode, particles: int) -> Float[Tensor, "K B U"]:
        chunk = max(1, self.budget // (episode.batch * episode.queries))
        with same_noise():
            return log_weights(self.model, episode, particles, chunk=chunk)


def _slices(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
