"""Coloured procedural glyphs as a folder of class folders: split / class / image.png, 32 x 32 RGB.

    python experiments/rgb-glyphs/make_folder.py --out runs/rgb-glyphs

A class is a glyph of the source "glyphs" (its split is kept) with an ink of its own and a ground of its own: tone,
kind of texture, period and angle. Images of a class differ by the hand that draws, a little colour, the phase of the
texture, and noise. Class c of a split depends on (seed, split, c) alone, and its image i on (seed, split, c, i) alone.
"""

from __future__ import annotations

import argparse
import colorsys
from pathlib import Path

import numpy as np
from PIL import Image

from fsgen.data.glyphs import SHARE, glyphs
from fsgen.data.sources import SPLITS

SIZE = 32
CHARACTERS = 20  # classes an alphabet
PARTS = {"train": 0.7, "validation": 0.1, "test": 0.2}
TEXTURES = ("stripes", "checks", "dots", "gradient", "rings")


def texture(kind: str, period: float, angle: float, phase: np.ndarray) -> np.ndarray:
    """A pattern [SIZE, SIZE] in [-1, 1]; period in pixels, angle in radians, phase two numbers in turns."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    a, b = (np.sin(2 * np.pi * (c / period + p)) for c, p in zip((u, v), phase, strict=True))
    patterns = {
        "stripes": np.tanh(3 * a),
        "checks": np.tanh(6 * a * b),
        "dots": np.tanh(4 * (a + b - 0.8)),
        "gradient": np.clip(u / 16 + 0.2 * (phase[0] - 0.5), -1, 1),
        "rings": np.tanh(3 * np.sin(2 * np.pi * (np.hypot(x, y) / period + phase[0]))),
    }
    return patterns[kind]


def look(rng: np.random.Generator) -> dict[str, float | str]:
    """What the images of a class share besides their glyph; ink and ground are far apart in brightness."""
    dark_ground = rng.random() < 0.5
    return {
        "ink_hue": rng.random(),
        "ink_light": rng.uniform(0.70, 0.85) if dark_ground else rng.uniform(0.22, 0.38),
        "ground_hue": rng.random(),
        "ground_light": rng.uniform(0.15, 0.32) if dark_ground else rng.uniform(0.68, 0.85),
        "ground_saturation": rng.uniform(0.3, 0.8),
        "contrast": rng.uniform(0.06, 0.12),
        "kind": str(rng.choice(TEXTURES)),
        "period": rng.uniform(4.5, 11),
        "angle": rng.uniform(0, np.pi),
    }


def picture(glyph: np.ndarray, style: dict, rng: np.random.Generator, noise: float) -> np.ndarray:
    """One image, uint8 [SIZE, SIZE, 3], from a binary glyph [SIZE, SIZE]."""

    def colour(hue: float, light: float, saturation: float) -> np.ndarray:
        hue, light = hue + 0.012 * rng.standard_normal(), light + 0.015 * rng.standard_normal()
        return np.array(colorsys.hls_to_rgb(hue % 1, float(np.clip(light, 0, 1)), saturation))

    ink = colour(style["ink_hue"], style["ink_light"], 0.9)
    ground = colour(style["ground_hue"], style["ground_light"], style["ground_saturation"])
    pattern = texture(style["kind"], style["period"], style["angle"] + 0.03 * rng.standard_normal(), rng.random(2))
    scene = ground + style["contrast"] * pattern[..., None]
    soft = _softened(glyph)[..., None]
    shown = (1 - soft) * scene + soft * ink + noise * rng.standard_normal((SIZE, SIZE, 3))
    return np.rint(255 * np.clip(shown, 0, 1)).astype(np.uint8)


def _softened(glyph: np.ndarray) -> np.ndarray:
    """The glyph with edges half a pixel wide, as a scanner would give them."""
    padded = np.pad(glyph.astype(float), 1)
    shifted = [padded[1 + dy : SIZE + 1 + dy, 1 + dx : SIZE + 1 + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    blurred = np.tensordot(np.outer([1, 2, 1], [1, 2, 1]).ravel() / 16, shifted, 1)
    return np.clip(np.maximum(glyph, 1.2 * blurred), 0, 1)


def write_split(out: Path, split: str, classes: int, images: int, seed: int, noise: float) -> None:
    """The classes of one split below ``out / split``."""
    alphabets = -(-classes // CHARACTERS)
    held = glyphs(
        split, out, alphabets=round(alphabets / SHARE[split] + 0.5), characters=CHARACTERS, drawers=images, size=SIZE,
        seed=seed,
    )  # fmt: skip
    for c in range(classes):
        style = look(np.random.default_rng([seed, SPLITS.index(split), c]))
        folder = out / split / f"{held.class_names[c].replace('/', '-')}"
        folder.mkdir(parents=True)
        for i, member in enumerate(held.members[c]):
            rng = np.random.default_rng([seed, SPLITS.index(split), c, i])
            Image.fromarray(picture(held.pixels[member, 0], style, rng, noise)).save(folder / f"{i:02d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--classes", type=int, default=1000, help="of all splits: 70 %% train, 10 %% validation")
    parser.add_argument("--images", type=int, default=12, help="of each class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.08, help="standard deviation of a pixel, in units of 255")
    args = parser.parse_args()
    if args.out.exists():
        raise SystemExit(f"{args.out} is there already; choose another --out.")
    if args.classes < 10 or args.images < 1 or args.seed < 0 or not 0 <= args.noise < 1:
        raise SystemExit("give --classes 10 or more, --images 1 or more, --seed 0 or more, --noise of [0, 1).")
    for split, part in PARTS.items():
        write_split(args.out, split, round(part * args.classes), args.images, args.seed, args.noise)
    print(f"{args.out}: {args.classes} classes of {args.images} images")


if __name__ == "__main__":
    main()
