"""What a trainer asks of the job it runs in, and the job of one process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from fsgen.errors import FsgenError

if TYPE_CHECKING:
    from torch import Tensor, nn

Result = TypeVar("Result")


class LostPeerError(FsgenError):
    """Another process of the job died, hangs or cannot be reached."""

    exit_status = 1


class Job(ABC):
    """The processes that train one model. Every method that waits for the others has to be called by all of them.

    Attributes:
        rank: which process this is, 0 ... size-1. size: how many there are.
    """

    rank: int
    size: int

    @property
    def lead(self) -> bool:
        """Whether this is process 0, the only one that writes and speaks."""
        return self.rank == 0

    @abstractmethod
    def device(self, name: str) -> str:
        """The device of this process where the job is to run on ``name``."""

    @abstractmethod
    def share(self, batch: int) -> slice:
        """Which episodes of a batch this process takes.

        Raises:
            InputError: a batch that the processes cannot share equally.
        """

    @abstractmethod
    def own_noise(self, seed: int, step: int) -> None:
        """Gives this process random numbers of its own for a step, which follow from seed, step and rank."""

    @abstractmethod
    def gathered(self, flags: Tensor) -> Tensor:
        """The booleans [b] of all processes, joined to [size * b] in the order of their ranks."""

    @abstractmethod
    def mean(self, value: float) -> float:
        """The mean of the processes' values."""

    @abstractmethod
    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces each gradient by its mean over the processes; where nobody has one, there stays none."""

    @abstractmethod
    def agreed(self, word: str | None, words: Sequence[str]) -> str | None:
        """The last of ``words`` that any process gives as its ``word``; None if none gives one."""

    @abstractmethod
    def together(self, call: Callable[[], Result]) -> Result:
        """``call()`` in every process. An FsgenError in any of them ends all: the first says why, the rest are silent.

        Raises:
            FsgenError: that error, or a silent one with its exit status.
        """

    @abstractmethod
    def from_lead(self, call: Callable[[], Result]) -> Result:
        """``call()`` in process 0 alone, with its result, which has to be on the CPU, given to all.

        Raises:
            FsgenError: as :meth:`together`.
        """

    @abstractmethod
    def common(self, error: FsgenError) -> FsgenError:
        """The error to end with where every process meets ``error``: process 0 says it, the rest are silent."""


class Alone(Job):
    """A job of one process."""

    rank, size = 0, 1

    def device(self, name: str) -> str:
        return name

    def share(self, batch: int) -> slice:
        return slice(batch)

    def own_noise(self, seed: int, step: int) -> None:
        """Nothing: the generator goes on from step to step, and is in the checkpoint."""

    def gathered(self, flags: Tensor) -> Tensor:
        return flags

    def mean(self, value: float) -> float:
        return value

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Nothing: the gradients are those of the whole batch."""

    def agreed(self, word: str | None, words: Sequence[str]) -> str | None:
        return word

    def together(self, call: Callable[[], Result]) -> Result:
        return call()

    def from_lead(self, call: Callable[[], Result]) -> Result:
        return call()

    def common(self, error: FsgenError) -> FsgenError:
        return error
