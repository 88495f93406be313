"""A log of JSON records, one a line, that survives a crash in the middle of a line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsgen import storage
from fsgen.errors import CheckpointError


@dataclass(frozen=True)
class Log:
    """The records of one ``.jsonl`` file."""

    path: Path

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a line. A last line torn by a crash is cut first; NaN and infinity, which JSON lacks, become null.

        Raises:
            StorageError: it cannot be written. TypeError: ``record`` holds what JSON does not.
        """
        line = _line(record)
        with storage.refusals(self.path, len(line)):
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | storage.NO_LINKS, 0o666)
            try:
                _mend(fd)
                storage.write_all(fd, line)
            finally:
                os.close(fd)

    def replace(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes these records in place of all others; a crash leaves the old ones or the new.

        Raises:
            StorageError, TypeError: as ``append``.
        """
        storage.write_bytes(self.path, b"".join(map(_line, records)))

    def records(self) -> list[dict[str, Any]]:
        """The records in order, without a last line torn by a crash; none where there is no file.

        Raises:
            CheckpointError: another line is no JSON object.
        """
        return [record for _, record in self._lines()]

    def rewind(self, step: int) -> None:
        """Drops the records whose "step" is beyond ``step``, and a torn last line.

        Raises:
            CheckpointError: as ``records``. StorageError: it cannot be written; the old log is intact.
        """
        kept = b"".join(line for line, record in self._lines() if not _beyond(record.get("step"), step))
        if kept != self._read():
            storage.write_bytes(self.path, kept)

    def sync(self) -> None:
        """Waits until all records are on the device."""
        with storage.refusals(self.path, 0):
            fd = os.open(self.path, os.O_RDWR | storage.NO_LINKS)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read: {error.strerror}. {storage.RESTORE}") from error

    def _lines(self) -> list[tuple[bytes, dict[str, Any]]]:
        """Each line, with its newline, and its record."""
        *whole, last = self._read().split(b"\n")
        lines = []
        for number, line in enumerate(whole, 1):
            if (record := _record(line)) is None:
                raise CheckpointError(f"{self.path}, line {number}, is no JSON object. Remove that line.")
            lines.append((line + b"\n", record))
        if (record := _record(last)) is not None:
            lines.append((last + b"\n", record))
        return lines


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(_finite(record), allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _beyond(at: Any, step: int) -> bool:
    return isinstance(at, int | float) and at > step


def _mend(fd: int) -> None:
    """Ends an open log with a newline: cuts a torn last line, completes one that lacks only its newline."""
    size = os.lseek(fd, 0, os.SEEK_END)
    if size == 0:
        return
    os.lseek(fd, size - 1, os.SEEK_SET)
    if os.read(fd, 1) == b"\n":
        return
    os.lseek(fd, 0, os.SEEK_SET)
    with open(fd, "rb", closefd=False) as file:
        content = file.read()
    start = content.rfind(b"\n") + 1
    if _record(content[start:]) is None:
        os.ftruncate(fd, start)
    else:
        storage.write_all(fd, b"\n")
