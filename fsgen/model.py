"""The few-shot model: what every model of the family offers, and the conditional density it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fsgen import storage
from fsgen.episode import Episode
from fsgen.errors import CheckpointError, InputError
from fsgen.inference import couples_queries, latent_sites, log_weights, simulate
from fsgen.objectives import iwae
from fsgen.published import located
from fsgen.registry import build


class Trainable(nn.Module, ABC):
    """What every trained model offers, generative or not: a kind of image, a recipe and weights.

    Attributes:
        event_shape: one image, (C, H, W).
        levels: values a pixel can take; 2 for binary images.
        likelihood: the head of a model that has the option, which also sets ``levels``; None where there is no choice.
        presets: named sets of options, offered by ``fsgen.build(name, preset=...)``.
        recipe: the name and options the model was built with, saved beside its weights.
    """

    event_shape: tuple[int, int, int]
    levels: int = 2
    likelihood: Any = None
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    recipe: dict[str, Any]

    def start_from(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Takes the weights of a trained model to start training from; ``source`` names them in messages.

        Raises:
            CheckpointError: weights of another model.
        """
        storage.check_state_dict(self.state_dict(), weights, source)
        self.load_state_dict(dict(weights))

    def save(self, path: str | Path) -> None:
        """Writes a folder that :func:`load` reads: the recipe, the weights and their sha256, atomically.

        Raises:
            StorageError: the folder exists or cannot be written.
        """
        if not hasattr(self, "recipe"):
            raise TypeError(f"{type(self).__name__} was not made by fsgen.build, so it has no recipe to save.")
        config = storage.config_to_bytes({"model": self.recipe})
        weights = storage.tensors_to_bytes({k: v.detach().cpu() for k, v in self.state_dict().items()})
        storage.write_folder(Path(path), {"config.yaml": config, "weights.safetensors": weights})


class FewShotModel(Trainable):
    """log p(query | support), as one generative program that is both scored and run forwards.

    A subclass sets ``event_shape``, writes ``model`` and ``guide`` as Pyro programs inside
    :func:`fsgen.distributions.plates`, names its observed site "x", and gives a small ``tiny`` instance
    for the contract tests. Nothing latent means an empty guide and an exact likelihood.
    """

    @property
    def discrete(self) -> bool:
        """Whether the score is a probability, so that bits per dimension are defined; otherwise it is a density."""
        return self.likelihood is None or bool(self.likelihood.discrete)

    @abstractmethod
    def model(self, episode: Episode) -> None:
        """The generative program p(query, latents | support)."""

    @abstractmethod
    def guide(self, episode: Episode) -> None:
        """The proposal q(latents | query, support)."""

    @classmethod
    @abstractmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> FewShotModel:
        """A small instance with every part of the model, for tests."""

    def condition(self, support: Float[Tensor, "S C H W"]) -> ConditionalDensity:
        """The distribution over images given a support set; S may be 0.

        Args:
            support: values in [0, 1]; 0 and 1 for a binary model. A model of 256 levels scores k/255, and a value
                between two by the nearer one.

        Raises:
            InputError: wrong shape, type or range; the message says what it holds and how to change it.
        """
        return ConditionalDensity(self, check_images("support", support, self.event_shape, self.levels))


@runtime_checkable
class Attends(Protocol):
    """A model that can say what it reads of the support. Nothing is read of what a query does not see."""

    def attention_maps(self, episode: Episode) -> tuple[Float[Tensor, "B Q H W N S h w"], Float[Tensor, "B Q H W N"]]:
        """Shares, which sum to one, of all that is read: of every patch of the support, and of what stands for none.

        H and W are 1 where the whole query asks at once, h and w where whole images are read; N readings: the heads of
        the attention, or its steps in their order.

        Raises:
            InputError: the model was built without attention.
        """
        ...


