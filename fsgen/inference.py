"""The one file that looks inside a Pyro trace: terms, log-weights and simulation of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fsgen.episode import Episode

PLATES = ("particles", "episodes", "queries")
PROPOSALS = ("guide", "prior")


class PerView(ABC):
    """A model whose parameters depend on what is seen, so that no single trace can hold all of its queries.

    The views of an episode are the sets that its queries see: V is 1 where all see the same, else Q. Every function
    of this file runs ``program`` once a view, under the parameters of that view.

    Attributes:
        vectorised: whether the views are scored in one pass by ``torch.func.vmap``, which a program can take that
            draws no latent and does not branch on values; otherwise one after the other.
    """

    vectorised: bool = False

    @property
    @abstractmethod
    def program(self) -> nn.Module:
        """The model that every view runs; it holds the parameters that :meth:`by_view` does not name."""

    @abstractmethod
    def by_view(self, episode: Episode) -> dict[str, Tensor]:
        """Parameters of ``program`` by name, [B, V, ...]; at least one. They never depend on the queries' values."""


class Discriminative(ABC):
    """A model of labels: it says to which of an episode's classes a query belongs, and nothing of images.

    Its one term is "label", and exact, on support/query episodes of two classes or more.
    """

    @abstractmethod
    def log_labels(self, episode: Episode) -> Float[Tensor, "B Q C"]:
        """log p(class | query, support of all classes), nats."""


def under(model: nn.Module, parameters: Mapping[str, Tensor], call: Callable[[Any], Any]) -> Any:
    """``call(model)`` while the parameters named in ``parameters`` have other values, wherever the model uses them."""
    own = dict(model.named_parameters())
    values = {id(own[name]): value for name, value in parameters.items()}
    # functional_call finds tied parameters itself, but does not put those of a module that is shared back
    slots = {
        ".".join(filter(None, ["model", path, name])): values[id(parameter)]
        for path, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
        if id(parameter) in values
    }
    return functional_call(_Held(model), slots, (call,), tie_weights=False)


