"""Neural statistician: a latent of the whole set, inferred by a statistic network, and latents of each image.

References: Edwards & Storkey (2017), "Towards a neural statistician", ICLR; arXiv:1606.02185.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributions import kl_divergence

from fsgen.distributions import gaussian, head
from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.model import FewShotModel, check_images
from fsgen.nets import Affine, dense, image_decoder, image_encoder, join, mlp, over_images
from fsgen.registry import register
from fsgen.sets.statistic import StatisticNetwork, some_of

FIRST_RAW_SCALE = -3.0
PROPOSALS = ("set", "support")


@register("neural-statistician")
class NeuralStatistician(FewShotModel):
    r"""Neural statistician: a latent c of the set by a statistic network, and layers of latents z of each image.

    .. math::
        p(D) = \int p(c) \prod_{x \in D} \int p(x \mid z_{1:L}, c)\, p(z_L \mid c)
            \prod_{l<L} p(z_l \mid z_{l+1}, c)\, dz\, dc

    with the proposals q(c | D) and q(z_l | z_{l+1}, c, h(x)) on shared features h of the images (eqs. 5-8). Given a
    support, p(c) is q(c | support), which makes it the predictive of its reports; of no support it is N(0, I).

    c ties the queries of an episode together: they are scored jointly, given what all of them see. A sequential
    episode is thus a set of its own, and trains the published bound on log p(D).

    Options:
        event_shape: one image, (C, H, W).
        dim_c, dim_z: sizes of the set's latent and of each layer's. layers: L.
        sample_dropout: in training the proposal of c knows a part of the set only, so that it serves small sets
            too: an image is left out with a probability drawn for each set from 0 to this; 1 gives parts of all sizes.
        predictive: a c for each query, given what that query sees, instead of one for the episode. A sequential
            episode then trains log p(x_t | x_<t), the predictive itself, at every shot count; the weights are the same.
        proposal: of c: set, from support and queries as published; or support, the predictive's own q(c | support),
            which costs nothing, so that c is used from the first step on (of no support: from the queries).
        likelihood: of a pixel: bernoulli, gaussian or logistic-mixture.
        channels: of each stage of the encoder, from the first; the decoder mirrors them.
        blocks: residual blocks a stage. dim_features: size of h. dim_hidden: units of every dense layer.
    """

    def __init__(
        self,
        *,
        event_shape: tuple[int, int, int] = (1, 28, 28),
        dim_c: int = 64,
        dim_z: int = 24,
        layers: int = 2,
        sample_dropout: float = 0.0,
        predictive: bool = False,
        proposal: str = "set",
        likelihood: str = "bernoulli",
        channels: Sequence[int] = (32, 64),
        blocks: int = 1,
        dim_features: int = 256,
        dim_hidden: int = 256,
    ) -> None:
        super().__init__()
        if layers < 1 or not 0 <= sample_dropout <= 1:
            given = f"layers is {layers} and sample_dropout {sample_dropout}"
            raise InputError(f"neural-statistician: {given}; give 1 layer or more, and a share from 0 to 1.")
        if proposal not in PROPOSALS:
            raise InputError(f"neural-statistician: no proposal '{proposal}'. Known: {', '.join(PROPOSALS)}.")
        self.event_shape, self.sample_dropout = event_shape, sample_dropout
        self.predictive, self.proposal = predictive, proposal
        self.likelihood = head(likelihood, event_shape[0])
        self.levels = self.likelihood.levels
        self.features = image_encoder(event_shape, channels, blocks, dim_features)
        self.instance = dense(dim_features, dim_hidden)
        self.statistic = StatisticNetwork(None, dim_hidden)
        self.to_context = Affine(self.statistic.dim, 2 * dim_c)
        if proposal == "support":  # c begins nearly certain: under noise wider than sets differ it is never used
            self.to_context.bias.data[dim_c:] = FIRST_RAW_SCALE
        above = [dim_c, *[dim_c + dim_z] * (layers - 1)]
        self.priors = nn.ModuleList(mlp(n, 2 * dim_z, dim_hidden) for n in above)
        self.posteriors = nn.ModuleList(Affine(n + dim_features, 2 * dim_z) for n in above)
        outputs = (self.likelihood.outputs, *event_shape[1:])
        self.decode = image_decoder(dim_c + layers * dim_z, outputs, channels, blocks)

    @classmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> NeuralStatistician:
        return cls(event_shape=event_shape, dim_c=2, dim_z=1, channels=(4,), dim_features=6, dim_hidden=6)

    def embed(self, images: Float[Tensor, "B N C H W"]) -> Float[Tensor, "B N D"]:
        """Features h, shared by the statistic network and the proposals of z."""
        return over_images(self.features, images)

    def model(self, episode: Episode) -> None:
        """p(c | support) prod_x p(z_L | c) ... p(z_1 | z_2, c) p(x | z_1 ... z_L, c)."""
        support, _ = episode.embedded(self.embed)
        episodes, queries = _plates(episode)
        with episodes, self._those_sharing_c(queries):
            c = pyro.sample("c", self.context(support, self._seen(episode)))
        with episodes, queries:
            latents = [c]
            for name, prior in zip(self._layers(), self.priors, strict=True):
                latents.append(pyro.sample(name, gaussian(prior(_above(latents)))))
            code = join(*latents)
            parameters = self.decode(code.flatten(0, -2)).unflatten(0, code.shape[:-1])
            pyro.sample("x", self.likelihood(parameters), obs=episode.query)

    def guide(self, episode: Episode) -> None:
        """q(c | support, queries) prod_x q(z_L | c, x) ... q(z_1 | z_2, c, x)."""
        support, query = episode.embedded(self.embed)
        episodes, queries = _plates(episode)
        with episodes, self._those_sharing_c(queries):
            known = self._part(torch.cat([self._seen(episode), self._asked(episode)], -1))
            c = pyro.sample("c", self.context(torch.cat([support, query], 1), known))
        with episodes, queries:
            latents = [c]
            for name, posterior in zip(self._layers(), self.posteriors, strict=True):
                latents.append(pyro.sample(name, gaussian(posterior(join(_above(latents), query)))))

    def context(self, features: Float[Tensor, "B N D"], visible: Bool[Tensor, "B U N"]) -> dist.Distribution:
        """q(c | the visible images), batch shape [B, U], event [dim_c]; N(0, I) where none is visible."""
        code = self.statistic.pool(self.instance(features), visible)
        found = gaussian(self.to_context(code)).base_dist
        some = visible.any(-1, keepdim=True)
        loc = torch.where(some, found.loc, torch.zeros_like(found.loc))
        return dist.Normal(loc, torch.where(some, found.scale, torch.ones_like(found.scale))).to_event(1)

    @torch.no_grad()
    def codes(self, sets: Float[Tensor, "B N C H W"]) -> tuple[Float[Tensor, "B dim_c"], Float[Tensor, "B dim_c"]]:
        """Mean and scale of q(c | set) of each set, to plot or to compare sets by."""
        everything = torch.ones(*sets.shape[:1], 1, *sets.shape[1:2], dtype=torch.bool, device=sets.device)
        found = self.context(self.embed(sets), everything).base_dist
        return found.loc[:, 0], found.scale[:, 0]

    @torch.no_grad()
    def summarise(self, images: Float[Tensor, "N C H W"], size: int) -> Int[Tensor, " size"]:
        r"""Indices of the ``size`` images that represent the set best, the most representative first.

        From the whole set D, the image is removed again and again without which the statistic changes least,

        .. math:: j = \arg\min_{j \in I} KL(q(c \mid D) \,\|\, q(c \mid \{x_i : i \in I, i \ne j\})),

        the first of equals. A summary is a beginning of every larger one.

        Raises:
            InputError: images as :meth:`condition`; a size of none, or of more images than there are.

        Source: Edwards & Storkey (2017), algorithm 3.
        """
        check_images("images", images, self.event_shape, self.levels)
        if not 1 <= size <= len(images):
            raise InputError(f"summarise: size is {size}; give 1 to {len(images)}, the number of images.")
        features, kept = self.embed(images[None]), list(range(len(images)))
        whole, removed = self.context(features, _masks([kept], features)), list[int]()
        while len(kept) > 1:
            others = [[i for i in kept if i != j] for j in kept]
            least = int(kl_divergence(whole, self.context(features, _masks(others, features)))[0].argmin())
            removed.append(kept.pop(least))
        return torch.tensor([*kept, *reversed(removed)][:size])

    def _layers(self) -> list[str]:
        return [f"z{layer}" for layer in range(len(self.priors), 0, -1)]

    def _those_sharing_c(self, queries: pyro.plate) -> AbstractContextManager[object]:
        return queries if self.predictive else nullcontext()

    def _seen(self, episode: Episode) -> Bool[Tensor, "B U S"]:
        """The support c is given: what its query sees, or what all queries of the episode see."""
        return episode.seen() if self.predictive else episode.seen().all(1, keepdim=True)

    def _asked(self, episode: Episode) -> Bool[Tensor, "B U Q"]:
        """The queries that the proposal of each c knows: of those it explains all, or none where support is enough."""
        all_of_them = torch.ones(1, episode.queries, dtype=torch.bool, device=episode.query.device)
        those = torch.eye(episode.queries, dtype=torch.bool, device=episode.query.device)
        asked = (those if self.predictive else all_of_them).expand(episode.batch, -1, -1)
        return asked if self.proposal == "set" else asked & ~self._seen(episode).any(-1, keepdim=True)

    def _part(self, visible: Bool[Tensor, "B U N"]) -> Bool[Tensor, "B U N"]:
        """In training a random part of what is visible, never nothing of something (sample dropout)."""
        if not (self.training and self.sample_dropout):
            return visible
        return some_of(visible, self.sample_dropout * torch.rand(*visible.shape[:-1], 1, device=visible.device))


def _plates(episode: Episode) -> tuple[pyro.plate, pyro.plate]:
    return pyro.plate("episodes", episode.batch, dim=-2), pyro.plate("queries", episode.queries, dim=-1)


def _above(latents: Sequence[Tensor]) -> Tensor:
    """What a layer is drawn from: c, and the layer above it if there is one."""
    return latents[0] if len(latents) == 1 else join(latents[0], latents[-1])


def _masks(sets: Sequence[Sequence[int]], features: Float[Tensor, "1 N D"]) -> Bool[Tensor, "1 U N"]:
    """Which images each of U sets of indices holds."""
    number = range(features.shape[1])
    return torch.tensor([[[i in held for i in number] for held in sets]], device=features.device)
