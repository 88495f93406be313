"""fsgen data: what can be drawn from, and whether it is sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from fsgen.cli.parsing import Parser, check_values
from fsgen.cli.sheets import require_picture, write_sheet
from fsgen.errors import InputError
from fsgen.registry import SOURCES, nearest


def parser() -> Parser:
    """The options of the listing."""
    p = Parser(
        "data",
        "Lists the data sources. With a NAME it loads every split, checks it and prints what it holds; "
        "a folder of pictures is checked file by file and every bad file is listed.",
    )
    p.add_argument("name", type=str, nargs="?", default=None, metavar="NAME", help="one data source")
    p.add_argument("--options", type=dict[str, Any], default={}, metavar="{K: V}", help="options of the source")
    p.add_argument("--root", type=str, default=None, metavar="DIR", help="data files; default $FSGEN_DATA or ./data")
    p.add_argument("--out", type=str, default=None, metavar="PNG", help="also draw a page of it, one class a row")
    p.add_argument("--split", type=str, default="train", help="split that --out draws")
    return p


def run(args: Namespace) -> int:
    """Prints the catalogue, or loads and describes one source."""
    if args.name is None:
        for name, entry in SOURCES.catalogue().items():
            print(f"{name:12}{entry.summary}")
        print("\n`fsgen data NAME` loads and checks one; set options with --options.KEY VALUE.")
        return 0
    from fsgen.data.sources import SPLITS, data_root, load_images

    check_values(SOURCES, args.name, args.options)
    if args.split not in SPLITS:
        raise InputError(f"no split '{args.split}'.{nearest(args.split, SPLITS)} Known: {', '.join(SPLITS)}.")
    if args.out:
        require_picture(Path(args.out))
    print(SOURCES.entry(args.name).doc.split("\n")[0])
    if args.name == "folder":
        _check_folder(args, data_root(args.root))
    for split in SPLITS:
        images = load_images(args.name, split, args.root, **args.options)
        counts = [len(members) for members in images.members]
        groups = len(set(images.groups))
        print(
            f"{split:11}{len(images.pixels):7d} images of {list(images.event_shape)}, {images.levels} levels, "
            f"{len(counts)} classes of {min(counts, default=0)}-{max(counts, default=0)} images in {groups} "
            f"group{'s' * (groups != 1)}, sha256 {images.digest[:16]}"
        )
        if args.out and split == args.split:
            _draw(images, Path(args.out))
    return 0


def _check_folder(args: Namespace, root: Path) -> None:
    from fsgen.data.folder import check_folder, ignored_files

    path = root / Path(args.options["path"]).expanduser()
    settings = {key: args.options[key] for key in ("size", "mode", "invert") if key in args.options}
    problems = check_folder(path, **settings)
    for problem in problems:
        print(f"  {problem}")
    if ignored := ignored_files(path):
        print(f"  {len(ignored)} files are not images and are ignored, such as {ignored[0]}")
    if problems:
        raise InputError(f"{path}: {len(problems)} problems, listed above; mend or remove these files.")


def _draw(images: Any, path: Path) -> None:
    from fsgen.sheets import contact_sheet

    rows = [[images.pixels[i] / (images.levels - 1) for i in members[:20]] for members in images.members[:20]]
    write_sheet(path, contact_sheet(rows, scale=2))
    print(f"page: {path}")
