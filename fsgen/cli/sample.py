"""fsgen sample: images like a few given ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from fsgen import storage
from fsgen.cli.evaluate import data_of, refuse_learner, require_fit
from fsgen.cli.parsing import Parser, check_values
from fsgen.cli.sheets import require_picture, write_sheet
from fsgen.errors import InputError
from fsgen.published import located
from fsgen.registry import SOURCES


def parser() -> Parser:
    """The options of sampling."""
    p = Parser(
        "sample",
        "Draws new images like the given ones and writes a contact sheet: support to the left, samples to the right. "
        "Without --support and --data it samples from the model alone (no shots).",
    )
    p.add_argument("run", type=str, metavar="RUN", help="folder written by `fsgen train` or model.save")
    p.add_argument(
        "--support", type=str, nargs="+", default=[], metavar="FILE", help="images of one class, or folders of them"
    )
    p.add_argument("--ink", type=str, default="auto", help="auto, dark or light: what is drawn in the given pictures")
    p.add_argument("--data", type=str, default=None, metavar="NAME", help="take supports from a data source instead")
    p.add_argument("--data-options", type=dict[str, Any], default={}, metavar="{K: V}", help="options of the source")
    p.add_argument(
        "--data-root", type=str, default=None, metavar="DIR", help="data files; default $FSGEN_DATA or ./data"
    )
    p.add_argument("--split", type=str, default="test", help="with --data: train, validation or test")
    p.add_argument("--sets", type=int, default=8, help="with --data: classes shown, one a row")
    p.add_argument("--shots", type=int, default=5, help="with --data: images given of each class")
    p.add_argument(
        "--each",
        type=int,
        nargs="+",
        default=[],
        metavar="T",
        help="a block a class: the support in a row, then a row of samples after its first T images, for each T",
    )
    p.add_argument("--num", type=int, default=16, metavar="N", help="samples, of each class")
    p.add_argument("--columns", type=int, default=16, help="samples a row of the sheet")
    p.add_argument("--scale", type=int, default=3, help="pixels of the sheet per pixel of an image")
    p.add_argument("--seed", type=int, default=0, help="of the samples and of the sets")
    p.add_argument("--out", type=str, default="samples.png", metavar="FILE", help=".png sheet, or .npy of the samples")
    return p


def run(args: Namespace) -> int:
    """Samples and writes one file."""
    for name in ("num", "columns", "scale", "sets"):
        if args[name] < 1:
            raise InputError(f"--{name} is {args[name]}; give 1 or more.")
    if args.support and args.data:
        raise InputError("--support and --data both name supports; give one of them.")
    if args.shots < 0:
        raise InputError(f"--shots is {args.shots}; give 0 or more.")
    if args.each and min(args.each) < 0:
        raise InputError(f"--each is {args.each}; give shot counts of 0 or more.")
    if not 0 <= args.seed < 2**63:
        raise InputError(f"--seed is {args.seed}; give 0 or more, and less than 2**63.")
    require_picture(out := Path(args.out), ".npy")
    args.run = str(located(args.run))
    refuse_learner(Path(args.run))

    import numpy as np
    import torch

    from fsgen.model import load
    from fsgen.sheets import contact_sheet

    torch.distributions.Distribution.set_default_validate_args(False)
    model = load(args.run)
    supports = _supports(args, model)
    shots = args.each or [len(supports[0])]
    if max(shots) > len(supports[0]):
        raise InputError(
            f"--each asks for {max(shots)} images, but {len(supports[0])} are given; add some or ask for less."
        )
    drawn, rows = [], []
    for i, support in enumerate(supports):
        samples = [model.condition(support[:t]).sample((args.num,), seed=args.seed + i).numpy() for t in shots]
        drawn.append(samples if args.each else samples[0])
        rows += _block(support.numpy(), samples) if args.each else _line(support.numpy(), samples[0], args.columns)
    if out.suffix == ".npy":
        whole = np.array(drawn)
        with storage.refusals(out, whole.nbytes):
            out.parent.mkdir(parents=True, exist_ok=True)
            np.save(out, whole)
    else:
        split = None if args.each else len(supports[0]) or None
        write_sheet(out, contact_sheet(rows, scale=args.scale, split=split))
    after = " ".join(map(str, shots))
    print(f"{out}: {args.num} samples after {after} shots, {len(supports)} row{'s' * (len(supports) > 1)}")
    return 0


def _line(support: Any, samples: Any, columns: int) -> list[Any]:
    """Support to the left, samples to the right, in as many rows as they need."""
    starts = range(0, len(samples), columns)
    return [[*(support if start == 0 else support * 0), *samples[start : start + columns]] for start in starts]


def _block(support: Any, samples: list[Any]) -> list[Any]:
    """The support in a row, a row of samples for each shot count, and an empty row."""
    return [list(support), *map(list, samples), []]


def _supports(args: Namespace, model: Any) -> list[Any]:
    import torch

    if args.data:
        from fsgen.data.sampler import EpisodeSampler
        from fsgen.data.sources import load_images

        name, options = data_of(Path(args.run), args.data, args.data_options)
        check_values(SOURCES, name, options)
        images = load_images(name, args.split, args.data_root, **options)
        require_fit(Path(args.run), model, images)
        shots = max(args.each, default=args.shots)
        sampler = EpisodeSampler(images, shots=shots, seed=args.seed)
        return [sampler.gather([sampler.draw(i)])[0, :shots] for i in range(args.sets)]
    if args.support:
        from fsgen.data.pictures import read_pictures

        pixels = read_pictures(args.support, model.event_shape, model.levels, ink=args.ink)
        return [torch.from_numpy(pixels).float() / (model.levels - 1)]
    return [torch.zeros(0, *model.event_shape)]
