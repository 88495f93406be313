"""Pictures that commands write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fsgen import storage
from fsgen.errors import InputError

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff")


def require_picture(path: Path, *others: str) -> None:
    """Refuses, before any work is done, a file whose name is that of no picture.

    Args:
        others: suffixes of other formats that the command writes.

    Raises:
        InputError: another suffix.
    """
    if path.suffix.lower() not in (*SUFFIXES, *others):
        known = ", ".join((*SUFFIXES[:3], *others))
        raise InputError(f"--out {path}: no format has the suffix '{path.suffix}'; give a name that ends in {known}.")


def write_sheet(path: Path, sheet: np.ndarray) -> None:
    """Writes a contact sheet.

    Raises:
        StorageError: it cannot be written.
    """
    from fsgen.sheets import save_sheet

    with storage.refusals(path, sheet.nbytes):
        save_sheet(path, sheet)
