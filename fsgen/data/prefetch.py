"""Episodes on their device before they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from fsgen.episode import Episode


def ahead(episodes: Iterable[Episode], like: Tensor) -> Iterator[Episode]:
    """The episodes on the device and in the precision of ``like``, in order.

    On a GPU each is drawn and copied, from page-locked memory, while the step before it is computed; on the CPU there
    is nothing to gain, and nothing is drawn before its turn.
    """
    if not like.is_cuda:
        for episode in episodes:
            yield episode.to(like)
        return
    waiting: list[Episode] = []
    for episode in episodes:
        waiting.append(episode.pin_memory().to(like.device, like.dtype, non_blocking=True))
        if len(waiting) > 1:
            yield waiting.pop(0)
    yield from waiting
