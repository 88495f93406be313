"""Episodes reach the device in order, and none is drawn before its turn where that gains nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fsgen.data.prefetch import ahead
from fsgen.episode import Episode


def numbered(drawn: list[int]) -> Iterator[Episode]:
    for number in range(4):
        drawn.append(number)
        yield Episode.sequential(torch.full((1, 2, 1, 2, 2), float(number)))


def test_on_the_cpu_each_is_cast_and_drawn_in_its_turn() -> None:
    drawn: list[int] = []
    for number, episode in enumerate(ahead(numbered(drawn), torch.zeros(1).double())):
        assert (episode.query == number).all()
        assert episode.query.dtype == torch.float64
        assert drawn[-1] == number


class Graphics(torch.Tensor):
    """Says that it is on a GPU."""

    is_cuda = True


def test_for_a_gpu_the_next_is_on_its_way_first(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []
    to = Episode.to

    def noted(self: Episode, *args: Any, **kwargs: Any) -> Episode:
        sent.append(kwargs)
        return to(self, *args, **kwargs)

    monkeypatch.setattr(Episode, "pin_memory", lambda self: self)
    monkeypatch.setattr(Episode, "to", noted)
    drawn: list[int] = []
    for number, episode in enumerate(ahead(numbered(drawn), torch.zeros(1).double().as_subclass(Graphics))):
        assert (episode.query == number).all()
        assert episode.query.dtype == torch.float64
        assert drawn[-1] == min(number + 1, 3)
    assert sent == [{"non_blocking": True}] * 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_they_arrive_whole() -> None:
    for number, episode in enumerate(ahead(numbered([]), torch.zeros(1, device="cuda"))):
        assert episode.query.is_cuda
        assert (episode.query == number).all()
