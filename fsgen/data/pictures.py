"""Picture files of the user's own, decoded within limits and fitted to a model's image."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy.ndimage import maximum_filter

from fsgen.errors import DataError, InputError

MAX_PIXELS = 16_000_000
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"})
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
MODES = ("grey", "rgb", "binary")
INKS = ("auto", "dark", "light")
FAINTEST = 16  # of 255 shades between ink and background; less is paper grain


class PictureError(DataError):
    """A picture file that cannot be used, and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{shown(path)}: {reason}.")
        self.reason = reason


def shown(path: Path | str, longest: int = 160) -> str:
    r"""A path as one printable line, its middle left out where it is long.

    >>> shown("a\nb.png")
    'a\\nb.png'
    """
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}...{text[-half:]}"


def read_picture(
    path: Path, *, mode: str = "grey", size: int | tuple[int, int] | None = None, invert: bool = False
) -> np.ndarray:
    """One picture as uint8 [C, H, W].

    Reads PNG, JPEG, GIF, BMP, WebP and TIFF, told by content, of one frame and up to ``MAX_PIXELS``. EXIF
    rotation is applied, transparency laid on white, 16-bit grey scaled to 8 bits, palettes and CMYK converted.

    Args:
        path: the file.
        mode: "grey" (C = 1, luma of ITU-R 601), "rgb" (C = 3), or "binary" (C = 1, value 1 from half up).
        size: (H, W), or the side of a square; the picture is scaled by area, keeps its aspect, and is centred
            on its border's median shade (grey, rgb) or on 0 (binary, see ``fit_drawing``). None: as it is.
        invert: swap dark and light first, so that dark ink is 1 (binary) or bright.

    Raises:
        DataError: unreadable, too large, or of several frames; names the file and the reason.
    """
    pixels = _decode(path, "RGB" if mode == "rgb" else "L")
    if invert:
        pixels = 255 - pixels
    shape = (size, size) if isinstance(size, int) else size
    if mode == "binary":
        return fit_drawing(pixels[0] >= 128, shape)[None]
    return _fit_picture(pixels, shape)


def read_pictures(
    paths: Path | str | Sequence[Path | str], event_shape: tuple[int, int, int], levels: int = 2, *, ink: str = "auto"
) -> np.ndarray:
    """Pictures as a support set of a model, uint8 [S, C, H, W] in {0 ... levels-1}.

    Args:
        paths: files and folders, in order; a folder stands for the pictures directly in it, sorted by name.
        event_shape: (C, H, W) of the model, C = 1 or 3.
        levels: 2 makes drawings, ink 1 and background 0: background is the median shade of the border, and
            ink whatever differs from it by at least half as much as the strongest ink does.
        ink: "dark" or "light" ink for ``levels=2``; "auto" takes the side with the stronger contrast.

    Raises:
        InputError: an event_shape or ink that no picture has.
        DataError: a picture that cannot be used or shows no ink, or a folder without pictures.
    """
    channels, height, width = event_shape
    if channels not in (1, 3):
        raise InputError(f"a picture has 1 or 3 channels, the model's images {channels}: give the support as an array.")
    if ink not in INKS:
        raise InputError(f"no ink '{ink}': choose from {', '.join(INKS)}.")
    listed = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(p) for p in paths]
    files = [file for path in listed for file in (_pictures_in(path) if path.is_dir() else [path])]
    support = np.zeros((len(files), channels, height, width), np.uint8)
    for image, file in zip(support, files, strict=True):
        if levels == 2:
            image[:] = fit_drawing(_ink(file, ink), (height, width))
        else:
            picture = read_picture(file, mode="rgb" if channels == 3 else "grey", size=(height, width))
            image[:] = picture.astype(np.uint32) * levels // 256
    return support


