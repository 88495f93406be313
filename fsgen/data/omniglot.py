"""Omniglot: handwritten characters of 50 alphabets, 20 drawings each.

Source: Lake, Salakhutdinov & Tenenbaum (2015), "Human-level concept learning through probabilistic program
induction", Science 350; 28x28 files of Bartunov & Vetrov (2018), "Few-shot generative modelling with
generative matching networks", AISTATS.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fsgen.data.files import gmn_file
from fsgen.data.images import Images
from fsgen.data.pictures import fit_drawing, read_picture
from fsgen.errors import DataError, InputError
from fsgen.registry import source

VALIDATION_ALPHABETS = ("Balinese", "Early_Aramaic", "Greek", "Ojibwe_(Canadian_Aboriginal_Syllabics)", "Tagalog")
CHARACTERS = {"images_background": 964, "images_evaluation": 659}
DRAWERS = 20
SIDE = 105  # pixels of an original, both ways

FILES = {
    "images_background": gmn_file(
        "train_small.npz", "136ac9970475ee96cb03275a4299233ef7d0f023380d2eff4ca73b31cc2f97da"
    ),
    "images_evaluation": gmn_file("test_small.npz", "5ac797844c90af132a423614c198f7b83ef8fad7cf8d32d6dc4f24483d317ac3"),
}


@source("omniglot28")
def omniglot28(split: str, root: Path) -> Images:
    """Omniglot at 28x28, binary, from the generative matching networks paper's own files.

    20 drawings a class; ink is 1 (the files hold ink as 0). Classes are characters, named
    "ALPHABET/characterNN". The 964 background characters give train (863) and validation (101, the whole
    alphabets ``VALIDATION_ALPHABETS``); the 659 evaluation characters are test.

    Raises:
        DataError: the file is missing and cannot be downloaded, or is altered.
    """
    part = _part(split)
    arrays = FILES[part].arrays(root, rf"{part}/[^/]+/character\d+")
    names = _of_split((key.removeprefix(f"{part}/") for key in arrays), split)
    drawings = np.stack([arrays[f"{part}/{name}"] for name in names])
    return _images("omniglot28", split, names, (drawings == 0).reshape(-1, 28, 28))


@source("omniglot")
def omniglot(split: str, root: Path, *, size: int = 28, download: bool = False) -> Images:
    """Omniglot from its 105x105 originals, binary, at any size; 28 is bit-identical to omniglot28.

    The originals lie where torchvision's data set keeps them, in ROOT/omniglot-py, or in ROOT/omniglot, as
    ``images_background/ALPHABET/characterNN/*.png`` and ``images_evaluation/...``. Splits, class names and
    ink as in omniglot28. Folders and files are sorted by name; torchvision lists them in file-system order.

    Options:
        size: side in pixels. 28 takes pixel (floor(3.75 i), floor(3.75 j)) of the original, as the paper's
            files do; any other size averages areas so that thin strokes stay (``pictures.fit_drawing``).
        download: fetch missing originals with torchvision, which must then be installed.

    Raises:
        InputError: a size out of range.
        DataError: originals missing, incomplete or unreadable.
    """
    if not 1 <= size <= 4000:
        raise InputError(f"omniglot: size {size} is no side of an image; give --data.options.size 1 ... 4000.")
    part = _part(split)
    folder = _originals(root, part, download)
    characters = {f"{path.parent.name}/{path.name}": path for path in folder.glob("*/*") if path.is_dir()}
    if len(characters) != CHARACTERS[part]:
        raise DataError(
            f"{folder} holds {len(characters)} of {CHARACTERS[part]} characters; delete it and unpack {part}.zip again."
        )
    names = _of_split(characters, split)
    drawings = np.stack([_reduced(path, size) for name in names for path in _drawings(characters[name])])
    return _images("omniglot", split, names, drawings)


def _part(split: str) -> str:
    return "images_evaluation" if split == "test" else "images_background"


def _of_split(names: Iterable[str], split: str) -> tuple[str, ...]:
    """The class names of a split, sorted, out of those of its part."""
    held_out = split == "validation"
    return tuple(sorted(n for n in names if split == "test" or (n.split("/")[0] in VALIDATION_ALPHABETS) == held_out))


def _images(source_name: str, split: str, names: tuple[str, ...], drawings: np.ndarray) -> Images:
    labels = np.repeat(np.arange(len(names)), DRAWERS)
    return Images(source_name, split, drawings[:, None].astype(np.uint8), labels, names)


def _originals(root: Path, part: str, download: bool) -> Path:
    places = [root.absolute() / folder / part for folder in ("omniglot-py", "omniglot")]
    found = next((place for place in places if place.is_dir()), None)
    if found is None and download:
        _download(root.absolute(), part)
        found = places[0]
    if found is None:
        raise DataError(
            f"omniglot: no originals in {places[0]} or {places[1]}; unpack {part}.zip of "
            f"github.com/brendenlake/omniglot there, or set its option download to true."
        )
    return found


def _download(root: Path, part: str) -> None:
    from fsgen.data.vision import torchvision

    omniglot_set = torchvision().datasets.Omniglot
    try:
        omniglot_set(str(root), background=part == "images_background", download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"omniglot: {part} cannot be downloaded ({reason}); unpack {part}.zip of "
            f"github.com/brendenlake/omniglot in {root / 'omniglot-py'}."
        ) from error


def _drawings(character: Path) -> list[Path]:
    paths = sorted(character.glob("*.png"), key=lambda path: path.name)
    if len(paths) != DRAWERS:
        raise DataError(f"{character} holds {len(paths)} drawings, not {DRAWERS}; unpack its zip file again.")
    return paths


def _reduced(path: Path, size: int) -> np.ndarray:
    """One drawing, [size, size] in {0, 1}, ink 1."""
    ink = read_picture(path, mode="binary", invert=True)[0]
    if ink.shape != (SIDE, SIDE):
        raise DataError(f"{path} is {ink.shape[1]}x{ink.shape[0]}, no original of {SIDE}x{SIDE}: replace it.")
    if size == 28:
        index = np.arange(28) * 15 // 4
        return ink[np.ix_(index, index)]
    return fit_drawing(ink.astype(bool), (size, size))
