"""Gated PixelCNN without a condition: ignores the support, with an exact likelihood.

References: van den Oord et al. (2016), "Conditional image generation with PixelCNN decoders", arXiv:1606.05328.
"""

from __future__ import annotations

import pyro

from fsgen.distributions import Autoregressive, GatedProgram, head, plates
from fsgen.episode import Episode
from fsgen.model import FewShotModel
from fsgen.nets import GatedPixelCNN
from fsgen.registry import register


@register("pixelcnn")
class PixelCNN(FewShotModel):
    r"""Gated PixelCNN that ignores the support: exact likelihood, and what the support is worth to the others.

    .. math:: p(x) = \prod_i p(x_i \mid x_{<i})

    Options:
        event_shape: one image, (C, H, W).
        channels, layers: width and depth of the two stacks.
        kernel: side of the receptive field that a layer adds. first_kernel: the same of the first layer.
        likelihood: of a pixel: bernoulli, gaussian or logistic-mixture.
    """

    def __init__(
        self,
        *,
        event_shape: tuple[int, int, int] = (1, 28, 28),
        channels: int = 32,
        layers: int = 8,
        kernel: int = 3,
        first_kernel: int = 7,
        likelihood: str = "bernoulli",
    ) -> None:
        super().__init__()
        self.event_shape = event_shape
        self.likelihood = head(likelihood, event_shape[0])
        self.levels = self.likelihood.levels
        self.net = GatedPixelCNN(
            event_shape[0], self.likelihood.outputs, channels, layers, kernel=kernel, first_kernel=first_kernel
        )

    @classmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> PixelCNN:
        return cls(event_shape=event_shape, channels=6, layers=2, first_kernel=3)

    def model(self, episode: Episode) -> None:
        """p(x), pixel by pixel."""
        shape, like = (episode.batch, episode.queries), self.net.last.weight
        with plates(episode):
            x = Autoregressive(GatedProgram(self.net), self.likelihood, shape, self.event_shape, like)
            pyro.sample("x", x, obs=episode.query)

    def guide(self, episode: Episode) -> None:
        """Nothing is latent."""
