"""The contract of every few-shot classifier, and scikit-learn's conventions on top of it."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fsgen.classification.decision import Decision
from fsgen.errors import InputError
from fsgen.evaluation import own_random_state
from fsgen.model import FewShotModel, check_images

Self = TypeVar("Self", bound="EpisodicClassifier")
Prior = str | Mapping[Any, int | float] | Sequence[int | float]


class EpisodicClassifier(ABC):
    """A classifier that is shown its classes instead of being trained on them.

    A subclass writes :meth:`log_scores` and registers with :func:`fsgen.registry.classifier`: ``fsgen classify``,
    :func:`fsgen.classification.accuracy` and the tests find it there. A subclass that reads a model sets
    ``reads_model`` and takes the model as its one positional argument; everything else is keyword-only.

    ``fit``, ``partial_fit``, ``predict``, ``predict_proba`` and ``predict_log_proba`` are those of scikit-learn. Images
    are [N, C, H, W], tensors or arrays of floating-point values in [0, 1] (or of booleans); labels are anything that
    can be hashed and sorted; results are numpy arrays. Learning is keeping the images, so no call changes a model.

    Args:
        prior: of the classes: "uniform"; "empirical", their shares of the images shown; a mapping from label to
            probability; or a sequence of probabilities in the order of ``classes_``.
        seed: of what is drawn in a prediction, which leaves the global generator as it was.

    Attributes:
        reads_model: whether the first argument is a model.
        event_shape: one image, (C, H, W); None where the first images shown decide.
        levels: values a pixel can take; 2 refuses grey images.
    """

    reads_model: ClassVar[bool] = False
    event_shape: tuple[int, ...] | None = None
    levels: int = 256

    def __init__(self, *, prior: Prior = "uniform", seed: int = 0) -> None:
        if isinstance(prior, str) and prior not in ("uniform", "empirical"):
            raise InputError(f"{type(self).__name__}: no prior '{prior}'; give uniform, empirical or probabilities.")
        self.prior, self.seed = prior, seed
        self._shown: dict[Hashable, Tensor] = {}

    @abstractmethod
    def log_scores(self, decision: Decision) -> Float[Tensor, "B Q C"]:
        """What speaks for each class, in nats up to a constant of the query; priors and normalisation come after.

        Permuting classes permutes scores, the number of images of a class is no evidence, and a decision is scored
        alone. What is drawn comes from torch's global generator.
        """

    def like(self) -> Tensor:
        """A tensor of the device that predictions are made on."""
        return torch.zeros(0)

    @property
    def classes_(self) -> np.ndarray:
        """The labels shown so far, sorted; the order of the columns of ``predict_proba``."""
        labels = list(self._known())
        if len({type(label) for label in labels}) == 1 and isinstance(labels[0], bool | int | float | str):
            return np.array(labels)
        array = np.empty(len(labels), dtype=object)
        array[:] = labels
        return array

    def fit(self: Self, images: Any, labels: Any) -> Self:
        """Forgets what was shown and keeps these images.

        Raises:
            InputError: images of the wrong shape, type or range; labels of another number, or that cannot be hashed
                and sorted. What was shown before is then kept.
        """
        before, self._shown = self._shown, {}
        try:
            return self.partial_fit(images, labels)
        except InputError:
            self._shown = before
            raise

    def partial_fit(self: Self, images: Any, labels: Any) -> Self:
        """Keeps more images, of known classes or new ones; the same as ``fit`` on all images so far.

        Raises:
            InputError: as :meth:`fit`; then what was shown before is kept as it was.
        """
        new, named = self._checked(images), _labels(labels)
        if not len(new) or len(new) != len(named):
            raise InputError(f"fit: {len(new)} images and {len(named)} labels; give one image or more, a label each.")
        _in_order({*self._shown, *named})
        rows: dict[Hashable, list[int]] = {}
        for row, label in enumerate(named):
            rows.setdefault(label, []).append(row)
        for label, own in rows.items():
            before = self._shown.get(label, new[:0])
            self._shown[label] = torch.cat([before, new[own].to(before.dtype)])
        return self

    def predict(self, images: Any) -> np.ndarray:
        """The most probable label of each image; of equals the first in ``classes_``.

        Raises:
            InputError: nothing was shown yet, or images that do not fit what was.
        """
        return self.classes_[self.predict_log_proba(images).argmax(-1)]

    def predict_proba(self, images: Any) -> np.ndarray:
        """p(class | image), [N, classes], float64; every row sums to one. Errors as :meth:`predict`."""
        found: np.ndarray = np.exp(self.predict_log_proba(images))
        return found

    @torch.no_grad()
    def predict_log_proba(self, images: Any) -> np.ndarray:
        r"""Logarithms of :meth:`predict_proba`. Errors as :meth:`predict`.

        .. math:: \log p(c \mid x) = s_c(x) + \log \pi_c - \log \sum_k \pi_k e^{s_k(x)}
        """
        labels = self._known()
        queries = self._checked(images).to(self._shown[labels[0]].dtype)
        decision = Decision.between([self._shown[label] for label in labels], queries)
        with own_random_state(self.like()):
            torch.manual_seed(self.seed)
            scores = self.log_scores(decision)[0].double().cpu() if len(queries) else torch.zeros(0, len(labels))
        return (scores.double() + self._log_prior(labels)).log_softmax(-1).numpy()

    def _known(self) -> list[Any]:
        if not self._shown:
            raise InputError(f"{type(self).__name__}: no class was shown yet; call fit(images, labels) first.")
        return sorted(self._shown)  # type: ignore[type-var]

    def _checked(self, images: Any) -> Tensor:
        given = _tensor(images)
        shape = self.event_shape
        if shape is None and self._shown:
            shape = tuple(next(iter(self._shown.values())).shape[1:])
        if shape is None:
            if given.ndim != 4:
                raise InputError(f"images: expected [N, C, H, W], got {list(given.shape)}.")
            shape = tuple(given.shape[1:])
        return check_images("images", given, shape, self.levels).detach().cpu()

    def _log_prior(self, labels: Sequence[Hashable]) -> Tensor:
        prior = self.prior
        if isinstance(prior, str):
            return _log_shares([len(self._shown[label]) if prior == "empirical" else 1 for label in labels])
        given = [prior.get(label) for label in labels] if isinstance(prior, Mapping) else list(prior)
        if len(given) != len(labels) or not all(isinstance(p, int | float) and 0 < p < math.inf for p in given):
            raise InputError(
                f"{type(self).__name__}: prior {dict(prior) if isinstance(prior, Mapping) else given} for "
                f"{len(labels)} classes {labels[:5]}; give a positive number for each."
            )
        return _log_shares([p for p in given if p is not None])


class ModelClassifier(EpisodicClassifier):
    """A classifier that reads a model, which it neither trains nor changes.

    Args:
        model: its ``event_shape`` and ``levels`` are those of the images.
    """

    reads_model = True

    def __init__(self, model: FewShotModel, *, prior: Prior = "uniform", seed: int = 0) -> None:
        super().__init__(prior=prior, seed=seed)
        self.model, self.event_shape, self.levels = model, tuple(model.event_shape), model.levels

    def like(self) -> Tensor:
        return next(self.model.parameters())


@contextlib.contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode within the block, and as it was after it."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _log_shares(weights: Sequence[int | float]) -> Tensor:
    values = torch.tensor(weights, dtype=torch.float64)
    return (values / values.sum()).log()


def _tensor(images: Any) -> Tensor:
    if isinstance(images, Tensor):
        return images.float() if images.dtype == torch.bool else images
    try:
        array = np.asarray(images)
        given = torch.tensor(array.astype(np.float32) if array.dtype == bool else array)
    except (TypeError, ValueError) as error:
        raise InputError(f"images: expected a tensor or an array [N, C, H, W], got {type(images).__name__}.") from error
    if not given.is_floating_point():
        edit = "images.astype('float32')" + " / 255" * bool(given.numel() and given.max() > 1)
        raise InputError(f"images: expected floating-point values in [0, 1], got {array.dtype}; use {edit}.")
    return given


def _labels(labels: Any) -> list[Any]:
    try:
        found = labels.tolist() if isinstance(labels, Tensor | np.ndarray) else list(labels)
        if any(label != label for label in found):
            raise InputError("fit: a label is NaN, which equals nothing; give it another name.")
        hash(tuple(found))
    except (TypeError, ValueError) as error:
        kind = type(labels).__name__
        raise InputError(f"fit: labels must be a list of values that can be hashed, got {kind} ({error}).") from error
    return found


def _in_order(labels: set[Any]) -> None:
    try:
        sorted(labels)
    except TypeError as error:
        raise InputError(f"fit: labels must be sortable among each other ({error}); give all of one type.") from error
