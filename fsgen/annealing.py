"""Annealed importance sampling: a second estimator of log p(query | support), for models with real-valued latents.

References:
    Neal (2001), "Annealed importance sampling", arXiv:physics/9803008.
    Neal (2011), "MCMC using Hamiltonian dynamics", arXiv:1206.1901.
    Wu, Burda, Salakhutdinov & Grosse (2017), "On the quantitative analysis of decoder-based generative models",
    arXiv:1611.04273.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.inference import draw_latents, log_densities

ACCEPTED = 0.65  # share of proposals: where the cost of an independent draw is least (Neal, 2011, sec. 4.4)
STEEPNESS = 4.0  # of the schedule
_FIRST_STEP, _RATE, _SETTLING = 0.2, 0.4, 10


@dataclass(frozen=True)
class Tuning:
    """What transitions take from pilot chains, and keep: sizes of steps, and the scale of each latent number.

    Attributes:
        steps: of each intermediate temperature. scale: spread of the latents under the proposal.
        accepted: share of the pilots' proposals that were accepted, for each temperature.
    """

    steps: Float[Tensor, "T B U"]
    scale: Float[Tensor, "B U D"]
    accepted: Float[Tensor, " T"]


@dataclass
class _Path:
    """The densities between proposal and joint, of all latents of a unit in one vector [K, B, U, D]."""

    model: Any
    episode: Episode
    proposal: str
    shapes: dict[str, torch.Size] = field(default_factory=dict)

    def draw(self, chains: int) -> Tensor:
        """Independent draws from the proposal."""
        latents = draw_latents(self.model, self.episode, chains, self.proposal)
        self.shapes = {name: value.shape[1:] for name, value in latents.items()}
        return torch.cat([value.reshape(*self._leading(chains), -1) for value in latents.values()], -1)

    def _leading(self, chains: int) -> tuple[int, int, int]:
        """K, B and U: one unit where a latent stands outside the plate "queries"."""
        coupled = any(shape[1] == 1 for shape in self.shapes.values())
        return chains, self.episode.batch, 1 if coupled else self.episode.queries

    def log_densities(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """log q and log p of the packed latents, [K, B, U]."""
        leading = self._leading(len(z))
        sizes = [shape.numel() // (leading[1] * leading[2]) for shape in self.shapes.values()]
        pairs = zip(self.shapes.items(), z.split(sizes, -1), strict=True)
        latents = {name: part.reshape(len(z), *shape) for (name, shape), part in pairs}
        return log_densities(self.model, self.episode, latents, self.proposal)

    def slope(self, z: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """log q, log p, and the gradient of the density between them at ``temperature``."""
        with torch.enable_grad():
            at = z.detach().requires_grad_()
            log_q, log_p = self.log_densities(at)
            between = (1 - temperature) * log_q + temperature * log_p
            (gradient,) = torch.autograd.grad(between.sum(), at)
        return log_q.detach(), log_p.detach(), gradient

    def move(
        self, z: Tensor, temperature: float, step: Tensor, scale: Tensor, leaps: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One Hamiltonian transition that keeps the density at ``temperature``.

        Returns:
            Latents, their log q and log p, and the probability with which each chain's proposal was accepted.
        """
        stride = (step[..., None] * scale).to(z.dtype)
        log_q, log_p, gradient = self.slope(z, temperature)
        momentum = torch.randn_like(z)
        new, speed, force = z, momentum, gradient
        new_q, new_p = log_q, log_p
        for _ in range(leaps):
            speed = speed + stride / 2 * force
            new = new + stride * speed
            new_q, new_p, force = self.slope(new, temperature)
            speed = speed + stride / 2 * force
        gain = (1 - temperature) * (new_q - log_q) + temperature * (new_p - log_p)
        gain = gain - (speed.double().square() - momentum.double().square()).sum(-1) / 2
        accepted = gain.nan_to_num(-math.inf, neginf=-math.inf).clamp(max=0).exp()
        taken = torch.rand_like(accepted) < accepted
        return (
            torch.where(taken[..., None], new, z),
            torch.where(taken, new_q, log_q),
            torch.where(taken, new_p, log_p),
            accepted,
        )


