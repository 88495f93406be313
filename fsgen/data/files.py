"""Published data files: found under the data root or downloaded, and always verified."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import re
import secrets
import zipfile
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import numpy as np

from fsgen.errors import DataError

TIMEOUT = 30.0  # seconds without an answer
LARGEST = 64 * 2**20  # bytes; no published file comes near, so an endless answer ends here


@dataclass(frozen=True)
class DataFile:
    """One published ``.npz`` file.

    Attributes:
        name: where it lies under the data root, such as "gmn/train_small.npz".
        sha256: digest of its bytes; nothing else is ever read or left under its name.
        address: where it is downloaded from when it is missing.
    """

    name: str
    sha256: str
    address: str

    def arrays(self, root: Path, keys: str) -> dict[str, np.ndarray]:
        """The arrays in the file, by key.

        Args:
            root: the data root.
            keys: regular expression that every key matches in full.

        Raises:
            DataError: missing and not downloadable, altered, no npz file, or other keys than expected.
        """
        path = self.path(root)
        return read_npz(self.verified(root), path, keys)

    def path(self, root: Path) -> Path:
        """Where the file belongs, in full."""
        return (root / self.name).absolute()

    def verified(self, root: Path) -> bytes:
        """The bytes of the file, downloaded first if it is missing.

        Raises:
            DataError: missing and not downloadable, unreadable, or altered; an altered file is left as it is.
        """
        path = self.path(root)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return self._download(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({_reason(error)}): make it readable.") from error
        if (found := hashlib.sha256(data).hexdigest()) != self.sha256:
            raise DataError(
                f"{path} is altered: sha256 {found} where {self.sha256} is expected; "
                f"delete it to download it again, or replace it by {self.address}."
            )
        return data

    def _download(self, path: Path) -> bytes:
        place = f"put the file there yourself: sha256 {self.sha256}, from {self.address}."
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.touch()
        except OSError as error:
            reason = f"its folder is read-only or cannot be made ({_reason(error)})"
            raise DataError(f"{path} is missing and {reason}; {place}") from error
        try:
            with urlopen(self.address, timeout=TIMEOUT) as answer:
                data = answer.read(LARGEST)
            if (found := hashlib.sha256(data).hexdigest()) != self.sha256:
                raise DataError(f"{path} is missing and its address answers with sha256 {found}; {place}")
            part.write_bytes(data)
            os.replace(part, path)
        except (OSError, http.client.HTTPException) as error:
            raise DataError(f"{path} is missing and cannot be downloaded ({_reason(error)}); {place}") from error
        finally:
            part.unlink(missing_ok=True)
        return data


def gmn_file(name: str, sha256: str) -> DataFile:
    """A data file of Bartunov & Vetrov's generative matching networks, github.com/sbos/gmn (MIT licence)."""
    return DataFile(f"gmn/{name}", sha256, f"https://raw.githubusercontent.com/sbos/gmn/master/data/{name}")


def read_npz(data: bytes, path: Path, keys: str) -> dict[str, np.ndarray]:
    """The arrays of an npz file; no Python object in it is ever built.

    Args:
        data: the bytes of the file.
        path: its name, for messages.
        keys: regular expression that every key matches in full.

    Raises:
        DataError: no whole npz file of plain arrays, or other keys.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no whole npz file of arrays ({_reason(error)}): replace it.") from error
    wrong = [key for key in arrays if not re.fullmatch(keys, key)]
    if wrong or not arrays:
        held = f"the key {wrong[0]!r}" if wrong else "no array"
        raise DataError(f"{path} holds {held} where keys like {keys} are expected: replace it.")
    return arrays


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
