"""The job of several processes, over torch.distributed: gloo between CPUs, NCCL between GPUs.

Gradients travel in one flat all-reduce a step and not by ``DistributedDataParallel``: which parameters take part may
change from step to step (free nats), a bad step has to be skipped by all before any gradient is shared, and a lost
process has to end the others by an error of ours. What that costs is measured by ``benchmarks/bench_all_reduce.py``.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from fsgen.errors import FsgenError, InputError, ToldElsewhereError
from fsgen.parallel.job import Job, LostPeerError, Result


class Processes(Job):
    """The processes that torchrun started, as one job.

    Args:
        timeout: seconds after which a process that does not answer counts as lost.

    Raises:
        InputError: the environment names no job. LostPeerError: the processes do not find each other.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout, self.rank, self.size = timeout, -1, 0
        gpus = torch.cuda.is_available() and dist.is_nccl_available()
        try:
            with self._asking():
                dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=timedelta(seconds=timeout))
        except ValueError as error:
            raise InputError(f"WORLD_SIZE is set, but {error}. Start the job by torchrun, or unset it.") from error
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def device(self, name: str) -> str:
        """The GPU numbered LOCAL_RANK, where the job is to run on GPUs."""
        return f"cuda:{os.environ.get('LOCAL_RANK', self.rank)}" if name.split(":")[0] == "cuda" else name

    def share(self, batch: int) -> slice:
        each, left = divmod(batch, self.size)
        if left:
            able = " or ".join(str(n * self.size) for n in (each, each + 1) if n)
            raise InputError(
                f"episodes.batch is {batch}, which {self.size} processes cannot share equally; "
                f"give --episodes.batch {able}, or start another number of processes."
            )
        return slice(self.rank * each, (self.rank + 1) * each)

    def own_noise(self, seed: int, step: int) -> None:
        torch.manual_seed(int(np.random.SeedSequence([seed, step, self.rank]).generate_state(1, np.uint64)[0]))

    def gathered(self, flags: Tensor) -> Tensor:
        parts = [torch.empty_like(flags, dtype=torch.uint8) for _ in range(self.size)]
        with self._asking():
            dist.all_gather(parts, flags.byte())
        return torch.cat(parts).bool()

    def mean(self, value: float) -> float:
        total = torch.tensor(value, dtype=torch.float64)
        with self._asking():
            dist.all_reduce(total)
        return total.item() / self.size

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        held = [parameter for parameter in parameters if parameter.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in held]
        users = torch.tensor([p.grad is not None for p in held]).to(gradients[0])
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), users])
        with self._asking():
            dist.all_reduce(flat)
        *means, users = (flat / self.size).split([*(gradient.numel() for gradient in gradients), len(held)])
        for parameter, gradient, mean, used in zip(held, gradients, means, users.tolist(), strict=True):
            parameter.grad = gradient.copy_(mean.view(gradient.shape)) if used else None

    def agreed(self, word: str | None, words: Sequence[str]) -> str | None:
        place = torch.tensor(0 if word is None else 1 + words.index(word))
        with self._asking():
            dist.all_reduce(place, dist.ReduceOp.MAX)
        return words[int(place) - 1] if place else None

    def together(self, call: Callable[[], Result]) -> Result:
        found: list[Result] = []
        error: FsgenError | None = None
        try:
            found.append(call())
        except FsgenError as met:
            error = met
        statuses: list[Any] = [None] * self.size
        with self._asking():
            dist.all_gather_object(statuses, None if error is None else error.exit_status)
        if (first := next((r for r in range(self.size) if statuses[r] is not None), None)) is None:
            return found[0]
        if error is not None and first == self.rank:
            raise error
        raise ToldElsewhereError(statuses[first])

    def from_lead(self, call: Callable[[], Result]) -> Result:
        result: list[Any] = [self.together(lambda: call() if self.lead else None)]
        with self._asking():
            dist.broadcast_object_list(result)
        return result[0]  # type: ignore[no-any-return]

    def common(self, error: FsgenError) -> FsgenError:
        self._meet()
        return error if self.lead else ToldElsewhereError(error.exit_status)

    def leave(self) -> None:
        """Waits until all have come so far, so that the launcher ends none of them early."""
        self._meet()
        dist.destroy_process_group()

    def _meet(self) -> None:
        self.agreed(None, ())

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            who = f"process {self.rank} of {self.size}" if self.size else "a process"
            reason = re.sub(r"\[\S+:\d+\] ", "", " ".join(str(error).split()))[:160].rstrip(".")  # less its line of C++
            raise LostPeerError(
                f"{who} lost the others ({reason}). Start the whole job again with --resume; if nothing died, "
                f"give --peer-timeout more than {self.timeout:g} seconds."
            ) from error
