"""A classifier whose embedding is trained on episodes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from fsgen.classification.classifier import EpisodicClassifier
from fsgen.classification.decision import Decision
from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.inference import Discriminative
from fsgen.model import Trainable
from fsgen.nets import image_embedding, over_images


class Learner(Trainable, EpisodicClassifier, Discriminative):
    r"""A classifier with parameters: log p(class | query, support of all classes), trained on episodes.

    A subclass writes :meth:`log_scores` and :meth:`tiny` and registers with :func:`fsgen.registry.learner`: ``fsgen
    train``, ``fsgen classify`` and the tests find it there. Training maximises

    .. math:: \frac1Q \sum_q \log p(c_q \mid x_q, X_1 \dots X_C)

    which is the episode's cross-entropy. Scores of a batch of episodes do not depend on each other, in training either.

    Args:
        event_shape: one image, (C, H, W).
        levels: values a pixel can take.
        channels, blocks, dim: of the embedding, see :func:`fsgen.nets.image_embedding`.

    Attributes:
        embed: images [N, C, H, W] to features [N, D].
    """

    event_shape: tuple[int, int, int]

    def __init__(
        self, event_shape: tuple[int, int, int], levels: int, channels: Sequence[int], blocks: int, dim: int
    ) -> None:
        nn.Module.__init__(self)
        EpisodicClassifier.__init__(self)
        if not channels or min(channels) < 1 or blocks < 0 or dim < 1:
            raise InputError(
                f"{type(self).__name__}: channels {list(channels)}, blocks {blocks}, dim {dim}; give a positive number "
                f"of channels a stage, blocks of 0 or more and dim of 1 or more."
            )
        self.event_shape, self.levels = event_shape, levels
        self.embed = image_embedding(event_shape, channels, blocks, dim)

    @classmethod
    @abstractmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> Learner:
        """A small instance with every part of the learner, for tests."""

    def like(self) -> Tensor:
        return next(self.parameters())

    def log_labels(self, episode: Episode) -> Float[Tensor, "B Q C"]:
        """log p(class | query, support), nats: classes are as likely as each other before the query is seen.

        Raises:
            InputError: the episode shows fewer than two classes, or none of their images.
        """
        if episode.ways < 2 or not episode.shots:
            raise InputError(
                f"{type(self).__name__} learns from support/query episodes of 2 ways or more and 1 shot or more; give "
                f"--episodes.shots and --episodes.ways."
            )
        return self.log_scores(Decision.of(episode)).log_softmax(-1)

    def embedded(self, decision: Decision) -> tuple[Float[Tensor, "B C S D"], Float[Tensor, "B Q D"]]:
        """Features of the sets and of the queries, in single precision or better: scores are differences of them."""
        images = Episode(decision.sets.flatten(1, 2), decision.query)
        sets, query = images.embedded(lambda part: over_images(self.embed, part))
        full = self.like().dtype
        return sets.to(full).unflatten(1, decision.sets.shape[1:3]), query.to(full)
