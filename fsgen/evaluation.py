"""Held-out likelihood: NLL in nats per image at each shot count, with its uncertainty."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from fsgen.data.sampler import Draw, EpisodeSampler
from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.evaluation_shards import WHOLE, Shard
from fsgen.inference import (
    Discriminative,
    couples_queries,
    latent_sites,
    log_weights,
    log_weights_and_terms,
    of_own_class,
)
from fsgen.inference_labels import log_labels
from fsgen.model import FewShotModel, Trainable
from fsgen.objectives import ess, iwae, iwae_of_groups


@dataclass(frozen=True)
class Score:
    """NLL of one image given ``shots`` others, over a list of sets.

    Attributes:
        ways: classes a set. shots: images of the support, of all its classes together.
        nats: mean NLL per image, lower is better. se: its standard error over sets.
        bits_per_dim: nats / (ln 2 C H W); None where the likelihood is a density, whose nats have no such unit.
        ess: mean effective sample share; ess_min: of the worst set; both 1 where the likelihood is exact.
        exact: exact likelihood, or an importance-weighted bound with ``particles`` samples.
        repeated: sets whose target is one of its own support images, as {"sets", "nats", "se"}; likewise unrepeated.
        per_set: NLL of every set in list order, for paired comparisons on the same list.
        bounds: the bound with fewer particles, where it was asked for: of each number of "particles" its "nats" and
            "se", and how far it lies "above" that of all particles on the same sets, with "above_se".
        terms: mean over sets and particles of each site's share of the bound, nats per image: of "x" the expected
            -log p(x | latents), of a latent log q - log p, which estimates its KL divergence. Their sum is -ELBO, the
            bound with one particle. Empty where the likelihood is exact.
    """

    ways: int
    shots: int
    nats: float
    se: float
    bits_per_dim: float | None
    ess: float
    ess_min: float
    exact: bool
    particles: int
    sets: int
    repeated: dict[str, float | int | None]
    unrepeated: dict[str, float | int | None]
    per_set: list[float] = field(repr=False)
    bounds: list[dict[str, Any]] = field(default_factory=list, repr=False)
    terms: dict[str, float] = field(default_factory=dict, repr=False)

    def record(self) -> dict[str, Any]:
        """Plain numbers for results.jsonl; without bounds and terms where there are none."""
        return {name: value for name, value in asdict(self).items() if name not in ("bounds", "terms") or value}


@dataclass(frozen=True)
class PerSet:
    """What an evaluation finds at one shot count, set by set: all of a list, or a shard of it; plain numbers.

    Attributes:
        first: number, in the list, of the first of these sets. ways, shots, exact, particles: as in :class:`Score`.
        nats_of_a_bit: ln 2 C H W, or None where the likelihood is a density.
        nats, ess: NLL and effective sample share of each set. repeated: whether the support holds the target.
        bounds: NLL of each set at each number of :func:`fewer` particles; of no number where it was not asked for.
        terms: of each site, its term of each set, as in :class:`Score`; of no site where the likelihood is exact.
    """

    first: int
    ways: int
    shots: int
    exact: bool
    particles: int
    nats_of_a_bit: float | None
    nats: list[float] = field(repr=False)
    ess: list[float] = field(repr=False)
    repeated: list[bool] = field(repr=False)
    bounds: list[list[float]] = field(repr=False)
    terms: dict[str, list[float]] = field(default_factory=dict, repr=False)

    def record(self) -> dict[str, Any]:
        """Plain numbers, from which ``PerSet(**record)`` is made again; without terms where there are none."""
        return {name: value for name, value in asdict(self).items() if name != "terms" or value}

    def score(self) -> Score:
        """Means and errors over the sets."""
        values, share = (torch.tensor(numbers, dtype=torch.float64) for numbers in (self.nats, self.ess))
        again = torch.tensor(self.repeated)
        whole = summary(values)
        return Score(
            ways=self.ways,
            shots=self.shots,
            nats=float(whole["nats"] or 0.0),
            se=float(whole["se"] or 0.0),
            bits_per_dim=float(whole["nats"] or 0.0) / self.nats_of_a_bit if self.nats_of_a_bit else None,
            ess=share.mean().item(),
            ess_min=share.min().item(),
            exact=self.exact,
            particles=self.particles,
            sets=len(values),
            repeated=summary(values[again]),
            unrepeated=summary(values[~again]),
            per_set=[round(v, 4) for v in self.nats],
            bounds=self._bounds(values),
            terms={site: torch.tensor(v, dtype=torch.float64).mean().item() for site, v in self.terms.items()},
        )

    def _bounds(self, values: torch.Tensor) -> list[dict[str, Any]]:
        columns = torch.tensor(self.bounds, dtype=torch.float64).T
        found = []
        for particles, column in zip(fewer(self.particles), columns, strict=False):
            above = summary(column - values)
            found.append({"particles": particles, **summary(column), "above": above["nats"], "above_se": above["se"]})
        return found


def evaluate(
    model: FewShotModel,
    sampler: EpisodeSampler,
    shots: Sequence[int],
    sets: int,
    particles: int,
    *,
    seed: int = 0,
    budget: int = 512,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Score]:
    """The means over all sets of what :func:`score_sets` finds, one a shot count; its arguments, its errors."""
    found = score_sets(model, sampler, shots, sets, particles, seed=seed, budget=budget, advance=advance)
    return [cell.score() for cell in found]


def score_sets(
    model: FewShotModel,
    sampler: EpisodeSampler,
    shots: Sequence[int],
    sets: int,
    particles: int,
    *,
    seed: int = 0,
    budget: int = 512,
    shard: Shard = WHOLE,
    by_particles: bool = False,
    advance: Callable[[int], None] = lambda n: None,
) -> list[PerSet]:
    """Scores the last image of each set given its first t images, for every t in ``shots``.

    The target is the same at all shot counts, so that the columns of a table are compared image by image; by
    exchangeability the mean is that of scoring image t+1. Set i is the sampler's episode i, and its latents are
    drawn under a seed of its own, so a set scores the same whatever else is scored beside it.

    Args:
        sampler: sequential episodes of the classes to report on; ``length`` must exceed every shot count.
        particles: K; one is enough, and used, where the likelihood is exact.
        budget: particles x shot counts x sets computed at a time, at least one particle of one set at all shot
            counts: memory grows with it and hardly with ``particles``. Bounds depend on it a little, as other random
            numbers are drawn.
        shard: the part of the list to score; the sets of all shards together score as in one call: bit by bit, on like
            machines with as many threads.
        by_particles: also gives the bound at each number of :func:`fewer` particles, from the same weights.
        advance: called with the number of sets done since its last call.

    Raises:
        InputError: a shot count or number of sets out of range.
    """
    _refuse(sampler, shots, sets, particles)
    like = next(model.parameters())
    was_training = model.training
    model.eval()
    parts, repeats, sites = [], [], []
    try:
        first = scored_episode(sampler, [sampler.draw(0)], shots, like)
        with own_random_state(like):
            exact, apart = not latent_sites(model, first), couples_queries(model, first)
        count = 1 if exact else particles
        counts = fewer(count) if by_particles else []
        group = min(max(1, budget // len(shots)), 16) if exact else 1
        wanted = shard.sets(sets, group)
        for numbers, kept in _groups(sets, group, wanted):
            draws = [sampler.draw(i) for i in numbers]
            episode = scored_episode(sampler, draws, shots, like, apart)
            with torch.no_grad(), own_random_state(like):
                torch.manual_seed(int(np.random.SeedSequence([seed, numbers[0]]).generate_state(1)[0]))
                chunk = max(1, budget // (len(shots) * len(draws)))
                w, terms = log_weights_and_terms(model, episode, count, chunk=chunk)
            sites = [] if exact else list(terms)
            held = _held(w, [terms[site] for site in sites], counts)
            parts.append([value.reshape(len(draws), len(shots), *value.shape[2:])[kept] for value in held])
            repeats += [[int(d.images[-1]) in d.images[:t].tolist() for t in shots] for d in draws[kept]]
            advance(len(draws[kept]))
    finally:
        model.train(was_training)
    unit = math.log(2) * math.prod(model.event_shape) if model.discrete else None
    about = wanted.start, sampler.ways[0]
    return [
        PerSet(*about, t, exact, count, unit, repeated=[row[i] for row in repeats], **values)
        for i, (t, values) in enumerate(zip(shots, _columns(parts, sites), strict=True))
    ]


def _refuse(sampler: EpisodeSampler, shots: Sequence[int], sets: int, particles: int) -> None:
    if sampler.shots is not None or len(sampler.ways) != 1:
        raise InputError("evaluate: give a sampler of sequential episodes with one number of ways.")
    if not shots or min(shots) < 0 or max(shots) >= sampler.length:
        raise InputError(
            f"evaluate: shots {list(shots)}; sets of {sampler.length} images take 0 to {sampler.length - 1}."
        )
    if sets < 2 or particles < 1:
        raise InputError(f"evaluate: {sets} sets and {particles} particles; give 2 sets and 1 particle or more.")


def _columns(parts: Sequence[Sequence[torch.Tensor]], sites: Sequence[str]) -> list[dict[str, Any]]:
    """What :func:`_held` found of each group, as fields of :class:`PerSet` for each shot count."""
    nats, share, bounds, terms = (torch.cat(values).transpose(0, 1).tolist() for values in zip(*parts, strict=True))
    return [
        {"nats": n, "ess": e, "bounds": b, "terms": {site: [row[i] for row in t] for i, site in enumerate(sites)}}
        for n, e, b, t in zip(nats, share, bounds, terms, strict=True)
    ]


def _held(
    w: torch.Tensor, terms: Sequence[torch.Tensor], counts: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """NLL and effective sample share [B, U]; NLL at ``counts`` of particles and minus the mean terms, [B, U, ...]."""
    nats = -iwae(w)
    none = nats.new_zeros(*nats.shape, 0)
    below = [-iwae_of_groups(w, count) for count in counts]
    means = [-term.mean(0) for term in terms]
    return nats, ess(w), torch.stack(below, -1) if below else none, torch.stack(means, -1) if means else none


def fewer(particles: int) -> list[int]:
    """The numbers of particles, below all of them, at which the convergence of a bound is shown.

    >>> fewer(100), fewer(1)
    ([1, 2, 5, 10, 20, 50], [])
    """
    steps = (digit * 10**power for power in range(len(str(particles))) for digit in (1, 2, 5))
    return [count for count in steps if count < particles]


def own_random_state(like: torch.Tensor) -> contextlib.AbstractContextManager[None]:
    """Gives torch's random state, on the CPU and on the device of ``like``, back as it was after the block."""
    return torch.random.fork_rng(devices=[like.device] if like.is_cuda else [])


