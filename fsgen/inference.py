"""The one file that looks inside a Pyro trace: terms, log-weights and simulation of a model."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from fsgen.episode import Episode

PLATES = ("particles", "episodes", "queries")
PROPOSALS = ("guide", "prior")


def terms(
    model: Any, episode: Episode, particles: int = 1, proposal: str = "guide"
) -> dict[str, Float[Tensor, "K B U"]]:
    r"""The log-weight taken apart by site, in nats, float64.

    Site "x" holds log p(query | z, support); every other site holds log p(z | ...) - log q(z | ...), which is 0
    under the prior as proposal. U is Q where every latent belongs to one query, and 1 where a latent outside
    the plate "queries" couples them: then the terms are sums over the queries.

    Args:
        model: has ``model(episode)`` and ``guide(episode)``, Pyro programs in the plates of
            :func:`fsgen.distributions.plates`.
        particles: K, importance samples.
        proposal: "guide" draws latents from ``model.guide``, "prior" from the model itself.

    Raises:
        ValueError: an unknown proposal, or a site outside the plate "episodes".
    """
    if proposal not in PROPOSALS:
        raise ValueError(f"terms: no proposal '{proposal}'. Known: {', '.join(PROPOSALS)}.")
    if episode._memo is None:
        episode = episode.sharing()
    particle_plate = pyro.plate("particles", particles, dim=-3)
    generative = particle_plate(model.model)
    if proposal == "prior":
        q: dict[str, Any] = {}
        p = _sites(model, poutine.trace(generative).get_trace(episode))
    else:
        guide_trace = poutine.trace(particle_plate(model.guide)).get_trace(episode)
        p = _sites(model, poutine.trace(poutine.replay(generative, trace=guide_trace)).get_trace(episode))
        q = _sites(model, guide_trace)
    if strangers := [name for name in q if name not in p]:
        raise ValueError(
            f"{type(model).__name__}: the guide samples '{strangers[0]}', which the model does not; "
            f"the model's sites are {', '.join(p)}. Give both the same name."
        )
    coupled = any(not _in_plate(site, "queries") for site in p.values())
    shape = (particles, episode.batch)

    def nats(site: dict[str, Any]) -> Tensor:
        units = episode.queries if _in_plate(site, "queries") else 1
        value = site["log_prob"].double().expand(*shape, units)
        return value.sum(-1, keepdim=True) if coupled else value

    found = {}
    for name, site in p.items():
        value = nats(site)
        if name in q:
            value = value - nats(q[name])
        elif not site["is_observed"]:
            value = value * 0
        found[name] = value
    return found


def log_weights(
    model: Any, episode: Episode, particles: int = 1, proposal: str = "guide", chunk: int | None = None
) -> Float[Tensor, "K B U"]:
    """log p(query, z | support) - log q(z | query, support) per particle, episode and unit, in nats, float64.

    Args:
        chunk: particles computed at a time, which bounds the memory; what depends on the images alone is
            computed once for all chunks. None takes all at once.

    Raises:
        ValueError: as :func:`terms`.
    """
    episode = episode.sharing()
    sizes = _chunks(particles, chunk or particles)
    parts = [terms(model, episode, k, proposal) for k in sizes]
    return torch.cat([torch.stack(tuple(part.values())).sum(0) for part in parts])


def latent_sites(model: Any, episode: Episode) -> list[str]:
    """Names of the latent sites of the generative program; none means that its score is exact."""
    with torch.no_grad():
        trace = poutine.trace(model.model).get_trace(episode)
    return [name for name, site in _sites(model, trace).items() if not site["is_observed"]]


def couples_queries(model: Any, episode: Episode) -> bool:
    """Whether a latent outside the plate "queries" ties the queries of an episode together, so that U is 1."""
    with torch.no_grad():
        trace = poutine.trace(model.model).get_trace(episode)
    return any(not _in_plate(site, "queries") for site in _sites(model, trace).values())


def simulate(model: Any, episode: Episode, particles: int | None = None) -> dict[str, Tensor]:
    """Runs the scored program forwards: every latent and x ~ p(. | support); the query gives only its shape.

    Args:
        particles: K independent runs; None is one run without the axis K.

    Returns:
        Value of each site; "x" is [K, B, Q, *event].
    """
    program = poutine.uncondition(model.model)
    if particles is not None:
        program = pyro.plate("particles", particles, dim=-3)(program)
    trace = poutine.trace(program).get_trace(episode.sharing())
    return {name: site["value"] for name, site in trace.nodes.items() if _is_site(name, site)}


def _chunks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


def _is_site(name: str, site: dict[str, Any]) -> bool:
    return site["type"] == "sample" and name not in PLATES


def _in_plate(site: dict[str, Any], name: str) -> bool:
    return any(frame.name == name for frame in site["cond_indep_stack"])


def _sites(model: Any, trace: Any) -> dict[str, Any]:
    trace.compute_log_prob(lambda name, site: name not in PLATES)
    sites = {name: site for name, site in trace.nodes.items() if _is_site(name, site)}
    for name, site in sites.items():
        if not _in_plate(site, "episodes"):
            raise ValueError(
                f"{type(model).__name__}: site '{name}' is outside the plate 'episodes', so its log-probability "
                f"{tuple(site['log_prob'].shape)} would count once per batch and the bound would hold for the "
                f"batch, not for an episode. Sample it under `with plates(episode):`, in model and in guide."
            )
    return sites
