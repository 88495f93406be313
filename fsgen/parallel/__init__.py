"""One training job of several processes: they share each batch, average its gradients and decide together.

``torchrun -m fsgen train`` starts them and tells each by environment variables where the others are. A process that
was started alone is a job of its own: nothing is set up and nothing waits.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator

from fsgen.errors import InputError
from fsgen.parallel.job import Alone, Job, LostPeerError

__all__ = ["Alone", "Job", "LostPeerError", "joined"]


@contextlib.contextmanager
def joined(timeout: float) -> Iterator[Job]:
    """The job this process belongs to, for the length of a block, at whose end the processes wait for each other.

    Args:
        timeout: seconds after which a process that does not answer counts as lost.

    Raises:
        InputError: a timeout out of range, or an environment that names no job.
        LostPeerError: the processes do not find each other, or one was lost.
    """
    if not 0 < timeout < 1e7:
        raise InputError(f"--peer-timeout is {timeout:g}; give a number of seconds above 0 and below 1e7.")
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield Alone()
        return
    from fsgen.parallel.processes import Processes  # torch, which usage errors do without

    job = Processes(timeout)
    try:
        yield job
    except LostPeerError as error:
        atexit.register(_end, error.exit_status)
        raise
    job.leave()


def _end(status: int) -> None:
    """Ends the process at once: torch's threads, ended after a peer was lost, have aborted it instead."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)