def _groups(total: int, size: int, wanted: range) -> Iterator[tuple[range, slice]]:
    """The groups of a list that hold ``wanted`` sets, each whole, and where these lie in it.

    A group is computed as it always is, whichever of its sets are wanted: floating point and random numbers depend on
    what is computed together.
    """
    for start in range(wanted.start // size * size, wanted.stop, size):
        kept = slice(max(wanted.start - start, 0), min(wanted.stop - start, size))
        yield range(start, min(start + size, total)), kept


def scored_episode(
    sampler: EpisodeSampler, draws: Sequence[Draw], shots: Sequence[int], like: torch.Tensor, apart: bool = False
) -> Episode:
    """The last image of each draw as query, once a shot count: in one episode, or apart where queries couple."""
    images = sampler.gather(draws).to(like)
    support, target = images[:, :-1], images[:, -1:]
    visible = torch.arange(support.shape[1], device=like.device) < torch.tensor(shots, device=like.device)[:, None]
    query = target.expand(-1, len(shots), *target.shape[2:])
    if apart:
        repeated = support[:, None].expand(-1, len(shots), *support.shape[1:]).flatten(0, 1)
        return Episode(repeated, query.flatten(0, 1)[:, None], visible.repeat(len(draws), 1)[:, None])
    return Episode(support, query, visible.expand(len(draws), -1, -1))


def summary(values: torch.Tensor) -> dict[str, float | int | None]:
    """Number, mean and standard error of NLLs; None where there are too few to tell."""
    n = len(values)
    return {
        "sets": n,
        "nats": values.mean().item() if n else None,
        "se": values.std().item() / math.sqrt(n) if n > 1 else None,
    }


@torch.no_grad()
def sequential_nats(
    model: Trainable, sampler: EpisodeSampler, sets: int, particles: int, *, seed: int = 0, budget: int = 512
) -> torch.Tensor:
    """NLL of image t given the images before it, [sets, T]: one pass for all shot counts, for validation.

    A model whose latent couples the queries of an episode is scored by its joint bound, spread over the images.
    A NaN counts as an infinite NLL, so that weights that give one are never selected.
    """
    like = next(model.parameters())
    was_training = model.training
    model.eval()
    rows = []
    try:
        with own_random_state(like):
            torch.manual_seed(seed)
            for numbers, _ in _groups(sets, 5, range(sets)):
                images = sampler.gather([sampler.draw(i) for i in numbers]).to(like)
                size = images.shape[0] * images.shape[1]
                w = log_weights(model, Episode.sequential(images), particles, chunk=max(1, budget // size))
                bound = iwae(_finite(w))
                rows.append(-(bound if bound.shape[1] > 1 else bound.expand(-1, sampler.length) / sampler.length))
    finally:
        model.train(was_training)
    return torch.cat(rows)


@torch.no_grad()
def support_query_nats(
    model: Trainable, sampler: EpisodeSampler, sets: int, particles: int, *, labels: bool = False, seed: int = 0
) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
    """NLL of the queries of support/query episodes, [sets, Q] each, and whether their labels were right.

    Args:
        labels: whether a generative model is also asked which class each query belongs to.

    Returns:
        Nats of "x" given the support of its own class, for a generative model, and of "label" given that of all
        classes, where it was asked; and the right answers as 0 and 1, or None. NaN is an infinite NLL.
    """
    like, training = next(model.parameters()), model.training
    model.eval()
    discriminative = isinstance(model, Discriminative)
    nats: dict[str, list[torch.Tensor]] = {"x": [], "label": []}
    right = []
    try:
        with own_random_state(like):
            torch.manual_seed(seed)
            for numbers, _ in _groups(sets, 5, range(sets)):
                episode = sampler.episode(numbers).to(like)
                if not discriminative:
                    apart = episode.by_class()
                    bound = iwae(_finite(log_weights(model, apart, particles)))
                    share = apart.queries if bound.shape[1] == 1 else 1  # of a joint bound, in one image
                    nats["x"].append(-(bound / share).expand(-1, apart.queries).reshape(episode.batch, -1))
                if discriminative or labels:
                    scores = log_labels(model, episode, particles)
                    nats["label"].append(-_finite(own := of_own_class(scores)))
                    right.append((own == scores.amax(-1)).to(own.dtype))
    finally:
        model.train(training)
    return {name: torch.cat(parts) for name, parts in nats.items() if parts}, torch.cat(right) if right else None


def _finite(log_weights: torch.Tensor) -> torch.Tensor:
    return log_weights.masked_fill(log_weights.isnan() | log_weights.isposinf(), -math.inf)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Mean difference ours - theirs over the same sets, and its standard error.

    Raises:
        InputError: lists of different lengths.
    """
    if len(ours) != len(theirs):
        raise InputError(f"paired: {len(ours)} and {len(theirs)} sets; compare scores of the same list.")
    difference = summary(torch.tensor(ours, dtype=torch.float64) - torch.tensor(theirs, dtype=torch.float64))
    return float(difference["nats"] or 0.0), float(difference["se"] or 0.0)