def each(
    call: Callable[..., dict[str, Tensor]], *parts: Mapping[str, Tensor], vectorised: bool = True
) -> dict[str, Tensor]:
    """``call`` on every row n of the tensors [N, ...] in ``parts``, with its results stacked again.

    Args:
        vectorised: in one pass of ``torch.func.vmap``, for which Pyro's checks of values have to be off; otherwise in
            a loop. A single row takes the loop.
    """
    count = len(next(iter(parts[0].values())))
    if vectorised and count > 1:
        with pyro.validation_enabled(False):
            found: dict[str, Tensor] = vmap(call, randomness="different")(*map(dict, parts))
            return found
    rows = [call(*({name: value[n] for name, value in part.items()} for part in parts)) for n in range(count)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def terms(
    model: Any, episode: Episode, particles: int = 1, proposal: str = "guide"
) -> dict[str, Float[Tensor, "K B U"]]:
    r"""The log-weight taken apart by site, in nats, float64.

    Site "x" holds log p(query | z, support); every other site holds log p(z | ...) - log q(z | ...), which is 0
    under the prior as proposal. U is Q where every latent belongs to one query, and 1 where a latent outside
    the plate "queries" couples them: then the terms are sums over the queries. A :class:`Discriminative` model has the
    site "label" alone, log p(class of the query | query, support).

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
    if isinstance(model, PerView):
        found = _over_views(model, episode, lambda program, part: terms(program, part, particles, proposal))
        return {name: _gathered(value, 1) for name, value in found.items()}
    if isinstance(model, Discriminative):
        return {"label": of_own_class(model.log_labels(episode)).double().expand(particles, -1, -1)}
    particle_plate = pyro.plate("particles", particles, dim=-3)
    generative = particle_plate(model.model)
    if proposal == "prior":
        q: dict[str, Any] = {}
        p = _sites(model, poutine.trace(generative).get_trace(episode))
    else:
        guide_trace = poutine.trace(particle_plate(model.guide)).get_trace(episode)
        p = _sites(model, poutine.trace(poutine.replay(generative, trace=guide_trace)).get_trace(episode))
        q = _sites(model, guide_trace)
    own, proposed = (_nats(sites, p, episode, particles) for sites in (p, q))
    if strangers := [name for name in q if name not in p]:
        raise ValueError(
            f"{type(model).__name__}: the guide samples '{strangers[0]}', which the model does not; "
            f"the model's sites are {', '.join(p)}. Give both the same name."
        )
    found = {}
    for name, site in p.items():
        value = own[name]
        if name in q:
            value = value - proposed[name]
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
    return torch.cat([_sum(part) for part in _in_chunks(model, episode, particles, proposal, chunk)])


def log_weights_and_terms(
    model: Any, episode: Episode, particles: int = 1, proposal: str = "guide", chunk: int | None = None
) -> tuple[Float[Tensor, "K B U"], dict[str, Float[Tensor, "K B U"]]]:
    """:func:`log_weights`, and of the same particles the :func:`terms` that they are the sums of."""
    parts = list(_in_chunks(model, episode, particles, proposal, chunk))
    by_site = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return torch.cat([_sum(part) for part in parts]), by_site


def draw_latents(model: Any, episode: Episode, particles: int, proposal: str = "guide") -> dict[str, Tensor]:
    """Every latent drawn from the proposal, [K, B, Q, ...], or [K, B, 1, ...] outside the plate "queries".

    Raises:
        ValueError: nothing is latent, or a latent is discrete.
    """
    program = pyro.plate("particles", particles, dim=-3)(model.guide if proposal == "guide" else model.model)
    sites = _sites(model, poutine.trace(program).get_trace(episode))
    found = {name: site for name, site in sites.items() if not site["is_observed"]}
    if not found or any(site["fn"].support.is_discrete for site in found.values()):
        kind = "discrete" if found else "latent"
        raise ValueError(f"{type(model).__name__}: {'a' if found else 'no'} site is {kind}, so it cannot be annealed.")
    return {name: site["value"] for name, site in found.items()}


def log_densities(
    model: Any, episode: Episode, latents: Mapping[str, Tensor], proposal: str = "guide"
) -> tuple[Float[Tensor, "K B U"], Float[Tensor, "K B U"]]:
    """log q(latents | query, support) and log p(query, latents | support) at given latents, nats, float64."""
    particles = len(next(iter(latents.values())))
    plate, given = pyro.plate("particles", particles, dim=-3), dict(latents)
    p = _sites(model, poutine.trace(poutine.condition(plate(model.model), given)).get_trace(episode))
    q = {name: p[name] for name in given}
    if proposal == "guide":
        q = _sites(model, poutine.trace(poutine.condition(plate(model.guide), given)).get_trace(episode))
    log_q, log_p = (torch.stack(list(_nats(sites, p, episode, particles).values())).sum(0) for sites in (q, p))
    return log_q, log_p


def of_own_class(scores: Float[Tensor, "B Q C"]) -> Float[Tensor, "B Q"]:
    """The score of each query's own class in an episode whose queries stand one class after the other."""
    ways = scores.shape[-1]
    own = torch.arange(ways, device=scores.device).repeat_interleave(scores.shape[1] // ways)
    return scores.gather(-1, own.expand(len(scores), -1)[..., None])[..., 0]


def latent_sites(model: Any, episode: Episode) -> list[str]:
    """Names of the latent sites of the generative program; none means that its score is exact."""
    if isinstance(model, PerView):
        return latent_sites(model.program, episode)
    with torch.no_grad():
        trace = poutine.trace(model.model).get_trace(episode)
    return [name for name, site in _sites(model, trace).items() if not site["is_observed"]]


def couples_queries(model: Any, episode: Episode) -> bool:
    """Whether a latent outside the plate "queries" ties the queries of an episode together, so that U is 1."""
    if isinstance(model, PerView):
        return couples_queries(model.program, episode)
    with torch.no_grad():
        trace = poutine.trace(model.model).get_trace(episode)
    return any(not _in_plate(site, "queries") for site in _sites(model, trace).values())


def latents(program: Callable[[Episode], None], episode: Episode) -> dict[str, Any]:
    """The distribution of each latent of ``program``, a model's own ``model`` or ``guide``, given those before it.

    Each latent is at its mean for those after it, so that nothing is drawn. Batch shapes are [B, U], with U as in
    :func:`terms`.
    """
    with torch.no_grad(), _AtTheMean():
        trace = poutine.trace(program).get_trace(episode)
    return {name: site["fn"] for name, site in trace.nodes.items() if _is_site(name, site) and not site["is_observed"]}


def reconstruct(model: Any, episode: Episode) -> Float[Tensor, "B Q *event"]:
    """Mean of p(x | latents, support), with every latent at the mean that the guide gives it for those before it."""
    episode = episode.sharing()
    with torch.no_grad(), _AtTheMean():
        guide = poutine.trace(model.guide).get_trace(episode)
        trace = poutine.trace(poutine.replay(model.model, trace=guide)).get_trace(episode)
    mean: Tensor = trace.nodes["x"]["fn"].mean
    return mean


def simulate(model: Any, episode: Episode, particles: int | None = None) -> dict[str, Tensor]:
    """Runs the scored program forwards: every latent and x ~ p(. | support); the query gives only its shape.

    Args:
        particles: K independent runs; None is one run without the axis K.

    Returns:
        Value of each site; "x" is [K, B, Q, *event].
    """
    if isinstance(model, PerView):
        episode = episode.sharing() if episode._memo is None else episode
        drawn = _over_views(model, episode, lambda program, part: simulate(program, part, particles), loop=True)
        return {name: _gathered(value, 0 if particles is None else 1) for name, value in drawn.items()}
    program = poutine.uncondition(model.model)
    if particles is not None:
        program = pyro.plate("particles", particles, dim=-3)(program)
    trace = poutine.trace(program).get_trace(episode.sharing())
    return {name: site["value"] for name, site in trace.nodes.items() if _is_site(name, site)}


class same_noise(Messenger):
    r"""Within the block, normal latents of all episodes come from one draw of noise a particle and unit.

    .. math:: z_{kb} = \mu_{kb} + \sigma_{kb}\, \epsilon_k, \quad \epsilon_k \sim N(0, I)

    Each episode's score is distributed as ever, but the scores of one image under several supports err together,
    so that their differences err less (common random numbers). Other latents, and those of a :class:`PerView`
    model, are drawn apart as ever.
    """

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        normal = isinstance(msg["fn"], dist.Independent) and isinstance(msg["fn"].base_dist, dist.Normal)
        if msg["value"] is None and normal and any(frame.name == "episodes" for frame in msg["cond_indep_stack"]):
            base, shape = msg["fn"].base_dist, list(msg["fn"].shape())
            shape[-2 - msg["fn"].event_dim] = 1
            noise = torch.randn(shape, dtype=base.loc.dtype, device=base.loc.device)
            msg["value"] = base.loc + base.scale * noise


class _AtTheMean(Messenger):
    """Latents take their mean."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["value"] is None and msg["name"] not in PLATES:
            msg["value"] = msg["fn"].mean


class _Held(nn.Module):
    """Gives ``functional_call`` a forward pass that is any call on a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, call: Callable[[Any], Any]) -> Any:
        return call(self.model)


def _over_views(
    model: PerView, episode: Episode, call: Callable[[Any, Episode], dict[str, Tensor]], *, loop: bool = False
) -> dict[str, Tensor]:
    """``call(program, episode of the view)`` under the parameters of each view, [B, V, ...]."""
    parameters = episode.shared("parameters by view", lambda: model.by_view(episode))
    views = next(iter(parameters.values())).shape[1]
    parts = {
        "support": episode.support[:, None].expand(-1, views, *episode.support.shape[1:]),
        "query": episode.query.unflatten(1, (views, -1)),
    }
    if episode.visible is not None:
        parts["visible"] = episode.visible.unflatten(1, (views, -1))

    def one(values: dict[str, Tensor], part: dict[str, Tensor]) -> dict[str, Tensor]:
        visible = part["visible"][None] if "visible" in part else None
        alone = Episode(part["support"][None], part["query"][None], visible)
        found: dict[str, Tensor] = under(model.program, values, lambda program: call(program, alone))
        return found

    flat = [{name: value.flatten(0, 1) for name, value in group.items()} for group in (parameters, parts)]
    found = each(one, *flat, vectorised=model.vectorised and not loop)
    return {name: value.unflatten(0, (episode.batch, views)) for name, value in found.items()}


def _gathered(value: Tensor, leading: int) -> Tensor:
    """[B, V, *leading, 1, Q / V, ...] of the views to [*leading, B, Q, ...] of the episodes."""
    if leading:
        value = value.movedim(2, 0)
    return value.flatten(leading + 1, leading + 3)


def _nats(sites: dict[str, Any], generative: dict[str, Any], episode: Episode, particles: int) -> dict[str, Tensor]:
    """log-probability of each site, [K, B, U]: sums over the queries where a latent of the model couples them."""
    coupled, found = any(not _in_plate(site, "queries") for site in generative.values()), {}
    for name, site in sites.items():
        units = episode.queries if _in_plate(site, "queries") else 1
        value = site["log_prob"].double().expand(particles, episode.batch, units)
        found[name] = value.sum(-1, keepdim=True) if coupled else value
    return found


def _in_chunks(
    model: Any, episode: Episode, particles: int, proposal: str, chunk: int | None
) -> Iterator[dict[str, Tensor]]:
    """The terms of all particles, ``chunk`` of them at a time."""
    episode, size = episode.sharing(), chunk or particles
    for start in range(0, particles, size):
        yield terms(model, episode, min(size, particles - start), proposal)


def _sum(parts: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(tuple(parts.values())).sum(0)


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
