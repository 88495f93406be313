"""Picture files: what is read and how, what is refused, and that thin strokes survive."""

from __future__ import annotations

import contextlib
import io
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fsgen.data.pictures import MAX_PIXELS, PictureError, fit_drawing, read_picture, read_pictures, shown
from fsgen.errors import FsgenError

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
LUMA = np.asarray(Image.fromarray(RGB).convert("L"))


def saved(path: Path, image: Image.Image | np.ndarray, **options: object) -> Path:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is 1-bit grey of this size, with one row's worth of data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


def line(side: int, width: int, *ends: tuple[int, int]) -> np.ndarray:
    """bool [side, side], a line of ink between points (x, y)."""
    image = Image.new("1", (side, side))
    ImageDraw.Draw(image).line(ends, 1, width)
    return np.asarray(image)


def pieces(drawing: np.ndarray) -> int:
    """How many parts of ink do not touch, corners counting as touching."""
    from scipy.ndimage import label

    return label(drawing, np.ones((3, 3)))[1]


# --- reading --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_lossless_files_are_read_exactly(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a.{suffix}", RGB, **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(read_picture(path, mode="rgb"), np.moveaxis(RGB, -1, 0))
    assert np.array_equal(read_picture(path), LUMA[None])
    assert np.array_equal(read_picture(path, invert=True), 255 - LUMA[None])
    assert np.array_equal(read_picture(path, mode="binary"), (LUMA >= 128)[None])
    assert np.array_equal(read_picture(path, mode="binary", invert=True), (LUMA < 128)[None])


def test_the_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", LUMA, format="PNG")
    assert np.array_equal(read_picture(path)[0], LUMA)


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    alpha = np.full((2, 3, 4), 255, np.uint8)
    alpha[..., :3] = 10
    alpha[0, :, 3] = 0
    for image in (Image.fromarray(alpha), Image.fromarray(alpha).convert("LA")):
        assert read_picture(saved(tmp_path / "a.png", image)).tolist() == [[[255] * 3, [10] * 3]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 10, 10, 90, 90, 90])
    palette.putpixel((1, 0), 1)
    assert read_picture(saved(tmp_path / "b.png", palette)).tolist() == [[[10, 90]]]
    assert read_picture(saved(tmp_path / "c.png", palette, transparency=0)).tolist() == [[[255, 90]]]


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    deep = np.array([[0, 257, 32896, 65535, 128, 129]], np.uint16)
    for suffix in ("png", "tiff"):
        assert read_picture(saved(tmp_path / f"a.{suffix}", deep)).tolist() == [[[0, 1, 128, 255, 0, 1]]]


def test_cmyk_and_one_bit_are_converted(tmp_path: Path) -> None:
    cmyk = Image.new("CMYK", (4, 4), (0, 0, 0, 255))
    assert read_picture(saved(tmp_path / "a.jpg", cmyk), mode="rgb").max() < 8
    bits = np.array([[True, False]])
    assert read_picture(saved(tmp_path / "a.png", bits)).tolist() == [[[255, 0]]]


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    path = saved(tmp_path / "a.png", LUMA, exif=exif)
    assert np.array_equal(read_picture(path)[0], np.rot90(LUMA, -1))


def test_a_picture_scaled_keeps_its_aspect_on_the_shade_of_its_border(tmp_path: Path) -> None:
    grey = np.full((4, 8), 200, np.uint8)
    grey[1:3, 2:6] = 100
    path = saved(tmp_path / "a.png", grey)
    assert read_picture(path, size=4).tolist() == [[[200] * 4, [200, 150, 150, 200], [200, 150, 150, 200], [200] * 4]]
    assert read_picture(path, size=(2, 4)).tolist() == [[[200, 150, 150, 200]] * 2]
    assert read_picture(path, mode="rgb", size=16).shape == (3, 16, 16)


@pytest.mark.parametrize("shape", [(1, 1), (1, 100_000), (100_000, 1)])
@pytest.mark.parametrize("mode", ["grey", "rgb", "binary"])
def test_extreme_shapes_fit(tmp_path: Path, shape: tuple[int, int], mode: str) -> None:
    path = saved(tmp_path / "a.png", np.full(shape, 255, np.uint8))
    picture = read_picture(path, mode=mode, size=28)
    assert picture.shape == (3 if mode == "rgb" else 1, 28, 28)
    assert picture.dtype == np.uint8
    assert picture.max() == (1 if mode == "binary" else 255)


# --- refusing -------------------------------------------------------------------------------------------------


