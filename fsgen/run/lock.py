"""One trainer a run folder."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from fsgen import storage
from fsgen.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows: there is no lock there
    fcntl = None  # type: ignore[assignment]

_held: set[int] = set()


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds the lock file ``path``. It falls with its process, however that ends; forked workers do not hold it.

    Raises:
        CheckpointError: another process holds it; the message gives its number and host.
        StorageError: the file cannot be written.
    """
    with storage.refusals(path, 0):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | storage.NO_LINKS, 0o666)
    if not _locked(fd):
        holder = _holder(fd)
        os.close(fd)
        raise CheckpointError(f"{path.parent} is being trained by {holder}. Stop that process or choose another --out.")
    _held.add(fd)
    try:
        _write_holder(fd, f"{os.getpid()} {platform.node()}\n")
        yield
    finally:
        if fd in _held:  # not so in a forked child, which has closed it
            _held.remove(fd)
            _write_holder(fd, "")
            os.close(fd)


def _locked(fd: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _holder(fd: int) -> str:
    match = re.match(rb"(\d{1,10}) ([\w.-]{1,64})\n", os.read(fd, 100))
    return f"process {match[1].decode()} on {match[2].decode()}" if match else "another process"


def _write_holder(fd: int, text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk must not keep a trainer out
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, text.encode())


def _close_in_child() -> None:
    while _held:
        os.close(_held.pop())


if os.name == "posix":  # else a worker that outlives its trainer would hold the lock
    os.register_at_fork(after_in_child=_close_in_child)
