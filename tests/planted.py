"""A small set-conditioned VAE, and the same with one fault each: what the contract tests have to reject."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from fsgen.distributions import bernoulli, gaussian, plates
from fsgen.episode import Episode
from fsgen.model import FewShotModel
from fsgen.nets import join, mlp
from fsgen.sets import MeanPool


class Sound(FewShotModel):
    """p(z | support) p(x | z, support), as it should be."""

    def __init__(self, event_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.event_shape, pixels = event_shape, math.prod(event_shape)
        self.encode = MeanPool(nn.Sequential(nn.Flatten(), mlp(pixels, 4, 8)), 4)
        self.prior, self.posterior = mlp(5, 4, 8), mlp(5 + pixels, 4, 8)
        self.decode = mlp(5 + 2, pixels, 8)

    @classmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> Sound:
        return cls(event_shape)

    def code(self, episode: Episode) -> Tensor:
        return self.encode.pool(self.encode.embed(episode.support), episode.seen())

    def generative_code(self, episode: Episode) -> Tensor:
        return self.code(episode)

    def latent(self, parameters: Tensor) -> Any:
        return gaussian(parameters)

    def image(self, logits: Tensor) -> Any:
        return bernoulli(logits, self.event_shape)

    def model(self, episode: Episode) -> None:
        r = self.generative_code(episode)
        with plates(episode):
            z = pyro.sample("z", gaussian(self.prior(r)))
            logits = self.decode(join(z, r)).unflatten(-1, self.event_shape)
            pyro.sample("x", self.image(logits), obs=episode.query)

    def guide(self, episode: Episode) -> None:
        r = self.code(episode)
        with plates(episode):
            pyro.sample("z", self.latent(self.posterior(join(episode.query.flatten(2), r))))


class Coupled(Sound):
    """A latent c for the episode, known from what all of its queries see: sound too, with U = 1."""

    def model(self, episode: Episode) -> None:
        r = self.common(episode)
        with pyro.plate("episodes", episode.batch, dim=-2):
            c = pyro.sample("c", gaussian(self.prior(r)))  # [K, B, 1, Z]
            logits = self.decode(join(c, r)).unflatten(-1, self.event_shape)
            with pyro.plate("queries", episode.queries, dim=-1):
                pyro.sample("x", self.image(logits), obs=episode.query)

    def guide(self, episode: Episode) -> None:
        asked = episode.query.flatten(2).mean(1, keepdim=True)
        with pyro.plate("episodes", episode.batch, dim=-2):
            pyro.sample("c", gaussian(self.posterior(join(asked, self.common(episode)))))

    def common(self, episode: Episode) -> Tensor:
        """[B, 1, R]"""
        return self.encode.pool(self.encode.embed(episode.support), episode.seen().all(1, keepdim=True))


class AcrossEpisodes(Sound):
    """The code is centred over the batch, as batch normalisation does."""

    def code(self, episode: Episode) -> Tensor:
        r = super().code(episode)
        return r - r.mean(0)


class AcrossQueries(Sound):
    """The code is centred over the queries of an episode."""

    def code(self, episode: Episode) -> Tensor:
        return super().code(episode) + episode.query.mean((1, 2, 3, 4))[:, None, None]


class ReadsTheQuery(Sound):
    """The prior and decoder see the image they explain."""

    def generative_code(self, episode: Episode) -> Tensor:
        return self.code(episode) + episode.query.flatten(2).mean(-1, keepdim=True)


class Ordered(Sound):
    """Later elements weigh more."""

    def code(self, episode: Episode) -> Tensor:
        weight = torch.arange(episode.shots).double().reshape(-1, 1, 1, 1)
        return self.encode.pool(self.encode.embed(episode.support * weight), episode.seen())


class Unmasked(Sound):
    """Every query sees every element."""

    def code(self, episode: Episode) -> Tensor:
        return super().code(Episode(episode.support, episode.query))


class CountsTheHidden(Sound):
    """The number of elements includes those that are hidden."""

    def code(self, episode: Episode) -> Tensor:
        r = super().code(episode)
        return torch.cat([r[..., :-1], torch.full_like(r[..., -1:], math.log1p(episode.shots))], -1)


class SeesItself(Sound):
    """The causal mask is off by one."""

    def code(self, episode: Episode) -> Tensor:
        visible = episode.seen().clone()
        visible.diagonal(dim1=1, dim2=2)[:] = True
        return super().code(Episode(episode.support, episode.query, visible))


class Silent(Sound):
    """A parameter that nothing reads."""

    def __init__(self, event_shape: tuple[int, int, int]) -> None:
        super().__init__(event_shape)
        self.spare = nn.Parameter(torch.ones(1))


class HalfAnImage(Sound):
    """Only the upper row is scored."""

    def image(self, logits: Tensor) -> Any:
        shown = torch.tensor([True, False])[:, None].expand(self.event_shape)
        return dist.Bernoulli(logits=logits).mask(shown).to_event(3)


class Cold(Sound):
    """Images are drawn at a lower temperature than they are scored at."""

    def image(self, logits: Tensor) -> Any:
        class Cooled(dist.Bernoulli):
            def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Any:
                return Cooled(logits=self.logits.expand(batch_shape))

            def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
                return torch.bernoulli((2 * self.logits).sigmoid().expand(self._extended_shape(sample_shape)))

        return Cooled(logits=logits).to_event(3)


class Boastful(Sound):
    """The guide draws from a narrower distribution than it says."""

    def latent(self, parameters: Tensor) -> Any:
        class Narrow(dist.Normal):
            def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Any:
                return Narrow(self.loc.expand(batch_shape), self.scale.expand(batch_shape))

            def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
                return dist.Normal(self.loc, 0.7 * self.scale).rsample(sample_shape)

        base = gaussian(parameters).base_dist
        return Narrow(base.loc, base.scale).to_event(1)
