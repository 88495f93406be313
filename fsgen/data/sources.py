"""Data sources by name, and where their files are found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fsgen.data.images import Images
from fsgen.errors import InputError
from fsgen.registry import SOURCES

SPLITS = ("train", "validation", "test")


def load_images(name: str, split: str = "train", root: str | Path | None = None, **options: Any) -> Images:
    """One split of a registered data source.

    Args:
        name: a name listed by ``fsgen data``.
        split: "train", "validation" or "test".
        root: folder of data files; default the environment variable FSGEN_DATA, else ``./data``.
        options: keyword arguments of the source.

    Raises:
        UnknownNameError, UnknownOptionError, InputError: unknown source, option or split.
        DataError: a missing, altered or unreadable file; the message says what to put where.
    """
    SOURCES.check_options(name, options)
    if split not in SPLITS:
        raise InputError(f"load_images: no split '{split}'. Known: {', '.join(SPLITS)}.")
    return SOURCES.require(name)(split, data_root(root), **options)


def data_root(root: str | Path | None = None) -> Path:
    """The folder of data files: ``root``, else the environment variable FSGEN_DATA, else ``./data``."""
    return Path(root or os.environ.get("FSGEN_DATA") or "data").expanduser()