def refusal(path: Path) -> str:
    with pytest.raises(PictureError) as caught:
        read_picture(path, size=8)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_what_is_no_picture_is_refused_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert refusal(path) == "no such file"
    assert refusal(tmp_path) == "not a file"
    path.write_bytes(b"")
    assert refusal(path) == "an empty file"
    path.write_text("<html>not found</html>")
    assert refusal(path).startswith("no PNG, JPEG, GIF")
    saved(path, LUMA, format="PPM")
    assert refusal(path).startswith("no PNG, JPEG, GIF")
    saved(path, RGB)
    path.write_bytes(path.read_bytes()[:-40])
    assert "truncated" in refusal(path)
    saved(tmp_path / "f.tiff", LUMA.astype(np.float32))
    assert "floating-point" in refusal(tmp_path / "f.tiff")
    saved(tmp_path / "g.tiff", np.array([[70_000, 0]], np.int32))
    assert "beyond 16 bits" in refusal(tmp_path / "g.tiff")


@pytest.mark.parametrize("suffix", ["gif", "png", "tiff", "webp"])
def test_one_frame_is_read_and_several_are_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 128, 255)]
    assert read_picture(saved(tmp_path / f"one.{suffix}", frames[0])).max() <= 1
    moving = saved(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:])
    assert "several frames" in refusal(moving)


