"""Trained models that come with fsgen, by name."""

from __future__ import annotations

import os
from pathlib import Path

from fsgen.errors import CheckpointError
from fsgen.registry import nearest

VARIABLE = "FSGEN_MODELS"
CONFIG = "config.yaml"


def published() -> dict[str, Path]:
    """Folders by name: those in ``$FSGEN_MODELS``, or else in ``assets/models``, the project's and that beside you."""
    own, given = Path(__file__).resolve().parents[1], os.environ.get(VARIABLE)
    places = [Path(given)] if given else [folder / "assets" / "models" for folder in (own, Path.cwd())]
    found: dict[str, Path] = {}
    for config in (config for place in places for config in sorted(place.glob(f"*/{CONFIG}"))):
        found.setdefault(config.parent.name, config.parent)
    return found


def located(path: str | Path) -> Path:
    """The folder ``path``, or where there is none the published model of that name.

    Raises:
        CheckpointError: neither; names the nearest.
    """
    folder = Path(path)
    if folder.exists() or len(folder.parts) != 1:
        return folder
    known = published()
    if folder.name not in known:
        names = f"{nearest(folder.name, known)} Published: {', '.join(known)}." if known else ""
        raise CheckpointError(
            f"{folder} is no run folder and no published model: there is none of that name.{names} "
            f"`fsgen train --out {folder}` makes one."
        )
    return known[folder.name]
