"""Contact sheets: images side by side in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

PAPER, RULE = 255, 225


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], *, scale: int = 2, split: int | None = None) -> np.ndarray:
    """One picture of rows of images, dark ink on white.

    Args:
        rows: images [C, H, W] with values in [0, 1], all of one shape; C is 1 or 3. Rows may differ in length.
        scale: pixels of the sheet per pixel of an image.
        split: draw a rule before this column, such as between support and samples.

    Returns:
        uint8 [height, width, 3].

    Raises:
        ValueError: no image at all, or images of different shapes.
    """
    images = [image for row in rows for image in row]
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        raise ValueError(f"contact_sheet: images of one shape are needed, got {sorted(shapes) or 'no image'}.")
    channels, height, width = shapes.pop()
    gap, columns = 2, max(map(len, rows))
    rule = 3 * gap if split else 0
    cell_h, cell_w = height * scale + gap, width * scale + gap
    sheet = np.full((len(rows) * cell_h + gap, columns * cell_w + gap + rule, 3), RULE, np.uint8)
    if split:
        x = split * cell_w + gap
        sheet[:, x : x + rule - gap] = PAPER
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            ink = np.clip(np.asarray(image, np.float64), 0, 1)
            grey = 255 * (1 - ink) if channels == 1 else 255 * ink
            tile = np.kron(grey.round().astype(np.uint8), np.ones((1, scale, scale), np.uint8))
            y, x = r * cell_h + gap, c * cell_w + gap + (rule if split and c >= split else 0)
            sheet[y : y + height * scale, x : x + width * scale] = np.moveaxis(tile, 0, -1)
    return sheet


def save_sheet(path: str | Path, sheet: np.ndarray) -> None:
    """Writes a contact sheet; the suffix (.png, .webp, ...) names the format."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)
