"""Single files and folders on the disk: whole or not at all, whenever the process dies or the disk fills."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from fsgen.errors import StorageError

NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
TMP = re.compile(r"\.tmp-(\d+)-.+")
RESTORE = "Restore it from a copy, or train again into another --out."
_CHUNK = 1 << 26

_CAUSES = {
    errno.ENOSPC: ("disk full", "Free {needed} bytes or choose another --out."),
    errno.EDQUOT: ("quota exceeded", "Free {needed} bytes of your quota or choose another --out."),
    errno.EROFS: ("read-only file system", "Choose another --out."),
    errno.EFBIG: ("file too large", "Raise the file size limit (`ulimit -f`) or choose another --out."),
    errno.EACCES: ("permission denied", "Allow writing there or choose another --out."),
    errno.EIO: ("the device failed", "Check the disk or choose another --out."),
    errno.ENOENT: ("no such folder", "Create it or choose another --out."),
    errno.ENOTEMPTY: ("the folder exists and is not empty", "Remove it or choose another --out."),
    errno.EEXIST: ("it exists already", "Remove it or choose another --out."),
    errno.ELOOP: ("a symbolic link is in the way", "Remove the link or choose another --out."),
}


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file so that any crash leaves the old content or the new, never a mixture.

    Raises:
        StorageError: the disk is full, the folder read-only, ...; the old content is intact and no scrap is left.
    """
    path = Path(path)
    tmp = beside(path)
    with refusals(path, len(data)), removed_on_failure(tmp):
        write_synced(tmp, data)
        os.replace(tmp, path)
        sync_folder(path.parent)


def remove_folder(folder: str | Path) -> None:
    """Removes a folder; a crash on the way leaves it whole or under a ``.tmp-`` name, never half of it.

    Raises:
        StorageError: it cannot be removed.
    """
    folder = Path(folder)
    with refusals(folder, 0):
        remove(beside(folder))
        os.rename(folder, beside(folder))
        remove(beside(folder))


def clean_stale(folder: str | Path) -> None:
    """Removes what writers that died have left in ``folder``: files and folders named ``.tmp-PID-...``."""
    for path in sorted(Path(folder).glob(".tmp-*")):
        match = TMP.fullmatch(path.name)
        if match and not alive(int(match[1])):
            with contextlib.suppress(OSError):
                remove(path)


def alive(pid: int) -> bool:
    """Whether a process of this number runs on this machine; True where that cannot be asked (Windows)."""
    if os.name == "nt":  # there, os.kill(pid, 0) would end the process
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def refusals(path: Path, needed: int) -> Iterator[None]:
    """Turns an OSError in its body into a StorageError with the path, the bytes needed, the cause and the edit."""
    try:
        yield
    except OSError as error:
        cause, edit = _CAUSES.get(error.errno or 0, (error.strerror or str(error), "Choose another --out."))
        size = f" ({needed} bytes)" if needed else ""
        raise StorageError(f"cannot write {path}{size}: {cause}. {edit.format(needed=needed)}") from error


def beside(path: Path) -> Path:
    """Where a file or folder is built before it takes its name: in the same folder, named after this process."""
    return path.parent / f".tmp-{os.getpid()}-{path.name}"


@contextlib.contextmanager
def removed_on_failure(tmp: Path) -> Iterator[None]:
    """Removes ``tmp`` if its body fails."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            remove(tmp)
        raise


def remove(path: Path) -> None:
    """Removes a file, link or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def write_synced(path: Path, data: bytes) -> None:
    """Writes a file in place, not atomically, and waits until it is on the device."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NO_LINKS, 0o666)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """Writes all of ``data`` to an open file; ``os.write`` may take less, as on a disk that is nearly full."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[:_CHUNK]) :]


def sync_folder(folder: Path) -> None:
    """Waits until the names in ``folder`` are on the device."""
    if os.name == "nt":  # folders cannot be opened there
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(fd)