@pytest.mark.parametrize("side", [4_001, 12_000, 20_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_header(side, side))
    start = time.process_time()
    assert f"over {MAX_PIXELS:,} pixels" in refusal(path)
    assert time.process_time() - start < 0.5
    path.write_bytes(png_header(4_000, 4_000))  # at the limit its missing data is what is wrong
    assert "pixels, make" not in refusal(path)


def test_damaged_files_load_or_are_refused_and_never_anything_else(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    path, read = tmp_path / "a.png", 0
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(RGB).save(buffer, kind)
        for _ in range(60):
            data = bytearray(buffer.getvalue())
            for _ in range(random.integers(1, 4)):
                data[random.integers(len(data))] ^= 1 << random.integers(8)
            path.write_bytes(data[: random.integers(1, len(data) + 1)] if random.random() < 0.5 else data)
            with contextlib.suppress(PictureError):
                assert read_picture(path, mode="rgb", size=8).shape == (3, 8, 8)
                read += 1
    assert 20 < read < 210


def test_a_path_is_shown_on_one_line() -> None:
    assert shown("a\n\x1b[31m\udc80é.png") == "a\\n\\x1b[31m\\udc80é.png"
    assert len(shown("x" * 4096)) < 200


# --- drawings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", range(8))
@pytest.mark.parametrize("width", [1, 2, 3])
def test_thin_strokes_stay_whole_when_a_drawing_shrinks(offset: int, width: int) -> None:
    a, b = 20 + offset, 80 + offset
    for ends in [((a, 20), (a, 85)), ((20, a), (85, a)), ((a, a), (b, b)), ((20, b), (85, a)), ((a, 20), (40, 85))]:
        small = fit_drawing(line(105, width, *ends), (28, 28))
        assert pieces(small) == 1
        long = np.ptp(np.argwhere(small), axis=0).max() + 1
        assert long >= 60 / 3.75 - 1
        assert small.sum() <= 2 * long  # one or two pixels wide, no wider


def test_a_thin_stroke_survives_beside_a_blob_and_across_another() -> None:
    drawing = line(105, 1, (52, 10), (52, 95)) | line(105, 1, (10, 52), (95, 52))
    drawing[70:100, 70:100] = True
    small = fit_drawing(drawing, (28, 28))
    assert small[4:24, 13:15].any(axis=1).all()
    assert small[13:15, 4:24].any(axis=0).all()
    assert small[20:26, 20:26].all()


def test_area_and_half_alone_would_lose_the_stroke() -> None:
    drawing = line(105, 1, (52, 10), (52, 95))
    plain = np.asarray(Image.fromarray(drawing).convert("L").resize((28, 28), Image.Resampling.BOX)) >= 128
    assert not plain.any()
    assert fit_drawing(drawing, (28, 28)).sum() >= 20


def test_thick_shapes_keep_their_area_whatever_their_edge_is_like() -> None:
    random = np.random.default_rng(0)
    for noise in (0.0, 0.5):
        drawing = np.zeros((840, 840), bool)
        drawing[200:640, 390:450] = True
        burrs = random.random(840) < noise
        drawing[200:640, 386:390] = burrs[200:640, None]
        drawing[200:640, 450:454] = burrs[200:640, None]
        small = fit_drawing(drawing, (28, 28))
        assert small.sum() == pytest.approx(440 * 60 / 900, abs=4)


def test_specks_vanish() -> None:
    specks = np.random.default_rng(0).random((840, 840)) < 0.003
    assert fit_drawing(specks, (28, 28)).sum() == 0


@pytest.mark.parametrize("size", [(28, 28), None])
def test_a_drawing_of_the_right_size_is_left_alone(size: tuple[int, int] | None) -> None:
    ink = np.random.default_rng(0).random((28, 28)) < 0.4
    assert np.array_equal(fit_drawing(ink, size), ink)


def test_a_small_drawing_grows_pixel_by_pixel() -> None:
    ink = np.random.default_rng(0).random((7, 7)) < 0.4
    assert np.array_equal(fit_drawing(ink, (28, 28)), np.kron(ink, np.ones((4, 4))))


# --- supports -------------------------------------------------------------------------------------------------


def cross(side: int, width: int) -> np.ndarray:
    far = side - side // 5
    return line(side, width, (side // 5, side // 2), (far, side // 2)) | line(
        side, width, (side // 2, side // 5), (side // 2, far)
    )


@pytest.mark.parametrize(("paper", "pen"), [(255, 0), (0, 255), (180, 120), (90, 150)])
@pytest.mark.parametrize("side", [28, 105, 600])
def test_ink_is_one_whichever_way_it_is_drawn(tmp_path: Path, paper: int, pen: int, side: int) -> None:
    drawn = cross(side, max(1, side // 40))
    grain = np.random.default_rng(0).integers(-4, 5, drawn.shape)
    path = saved(tmp_path / "a.png", np.clip(np.where(drawn, pen, paper) + grain, 0, 255).astype(np.uint8))
    support = read_pictures([path], (1, 28, 28))
    assert np.array_equal(support[0, 0], fit_drawing(drawn, (28, 28)))
    assert 0 < support.mean() < 0.2
    for ink, right in (("dark", pen < paper), ("light", pen > paper)):
        if right:
            assert np.array_equal(read_pictures([path], (1, 28, 28), ink=ink), support)
        else:
            with pytest.raises(FsgenError, match=f"no pixel is {'darker' if ink == 'dark' else 'lighter'} 16"):
                read_pictures([path], (1, 28, 28), ink=ink)


def test_what_a_model_draws_is_read_back_exactly(tmp_path: Path) -> None:
    drawn = np.zeros((28, 28), np.uint8)
    drawn[4:24, 4:24] = np.random.default_rng(0).random((20, 20)) < 0.5
    for polarity in (drawn * 255, 255 - drawn * 255):
        path = saved(tmp_path / "a.png", polarity)
        assert np.array_equal(read_pictures(path, (1, 28, 28))[0, 0], drawn)


def test_files_and_folders_are_taken_in_order_and_folders_sorted(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for column, name in enumerate(["b.png", "a.PNG", ".hidden.png"]):
        image = np.zeros((8, 8), np.uint8)
        image[4, column + 2] = 255
        saved(tmp_path / "set" / name, image, format="PNG")
    (tmp_path / "set" / "notes.txt").write_text("x")
    support = read_pictures([tmp_path / "set" / "b.png", str(tmp_path / "set")], (1, 8, 8))
    assert support.argmax(-1)[:, 0, 4].tolist() == [2, 3, 2]
    assert read_pictures([], (1, 8, 8)).shape == (0, 1, 8, 8)


def test_supports_take_the_channels_and_levels_of_the_model(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", RGB)
    assert np.array_equal(read_pictures(path, (3, 6, 9), 256)[0], np.moveaxis(RGB, -1, 0))
    assert np.array_equal(read_pictures(path, (1, 6, 9), 256)[0, 0], LUMA)
    assert np.array_equal(read_pictures(path, (1, 6, 9), 4)[0, 0], LUMA // 64)
    binary = read_pictures(path, (3, 6, 9), 2)[0]
    assert np.array_equal(binary[0], binary[2])
    assert set(np.unique(binary)) == {0, 1}


def test_supports_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    blank = saved(tmp_path / "blank.png", np.full((9, 9), 255, np.uint8))
    for paths, shape, ink, said in [
        ([blank], (1, 9, 9), "auto", "blank.png: shows no ink"),
        ([tmp_path / "none.png"], (1, 9, 9), "auto", "none.png: no such file"),
        ([blank], (2, 9, 9), "auto", "1 or 3 channels, the model's images 2"),
        ([blank], (1, 9, 9), "red", "no ink 'red': choose from auto, dark, light"),
    ]:
        with pytest.raises(FsgenError, match=said):
            read_pictures(paths, shape, ink=ink)
    blank.unlink()
    with pytest.raises(FsgenError, match="holds no picture"):
        read_pictures(tmp_path, (1, 9, 9))
