"""Adapting the parameters of any model to the support by gradient steps: meta-trained, or plain fine-tuning.

References:
    Finn, Abbeel & Levine (2017), "Model-agnostic meta-learning for fast adaptation of deep networks", arXiv:1703.03400.
    Reed et al. (2018), "Few-shot autoregressive density estimation", ICLR; arXiv:1710.10304 (learned inner loss).
    Li, Zhou, Chen & Li (2017), "Meta-SGD", arXiv:1707.03835 (learned rates).
"""

from __future__ import annotations

import contextlib
import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import grad
from torch.nn.attention import SDPBackend, sdpa_kernel

from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.inference import PerView, couples_queries, each, log_weights, under
from fsgen.model import FewShotModel, check_images
from fsgen.registry import build

Features = Callable[[Any, Tensor], Tensor]


class InnerLoss(nn.Module, ABC):
    """What a support image says against a model; an inner step goes down the mean over the visible ones.

    Attributes:
        alone: whether the loss of an image depends on that image alone. The slopes of all images are then computed
            once for all that see them, not once a view.
    """

    alone: bool

    @abstractmethod
    def forward(
        self, model: Any, support: Float[Tensor, "S C H W"], visible: Bool[Tensor, " S"]
    ) -> Float[Tensor, " S"]:
        """Loss of each image under ``model``, whose parameters are those to be adapted.

        Losses of hidden images are discarded; those of visible ones must not depend on the hidden ones.
        """


class Likelihood(InnerLoss):
    r"""Minus the bound of each image given the other visible ones, in nats: fine-tuning.

    .. math:: \ell_s = -\log p_\theta(x_s \mid x_{\setminus s})

    Args:
        leave_one_out: False scores each image given none, which is cheaper, and the same for a model that ignores
            the support.
        particles: samples K that the bound (elbo) is averaged over.

    Source: Reed et al. (2018), sec. on Meta PixelCNN; Finn et al. (2017), eq. 1.
    """

    def __init__(self, *, leave_one_out: bool = True, particles: int = 1) -> None:
        super().__init__()
        self.alone, self.particles = not leave_one_out, particles

    def forward(
        self, model: Any, support: Float[Tensor, "S C H W"], visible: Bool[Tensor, " S"]
    ) -> Float[Tensor, " S"]:
        apart = Episode(support.expand(len(support), *support.shape), support[:, None])
        if self.alone:
            return self._nats(model, Episode(apart.support[:, :0], apart.query))
        others = visible & ~torch.eye(len(support), dtype=torch.bool, device=support.device)
        found = self._nats(model, Episode(support[None], support[None], others[None]))
        if len(found) < len(support):  # a latent couples the images, which must not be scored together
            return self._nats(model, Episode(apart.support, apart.query, others[:, None]))
        return found

    def _nats(self, model: Any, episode: Episode) -> Tensor:
        return -log_weights(model, episode, self.particles).mean(0).flatten()


