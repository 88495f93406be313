"""Folders whose files are trusted only if their sha256 is the one MANIFEST.json lists."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsgen.errors import CheckpointError
from fsgen.storage.files import (
    NO_LINKS,
    RESTORE,
    TMP,
    beside,
    refusals,
    remove,
    removed_on_failure,
    sync_folder,
    write_bytes,
    write_synced,
)

MANIFEST = "MANIFEST.json"
FORMAT = 1
_MANIFEST_BYTES = 1 << 20

Fingerprint = tuple[str, int]
"""sha256 in hexadecimal, and size in bytes."""


def write_folder(folder: str | Path, files: Mapping[str, bytes]) -> None:
    """Writes a new folder of files with its manifest; it appears whole or not at all.

    Args:
        folder: must not exist, or be empty. Its parent must exist.
        files: plain file name to content.

    Raises:
        StorageError: it cannot be written, or exists and is not empty; no scrap is left.
    """
    folder = Path(folder)
    tmp = beside(folder)
    _check_names(files)
    with refusals(folder, sum(map(len, files.values()))), removed_on_failure(tmp):
        remove(tmp)
        os.mkdir(tmp)
        for name, data in files.items():
            write_synced(tmp / name, data)
        write_synced(tmp / MANIFEST, _manifest({name: (fingerprint(data),) for name, data in files.items()}))
        sync_folder(tmp)
        os.rename(tmp, folder)
        sync_folder(folder.parent)


def update_folder(folder: str | Path, files: Mapping[str, bytes]) -> None:
    """Adds or replaces files of a folder; at every crash point each file reads back as its old or new content.

    While the files are being swapped the manifest accepts both contents of each. Files written in one call may
    after a crash be of different age: what must change together belongs into one ``write_folder``.

    Raises:
        StorageError: a file cannot be written; the old content is intact. CheckpointError: the manifest is damaged.
    """
    folder = Path(folder)
    _check_names(files)
    old = _read_manifest(folder) if os.path.lexists(folder / MANIFEST) else {}
    new = {**old, **{name: (fingerprint(data),) for name, data in files.items()}}
    both = {**new, **{name: new[name] + _on_disk(folder / name, old.get(name, ())) for name in files}}
    with contextlib.ExitStack() as scraps:
        for name, data in files.items():
            scraps.enter_context(removed_on_failure(beside(folder / name)))
            with refusals(folder / name, len(data)):
                write_synced(beside(folder / name), data)
        write_bytes(folder / MANIFEST, _manifest(both))
        for name, data in files.items():
            with refusals(folder / name, len(data)):
                os.replace(beside(folder / name), folder / name)
        with refusals(folder, 0):
            sync_folder(folder)
    write_bytes(folder / MANIFEST, _manifest(new))


def read_file(folder: str | Path, name: str) -> bytes:
    """The content of a file, if it is what the folder's manifest lists.

    A file that a trainer replaces during the call is read again.

    Raises:
        CheckpointError: no or damaged manifest; the file is not listed, missing, altered, or a symbolic link.
    """
    folder = Path(folder)
    entries = _read_manifest(folder)
    while True:
        try:
            return _verified(folder, name, entries)
        except CheckpointError:
            latest = _read_manifest(folder)
            if latest == entries:
                raise
            entries = latest


def fingerprint(data: bytes) -> Fingerprint:
    """sha256 and size of ``data``."""
    return hashlib.sha256(data).hexdigest(), len(data)


def _check_names(names: Mapping[str, Any]) -> None:
    if odd := [name for name in names if not _is_plain(name)]:
        raise ValueError(f"{odd[0]!r} is no plain file name.")


def _is_plain(name: str) -> bool:
    return (
        name not in ("", ".", "..", MANIFEST)
        and not re.search(r"[/\\:\x00-\x1f\x7f]", name)
        and not TMP.fullmatch(name)
    )


def _manifest(entries: Mapping[str, tuple[Fingerprint, ...]]) -> bytes:
    files = {name: _entry(*accepted[0]) for name, accepted in sorted(entries.items())}
    previous = {name: _entry(*accepted[1]) for name, accepted in sorted(entries.items()) if len(accepted) > 1}
    content = {"format": FORMAT, "files": files} | ({"previous": previous} if previous else {})
    return (json.dumps(content, indent=1) + "\n").encode()


def _entry(sha256: str, size: int) -> dict[str, str | int]:
    return {"sha256": sha256, "bytes": size}


def _read_manifest(folder: Path) -> dict[str, tuple[Fingerprint, ...]]:
    """Accepted contents of each listed file: the new one and, during an update, the previous one."""
    path = folder / MANIFEST
    data = _read_regular(path, _MANIFEST_BYTES)
    try:
        content = json.loads(data.decode())
        version = content["format"]
        if type(version) is not int or version < 1:
            raise ValueError(f"its format is {version!r}")
        if version > FORMAT:
            raise CheckpointError(
                f"{path} is of format {version}, newer than this fsgen reads ({FORMAT}): upgrade fsgen."
            )
        previous = content.get("previous", {})
        return {
            name: (_parsed(name, entry), *([_parsed(name, previous[name])] if name in previous else []))
            for name, entry in content["files"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise CheckpointError(f"{path} is damaged ({reason}). {RESTORE}") from error


def _parsed(name: str, entry: Mapping[str, Any]) -> Fingerprint:
    sha256, size = entry["sha256"], entry["bytes"]
    if not _is_plain(name):
        raise ValueError(f"it lists {ascii(name)[:40]}, which is no plain file name")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256) or type(size) is not int or size < 0:
        raise ValueError(f"its entry for {ascii(name)[:40]} is no sha256 and size")
    return sha256, size


def _verified(folder: Path, name: str, entries: Mapping[str, tuple[Fingerprint, ...]]) -> bytes:
    path = folder / name
    if name not in entries:
        raise CheckpointError(
            f"{path} is not listed in {MANIFEST}, which holds: {', '.join(entries)[:200] or 'nothing'}."
        )
    accepted = entries[name]
    data = _read_regular(path, max(size for _, size in accepted))
    if (found := fingerprint(data)) not in accepted:
        raise CheckpointError(
            f"{path} is altered: {MANIFEST} lists {accepted[0][1]} bytes with sha256 {accepted[0][0][:12]}..., "
            f"it holds {found[1]} bytes with sha256 {found[0][:12]}... {RESTORE}"
        )
    return data


def _read_regular(path: Path, limit: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | NO_LINKS | getattr(os, "O_NONBLOCK", 0))
        with open(fd, "rb") as file:
            about = os.fstat(fd)
            if not stat.S_ISREG(about.st_mode):
                raise CheckpointError(f"{path} is no regular file. {RESTORE}")
            if about.st_size > limit:
                raise CheckpointError(f"{path} is altered: it holds {about.st_size} bytes, expected {limit}. {RESTORE}")
            return file.read(limit + 1)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing. {RESTORE}") from error
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise CheckpointError(f"{path} cannot be read: {reason}. {RESTORE}") from error


def _on_disk(path: Path, accepted: tuple[Fingerprint, ...]) -> tuple[Fingerprint, ...]:
    """The one of ``accepted`` that the file holds; none where it is missing or altered."""
    try:
        found = fingerprint(_read_regular(path, max((size for _, size in accepted), default=0)))
    except CheckpointError:
        return ()
    return (found,) if found in accepted else ()