class ConditionalDensity:
    """p(. | support): sample it, score images under it.

    Attributes:
        model: the model it comes from. support: [S, C, H, W].
        exact: whether ``log_prob`` is exact (nothing latent) or a lower bound by importance sampling.
    """

    def __init__(self, model: FewShotModel, support: Tensor) -> None:
        self.model, self.support = model, support
        reference = next(model.parameters(), None)
        self._like = support if reference is None else reference
        pair = self._episode(self._like.new_zeros(2, *model.event_shape))
        with _seeded(0):  # looking at the program runs it, which must not move the caller's generator
            self.exact, self._coupled = not latent_sites(model, pair), couples_queries(model, pair)

    def _episode(self, query: Tensor) -> Episode:
        support = self.support.to(self._like)
        return Episode(support[None], query.to(self._like)[None])

    @torch.no_grad()
    def sample(
        self, shape: Sequence[int] = (), *, seed: int | None = None, batch: int = 256
    ) -> Float[Tensor, "*shape C H W"]:
        """Independent draws, each with latents of its own.

        Args:
            shape: leading shape of the result.
            seed: makes the draws repeatable and leaves the global generator as it was.
            batch: images drawn at a time, which bounds the memory.
        """
        count = int(torch.Size(shape).numel())
        episode = self._episode(self._like.new_zeros(1, *self.model.event_shape)).sharing()
        with _seeded(seed):
            parts = [
                simulate(self.model, episode, min(batch, count - start))["x"][:, 0, 0]
                for start in range(0, count, batch)
            ]
        empty = self._like.new_zeros(0, *self.model.event_shape)
        return torch.cat([empty, *parts]).reshape(*shape, *self.model.event_shape)

    @torch.no_grad()
    def log_prob(
        self, images: Float[Tensor, "*N C H W"], *, particles: int = 100, seed: int | None = None, chunk: int = 1024
    ) -> Float[Tensor, "*N"]:
        """log p(image | support) of each image on its own, in nats, float64.

        Exact where the model has no latent; otherwise the importance-weighted bound with ``particles`` samples
        (Burda et al., 2016, eq. 8), which rises to the exact value as ``particles`` grows.

        Args:
            particles: K. seed: makes the bound repeatable. chunk: particles x images computed at a time.

        Raises:
            InputError: as :meth:`FewShotModel.condition`.
        """
        leading = images.shape[:-3] if isinstance(images, Tensor) and images.ndim >= 3 else (1,)
        flat = images.reshape(-1, *images.shape[-3:]) if isinstance(images, Tensor) and images.ndim >= 3 else images
        flat = check_images("images", flat, self.model.event_shape, self.model.levels)
        count = 1 if self.exact else particles
        with _seeded(seed):
            scores = [
                iwae(log_weights(self.model, self._apart(part), count, chunk=max(1, chunk // len(part)))).flatten()
                for part in flat.split(32)
                if len(part)
            ]
        return torch.cat([self._like.new_zeros(0).double(), *scores]).reshape(leading)

    def _apart(self, images: Tensor) -> Episode:
        """Every image a query of its own: in one episode, or one each where a latent would couple them."""
        if not self._coupled:
            return self._episode(images)
        support = self.support.to(self._like).expand(len(images), *self.support.shape)
        return Episode(support, images.to(self._like)[:, None])


def load(path: str | Path) -> Any:
    """A model from a folder written by ``model.save`` or ``fsgen train``, or a published one by name; to evaluate.

    It is a :class:`FewShotModel`, or a learner, which classifies and knows no likelihood of images.

    Raises:
        CheckpointError: no such folder or name; a torn or altered file; weights of another model.
    """
    folder = located(path)
    config = storage.config_from_bytes(storage.read_file(folder, "config.yaml"), source=f"{folder}/config.yaml")
    try:
        recipe = config["model"]
        model = build(recipe["name"], **recipe["options"])
    except (TypeError, KeyError, LookupError) as error:
        raise CheckpointError(f"{folder}/config.yaml does not describe a model fsgen knows: {error}") from error
    tensors = storage.tensors_from_bytes(
        storage.read_file(folder, "weights.safetensors"), source=f"{folder}/weights.safetensors"
    )
    storage.check_state_dict(model.state_dict(), tensors, str(folder))
    model.load_state_dict(tensors)
    return model.eval()


def check_images(what: str, images: Any, event_shape: Sequence[int], levels: int) -> Tensor:
    """``images`` as given, if they are [N, *event_shape] with values the model knows.

    Raises:
        InputError: one line with what was expected, what was found and the edit.
    """
    channels, height, width = event_shape
    wanted = f"[{'S' if what == 'support' else 'N'}, {channels}, {height}, {width}]"
    if not isinstance(images, Tensor):
        raise InputError(f"{what}: expected a tensor {wanted}, got {type(images).__name__}; use torch.as_tensor.")
    if images.ndim != 4 or tuple(images.shape[1:]) != tuple(event_shape):
        hint = " Add the leading axis with images[None]." if tuple(images.shape) == tuple(event_shape) else ""
        raise InputError(f"{what}: expected {wanted}, got {list(images.shape)}.{hint}")
    if not images.is_floating_point():
        edit = "images.float() / 255" if images.numel() and images.max() > 1 else "images.float()"
        raise InputError(f"{what}: expected floating-point values in [0, 1], got {images.dtype}; use {edit}.")
    if images.numel() and not bool(((images >= 0) & (images <= 1)).all()):
        low, high = images.nan_to_num(torch.nan).min().item(), images.max().item()
        raise InputError(f"{what}: values must lie in [0, 1], got {low:g} ... {high:g}; rescale them (and remove NaN).")
    if levels == 2 and images.numel() and not bool(((images == 0) | (images == 1)).all()):
        raise InputError(
            f"{what}: this model knows binary pixels, got grey values; use (images > 0.5).to(images.dtype)."
        )
    return images


class _seeded:
    """Runs a block under its own seed and gives the global generator back as it was; None changes nothing."""

    def __init__(self, seed: int | None) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        if self.seed is not None:
            self.state = torch.get_rng_state()
            torch.manual_seed(self.seed)

    def __exit__(self, *exc: object) -> None:
        if self.seed is not None:
            torch.set_rng_state(self.state)
