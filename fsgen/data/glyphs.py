"""Procedural handwriting: the embedded data set, without any download and with classes without end."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fsgen.data.images import Images
from fsgen.data.strokes import draw_programs, render
from fsgen.errors import InputError
from fsgen.registry import source

# Alphabets are numbered; a split owns the numbers that leave its remainder, so no number of alphabets makes two meet.
REMAINDERS = {"train": (0, 1, 2, 3, 4, 5), "validation": (6,), "test": (7, 8, 9)}
SHARE = {"train": 1.0, "validation": 0.15, "test": 0.35}


@source("glyphs")
def glyphs(
    split: str,
    root: Path,
    *,
    alphabets: int = 40,
    characters: int = 25,
    drawers: int = 20,
    size: int = 28,
    seed: int = 0,
) -> Images:
    """Procedural handwriting: random motor programs in alphabets, each drawn by 20 hands; needs no download.

    A class is a program of strokes; alphabets share primitives and a style, and every alphabet belongs to one split.
    Character c of alphabet a depends on (seed, a, c) alone and its drawing by d on (seed, a, c, d) alone, so more
    characters or drawers add to what is there.

    Options:
        alphabets: of the training split; validation holds 15 % and test 35 % as many, at least one.
        characters: classes an alphabet. drawers: images a class.
        size: height and width in pixels. seed: another number is another world of alphabets.
    """
    least = {"alphabets": 1, "characters": 1, "drawers": 1, "size": 8, "seed": 0}
    given = {"alphabets": alphabets, "characters": characters, "drawers": drawers, "size": size, "seed": seed}
    for name, value in given.items():
        if value < least[name]:
            raise InputError(f"glyphs: {name} is {value}; give {least[name]} or more.")
    count = max(1, round(SHARE[split] * alphabets))
    numbers = _alphabets(split, count)
    programs = draw_programs(seed, np.repeat(numbers, characters), np.tile(np.arange(characters), count))
    pixels = render(programs, np.arange(drawers), seed, size).reshape(-1, 1, size, size)
    names = tuple(f"alphabet-{a:05d}/character-{c:05d}" for a in numbers for c in range(characters))
    return Images("glyphs", split, pixels, np.repeat(np.arange(len(names)), drawers), names)


def _alphabets(split: str, count: int) -> np.ndarray:
    """The first ``count`` alphabet numbers of a split, ascending."""
    own = REMAINDERS[split]
    turns = np.arange(-(-count // len(own)))[:, None]
    return (10 * turns + np.array(own)).ravel()[:count]