class Learned(InnerLoss):
    r"""A loss that is itself learned, from what the model computes about an image.

    .. math:: \ell_s = \tfrac1P \|g_\psi([x_s, f_\theta(x_s)])\|^2

    with g a convolutional network of two layers over P pixels and f the features of the model. Only the slope of the
    loss in theta matters, so it needs no labels and no scale; psi is trained through the step.

    Args:
        features: of images [N, C, H, W] under a model: [N, F, H, W]; one image's must not depend on another's.
        inputs: C + F. width: channels of g.

    Source: Reed et al. (2018), sec. on Meta PixelCNN.
    """

    alone = True

    def __init__(self, features: Features, inputs: int, width: int = 16) -> None:
        super().__init__()
        self.features = features
        self.net = nn.Sequential(
            nn.Conv2d(inputs, width, 3, padding=1), nn.ELU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(
        self, model: Any, support: Float[Tensor, "S C H W"], visible: Bool[Tensor, " S"]
    ) -> Float[Tensor, " S"]:
        found = self.net(torch.cat([support, self.features(model, support)], 1))
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        return found.square().mean((-1, -2)).sum(-1)


class Sum(InnerLoss):
    """Several losses added up, such as a learned one that begins small and corrects the likelihood."""

    def __init__(self, *parts: InnerLoss) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.alone = all(part.alone for part in parts)

    def forward(
        self, model: Any, support: Float[Tensor, "S C H W"], visible: Bool[Tensor, " S"]
    ) -> Float[Tensor, " S"]:
        return torch.stack([part(model, support, visible) for part in self.parts]).sum(0)


class Adapted(FewShotModel, PerView):
    r"""Any model, after ``steps`` gradient steps from its parameters on the support that a query sees.

    .. math::
        \theta_{i+1} = \theta_i - \alpha \odot \nabla_\theta \frac1n \sum_{s\ \text{visible}} \ell_s(\theta_i), \qquad
        p(x \mid \text{support}) = p_{\theta_\text{steps}}(x \mid \text{support})

    The empty support leaves the parameters as they are. Queries that see the same share one adaptation: all of an
    episode where ``visible`` is None, and all whose latent they share. Where the inner loss draws random numbers, a
    score is given the draw.

    With ``learned_rates=False`` and :class:`Likelihood` this is plain fine-tuning of a trained model, to be scored
    by :func:`fsgen.evaluation.evaluate` (:func:`fine_tune` is the same for one support, with any optimiser).

    Args:
        base: the model; its parameters are trained through the steps.
        inner: the loss of a support image. steps: inner steps.
        rate: step size at first, of every parameter tensor. learned_rates: whether each tensor learns its own.
        first_order: drop the second derivatives of the model (Finn et al., 2017, sec. 5.2).
        only: beginnings of the names of the parameters to adapt; None adapts all.
        vectorised: see :class:`fsgen.inference.PerView`.

    Raises:
        InputError: steps or a rate out of range, or nothing to adapt.

    Source: Finn et al. (2017), eq. 1 and algorithm 1; Li et al. (2017), eq. 3 (here one rate a tensor).
    """

    def __init__(
        self,
        base: FewShotModel,
        inner: InnerLoss,
        *,
        steps: int = 1,
        rate: float = 1e-3,
        learned_rates: bool = True,
        first_order: bool = False,
        only: Sequence[str] | None = None,
        vectorised: bool = False,
    ) -> None:
        super().__init__()
        if steps < 1 or not 0 < rate < math.inf:
            raise InputError(f"adaptation: {steps} steps of rate {rate}; give 1 step or more and a positive rate.")
        names = [n for n, _ in base.named_parameters() if only is None or n.startswith(tuple(only))]
        if not names:
            raise InputError(f"adaptation: no parameter begins with {list(only or [])}; leave it out to adapt all.")
        self.base, self.inner, self.names = base, inner, names
        self.event_shape, self.levels = base.event_shape, base.levels
        self.steps, self.rate, self.first_order, self.vectorised = steps, rate, first_order, vectorised
        self.log_rates = nn.Parameter(torch.zeros(len(names)), requires_grad=learned_rates)
        self.coupled = _coupled(base)

    @classmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> Adapted:
        return cls(build("beta-bernoulli", event_shape=event_shape), Likelihood())

    @property
    def program(self) -> FewShotModel:
        return self.base

    def model(self, episode: Episode) -> None:
        """Not one program: :mod:`fsgen.inference` runs the base's, once a view.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"{type(self).__name__}: what an episode sees sets the parameters, and one trace holds one set of them; "
            f"use fsgen.inference.log_weights or simulate, or trace its base."
        )

    def guide(self, episode: Episode) -> None:
        """As :meth:`model`."""
        self.model(episode)

    def by_view(self, episode: Episode) -> dict[str, Tensor]:
        """The adapted parameters [B, V, ...]."""
        start: dict[str, Tensor] = {name: p for name, p in self.base.named_parameters() if name in self.names}
        views = self.views(episode)
        used = views.flatten(0, 1).any(0)
        support, views = episode.support[:, used], views[..., used]
        values = {name: p.expand(*views.shape[:2], *p.shape) for name, p in start.items()}
        if not used.any():
            return values
        rates = dict(zip(self.names, self.rate * self.log_rates.exp(), strict=True))
        for step in range(self.steps):
            if step == 0 and self.inner.alone:
                slopes = self._first_slopes(start, support, views)
            else:
                slopes = self._slopes(values, support, views)
            values = {name: value - rates[name] * slopes[name].to(value.dtype) for name, value in values.items()}
        return values

    def start_from(self, weights: Mapping[str, Tensor], source: str) -> None:
        """The weights of such a model, or of its base alone: then rates and inner loss start as they are.

        Raises:
            CheckpointError: weights of another model.
        """
        if "log_rates" in weights:
            super().start_from(weights, source)
        else:
            self.base.start_from(weights, source)

    def views(self, episode: Episode) -> Bool[Tensor, "B V S"]:
        """What is seen: by all queries, where none is told apart or a latent couples them; else by each.

        A mask of one query expanded over the others tells none apart.
        """
        if episode.visible is None or episode.visible.stride(1) == 0:
            return episode.seen()[:, :1]
        return episode.visible.all(1, keepdim=True) if self.coupled else episode.visible

    def _first_slopes(self, start: dict[str, Tensor], support: Tensor, views: Tensor) -> dict[str, Tensor]:
        """Slopes [B, V, ...] at the common start: the mean over a view of slopes computed once an image.

        Images that the same views see share one slope: nested sets, as evaluation has them, have few such groups.
        """
        batch, count = support.shape[:2]
        groups = [seen.T.unique(dim=0, return_inverse=True) for seen in views]  # [G, V], and the group of each image
        if 2 * sum(len(patterns) for patterns, _ in groups) <= batch * count:
            apart = [self._by_group(start, *part) for part in zip(support, views, groups, strict=True)]
            return {name: torch.stack([found[name] for found in apart]) for name in start}

        def one(part: dict[str, Tensor]) -> dict[str, Tensor]:
            image = part["image"][None]
            return self._slope(start, image, torch.ones_like(image[:, 0, 0, 0], dtype=torch.bool))

        found = each(one, {"image": support.flatten(0, 1)}, vectorised=self.vectorised)
        shares = views.to(support.dtype) / views.sum(-1, keepdim=True).clamp(min=1)
        return {
            name: (shares.to(value.dtype) @ value.reshape(batch, count, -1)).reshape(
                *views.shape[:2], *start[name].shape
            )
            for name, value in found.items()
        }

    def _by_group(
        self, start: dict[str, Tensor], support: Tensor, views: Tensor, groups: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """Slopes [V, ...] of one episode: one batched slope for the images that the same views see."""
        patterns, group = groups
        size = views.sum(-1).clamp(min=1)
        found = {name: value.new_zeros(len(views), *value.shape) for name, value in start.items()}
        for number, pattern in enumerate(patterns):
            images = support[group == number]
            share = pattern.to(support.dtype) * len(images) / size  # of the mean over each view
            if pattern.any():
                slope = self._slope(start, images, torch.ones_like(images[:, 0, 0, 0], dtype=torch.bool))
                for name, value in slope.items():
                    found[name] = found[name] + share.to(value.dtype).reshape(-1, *[1] * value.ndim) * value
        return found

    def _slopes(self, values: dict[str, Tensor], support: Tensor, views: Tensor) -> dict[str, Tensor]:
        """Slopes [B, V, ...] at parameters that differ by view."""
        count = views.shape[1]
        parts = {"support": support[:, None].expand(-1, count, *support.shape[1:]), "visible": views}
        flat = [{name: value.flatten(0, 1) for name, value in group.items()} for group in (values, parts)]

        def one(values: dict[str, Tensor], part: dict[str, Tensor]) -> dict[str, Tensor]:
            return self._slope(values, part["support"], part["visible"])

        found = each(one, *flat, vectorised=self.vectorised)
        return {name: value.unflatten(0, views.shape[:2]) for name, value in found.items()}

    def _slope(self, values: dict[str, Tensor], support: Tensor, visible: Tensor) -> dict[str, Tensor]:
        """Slope of the mean loss of the visible images in the parameters to adapt."""
        fixed: dict[str, Tensor] = dict(self.base.named_parameters())
        if self.first_order:
            values, fixed = ({n: v.detach() for n, v in group.items()} for group in (values, fixed))

        def loss(values: dict[str, Tensor]) -> Tensor:
            losses = under(self.base, {**fixed, **values}, lambda base: self.inner(base, support, visible))
            return torch.where(visible, losses, 0).sum() / visible.sum().clamp(min=1)

        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
            slope: dict[str, Tensor] = grad(loss)(values)
        return slope


def fine_tune(
    model: FewShotModel,
    support: Float[Tensor, "S C H W"],
    *,
    steps: int = 10,
    rate: float = 1e-3,
    inner: InnerLoss | None = None,
    optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    seed: int | None = 0,
) -> FewShotModel:
    """A copy of ``model`` whose parameters took ``steps`` steps on a support set; the baseline for meta-training.

    >>> model = build("beta-bernoulli", event_shape=(1, 2, 2))
    >>> support = torch.ones(3, 1, 2, 2)
    >>> tuned = fine_tune(model, support, steps=5, rate=0.1)
    >>> tuned.condition(support).log_prob(support[0]) > model.condition(support).log_prob(support[0])
    tensor(True)

    Args:
        support: S images; with none the copy is left as it is.
        inner: loss of a support image; by default :class:`Likelihood`, each image given the others.
        optimiser: called with the parameters and ``lr=rate``.
        seed: of what the loss draws; None goes on with the global generator.

    Raises:
        InputError: a support that the model does not take.
    """
    images = check_images("support", support, model.event_shape, model.levels)
    tuned, inner = copy.deepcopy(model), Likelihood() if inner is None else inner
    if not len(images):
        return tuned
    images = images.to(like := next(tuned.parameters()))
    visible = torch.ones(len(images), dtype=torch.bool, device=images.device)
    moving = optimiser(tuned.parameters(), lr=rate)
    with _random_state(like, seed is not None), torch.enable_grad():
        if seed is not None:
            torch.manual_seed(seed)
        for _ in range(steps):
            moving.zero_grad()
            inner(tuned, images, visible).mean().backward()
            moving.step()
    return tuned


def _coupled(base: FewShotModel) -> bool:
    """Whether a latent of the model ties queries together."""
    like = next(base.parameters())
    zeros = like.new_zeros(1, 2, *base.event_shape)
    with _random_state(like):  # looking at the program runs it
        return couples_queries(base, Episode(zeros, zeros))


def _random_state(like: Tensor, enabled: bool = True) -> contextlib.AbstractContextManager[None]:
    return torch.random.fork_rng(devices=[like.device] if like.is_cuda else [], enabled=enabled)
