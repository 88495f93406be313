"""Conditional VAE: prior, posterior and decoder read one code of the support set.

References:
    Sohn, Lee & Yan (2015), "Learning structured output representation using deep conditional generative models".
    Garnelo et al. (2018), "Neural processes", arXiv:1807.01622: the condition is a set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyro
from torch import Tensor

from fsgen.distributions import decoded, gaussian, head, plates
from fsgen.episode import Episode
from fsgen.model import FewShotModel
from fsgen.nets import Affine, image_decoder, image_encoder, join, mlp, over_images, refinement, with_refinement
from fsgen.registry import register
from fsgen.sets import set_encoder as encoder_named


@register("conditional-vae")
class ConditionalVAE(FewShotModel):
    r"""Set-conditioned VAE: prior, posterior and decoder read one code r of the support, by any set encoder.

    .. math:: p(x \mid X) = \int p(x \mid z, r(X))\, p(z \mid r(X))\, dz, \quad q(z \mid x, r(X))

    Options:
        event_shape: one image, (C, H, W).
        set_encoder: mean, max, sum, statistic, transformer, ...: any name of :data:`fsgen.sets.SET_ENCODERS`.
        dim_z: size of the latent. dim_hidden: hidden units of the prior.
        channels: of each stage of the encoder, from the first; the decoder mirrors them.
        blocks: residual blocks a stage. dim_features: size of an element's features.
        likelihood: of a pixel: bernoulli, gaussian or logistic-mixture.
        pixel_layers: of a gated PixelCNN by which a pixel also depends on those before it (PixelVAE); 0 for pixels that
            are independent given z. pixel_channels: its width.
    """

    def __init__(
        self,
        *,
        event_shape: tuple[int, int, int] = (1, 28, 28),
        set_encoder: str = "mean",
        dim_z: int = 50,
        dim_hidden: int = 256,
        channels: Sequence[int] = (32, 64),
        blocks: int = 1,
        dim_features: int = 256,
        likelihood: str = "bernoulli",
        pixel_layers: int = 0,
        pixel_channels: int = 24,
    ) -> None:
        super().__init__()
        self.event_shape, self.dim_z = event_shape, dim_z
        self.likelihood = head(likelihood, event_shape[0])
        self.levels = self.likelihood.levels
        outputs = self.likelihood.outputs
        self.refine = refinement(event_shape, outputs, pixel_channels, pixel_layers)
        maps = (self.refine.maps if self.refine else outputs, *event_shape[1:])
        self.features = image_encoder(event_shape, channels, blocks, dim_features)
        self.encode = encoder_named(set_encoder, None, dim_features)
        dim_r = self.encode.dim
        self.prior = mlp(dim_r, 2 * dim_z, dim_hidden)
        self.posterior = Affine(dim_features + dim_r, 2 * dim_z)
        self.decode = image_decoder(dim_z + dim_r, maps, channels, blocks)

    @classmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> ConditionalVAE:
        return cls(event_shape=event_shape, dim_z=2, dim_hidden=6, channels=(4,), dim_features=6)

    def start_from(self, weights: Mapping[str, Tensor], source: str) -> None:
        """As :meth:`FewShotModel.start_from`; the PixelCNN is added to weights without one and says nothing yet."""
        super().start_from(with_refinement(weights, self.state_dict()), source)

    def _read(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Set codes r [B, Q, R] and features of the queries [B, Q, D]; model and guide share them."""

        def compute() -> tuple[Tensor, Tensor]:
            support, query = episode.embedded(lambda images: over_images(self.features, images))
            return self.encode.pool(support, episode.seen()), query

        return episode.shared("read", compute)

    def model(self, episode: Episode) -> None:
        """p(z | support) p(x | z, support)."""
        r, _ = self._read(episode)
        with plates(episode):
            z = pyro.sample("z", gaussian(self.prior(r)))
            code = join(z, r)
            maps = self.decode(code.flatten(0, -2)).unflatten(0, code.shape[:-1])
            pyro.sample("x", decoded(maps, self.likelihood, self.event_shape, self.refine), obs=episode.query)

    def guide(self, episode: Episode) -> None:
        """q(z | query, support)."""
        r, query = self._read(episode)
        with plates(episode):
            pyro.sample("z", gaussian(self.posterior(join(query, r))))
