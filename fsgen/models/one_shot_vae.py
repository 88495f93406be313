"""One-shot generalisation: a sequential VAE that looks at the exemplars and paints on a canvas.

References:
    Rezende, Mohamed, Danihelka, Gregor & Wierstra (2016), "One-shot generalization in deep generative models", ICML;
    arXiv:1603.05106.
    Gregor, Danihelka, Graves, Rezende & Wierstra (2015), "DRAW", arXiv:1502.04623.
    Jaderberg, Simonyan, Zisserman & Kavukcuoglu (2015), "Spatial transformer networks", arXiv:1506.02025.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import pyro
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.distributions import gaussian, head, plates, standard_normal
from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.model import FewShotModel
from fsgen.nets import Affine, GatedUnit, image_encoder, join, over_images
from fsgen.nets.attention import Locate, Window, resample
from fsgen.nets.canvas import Canvas, HalfMaps, half
from fsgen.registry import register
from fsgen.sets import set_encoder as encoder_of_sets

KEYS = 32  # size of what exemplars are chosen by


class Memory(NamedTuple):
    """Maps [B, S+1, H, C, W] of the exemplars and keys [B, S+1, E] to choose by; ``seen`` [B, Q, S+1] by each query.

    The last stands for the empty set, and is seen where nothing else is.
    """

    maps: Tensor
    keys: Tensor | None
    seen: Tensor


class Gaze(nn.Module):
    r"""What a state sees of the exemplars: which of them, and which window of them.

    .. math:: v = f\bigl(F_y(h)\, \textstyle\sum_s a_s(h) M_s\, F_x(h)^\top\bigr)

    M_s are maps of the visible exemplars. The filter banks are linear in the map, so this is the average over the
    exemplars of the window of each, for the cost of one window; with one exemplar it is the read of Rezende et al.
    (2016). The weights a_s are a softmax, over what the query sees, of how well the state matches the features of an
    exemplar; or all equal. In place of an empty set there is a learned map.

    Args:
        dim_state, dim_features: sizes of the state and of an exemplar's features.
        shape: of a map, (H, C, W). window: side of what is read. dim: size of v.
        choose: weigh the exemplars by the state; otherwise all alike.
    """

    def __init__(
        self, dim_state: int, dim_features: int, shape: tuple[int, int, int], *, window: int, dim: int, choose: bool
    ) -> None:
        super().__init__()
        self.points, self.size = (window, window), (shape[0], shape[2])
        self.locate = Locate(dim_state)
        self.nothing = nn.Parameter(0.1 * torch.randn(shape))
        self.seen_as = Affine(window * shape[1] * window, dim)
        self.keys = nn.Linear(dim_features, KEYS, bias=False) if choose else None
        self.ask = nn.Linear(dim_state, KEYS) if choose else None

    def memory(
        self, maps: Float[Tensor, "B S H C W"], features: Float[Tensor, "B S D"], visible: Bool[Tensor, "B Q S"]
    ) -> Memory:
        """The exemplars, and the learned map where none is visible."""
        nothing = self.nothing.to(maps.dtype).expand(len(maps), 1, *self.nothing.shape)
        keys = None if self.keys is None else self.keys(F.pad(features, (0, 0, 0, 1))) / math.sqrt(KEYS)
        seen = torch.cat([visible, ~visible.any(-1, keepdim=True)], -1)
        return Memory(torch.cat([maps, nothing], 1), keys, seen)

    def weights(self, memory: Memory, state: Float[Tensor, "*K B Q D"]) -> Float[Tensor, "*batch B Q N"]:
        """a, summing to one over what each query sees."""
        if self.ask is None or memory.keys is None:
            share = memory.seen.to(state.dtype)
            return share / share.sum(-1, keepdim=True)
        match = torch.einsum("...bqd,bsd->...bqs", self.ask(state), memory.keys)
        return match.masked_fill(~memory.seen, -torch.inf).softmax(-1)

    def look(self, maps: Float[Tensor, "*maps H C W"], window: Window) -> Float[Tensor, "*batch V"]:
        """A window of maps, as a vector."""
        maps = maps.expand(*window.centre.shape[:-1], *maps.shape[-3:])
        return F.relu(self.seen_as(resample(maps, *window.banks(self.points, self.size)).flatten(-3)))

    def forward(self, memory: Memory, state: Float[Tensor, "*K B Q D"]) -> Float[Tensor, "*K B Q V"]:
        """v, of the exemplars."""
        blend = torch.einsum("...bqs,bsm->...bqm", self.weights(memory, state), memory.maps.flatten(2))
        return self.look(blend.unflatten(-1, memory.maps.shape[2:]), self.locate(state))


class Trail:
    """What was computed on the way, so that the model does not compute again the states of the guide's latents.

    A value is given again only for the very tensors it came from, and so is never that of other draws.
    """

    def __init__(self) -> None:
        self.held: dict[Hashable, tuple[tuple[Tensor, ...], Any]] = {}

    def once(self, key: Hashable, inputs: tuple[Tensor, ...], compute: Callable[..., Any]) -> Any:
        """``compute(*inputs)``, or what it was if the last call under ``key`` had the same inputs."""
        if key not in self.held or any(a is not b for a, b in zip(self.held[key][0], inputs, strict=True)):
            self.held[key] = inputs, compute(*inputs)
        return self.held[key][1]


@register("one-shot-vae")
class OneShotVAE(FewShotModel):
    r"""Sequential VAE: at each step a latent, a glimpse of the exemplars and a patch on a canvas.

    .. math::
        v_t = f_v(h_{t-1}, X), \quad z_t \sim p(z_t \mid h_{t-1}), \quad h_t = f_h(h_{t-1}, z_t, v_t), \quad
        c_t = c_{t-1} + f_c(h_t), \quad x \sim p(x \mid f_o(c_T))

    with q(z_t | x, h_{t-1}). X is what the query sees of the support: its code r, by any set encoder, gives h_0, and
    at each step the state reads a window of the mean of its maps (:class:`Gaze`).

    Options:
        event_shape: one image, (C, H, W).
        steps: T, the number of latents, glimpses and patches.
        dim_z: size of each of the T latents.
        conditional_prior: p(z_t | h_{t-1}); otherwise z_t ~ N(0, I) as published.
        attention: read the exemplars by glimpses and write at windows; otherwise h_0 alone knows them, and each
            patch covers the canvas.
        choose: at each step weigh the visible exemplars by the state; otherwise all alike.
        set_encoder: how the features of the support become r, by name.
        dim_state: size of h. dim_features: of an image's features. dim_glimpse: of v, and of what the cell gets of z_t.
        window: side of a glimpse, in samples. maps: channels that are glimpsed, at half the image's resolution.
        patch: side of what a step writes. canvas: channels of the canvas, at half the image's resolution.
        channels: of each stage of the encoder, from the first. blocks: residual blocks a stage, and twice as many
            between canvas and image.
        likelihood: of a pixel: bernoulli for binary images; see fsgen.distributions.HEADS.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "plain": {"steps": 1, "dim_z": 50, "attention": False, "conditional_prior": False},
        "published-prior": {"conditional_prior": False, "choose": False},
    }

    def __init__(
        self,
        *,
        event_shape: tuple[int, int, int] = (1, 28, 28),
        steps: int = 6,
        dim_z: int = 16,
        conditional_prior: bool = True,
        attention: bool = True,
        choose: bool = True,
        set_encoder: str = "mean",
        dim_state: int = 256,
        dim_features: int = 256,
        dim_glimpse: int = 128,
        window: int = 6,
        maps: int = 8,
        patch: int = 7,
        canvas: int = 32,
        channels: Sequence[int] = (32, 64),
        blocks: int = 1,
        likelihood: str = "bernoulli",
    ) -> None:
        super().__init__()
        if steps < 1:
            raise InputError(f"one-shot-vae: steps is {steps}; give 1 or more.")
        self.event_shape, self.steps, self.dim_z = event_shape, steps, dim_z
        self.likelihood = head(likelihood, event_shape[0])
        self.levels = self.likelihood.levels
        self.features = image_encoder(event_shape, channels, blocks, dim_features)
        self.encode = encoder_of_sets(set_encoder, None, dim_features)
        self.initial = Affine(self.encode.dim, dim_state)
        self.clock = nn.Parameter(0.1 * torch.randn(steps, dim_state))
        self.maps: HalfMaps | None = None
        self.gaze: Gaze | None = None
        if attention:
            rows, columns = half(event_shape)
            self.maps = HalfMaps(event_shape, maps)
            shape = (rows, maps, columns)
            self.gaze = Gaze(dim_state, dim_features, shape, window=window, dim=dim_glimpse, choose=choose)
        seen = dim_glimpse if attention else 0
        self.prior = nn.Linear(dim_state + seen, 2 * dim_z) if conditional_prior else None
        self.recognise = Affine(dim_features + dim_state + 2 * seen, dim_state)
        self.posterior = nn.Linear(dim_state, 2 * dim_z)
        self.enter = Affine(dim_z, dim_glimpse)  # few latents beside many features: at a scale of their own
        self.cell = GatedUnit(dim_glimpse + seen, dim_state)
        output = (self.likelihood.outputs, *event_shape[1:])
        self.decode = Canvas(dim_state, output, channels=canvas, patch=patch, blocks=2 * blocks, attention=attention)

    @classmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> OneShotVAE:
        sizes: dict[str, Any] = {"dim_state": 6, "dim_features": 6, "dim_glimpse": 4}
        return cls(
            event_shape=event_shape, steps=2, dim_z=2, window=2, maps=2, patch=2, canvas=3, channels=(4,), **sizes
        )

    def model(self, episode: Episode) -> None:
        """p(z_1 ... z_T | support) p(x | z_1 ... z_T, support)."""

        def prior(state: Tensor, seen: Tensor) -> Any:
            return standard_normal(state, self.dim_z) if self.prior is None else gaussian(self.prior(join(state, seen)))

        with plates(episode):
            parameters = self.decode(self._states(episode, prior))
            pyro.sample("x", self.likelihood(parameters), obs=episode.query)

    def guide(self, episode: Episode) -> None:
        """q(z_1 | x, support) ... q(z_T | x, z_1 ... z_{T-1}, support)."""
        _, features = self._features(episode)
        _, maps = self._maps(episode)

        def posterior(state: Tensor, seen: Tensor) -> Any:
            parts = [features, state, seen]
            if self.gaze is not None:
                parts.append(self.gaze.look(maps, self.gaze.locate(state)))
            return gaussian(self.posterior(F.relu(self.recognise(join(*parts)))))

        with plates(episode):
            self._states(episode, posterior)

    def _states(self, episode: Episode, latent: Callable[[Tensor, Tensor], Any]) -> Float[Tensor, "T *K B Q D"]:
        """h_1 ... h_T, where ``latent(h_{t-1}, v_t)`` is the distribution of z_t."""
        start, memory = episode.shared("start", lambda: self._start(episode))
        trail, states, state = episode.shared("trail", Trail), [], start
        for t in range(self.steps):
            timed, seen = trail.once(("look", t), (state,), lambda h, t=t: self._look(memory, h, t))
            z = pyro.sample(f"z_{t + 1}", latent(timed, seen))
            state = trail.once(("move", t), (z, seen, timed), self._move)
            states.append(state)
        return torch.stack(states)

    def _start(self, episode: Episode) -> tuple[Tensor, Memory | None]:
        """h_0 [B, Q, D], and what is looked at."""
        support, _ = self._features(episode)
        state = self.initial(self.encode.pool(support, episode.seen()))
        if self.gaze is None:
            return state, None
        return state, self.gaze.memory(self._maps(episode)[0], support, episode.seen())

    def _look(self, memory: Memory | None, state: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """The state that knows the time, and v_t; nothing is seen where there is no attention."""
        timed = state + self.clock[t]
        return timed, timed[..., :0] if self.gaze is None or memory is None else self.gaze(memory, timed)

    def _move(self, z: Tensor, seen: Tensor, timed: Tensor) -> Tensor:
        return self.cell(join(self.enter(z), seen), timed.expand(*z.shape[:-1], -1))

    def _features(self, episode: Episode) -> tuple[Tensor, Tensor]:
        return episode.embedded(lambda images: over_images(self.features, images), "features")

    def _maps(self, episode: Episode) -> tuple[Tensor, Tensor]:
        maps = self.maps
        if maps is None:
            return episode.support, episode.query
        return episode.embedded(lambda images: over_images(maps, images), "maps")
