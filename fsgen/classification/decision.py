"""What a classifier is asked: which of C sets does each query belong to?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fsgen.episode import Episode


@dataclass(frozen=True)
class Decision:
    """A batch of B decisions, each between C classes that are known by their images alone.

    Attributes:
        sets: the support, S images a class, values in [0, 1]; the order of classes and of images means nothing.
        query: Q images a decision, each of one of the classes.
        held: ``held[b, c, s]`` says whether image s of class c is there at all, so that classes may hold different
            numbers of images, one at least; None means that all are.
    """

    sets: Float[Tensor, "B C S *event"]
    query: Float[Tensor, "B Q *event"]
    held: Bool[Tensor, "B C S"] | None = None

    @classmethod
    def between(cls, classes: Sequence[Tensor], query: Tensor) -> Decision:
        """One decision between classes of as many images [S, *event] as each has, for queries [Q, *event].

        >>> images = torch.ones(5, 1, 4, 4)
        >>> Decision.between([images[:1], images[:3]], images).seen().sum(-1)
        tensor([[1, 3]])
        """
        counts = torch.tensor([len(images) for images in classes])
        most = int(counts.max())
        sets = torch.stack([torch.cat([i, i.new_zeros(most - len(i), *i.shape[1:])]) for i in classes])
        held = torch.arange(most) < counts[:, None]
        return cls(sets[None], query[None], None if bool(held.all()) else held[None].to(sets.device))

    @classmethod
    def of(cls, episode: Episode) -> Decision:
        """The question a support/query episode asks: which of its classes does each query belong to?"""
        return cls(episode.support.unflatten(1, (episode.ways, -1)), episode.query)

    @property
    def ways(self) -> int:
        """C, the number of classes."""
        return self.sets.shape[1]

    def seen(self) -> Bool[Tensor, "B C S"]:
        """The mask of images that are there, all true where none was given."""
        if self.held is not None:
            return self.held
        return torch.ones(self.sets.shape[:3], dtype=torch.bool, device=self.sets.device)

    def to(self, *args: Any, **kwargs: Any) -> Decision:
        """The decision with its images moved or cast as by ``Tensor.to``; the mask only moves."""
        sets = self.sets.to(*args, **kwargs)
        held = None if self.held is None else self.held.to(sets.device)
        return replace(self, sets=sets, query=self.query.to(*args, **kwargs), held=held)
