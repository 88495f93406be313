"""Few-shot PixelCNN: a gated PixelCNN that reads a code of the support and attends to its patches.

References:
    Reed et al. (2018), "Few-shot autoregressive density estimation: towards learning to learn distributions",
    arXiv:1710.10304.
    van den Oord et al. (2016), "Conditional image generation with PixelCNN decoders", arXiv:1606.05328.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fsgen.distributions import Autoregressive, GatedProgram, OrderAverage, head, plates, turned, turns
from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.model import FewShotModel
from fsgen.nets import GatedPixelCNN, GridDecoder, GridEncoder, MapDecoder, MapEncoder, over_images, widened
from fsgen.registry import register
from fsgen.sets import MeanPool, PatchMemory


@register("few-shot-pixelcnn")
class FewShotPixelCNN(FewShotModel):
    r"""Gated PixelCNN conditioned on a set code and attending to patches of the support; exact likelihood.

    .. math:: p(x \mid X) = \prod_i p(x_i \mid x_{<i}, r(X), a_i(X, x_{<i}))

    The code r is the mean of the support's feature maps, decoded to a map that every layer reads: maps of patches and,
    as a setting, maps of pixels, which keep where a stroke is better than what it is. The attention a_i
    is asked by each pixel from what it knows of the pixels before it, and reads patches by what they hold and where.
    In several orders, the network is told which one it reads, and p is the mean over them; training draws one a batch,
    which bounds the NLL from above.

    Options:
        event_shape: one image, (C, H, W).
        code: read the set code. attention: attend to patches; without both the support is ignored.
        channels, layers: width and depth of the two stacks.
        kernel: side of the receptive field that a layer adds. first_kernel: the same of the first layer.
        stages: channels of each stage of the support's encoder; n stages make patches of 2**n pixels a side.
        blocks: residual blocks a stage. dim_patch: features of a patch.
        dim_pixel: features of a pixel in the second map of the code, which is of the images' own size; 0 for none.
        dim_condition: channels of the map that the code is decoded to.
        dim_attention: size of what a pixel reads. heads: of the attention.
        orders: of the pixels: raster, or dihedral, the mean over those of the rotated and mirrored image: 8 of them,
            each with a pass of its own.
        likelihood: of a pixel: bernoulli, gaussian or logistic-mixture.
    """

    turns: Tensor

    def __init__(
        self,
        *,
        event_shape: tuple[int, int, int] = (1, 28, 28),
        code: bool = True,
        attention: bool = True,
        channels: int = 32,
        layers: int = 8,
        kernel: int = 3,
        first_kernel: int = 7,
        stages: Sequence[int] = (32, 64),
        blocks: int = 1,
        dim_patch: int = 32,
        dim_pixel: int = 0,
        dim_condition: int = 32,
        dim_attention: int = 32,
        heads: int = 2,
        orders: str = "raster",
        likelihood: str = "bernoulli",
    ) -> None:
        super().__init__()
        if not (code or attention):
            raise InputError("few-shot-pixelcnn: code and attention are both false; give one, or train pixelcnn.")
        self.event_shape = event_shape
        self.likelihood = head(likelihood, event_shape[0])
        self.levels = self.likelihood.levels
        grey = self.levels > 2
        inputs = (event_shape[0] * (1 + grey), *event_shape[1:])
        self.features = GridEncoder(inputs, stages, dim_patch, blocks, normalised=grey)
        grid = self.features.grid
        self.memory = (
            PatchMemory(None, grid, dim_patch, dim_attention, heads=heads, dim=dim_attention) if attention else None
        )
        self.encode = MeanPool(None, self.features.dim) if code else None
        self.decode = GridDecoder(event_shape, stages, dim_patch + 1, dim_condition, blocks) if code else None
        self.pixels = MapEncoder(inputs, dim_pixel) if code and dim_pixel else None
        self.encode_pixels = MeanPool(None, self.pixels.dim) if self.pixels else None
        self.decode_pixels = MapDecoder(event_shape, dim_pixel + 1, dim_condition) if self.pixels else None
        self.register_buffer("turns", turns(orders, *event_shape[1:]), persistent=False)
        self.order = nn.Parameter(torch.zeros(len(self.turns), dim_condition)) if len(self.turns) > 1 else None
        self.net = GatedPixelCNN(
            event_shape[0],
            self.likelihood.outputs,
            channels,
            layers,
            kernel=kernel,
            first_kernel=first_kernel,
            condition=dim_condition if code or self.order is not None else 0,
            asks=(dim_attention, dim_attention) if attention else None,
            size=event_shape[1:],
        )

    @classmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> FewShotPixelCNN:
        return cls(
            event_shape=event_shape,
            channels=6,
            layers=2,
            first_kernel=3,
            stages=(4,),
            dim_patch=4,
            dim_pixel=2,
            dim_condition=3,
            dim_attention=4,
        )

    def start_from(self, weights: Mapping[str, Tensor], source: str) -> None:
        """As :meth:`FewShotModel.start_from`, and from a model with a part of the channels, or without what it lacks.

        Its channels are widened a whole number of times, and a map of pixels and codes of the orders are added that say
        nothing yet: training starts with the likelihood of that model.
        """
        own = {name.removeprefix("net."): value for name, value in weights.items() if name.startswith("net.")}
        weights = {**weights, **{f"net.{name}": value for name, value in widened(own, self.net).items()}}
        if self.pixels is not None and not any(name.startswith("pixels.") for name in weights):
            added = ("pixels.", "decode_pixels.")
            weights = {**weights, **{n: value for n, value in self.state_dict().items() if n.startswith(added)}}
        if self.order is not None and self.decode is not None and "order" not in weights:
            weights = {**weights, "order": self.order.detach()}
        super().start_from(weights, source)

    def model(self, episode: Episode) -> None:
        """p(x | support), pixel by pixel."""
        with plates(episode):
            pyro.sample("x", self._density(episode), obs=episode.query)

    def guide(self, episode: Episode) -> None:
        """Nothing is latent."""

    def attention_maps(
        self, episode: Episode
    ) -> tuple[Float[Tensor, "B Q H W heads S h w"], Float[Tensor, "B Q H W heads"]]:
        """What each pixel of each query read: the weight of every patch, and that of the null patch; in raster order.

        Raises:
            InputError: the model was built without attention.
        """
        if self.memory is None:
            raise InputError("few-shot-pixelcnn was built with attention=False: it has no attention maps.")
        kept: list[Tensor] = []
        program = self._program(episode, kept)
        program.parameters(episode.query)
        height, width = self.event_shape[1:]
        weights = kept[0].movedim(0, 2).unflatten(2, (height, width))
        patches = weights[..., :-1].unflatten(-1, (episode.shots, *self.features.grid))
        return patches, weights[..., -1]

    def _density(self, episode: Episode) -> dist.Distribution:
        images = self.likelihood, (episode.batch, episode.queries), self.event_shape, self.net.last.weight
        count = len(self.turns)
        if count == 1:
            return Autoregressive(self._program(episode), *images)
        chosen = [int(torch.randint(count, ()))] if self.training else list(range(count))
        programs = [self._program(_turned(episode, self.turns[g]), order=g) for g in chosen]
        return OrderAverage(self.turns[chosen], programs, *images)

    def _program(self, episode: Episode, kept: list[Tensor] | None = None, *, order: int = 0) -> GatedProgram:
        """The network with what it reads of the support; ``kept`` collects the attention, ``order`` it is told."""
        prepared = episode.shared("prepared", lambda: self._prepared(episode.support))
        embedded = episode.shared("patches", lambda: over_images(self.features, prepared))
        condition = self._condition(episode, prepared, embedded)
        if self.order is not None:
            told = self.order[order][:, None, None]
            condition = told.expand(*episode.query.shape[:2], -1, *self.event_shape[1:]) + (
                0 if condition is None else condition
            )
        if self.memory is None:
            return GatedProgram(self.net, condition)
        memory, visible = self.memory, episode.seen()
        keys, values = memory.keys_values(embedded)

        def read(queries: Tensor) -> Tensor:
            found, weights = memory.attend(queries, keys, values, visible, weights=kept is not None)
            if kept is not None and weights is not None:
                kept.append(weights)
            return found

        return GatedProgram(self.net, condition, read)

    def _prepared(self, images: Tensor) -> Tensor:
        """Binary pixels as they are, ink on an empty ground; others in [-1, 1], and standardised over the image.

        Ink of any colour on a ground of any other is far from the mean, so that its place is seen before its colour.
        """
        if self.levels == 2:
            return images
        off = images - images.mean((-2, -1), keepdim=True)
        spread = (off.square().mean((-2, -1), keepdim=True) + 1e-12).sqrt()
        return torch.cat([2 * images - 1, off / (2 * spread + 0.05)], -3)

    def _condition(self, episode: Episode, prepared: Tensor, embedded: Tensor) -> Tensor | None:
        """The set code decoded to a map [B, Q, c, H, W]."""
        if self.encode is None or self.decode is None:
            return None
        condition = _decoded(self.encode, self.decode, embedded, episode.seen())
        if self.pixels is None or self.encode_pixels is None or self.decode_pixels is None:
            return condition
        pixels = episode.shared("pixels", partial(over_images, self.pixels, prepared))
        return condition + _decoded(self.encode_pixels, self.decode_pixels, pixels, episode.seen())


def _decoded(encode: MeanPool, decode: GridDecoder | MapDecoder, embedded: Tensor, visible: Tensor) -> Tensor:
    """The mean map of what each query sees, decoded; the number of elements is one more feature of each place."""
    code = encode.pool(embedded, visible)
    places = decode.dim - (encode.dim - 1)
    spread = torch.cat([code[..., :-1], code[..., -1:].expand(*code.shape[:-1], places)], -1)
    return decode(spread.flatten(0, 1)).unflatten(0, spread.shape[:2])


def _turned(episode: Episode, turn: Tensor) -> Episode:
    """The episode with all its images turned."""
    support = turned(episode.support, turn)
    query = support if episode.query is episode.support else turned(episode.query, turn)
    return Episode(support, query, episode.visible, episode.ways).sharing()
