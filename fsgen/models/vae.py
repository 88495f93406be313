"""The variational autoencoder: ignores the support, and so shows what the support is worth.

References:
    Kingma & Welling (2014), "Auto-encoding variational Bayes", arXiv:1312.6114.
    Rezende, Mohamed & Wierstra (2014), arXiv:1401.4082.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyro
from torch import Tensor, nn

from fsgen.distributions import decoded, gaussian, head, plates, standard_normal
from fsgen.episode import Episode
from fsgen.model import FewShotModel
from fsgen.nets import image_decoder, image_encoder, over_images, refinement, with_refinement
from fsgen.registry import register


@register("vae")
class VAE(FewShotModel):
    r"""Variational autoencoder that ignores the support: shows what the support is worth to the others.

    .. math:: p(x) = \int p(x \mid z)\, N(z; 0, I)\, dz

    Options:
        event_shape: one image, (C, H, W).
        likelihood: of a pixel: bernoulli (2 levels), logistic-mixture or gaussian (256; a mass, a density).
        dim_z: size of the latent.
        channels: of each stage of the encoder, from the first; the decoder mirrors them.
        blocks: residual blocks a stage. dim_features: size of the encoder's output.
        kernels: gives the published residual sections, one kernel a section; None the library's own stages.
        pixel_layers: of a gated PixelCNN by which a pixel also depends on those before it (PixelVAE); 0 for pixels that
            are independent given z. pixel_channels: its width.
    """

    def __init__(
        self,
        *,
        event_shape: tuple[int, int, int] = (1, 28, 28),
        likelihood: str = "bernoulli",
        dim_z: int = 50,
        channels: Sequence[int] = (32, 64),
        blocks: int = 1,
        dim_features: int = 256,
        kernels: Sequence[int] | None = None,
        pixel_layers: int = 0,
        pixel_channels: int = 24,
    ) -> None:
        super().__init__()
        self.event_shape, self.dim_z = event_shape, dim_z
        self.likelihood = head(likelihood, event_shape[0])
        self.levels = self.likelihood.levels
        outputs = self.likelihood.outputs
        self.refine = refinement(event_shape, outputs, pixel_channels, pixel_layers)
        self.maps = (self.refine.maps if self.refine else outputs, *event_shape[1:])
        self.features = image_encoder(event_shape, channels, blocks, dim_features, kernels)
        self.posterior = nn.Linear(self.features.dim, 2 * dim_z)
        self.decode = image_decoder(dim_z, self.maps, channels, blocks, kernels)

    @classmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> VAE:
        return cls(event_shape=event_shape, dim_z=2, channels=(4,), dim_features=6)

    def start_from(self, weights: Mapping[str, Tensor], source: str) -> None:
        """As :meth:`FewShotModel.start_from`; the PixelCNN is added to weights without one and says nothing yet."""
        super().start_from(with_refinement(weights, self.state_dict()), source)

    def model(self, episode: Episode) -> None:
        """p(z) p(x | z)."""
        with plates(episode):
            z = pyro.sample("z", standard_normal(self.posterior.bias, self.dim_z))
            maps = self.decode(z.reshape(-1, self.dim_z)).reshape(*z.shape[:-1], *self.maps)
            pyro.sample("x", decoded(maps, self.likelihood, self.event_shape, self.refine), obs=episode.query)

    def guide(self, episode: Episode) -> None:
        """q(z | x)."""
        with plates(episode):
            pyro.sample("z", gaussian(self.posterior(over_images(self.features, episode.query))))