def fit_drawing(ink: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """A drawing scaled into [H, W], centred, its thin strokes kept.

    A pixel of the result is ink where at least half of its cell is, and an ink pixel of a stroke thinner
    than a cell counts as much more as the cell is wider than the stroke. So a one-pixel line stays a line,
    while thick shapes keep their outline and single specks vanish.

    Args:
        ink: bool [h, w].
        size: (H, W), or None to keep the size.

    Returns:
        uint8 [H, W] in {0, 1}, ink 1.
    """
    if size is None or ink.shape == tuple(size):
        return ink.astype(np.uint8)
    inner = _inside(ink.shape, size)
    cell = max(ink.shape[0] / inner[0], ink.shape[1] / inner[1])
    width = np.minimum(_runs(ink), _runs(ink.T).T)
    width = maximum_filter(width, size=2 * int(cell / 8) + 1)  # burrs belong to the stroke they sit on
    share = _area_average(ink * np.maximum(cell / np.maximum(width, 1), 1).astype(np.float32), inner)
    return _centred((share >= 0.5 - 1e-4).astype(np.uint8), size, 0)


def _decode(path: Path, colours: str) -> np.ndarray:
    """uint8 [C, h, w] of a picture file, in Pillow's mode ``colours``: "L" or "RGB"."""
    if not path.is_file():
        raise PictureError(path, "not a file" if path.exists() else "no such file")
    if path.stat().st_size == 0:
        raise PictureError(path, "an empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                return _flat(image, colours)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(path, f"over {MAX_PIXELS:,} pixels, make it smaller") from error
    except UnidentifiedImageError as error:
        raise PictureError(path, "no PNG, JPEG, GIF, BMP, WebP or TIFF picture whatever its name says") from error
    except Exception as error:  # decoders meet hostile bytes with exceptions of any kind
        raise PictureError(path, " ".join(str(error).split()).rstrip(".") or type(error).__name__) from error


def _flat(image: Image.Image, colours: str) -> np.ndarray:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height} is over {MAX_PIXELS:,} pixels, make it smaller")
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ValueError("several frames, save the one meant as a picture of its own")
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels, save it with 8 bits a channel")
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    elif image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    pixels = np.asarray(image.convert(colours))
    return pixels[None] if colours == "L" else np.moveaxis(pixels, -1, 0)


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("pixels beyond 16 bits, save it with 8 bits a channel")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _pictures_in(folder: Path) -> list[Path]:
    files = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    if not files:
        raise DataError(f"{shown(folder)} holds no picture ({', '.join(sorted(SUFFIXES))}).")
    return sorted(files, key=lambda path: path.name)


def _ink(path: Path, ink: str) -> np.ndarray:
    """Where a drawing is ink, bool [h, w]."""
    grey = _decode(path, "L")[0].astype(np.int16)
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    lighter = grey - int(np.median(border))
    dark = ink == "dark" or (ink == "auto" and -lighter.min() >= lighter.max())
    strength = -lighter if dark else lighter
    if strength.max() < FAINTEST:
        side = "" if ink == "auto" else f"{'darker' if dark else 'lighter'} "
        raise PictureError(path, f"shows no ink: no pixel is {side}{FAINTEST} of 255 shades away from its border")
    return 2 * strength >= strength.max()


def _fit_picture(pixels: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    if size is None or pixels.shape[1:] == tuple(size):
        return np.ascontiguousarray(pixels)
    inner = _inside(pixels.shape[1:], size)
    fitted = []
    for channel in pixels:
        border = np.concatenate([channel[0], channel[-1], channel[:, 0], channel[:, -1]])
        small = np.floor(_area_average(channel.astype(np.float32), inner) + 0.501).clip(0, 255).astype(np.uint8)
        fitted.append(_centred(small, size, int(np.median(border))))
    return np.stack(fitted)


def _inside(shape: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    """The largest (H, W) of the aspect of ``shape`` that fits into ``size``."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _centred(small: np.ndarray, size: tuple[int, int], background: int) -> np.ndarray:
    top, left = ((size[axis] - small.shape[axis]) // 2 for axis in (0, 1))
    image = np.full(size, background, np.uint8)
    image[top : top + small.shape[0], left : left + small.shape[1]] = small
    return image


def _area_average(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 [h, w] -> [H, W]: each cell is the mean over the area it covers, parts of pixels included."""
    return _overlaps(plane.shape[0], size[0]) @ plane @ _overlaps(plane.shape[1], size[1]).T


def _overlaps(n: int, m: int) -> np.ndarray:
    """float32 [m, n]: the share of cell i, of m equal ones along n pixels, that lies on pixel j."""
    edges, pixel = np.arange(m + 1)[:, None] * (n / m), np.arange(n)
    lengths = np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)
    return (lengths.clip(0) * (m / n)).astype(np.float32)


def _runs(ink: np.ndarray) -> np.ndarray:
    """int32 [h, w]: for each ink pixel the length of the horizontal run it lies in, else 0."""
    steps = np.diff(np.pad(ink, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    lengths = np.nonzero(steps == -1)[1] - np.nonzero(steps == 1)[1]
    runs = np.zeros(ink.shape, np.int32)
    runs[ink] = np.repeat(lengths, lengths)  # ink pixels in reading order are the runs in reading order
    return runs
