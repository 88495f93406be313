"""Models small enough to adapt by hand, and what the tests of adaptation share."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from fsgen.adaptation import Adapted, InnerLoss, Likelihood
from fsgen.distributions import plates
from fsgen.episode import Episode
from fsgen.model import FewShotModel
from fsgen.registry import MODELS

EVENT = (1, 2, 2)
nearly: dict[str, float] = {"rtol": 1e-10, "atol": 1e-10}


class Plain(FewShotModel):
    """Independent pixels N(mu, 1) that ignore the support."""

    def __init__(self) -> None:
        super().__init__()
        self.event_shape, self.levels = EVENT, 256
        self.mu = nn.Parameter(torch.tensor([0.1, 0.9, -0.3, 0.5]).double().reshape(EVENT))

    @classmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> Plain:
        return cls()

    def model(self, episode: Episode) -> None:
        with plates(episode):
            pyro.sample("x", dist.Normal(self.mu, 1.0).to_event(3), obs=episode.query)

    def guide(self, episode: Episode) -> None:
        pass


class Curved(Plain):
    """Pixels N(a^2 b, 1), whose slope in a depends on a and b."""

    def __init__(self) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(0.7).double())
        self.b = nn.Parameter(torch.tensor([0.2, -0.4, 0.3, 0.6]).double().reshape(EVENT))

    def model(self, episode: Episode) -> None:
        with plates(episode):
            pyro.sample("x", dist.Normal(self.mu**2 * self.b, 1.0).to_event(3), obs=episode.query)


def signed(base: Plain, images: Tensor) -> Tensor:
    return (base.mu - images).square()


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, *EVENT).double()


def loud(name: str) -> Any:
    model: Any = MODELS.require(name)
    tiny = model.tiny(EVENT).double()
    for parameter in tiny.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return tiny


def adapted(base: FewShotModel, inner: InnerLoss | None = None, **options: Any) -> Adapted:
    model = Adapted(base, inner or Likelihood(leave_one_out=False), **{"rate": 0.1, **options}).double()
    model.log_rates.data += 0.3 * torch.randn_like(model.log_rates)
    return model


def normal(x: Tensor, mu: Tensor) -> Tensor:
    return dist.Normal(mu, 1.0).log_prob(x).sum((-1, -2, -3))


class Tied(Plain):
    """Pixels N(a + b, 1), with a and b one parameter in a module that is held twice and one beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Linear(1, 1).double()
        self.third = nn.Linear(1, 1).double()
        self.third.weight = self.first.weight
        del self.mu

    def model(self, episode: Episode) -> None:
        mu = (self.first.weight + self.second.weight + self.third.weight).expand(EVENT)
        with plates(episode):
            pyro.sample("x", dist.Normal(mu, 1.0).to_event(3), obs=episode.query)
