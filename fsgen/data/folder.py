"""A user's own folder of classes, checked whole before anything is trained on it."""

from __future__ import annotations

import functools
import hashlib
import os
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fsgen.data.images import Images
from fsgen.data.pictures import MODES, SUFFIXES, PictureError, read_picture, shown
from fsgen.data.sources import SPLITS
from fsgen.errors import DataError, InputError
from fsgen.registry import source

LISTED = 20  # problems printed in full
LONGEST = 200  # characters of a class name


@source("folder")
def folder(
    split: str,
    root: Path,
    *,
    path: str,
    size: int | None = None,
    mode: str = "grey",
    invert: bool = False,
    validation: float = 0.15,
    test: float = 0.25,
    seed: int = 0,
) -> Images:
    """Your own pictures: PATH/class/picture.png, or PATH/group/class/picture.png.

    A folder that directly holds pictures is a class, named by its path under PATH. If all folders in PATH are
    called train, validation and test, they are the splits; otherwise classes are dealt out to the splits in an
    order that depends on ``seed`` and their names alone. Names are sorted, so every file system gives the same
    images. Hidden files are passed over, and so are files without a picture's suffix.

    The whole folder is checked first, all splits of it: no broken or oversized picture, no link that leaves
    its class folder, no link to a folder, no class in two splits, one size for all unless ``size`` is given.

    Options:
        path: the folder, absolute or under the data root.
        size: side in pixels; pictures are scaled by area, keep their aspect and are centred.
        mode: "grey" or "rgb" (256 levels), or "binary" (2 levels, 1 from half up).
        invert: swap dark and light, so that dark ink is 1.
        validation, test: share of the classes in these splits, at least one class where it is above 0.
        seed: chooses the classes of each split.

    Raises:
        InputError: a wrong option.
        DataError: a list of everything wrong with the folder, or a split without a class.
    """
    _check_options(size, mode, validation, test)
    place = root / Path(path).expanduser()
    tree = _scan(place)
    problems = [*tree.problems, *_picture_problems(tree, size, mode, invert)]
    if problems:
        more = [f"... and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
        counted = f"{len(problems)} problem{'s' * (len(problems) > 1)} in"
        raise DataError("\n  ".join([f"{counted} {shown(place)}:", *problems[:LISTED], *more]))
    names = _names_of(tree, split, validation, test, seed)
    if not names:
        raise DataError(
            f"{shown(place)}: no class is left for '{split}' of {len(tree.classes)}, with validation {validation} "
            f"and test {test}; add classes or change these shares."
        )
    files = [tree.classes[split if tree.split_folders else "", name] for name in names]
    pixels = np.stack([read_picture(p, mode=mode, size=size, invert=invert) for paths in files for p in paths])
    labels = np.repeat(np.arange(len(names)), [len(paths) for paths in files])
    return Images("folder", split, pixels, labels, names, 2 if mode == "binary" else 256)


def check_folder(path: str | Path, *, size: int | None = None, mode: str = "grey", invert: bool = False) -> list[str]:
    """Everything that keeps a folder from being used as the source "folder", one line each; empty if sound.

    Raises:
        InputError: a wrong option.
        DataError: no such folder.
    """
    _check_options(size, mode, 0.0, 0.0)
    tree = _scan(Path(path).expanduser())
    return [*tree.problems, *_picture_problems(tree, size, mode, invert)]


def ignored_files(path: str | Path) -> list[str]:
    """The files of a folder that are no pictures by their suffix, relative to it; hidden ones are not listed.

    Raises:
        DataError: no such folder.
    """
    return _scan(Path(path).expanduser()).ignored


def _check_options(size: int | None, mode: str, validation: float, test: float) -> None:
    if mode not in MODES:
        raise InputError(f"folder: no mode '{mode}'; give --data.options.mode {', '.join(MODES[:-1])} or {MODES[-1]}.")
    if size is not None and not 1 <= size <= 4000:
        raise InputError(f"folder: size {size} is no side of an image; give --data.options.size 1 ... 4000.")
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise InputError(
            f"folder: validation {validation} and test {test} leave no class to train on; "
            f"give shares of at least 0 that sum to less than 1."
        )


@dataclass
class _Tree:
    """What a scan found: picture paths of each (split folder or "", class name), and what is wrong."""

    root: Path
    split_folders: bool = False
    classes: dict[tuple[str, str], list[Path]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def refuse(self, path: Path, reason: str) -> None:
        self.problems.append(f"{shown(path.relative_to(self.root)) if path != self.root else 'it'} {reason}")


def _scan(root: Path) -> _Tree:
    if not root.is_dir():
        raise DataError(f"no folder {shown(root.absolute())}; give the folder of your classes as --data.options.path.")
    tree = _Tree(root)
    pictures, folders = _entries(tree, root)
    if pictures:
        tree.refuse(pictures[0], "lies outside any class folder; move it into one")
    if not folders:
        tree.refuse(root, "holds no class folder; make one folder of pictures a class")
    tree.split_folders = bool(folders) and all(path.name in SPLITS for path in folders)
    if not tree.split_folders:
        _scan_folders(tree, "", folders, nested=False)
        return tree
    for path in folders:
        pictures, inner = _entries(tree, path)
        if pictures:
            tree.refuse(pictures[0], "lies outside any class folder; move it into one")
        _scan_folders(tree, path.name, inner, nested=False)
    _check_splits(tree)
    return tree


def _scan_folders(tree: _Tree, split: str, folders: list[Path], nested: bool) -> None:
    """Adds each folder as a class, or the folders in it where it is a group."""
    base = tree.root / split
    for path in folders:
        pictures, inner = _entries(tree, path)
        name = unicodedata.normalize("NFC", path.relative_to(base).as_posix())
        if pictures and inner:
            tree.refuse(path, "holds both pictures and folders; it must be a class or a group of classes")
        elif inner and nested:
            tree.refuse(path, "nests folders too deep; classes are class/ or group/class/")
        elif inner:
            _scan_folders(tree, split, inner, nested=True)
        elif not pictures:
            tree.refuse(path, "holds no picture; fill or remove it")
        elif not name.isprintable() or len(name) > LONGEST:
            tree.refuse(path, f"is no class name; use up to {LONGEST} printable characters")
        elif (split, name) in tree.classes:
            tree.refuse(path, "has the name of another class, in other Unicode; rename it")
        else:
            tree.classes[split, name] = pictures


def _entries(tree: _Tree, folder_path: Path) -> tuple[list[Path], list[Path]]:
    """The pictures and the folders directly in a folder, sorted by name."""
    pictures: list[Path] = []
    folders: list[Path] = []
    try:
        entries = sorted(os.scandir(folder_path), key=lambda e: unicodedata.normalize("NFC", e.name))
    except OSError as error:
        tree.refuse(folder_path, f"cannot be listed ({error.strerror})")
        return pictures, folders
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if entry.is_symlink() and (reason := _wrong_link(path)):
            tree.refuse(path, reason)
        elif entry.is_dir(follow_symlinks=False):
            folders.append(path)
        elif path.suffix.lower() in SUFFIXES:
            pictures.append(path)
        else:
            tree.ignored.append(shown(path.relative_to(tree.root)))
    return pictures, folders


def _wrong_link(path: Path) -> str | None:
    target = Path(os.path.realpath(path))
    if target.is_dir():
        return "is a link to a folder, which is never followed; copy the folder"
    if not target.is_file():
        return "is a link to nothing; remove it"
    if not target.is_relative_to(os.path.realpath(path.parent)):
        return "is a link that leaves its folder; copy the picture"
    return None


def _check_splits(tree: _Tree) -> None:
    held = Counter(name for _, name in tree.classes)
    for name, count in sorted(held.items()):
        if count > 1:
            where = " and ".join(s for s in SPLITS if (s, name) in tree.classes)
            tree.problems.append(f"class {shown(name)} is in {where}; splits must not share a class")
    for split in SPLITS:
        if not (tree.root / split).is_dir():
            tree.refuse(tree.root, f"has split folders but no '{split}'; add it")


def _picture_problems(tree: _Tree, size: int | None, mode: str, invert: bool) -> list[str]:
    files = [path for paths in tree.classes.values() for path in paths]
    stamps = tuple((str(path), status.st_size, status.st_mtime_ns) for path in files if (status := path.stat()))
    reasons = _unusable(stamps, size, mode, invert)
    return [f"{shown(Path(path).relative_to(tree.root))}: {reason}" for path, reason in reasons]


@functools.lru_cache(maxsize=4)
def _unusable(
    stamps: tuple[tuple[str, int, int], ...], size: int | None, mode: str, invert: bool
) -> tuple[tuple[str, str], ...]:
    """(path, reason) of each picture that cannot be used; remembered, since each split asks again."""
    shapes: dict[str, tuple[int, ...]] = {}
    reasons: dict[str, str] = {}
    for path, _, _ in stamps:
        try:
            shapes[path] = read_picture(Path(path), mode=mode, size=size, invert=invert).shape
        except PictureError as error:
            reasons[path] = error.reason
    if shapes:
        _, height, width = usual = Counter(shapes.values()).most_common(1)[0][0]
        for path, shape in shapes.items():
            if shape != usual:
                here = f"{shape[2]}x{shape[1]} where most are {width}x{height}"
                reasons[path] = f"{here}; give --data.options.size to scale all to one size"
    return tuple((path, reasons[path]) for path, _, _ in stamps if path in reasons)


def _names_of(tree: _Tree, split: str, validation: float, test: float, seed: int) -> tuple[str, ...]:
    """The class names of a split, sorted."""
    if tree.split_folders:
        return tuple(sorted(name for held, name in tree.classes if held == split))
    order = sorted((name for _, name in tree.classes), key=lambda n: hashlib.sha256(f"{seed}/{n}".encode()).digest())
    tested = _share(test, len(order))
    validated = tested + _share(validation, len(order))
    ranges = {"test": order[:tested], "validation": order[tested:validated], "train": order[validated:]}
    return tuple(sorted(ranges[split]))


def _share(fraction: float, classes: int) -> int:
    return max(1, int(fraction * classes + 0.5)) if fraction > 0 else 0
