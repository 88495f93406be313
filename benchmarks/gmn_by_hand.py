"""The log-weights of fsgen's matching network from its own networks by plain formulae, without Pyro."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fsgen.distributions.latents import LEAST_SCALE
from fsgen.episode import Episode
from fsgen.models.gmn import GMN
from fsgen.nets import join, prelu


def moments(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale of a diagonal normal from a network's output."""
    loc, raw = parameters.chunk(2, -1)
    return loc, F.softplus(raw) + LEAST_SCALE


def log_normal(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Log-density of a diagonal normal, summed over the last axis, nats."""
    return (-0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def log_weights_by_hand(model: GMN, episode: Episode, noise: Tensor | None = None) -> Tensor:
    """log p(x, z | support) - log q(z | x, support) of one particle, nats, [B, Q]; z = loc + scale * ``noise``."""
    query = model.embed(episode.query)
    support = query if episode.support is episode.query else model.embed(episode.support)
    seen = episode.seen()
    loc, scale = moments(model.posterior(join(query, model.match_image.pool(support, seen, query))))
    z = loc + scale * (torch.randn_like(loc) if noise is None else noise)
    if model.match_prior is None:
        prior = torch.zeros_like(z), torch.ones_like(z)
    else:
        hidden = prelu(model.prior_hidden(model.match_prior.pool(support, seen)), model.prior_slope)
        prior = moments(model.prior(hidden))
    code = join(z, model.match_latent.pool(support, seen, z))
    logits = model.decode(code.flatten(0, -2)).reshape(*code.shape[:-1], *model.maps)
    pixels = F.binary_cross_entropy_with_logits(logits, episode.query, reduction="none")
    return log_normal(z, *prior) - log_normal(z, loc, scale) - pixels.flatten(-3).sum(-1)
