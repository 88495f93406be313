"""Generative matching network: a VAE whose prior, posterior and decoder attend to the support.

References: Bartunov & Vetrov (2018), "Few-shot generative modelling with generative matching networks",
AISTATS; arXiv:1612.02192.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyro
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fsgen.distributions import decoded, gaussian, head, plates, standard_normal
from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.model import FewShotModel
from fsgen.nets import Affine, image_decoder, image_encoder, join, over_images, prelu, refinement, with_refinement
from fsgen.registry import register
from fsgen.sets import Controller, Matching


@register("gmn")
class GMN(FewShotModel):
    r"""Generative matching network: latent z per image; prior, posterior and decoder match it with the support.

    .. math:: p(x \mid X) = \int p(x \mid z, r(z, X))\, p(z \mid r(X))\, dz, \quad q(z \mid x, r(x, X))

    Every r is a read-out of the same features of the support by attention (:class:`fsgen.sets.Matching`).

    Options:
        event_shape: one image, (C, H, W).
        likelihood: of a pixel: bernoulli (2 levels), logistic-mixture or gaussian (256; a mass, a density).
        dim_z: size of the latent.
        steps: attention steps of the controller shared by posterior and decoder; 0 is mean pooling.
        prior_steps: attention steps of the prior's controller; 0 is mean pooling.
        pseudo_input: keep a learned pseudo-input in every memory; otherwise it serves the empty support alone.
        conditional_prior: p(z | support); otherwise z ~ N(0, I).
        dim_state: size of the controllers' states. dim_prior: hidden units of the prior.
        channels: of each stage of the encoder, from the first; the decoder mirrors them.
        blocks: residual blocks a stage. dim_features: size of a memory cell (without ``kernels``).
        kernels: gives the published residual sections, one kernel a section; None the library's own stages.
        pixel_layers: of a gated PixelCNN by which a pixel also depends on those before it (PixelVAE); 0 for pixels that
            are independent given z. pixel_channels: its width.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "dim_z": 50,
            "steps": 4,
            "prior_steps": 1,
            "pseudo_input": True,
            "conditional_prior": True,
            "dim_state": 200,
            "dim_prior": 200,
            "channels": (16, 32, 32),
            "blocks": 2,
            "kernels": (4, 3, 2),
        }
    }

    def __init__(
        self,
        *,
        event_shape: tuple[int, int, int] = (1, 28, 28),
        likelihood: str = "bernoulli",
        dim_z: int = 50,
        steps: int = 1,
        prior_steps: int = 1,
        pseudo_input: bool = True,
        conditional_prior: bool = True,
        dim_state: int = 200,
        dim_prior: int = 200,
        channels: Sequence[int] = (32, 64),
        blocks: int = 1,
        dim_features: int = 256,
        kernels: Sequence[int] | None = None,
        pixel_layers: int = 0,
        pixel_channels: int = 24,
        pixel_memory: bool = False,
    ) -> None:
        super().__init__()
        self.event_shape, self.dim_z = event_shape, dim_z
        self.likelihood = head(likelihood, event_shape[0])
        self.levels = self.likelihood.levels
        outputs = self.likelihood.outputs
        if pixel_memory and not pixel_layers:
            raise InputError("gmn: pixel_memory is read by the PixelCNN of the decoder; give pixel_layers, such as 5.")
        read = max(steps, 1) * event_shape[0] if pixel_memory else 0
        self.refine = refinement(event_shape, outputs, pixel_channels, pixel_layers, read=read)
        self.pixel_memory = pixel_memory
        self.maps = (self.refine.maps if self.refine else outputs, *event_shape[1:])
        self.features = image_encoder(event_shape, channels, blocks, dim_features, kernels)
        dim = self.features.dim
        controller = Controller(dim, dim_state, pseudo_input=pseudo_input)
        self.match_image = Matching(controller, dim, steps)
        self.match_latent = Matching(controller, dim_z, steps)
        self.posterior = Affine(dim + self.match_image.dim, 2 * dim_z)
        self.decode = image_decoder(dim_z + self.match_latent.dim, self.maps, channels, blocks, kernels)
        self.match_prior: Matching | None = None
        if conditional_prior:
            self.match_prior = Matching(Controller(dim, dim_state, pseudo_input=pseudo_input), 0, prior_steps)
            self.prior_hidden = Affine(self.match_prior.dim, dim_prior)
            self.prior_slope = nn.Parameter(torch.empty(dim_prior).uniform_(-0.02, 0.02))
            self.prior = nn.Linear(dim_prior, 2 * dim_z)

    @classmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> GMN:
        return cls(event_shape=event_shape, dim_z=2, steps=2, dim_state=6, dim_prior=4, channels=(4,), dim_features=6)

    def start_from(self, weights: Mapping[str, Tensor], source: str) -> None:
        """As :meth:`FewShotModel.start_from`, and from weights with more or less in them.

        Mean pooling starts from weights with attention, less what asks; the PixelCNN, or its memory of images, is added
        to weights without one and says nothing yet.
        """
        pools = ("match_image", "match_latent") if not self.match_image.steps else ()
        if self.match_prior is not None and not self.match_prior.steps:
            pools = (*pools, "match_prior")
        asking = tuple(f"{pool}.{part}" for pool in pools for part in ("ask", "strength"))
        kept = {name: value for name, value in weights.items() if not name.startswith(asking)}
        super().start_from(with_refinement(kept, self.state_dict()), source)

    def embed(self, images: Tensor) -> Tensor:
        """Features [B, N, D] of images [B, N, C, H, W]: memory cells and queries alike."""
        return over_images(self.features, images)

    def model(self, episode: Episode) -> None:
        """p(z | support) p(x | z, support)."""
        support, _ = episode.embedded(self.embed)
        with plates(episode):
            z = pyro.sample("z", self._prior(support, episode.seen()))
            r, readings = self.match_latent.attend(support, episode.seen(), z)
            code = join(z, r)
            maps = self.decode(code.flatten(0, -2)).reshape(*code.shape[:-1], *self.maps)
            if self.pixel_memory:
                maps = torch.cat([maps, _read_images(readings, episode.support).to(maps.dtype)], -3)
            pyro.sample("x", decoded(maps, self.likelihood, self.event_shape, self.refine), obs=episode.query)

    def guide(self, episode: Episode) -> None:
        """q(z | query, support)."""
        support, query = episode.embedded(self.embed)
        with plates(episode):
            r = self.match_image.pool(support, episode.seen(), query)
            pyro.sample("z", gaussian(self.posterior(join(query, r))))

    def attention_maps(
        self, episode: Episode
    ) -> tuple[Float[Tensor, "B Q 1 1 steps S 1 1"], Float[Tensor, "B Q 1 1 steps"]]:
        """What each step read of the support as the query was encoded, and of the pseudo-input.

        Raises:
            InputError: the model was built with steps = 0.
        """
        if not self.match_image.steps:
            raise InputError("gmn was built with steps=0: it reads the mean of its support and has no attention maps.")
        support, query = episode.embedded(self.embed)
        _, readings = self.match_image.attend(support, episode.seen(), query)
        weights = torch.stack(readings, -2)[:, :, None, None]
        return weights[..., :-1, None, None], weights[..., -1]

    def _prior(self, support: Tensor, visible: Tensor) -> Any:
        if self.match_prior is None:
            return standard_normal(support, self.dim_z)
        r = self.match_prior.pool(support, visible)
        return gaussian(self.prior(prelu(self.prior_hidden(r), self.prior_slope)))


def _read_images(readings: list[Tensor], support: Tensor) -> Tensor:
    """The images of the support averaged as each step read their cells: [*K, B, Q, steps C, H, W]."""
    weights = torch.stack(readings, -2)[..., :-1]  # the pseudo-input has no image
    return torch.einsum("...bqns,bschw->...bqnchw", weights.to(support), support).flatten(-4, -3)
