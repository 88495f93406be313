"""An episode: what is seen, and what is to be explained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Episode:
    """A batch of B few-shot tasks, each asking for log p(query | visible support).

    Attributes:
        support: S images a task, values in [0, 1]; S may be 0, which asks for the joint log p(query).
        query: Q images a task to be scored.
        visible: ``visible[b, q, s]`` says whether query q may see support image s; None means all.
            Strictly lower-triangular with support = query gives every shot count 0 ... S-1 in one pass.
        ways: C, where support and query both hold the images of C classes one class after the other, as many of each;
            1 where the order says nothing of classes.

    >>> e = Episode.sequential(torch.zeros(2, 3, 1, 4, 4))
    >>> e.seen().sum(-1)[0]
    tensor([0, 1, 2])
    """

    support: Float[Tensor, "B S *event"]
    query: Float[Tensor, "B Q *event"]
    visible: Bool[Tensor, "B Q S"] | None = None
    ways: int = 1
    _memo: dict[str, Any] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def sequential(cls, images: Float[Tensor, "B T *event"]) -> Episode:
        """Image t is scored given images 0 ... t-1: the meta-likelihood sum_t log p(x_t | x_<t)."""
        batch, length = images.shape[:2]
        visible = torch.ones(length, length, dtype=torch.bool, device=images.device).tril(-1)
        return cls(images, images, visible.expand(batch, -1, -1))

    @property
    def batch(self) -> int:
        """B, the number of tasks."""
        return self.query.shape[0]

    @property
    def queries(self) -> int:
        """Q, the number of images scored in each task."""
        return self.query.shape[1]

    @property
    def shots(self) -> int:
        """S, the number of support images in each task."""
        return self.support.shape[1]

    def seen(self) -> Bool[Tensor, "B Q S"]:
        """The visibility mask, all true where none was given."""
        if self.visible is not None:
            return self.visible
        return torch.ones(1, 1, 1, dtype=torch.bool, device=self.query.device).expand(
            self.batch, self.queries, self.shots
        )

    def to(self, *args: Any, **kwargs: Any) -> Episode:
        """The episode with its images moved or cast as by ``Tensor.to``; the mask only moves."""
        support = self.support.to(*args, **kwargs)
        query = support if self.query is self.support else self.query.to(*args, **kwargs)
        along = bool(kwargs.get("non_blocking", False))
        visible = None if self.visible is None else self.visible.to(support.device, non_blocking=along)
        return Episode(support, query, visible, self.ways)

    def by_class(self) -> Episode:
        """Every class an episode of its own, [B C, ...]: a query is scored given the images of its class alone.

        >>> Episode(torch.zeros(2, 6, 1, 4, 4), torch.zeros(2, 9, 1, 4, 4), ways=3).by_class().support.shape[:2]
        torch.Size([6, 2])
        """
        support, query = (i.unflatten(1, (self.ways, -1)).flatten(0, 1) for i in (self.support, self.query))
        return Episode(support, query)

    def pin_memory(self) -> Episode:
        """The episode in page-locked memory, from which copies to a GPU do not wait."""
        support = self.support.pin_memory()
        query = support if self.query is self.support else self.query.pin_memory()
        return Episode(support, query, None if self.visible is None else self.visible.pin_memory(), self.ways)

    def sharing(self) -> Episode:
        """The same episode with an empty scratch pad, so that ``shared`` computes each key once."""
        return replace(self, _memo={})

    def shared(self, key: str, compute: Callable[[], Any]) -> Any:
        """``compute()``, remembered under ``key`` while a scratch pad is open (see ``sharing``).

        Model and guide read the same features of the same images. Inference opens a scratch pad for the
        length of one call, so features are computed once there, and never outlive the weights they came from.
        """
        if self._memo is None:
            return compute()
        if key not in self._memo:
            self._memo[key] = compute()
        return self._memo[key]

    def embedded(self, embed: Callable[[Tensor], Tensor], key: str = "embedded") -> tuple[Tensor, Tensor]:
        """``(embed(support), embed(query))``, shared, and one pass where both are the same tensor.

        What is one set expanded over all tasks, queries or support, is embedded once for all of them.
        """

        def both() -> tuple[Tensor, Tensor]:
            if self.query is self.support:
                return (together := embed(self.query)), together
            if self.batch > 1 and 0 in (self.support.stride(0), self.query.stride(0)):
                return self._each(embed, self.support), self._each(embed, self.query)
            joined = embed(torch.cat([self.support, self.query], 1))
            return joined[:, : self.shots], joined[:, self.shots :]

        return self.shared(key, both)

    def _each(self, embed: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        if images.stride(0):
            return embed(images)
        return (common := embed(images[:1])).expand(self.batch, *common.shape[1:])
