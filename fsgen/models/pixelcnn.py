"""Gated PixelCNN without a condition: ignores the support, with an exact likelihood.

References: van den Oord et al. (2016), "Conditional image generation with PixelCNN decoders", arXiv:1606.05328.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyro
import torch
from torch import Tensor, nn

from fsgen.distributions import Autoregressive, GatedProgram, head, plates
from fsgen.episode import Episode
from fsgen.model import FewShotModel
from fsgen.nets import GatedPixelCNN, GridDecoder
from fsgen.registry import register


@register("pixelcnn")
class PixelCNN(FewShotModel):
    r"""Gated PixelCNN that ignores the support: exact likelihood, and what the support is worth to the others.

    .. math:: p(x) = \prod_i p(x_i \mid x_{<i})

    Options:
        event_shape: one image, (C, H, W).
        context: channels of a learned grid, decoded to a map that every layer reads; it says what is where, and a
            gradient step on it can write what a support shows (see meta-pixelcnn). 0 for none.
        stages: channels of each stage of the grid's decoder; n stages make a place of the grid 2**n pixels a side.
        dim_condition: channels of the map that the grid is decoded to.
        channels, layers: width and depth of the two stacks.
        kernel: side of the receptive field that a layer adds. first_kernel: the same of the first layer.
        likelihood: of a pixel: bernoulli, gaussian or logistic-mixture.
    """

    def __init__(
        self,
        *,
        event_shape: tuple[int, int, int] = (1, 28, 28),
        context: int = 0,
        stages: Sequence[int] = (32, 64),
        dim_condition: int = 32,
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
        self.decode, self.context = None, None
        if context:
            self.decode = GridDecoder(event_shape, stages, context, dim_condition)
            self.context = nn.Parameter(torch.zeros(self.decode.dim))
        self.net = GatedPixelCNN(
            event_shape[0],
            self.likelihood.outputs,
            channels,
            layers,
            kernel=kernel,
            first_kernel=first_kernel,
            condition=dim_condition if context else 0,
        )

    @classmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> PixelCNN:
        return cls(
            event_shape=event_shape, context=2, stages=(4,), dim_condition=3, channels=6, layers=2, first_kernel=3
        )

    @property
    def program(self) -> GatedProgram:
        """Parameters of every pixel from those before it."""
        if self.decode is None or self.context is None:
            return GatedProgram(self.net)
        return GatedProgram(self.net, self.decode(self.context[None])[0])

    def start_from(self, weights: Mapping[str, Tensor], source: str) -> None:
        """As :meth:`FewShotModel.start_from`; to weights without a context a new one is added."""
        if self.context is not None and "context" not in weights:
            fresh = {name: value for name, value in self.state_dict().items() if name.startswith(("context", "decode"))}
            weights = {**weights, **fresh}
            for number, layer in enumerate(self.net.stack):
                name = f"net.layers.{number}.link.weight"
                if name in weights and len(weights[name]) == len(layer.link.weight):  # other sizes are refused below
                    added = layer.link.weight.detach()[:, weights[name].shape[1] :]
                    weights[name] = torch.cat([weights[name], added.to(weights[name])], 1)
        super().start_from(weights, source)

    def model(self, episode: Episode) -> None:
        """p(x), pixel by pixel."""
        shape, like = (episode.batch, episode.queries), self.net.last.weight
        with plates(episode):
            x = Autoregressive(self.program, self.likelihood, shape, self.event_shape, like)
            pyro.sample("x", x, obs=episode.query)

    def guide(self, episode: Episode) -> None:
        """Nothing is latent."""