def temperatures(count: int) -> list[float]:
    r"""0 = beta_0 < ... < beta_count = 1, close together at both ends.

    .. math:: \beta_t = \frac{\sigma(\delta(2t/T - 1)) - \sigma(-\delta)}{\sigma(\delta) - \sigma(-\delta)}
        \quad\text{with}\quad \delta = 4

    Source: the sigmoidal schedule of Wu et al. (2017).

    >>> [round(beta, 3) for beta in temperatures(4)]
    [0.0, 0.105, 0.5, 0.895, 1.0]
    """
    raw = [1 / (1 + math.exp(-STEEPNESS * (2 * t / count - 1))) for t in range(count + 1)]
    return [0.0, *((value - raw[0]) / (raw[-1] - raw[0]) for value in raw[1:-1]), 1.0]


@torch.no_grad()
def tuned(
    model: Any, episode: Episode, count: int, *, leaps: int = 5, pilots: int = 16, proposal: str = "guide"
) -> Tuning:
    """Sizes of steps for :func:`annealed_log_weights`, from pilot chains that are then forgotten.

    At each temperature the step grows where more than 65 % of the pilots' proposals were accepted, and shrinks where
    fewer were; each episode and unit has its own.

    Args:
        count: intervals between temperatures. leaps: of a transition. pilots: chains.

    Raises:
        InputError: an argument out of range. ValueError: as :func:`fsgen.inference.draw_latents`.
    """
    _refuse(count, leaps, pilots - 1)
    path = _Path(model, episode.sharing(), proposal)
    z = path.draw(pilots)
    scale = z.std(0).clamp(min=1e-6)
    step = scale.new_full(scale.shape[:2], _FIRST_STEP)
    steps, shares = [], []
    inner = temperatures(count)[1:-1]
    for temperature in [*inner[:1] * _SETTLING, *inner]:
        z, _, _, accepted = path.move(z, temperature, step, scale, leaps)
        shares.append(accepted.mean())
        steps.append(step)
        step = step * (_RATE * (accepted.mean(0) - ACCEPTED)).exp().to(step)
    kept = len(steps) - len(inner)
    empty = step.new_zeros(0)
    return Tuning(
        torch.stack(steps[kept:]) if inner else empty.reshape(0, *step.shape),
        scale,
        torch.stack(shares[kept:]) if inner else empty,
    )


@torch.no_grad()
def annealed_log_weights(
    model: Any, episode: Episode, chains: int, tuning: Tuning, *, leaps: int = 5, proposal: str = "guide"
) -> Float[Tensor, "K B U"]:
    r"""log-weights of K annealed chains, nats, float64: use them as those of K particles.

    .. math:: \log w = \sum_{t=1}^{T} (\beta_t - \beta_{t-1}) \left(\log p(x, z_{t-1}) - \log q(z_{t-1})\right)

    z_0 is drawn from the proposal, and z_t from z_{t-1} by a Hamiltonian transition that keeps the density
    proportional to q^{1 - beta_t} p^{beta_t}. E w = p(query | support) for any number of temperatures and any size of
    steps that the chains themselves do not set, so that ``objectives.iwae`` of the weights is a bound, which rises
    with K and with T. One interval is importance sampling.

    Args:
        tuning: of this episode, by :func:`tuned` with the same ``leaps`` and ``proposal``; it sets the temperatures.

    Raises:
        InputError: an argument out of range. ValueError: as :func:`fsgen.inference.draw_latents`.

    Source: Neal (2001), eq. 3 and 11.
    """
    count = len(tuning.steps) + 1
    _refuse(count, leaps, chains)
    path = _Path(model, episode.sharing(), proposal)
    z = path.draw(chains)
    log_q, log_p = path.log_densities(z)
    betas = temperatures(count)
    weights = betas[1] * (log_p - log_q)
    for t, step in enumerate(tuning.steps, 1):
        z, log_q, log_p, _ = path.move(z, betas[t], step, tuning.scale, leaps)
        weights = weights + (betas[t + 1] - betas[t]) * (log_p - log_q)
    return weights


def _refuse(count: int, leaps: int, chains: int) -> None:
    if min(count, leaps, chains) < 1:
        raise InputError(
            f"annealing: {count} temperatures, {leaps} leaps and {chains} chains; give 1 or more of each, and 2 pilots."
        )
