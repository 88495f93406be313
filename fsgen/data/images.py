"""Images with class labels: what every data source returns."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np


@dataclass(frozen=True, eq=False)
class Images:
    """The images of one split of one data source.

    Attributes:
        name: registered name of the source.
        split: "train", "validation" or "test"; classes of different splits are disjoint unless the source
            says otherwise.
        pixels: uint8 [N, C, H, W] in {0 ... levels-1}; ink is the largest value.
        labels: int64 [N], index into ``class_names``.
        class_names: one name a class, sorted; "group/name" where classes come in groups (alphabets).
        levels: 2 for binary images, 256 for 8-bit ones; an image in [0, 1] is pixels / (levels - 1).
    """

    name: str
    split: str
    pixels: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    levels: int = 2

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 4:
            raise ValueError(
                f"{self}: pixels must be uint8 [N, C, H, W], got {self.pixels.dtype} {list(self.pixels.shape)}."
            )
        if self.labels.shape != (len(self.pixels),):
            raise ValueError(f"{self}: {len(self.pixels)} images but labels of shape {list(self.labels.shape)}.")
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise ValueError(f"{self}: labels run to {self.labels.max()} for {len(self.class_names)} class names.")
        if len(self.pixels) and self.pixels.max() >= self.levels:
            raise ValueError(f"{self}: pixel value {self.pixels.max()} in images of {self.levels} levels.")
        for array in (self.pixels, self.labels):
            array.flags.writeable = False

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.pixels.shape[1:]))
        return f"Images({self.name}/{self.split}: {len(self.pixels)} of {shape}, {len(self.class_names)} classes)"

    @property
    def event_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    @cached_property
    def members(self) -> tuple[np.ndarray, ...]:
        """For each class the indices of its images, in order."""
        order = np.argsort(self.labels, kind="stable")
        bounds = np.searchsorted(self.labels[order], np.arange(len(self.class_names) + 1))
        return tuple(order[a:b] for a, b in pairwise(bounds))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """For each class the group it belongs to: its name up to the last "/" ("" where there is none)."""
        return tuple(name.rpartition("/")[0] for name in self.class_names)

    @cached_property
    def digest(self) -> str:
        """sha256 over pixels, labels, class names and levels: equal digests, equal data."""
        h = hashlib.sha256()
        h.update(repr((self.pixels.shape, self.levels, self.class_names)).encode())
        h.update(np.ascontiguousarray(self.pixels).tobytes())
        h.update(np.ascontiguousarray(self.labels, dtype="<i8").tobytes())
        return h.hexdigest()
