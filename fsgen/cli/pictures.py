"""fsgen pictures: what a model does, as sheets that `fsgen report` shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from fsgen import storage
from fsgen.cli.evaluate import data_of, holds_learner, refuse_learner, require_fit
from fsgen.cli.parsing import Parser, check_values
from fsgen.cli.sheets import write_sheet
from fsgen.errors import InputError
from fsgen.published import located
from fsgen.registry import SOURCES

FOLDER, INDEX = "pictures", "captions.yaml"


def parser() -> Parser:
    """The options of pictures."""
    p = Parser(
        "pictures",
        "Sheets in RUN/pictures, which `fsgen report` shows: samples with their nearest training images, images of "
        "unseen classes with their reconstructions, a map of set codes, and what is read of the support by attention. "
        "A model without the part that a sheet shows gets a line that says so.",
    )
    p.add_argument("run", type=str, metavar="RUN", help="folder written by `fsgen train` or model.save")
    p.add_argument(
        "--critic", type=str | None, default=None, metavar="RUN", help="learner: also the nearest by its features"
    )
    p.add_argument("--shots", type=int, default=5, metavar="S", help="images given of each class")
    p.add_argument("--samples", type=int, default=10, metavar="N", help="samples, and images, of each class")
    p.add_argument("--sets", type=int, default=6, help="classes shown on a sheet")
    p.add_argument("--data", type=str, default=None, metavar="NAME", help="data source; default that of the training")
    p.add_argument("--data-options", type=dict[str, Any], default={}, metavar="{K: V}", help="options of the source")
    p.add_argument(
        "--data-root", type=str, default=None, metavar="DIR", help="data files; default $FSGEN_DATA or ./data"
    )
    p.add_argument("--split", type=str, default="test", help="train, validation or test")
    p.add_argument("--seed", type=int, default=0, help="of the classes and of the samples")
    p.add_argument("--out", type=str, default=None, metavar="DIR", help="where they are written; default RUN/pictures")
    return p


def run(args: Namespace) -> int:
    """Draws and writes the sheets and their captions."""
    folder = located(args.run)
    for name in ("shots", "samples", "sets"):
        if args[name] < 1:
            raise InputError(f"--{name} is {args[name]}; give 1 or more.")
    refuse_learner(folder)
    judge = located(args.critic) if args.critic else None
    if judge and not holds_learner(judge):
        raise InputError(f"--critic {args.critic} holds a generative model; name the folder of a learner.")
    name, options = data_of(folder, args.data, args.data_options)
    check_values(SOURCES, name, options)

    import torch

    from fsgen.data.sampler import EpisodeSampler
    from fsgen.data.sources import load_images
    from fsgen.model import load
    from fsgen.pictures import Scene, pictures

    torch.distributions.Distribution.set_default_validate_args(False)
    train, shown = (load_images(name, split, args.data_root, **options) for split in ("train", args.split))
    model, critic = load(folder), load(judge) if judge else None
    for path, held in ((folder, model), (judge, critic)):
        if path is not None and held is not None:
            require_fit(path, held, shown)
    sampler = EpisodeSampler(shown, shots=args.shots, queries=args.samples, seed=args.seed)
    captions, out = {}, Path(args.out) if args.out else folder / FOLDER
    for kind, made in pictures(Scene(model, critic, sampler, train, args.sets, args.seed)).items():
        captions[kind], file = made.caption, out / f"{kind}.png"
        with storage.refusals(file, 0):
            file.unlink(missing_ok=True)
        if made.sheet is not None:
            write_sheet(file, made.sheet)
        print(f"no {kind}: {made.caption}" if made.sheet is None else f"{file}: {made.caption}")
    data = storage.config_to_bytes(captions)
    with storage.refusals(out, len(data)):
        out.mkdir(parents=True, exist_ok=True)
    storage.write_bytes(out / INDEX, data)
    return 0
