"""Generative programs with closed forms: what an estimator must return is known without it.

References: Tipping & Bishop (1999), "Probabilistic principal component analysis"; Bishop (2006), sec. 2.3.3.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from fsgen.distributions import plates
from fsgen.episode import Episode


class ProbabilisticPCA:
    """z ~ N(0, I), x ~ N(W z + mean of what is seen, s2 I); the guide is the posterior, moved and widened at will.

    Args:
        dim_x, dim_z: D and Z. shift: added to the guide's mean. widen: factor of the guide's covariance.
    """

    def __init__(self, dim_x: int, dim_z: int, *, shift: float = 0.0, widen: float = 1.0) -> None:
        self.weight = torch.randn(dim_x, dim_z, dtype=torch.float64)
        self.raw_noise = torch.randn((), dtype=torch.float64)
        self.shift, self.widen = shift, widen

    @property
    def noise(self) -> Tensor:
        """s2, the variance of x given z."""
        return self.raw_noise.exp() + 0.1

    def offset(self, episode: Episode) -> Tensor:
        """[B, Q, D]: the mean of the support each query sees; 0 of none."""
        seen = episode.seen().double()
        return seen @ episode.support / seen.sum(-1, keepdim=True).clamp(min=1)

    def model(self, episode: Episode) -> None:
        dim_z = self.weight.shape[1]
        with plates(episode):
            z = pyro.sample("z", dist.Normal(torch.zeros(dim_z).double(), 1.0).to_event(1))
            mean = z @ self.weight.T + self.offset(episode)
            pyro.sample("x", dist.Normal(mean, self.noise.sqrt()).to_event(1), obs=episode.query)

    def guide(self, episode: Episode) -> None:
        with plates(episode):
            mean, covariance = self.posterior(episode)
            pyro.sample("z", dist.MultivariateNormal(mean + self.shift, self.widen * covariance))

    def posterior(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Mean [B, Q, Z] and covariance [Z, Z] of p(z | query, support)."""
        precision = self.weight.T @ self.weight / self.noise + torch.eye(self.weight.shape[1]).double()
        covariance = precision.inverse()
        mean = (episode.query - self.offset(episode)) @ self.weight @ covariance / self.noise
        return mean, covariance

    def log_prob(self, episode: Episode) -> Tensor:
        """log p(query | support) [B, Q], nats."""
        covariance = self.weight @ self.weight.T + self.noise * torch.eye(self.weight.shape[0]).double()
        return MultivariateNormal(self.offset(episode), covariance).log_prob(episode.query)

    def gap(self, episode: Episode) -> Tensor:
        """KL(guide || posterior) [B, Q], nats: log p minus the ELBO."""
        mean, covariance = self.posterior(episode)
        return kl_divergence(
            MultivariateNormal(mean + self.shift, self.widen * covariance), MultivariateNormal(mean, covariance)
        )


class HierarchicalGaussian:
    """c ~ N(0, I), z_i ~ N(A c, t2 I), x_i ~ N(B z_i, s2 I): c couples the queries, so U = 1.

    The generative program draws c from p(c | support), which makes it the predictive p(query | support).

    Args:
        dim_x, dim_z, dim_c: sizes. widen: factor of the covariance of the guide's c; 1 is exact.
    """

    def __init__(self, dim_x: int, dim_z: int, dim_c: int, *, widen: float = 1.0) -> None:
        self.to_z = torch.randn(dim_z, dim_c, dtype=torch.float64)
        self.to_x = torch.randn(dim_x, dim_z, dtype=torch.float64)
        self.noise_z, self.noise_x, self.widen = 0.7, 0.4, widen

    def model(self, episode: Episode) -> None:
        with pyro.plate("episodes", episode.batch, dim=-2):
            c = pyro.sample("c", self.set_latent(episode.support))
            with pyro.plate("queries", episode.queries, dim=-1):
                z = pyro.sample("z", dist.Normal(c @ self.to_z.T, self.noise_z**0.5).to_event(1))
                x = dist.Normal(z @ self.to_x.T, self.noise_x**0.5).to_event(1)
                pyro.sample("x", x, obs=episode.query)

    def guide(self, episode: Episode) -> None:
        with pyro.plate("episodes", episode.batch, dim=-2):
            c = pyro.sample("c", self.set_latent(torch.cat([episode.support, episode.query], 1), self.widen))
            with pyro.plate("queries", episode.queries, dim=-1):
                eye = torch.eye(len(self.to_z)).double()
                covariance = (self.to_x.T @ self.to_x / self.noise_x + eye / self.noise_z).inverse()
                pull = episode.query @ self.to_x / self.noise_x + c @ self.to_z.T / self.noise_z
                pyro.sample("z", dist.MultivariateNormal(pull @ covariance, covariance))

    def set_latent(self, elements: Tensor, widen: float = 1.0) -> dist.Distribution:
        """p(c | elements) [B, 1], by Bayes' rule with z integrated out."""
        through, spread = self.to_x @ self.to_z, self.element_covariance()
        pull = torch.linalg.solve(spread, through)  # [D, C]
        eye = torch.eye(through.shape[1]).double()
        covariance = (eye + elements.shape[1] * through.T @ pull).inverse()
        mean = elements.sum(1, keepdim=True) @ pull @ covariance
        return dist.MultivariateNormal(mean, widen * covariance)

    def element_covariance(self) -> Tensor:
        """Covariance of x given c, [D, D]."""
        return self.noise_z * self.to_x @ self.to_x.T + self.noise_x * torch.eye(len(self.to_x)).double()

    def joint(self, elements: Tensor) -> Tensor:
        """log p(x_1, ..., x_N) [B] from the covariance of all N D numbers at once; 0 for no element."""
        count, dim = elements.shape[1:]
        if not count:
            return elements.new_zeros(len(elements))
        through = self.to_x @ self.to_z
        shared = torch.kron(torch.ones(count, count).double(), through @ through.T)
        own = torch.kron(torch.eye(count).double(), self.element_covariance())
        zero = elements.new_zeros(count * dim)
        return MultivariateNormal(zero, shared + own).log_prob(elements.flatten(1))

    def log_prob(self, episode: Episode) -> Tensor:
        """log p(query | support) [B, 1], the ratio of two joints."""
        both = torch.cat([episode.support, episode.query], 1)
        return (self.joint(both) - self.joint(episode.support))[:, None]


def beta_bernoulli_joint(a: Tensor, b: Tensor, images: Tensor) -> Tensor:
    r"""log p(x_1 ... x_T) of binary images [..., T, C, H, W] with Beta(a, b) pixels [C, H, W], nats [...].

    .. math:: \prod_i B(a_i + k_i, b_i + T - k_i) / B(a_i, b_i), \quad k_i \text{ the inked images}
    """
    ink, count = images.sum(-4), images.shape[-4]
    return (log_beta(a + ink, b + count - ink) - log_beta(a, b)).sum((-3, -2, -1))


def log_beta(a: Tensor, b: Tensor) -> Tensor:
    return a.lgamma() + b.lgamma() - (a + b).lgamma()
