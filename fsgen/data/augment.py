"""Class-making augmentation: a rotated or mirrored character is another character."""

from __future__ import annotations

import numpy as np

from fsgen.errors import InputError

AUGMENTATIONS = ("none", "dihedral")


def transforms(name: str, height: int, width: int) -> np.ndarray:
    """Pixel permutations int64 [G, H*W]: transformed = flat_image[permutation]; the first is the identity.

    "dihedral" holds the rotations by 90 degrees and their mirror images: 8 of them, or the 4 that keep the
    shape where the image is not square. "none" holds the identity alone. Each makes a new class of every
    class, on the same side of the split as its parent.

    Raises:
        InputError: unknown name.
    """
    grid = np.arange(height * width).reshape(height, width)
    if name == "none":
        return grid.reshape(1, -1)
    if name == "dihedral":
        turns = (0, 1, 2, 3) if height == width else (0, 2)
        rotated = [np.rot90(grid, turn) for turn in turns]
        return np.stack([g.ravel() for r in rotated for g in (r, r[:, ::-1])])
    raise InputError(f"no augmentation '{name}'. Known: {', '.join(AUGMENTATIONS)}.")
