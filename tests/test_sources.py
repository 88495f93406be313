"""The published data sets: their files, their splits, and what is said when a file is not as it should be."""

from __future__ import annotations

import hashlib
import io
import re
import urllib.error
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fsgen.data import files, omniglot, vision
from fsgen.data.files import gmn_file, read_npz
from fsgen.data.images import Images
from fsgen.data.mnist import TEST, TRAINING
from fsgen.data.sources import SPLITS, load_images
from fsgen.errors import FsgenError
from fsgen.registry import SOURCES

DIGESTS = {
    ("omniglot28", "train"): "a12c27bcf774dd1a2bd495b0c52fd4e09e374cf65bc152465d3e1d9351a91617",
    ("omniglot28", "validation"): "d8f751cbaa48d505e7450c609aca7c086268d8da2210bdaf272f65d683926d56",
    ("omniglot28", "test"): "d87b9a9ff1be128abd3dc2a027666151c9dffd70af79fd7460fafdbe3ac922d4",
    ("mnist28", "train"): "6303bcf08a20b7675fefa216a1cbaecf83ff25e31b23613b93f5218c63c3e55b",
    ("mnist28", "validation"): "3fada155e96c8a939711dcb80dd10d733bfc70afdcebc9ada332c787321fe0ef",
    ("mnist28", "test"): "8d9895ef358b29836c3077a61e05af2cf791058c03d0977912b290baed81f9ac",
}


@pytest.fixture(scope="module")
def real(data_root: Path) -> dict[tuple[str, str], Images]:
    return {(name, split): load_images(name, split, data_root) for name, split in DIGESTS}


def image_hashes(images: Images) -> set[bytes]:
    return {hashlib.sha256(image.tobytes()).digest() for image in images.pixels}


# --- the real files -------------------------------------------------------------------------------------------


def test_every_split_is_bit_for_bit_the_recorded_one(real: dict[tuple[str, str], Images]) -> None:
    assert {key: images.digest for key, images in real.items()} == DIGESTS


@pytest.mark.parametrize(("split", "classes"), [("train", 863), ("validation", 101), ("test", 659)])
def test_omniglot_has_twenty_inked_drawings_a_class(
    real: dict[tuple[str, str], Images], split: str, classes: int
) -> None:
    images = real["omniglot28", split]
    assert len(images.class_names) == classes
    assert {len(m) for m in images.members} == {20}
    assert images.event_shape == (1, 28, 28)
    assert images.levels == 2
    assert 0.05 < images.pixels.mean() < 0.2
    assert list(images.class_names) == sorted(images.class_names)
    assert all(re.fullmatch(r"[^/]+/character\d\d", name) for name in images.class_names)


def test_omniglot_splits_share_no_alphabet_and_no_image(real: dict[tuple[str, str], Images]) -> None:
    parts = [real["omniglot28", split] for split in SPLITS]
    assert set(parts[1].groups) == set(omniglot.VALIDATION_ALPHABETS)
    assert len(set(parts[0].groups) | set(parts[1].groups)) == 30
    for key in (lambda part: set(part.groups), image_hashes):
        sets = [key(part) for part in parts]
        assert sum(map(len, sets)) == len(set.union(*sets))


def test_mnist_splits_hold_all_digits_and_share_no_image(real: dict[tuple[str, str], Images]) -> None:
    parts = [real["mnist28", split] for split in SPLITS]
    assert all(part.class_names == tuple("0123456789") for part in parts)
    assert [len(part.labels) for part in parts] == [55_000, 5_000, 10_000]
    assert {len(m) for m in parts[1].members} == {500}
    assert all(0.1 < part.pixels.mean() < 0.2 for part in parts)
    hashes = [image_hashes(part) for part in parts]
    assert sum(map(len, hashes)) == len(set.union(*hashes))


def test_file_hashes_are_those_of_the_published_list(data_root: Path) -> None:
    listed = data_root / "gmn" / "SHA256SUMS"
    if not listed.is_file():
        pytest.skip(f"no {listed} to compare with")
    published = {line.split()[1]: line.split()[0] for line in listed.read_text().splitlines()}
    ours = [*omniglot.FILES.values(), TRAINING, TEST]
    assert {f.name.removeprefix("gmn/"): f.sha256 for f in ours} == published
    assert [f.address.rpartition("/")[2] for f in ours] == [f.name.removeprefix("gmn/") for f in ours]


def test_sources_are_listed_with_their_options() -> None:
    catalogue = SOURCES.catalogue()
    assert {"omniglot28", "omniglot", "mnist28", "folder"} <= set(catalogue)
    assert catalogue["omniglot"].options == {"size": "28", "download": "False"}
    assert catalogue["folder"].options["path"] == "required"


# --- found, altered, downloaded -------------------------------------------------------------------------------


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


GOOD = npz(a=np.arange(3))
FILE = gmn_file("numbers.npz", hashlib.sha256(GOOD).hexdigest())


def answering(monkeypatch: pytest.MonkeyPatch, answer: bytes | Exception) -> list[str]:
    """Makes every download give ``answer``; returns the addresses asked for."""
    asked: list[str] = []

    def urlopen(address: str, timeout: float) -> io.BytesIO:
        assert 0 < timeout < 120
        asked.append(address)
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(answer)

    monkeypatch.setattr(files, "urlopen", urlopen)
    return asked


def message(call: Callable[[], object]) -> str:
    with pytest.raises(FsgenError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_file_is_downloaded_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = answering(monkeypatch, GOOD)
    for _ in range(2):
        assert FILE.arrays(tmp_path / "new root", r"\w")["a"].tolist() == [0, 1, 2]
    assert asked == ["https://raw.githubusercontent.com/sbos/gmn/master/data/numbers.npz"]
    assert [p.name for p in (tmp_path / "new root" / "gmn").iterdir()] == ["numbers.npz"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (urllib.error.URLError("no route\nto host"), "cannot be downloaded (<urlopen error no route to host>)"),
        (TimeoutError(), "cannot be downloaded (TimeoutError)"),
        (GOOD[:-1], f"answers with sha256 {hashlib.sha256(GOOD[:-1]).hexdigest()}"),
        (b"", "answers with sha256"),
    ],
    ids=["offline", "silent", "truncated", "empty"],
)
def test_a_failed_download_says_what_to_put_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: bytes | Exception, reason: str
) -> None:
    answering(monkeypatch, answer)
    said = message(lambda: FILE.arrays(tmp_path, r"\w"))
    assert reason in said
    assert all(part in said for part in (str(tmp_path / "gmn" / "numbers.npz"), FILE.sha256, FILE.address))
    assert list((tmp_path / "gmn").iterdir()) == []


def test_a_relative_root_is_named_in_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    answering(monkeypatch, TimeoutError())
    assert str(tmp_path / "data" / "gmn" / "numbers.npz") in message(lambda: FILE.verified(Path("data")))


def test_a_read_only_root_is_named_before_anything_is_downloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = answering(monkeypatch, GOOD)

    def refuse(self: Path, *args: object, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    said = message(lambda: FILE.verified(tmp_path))
    assert "read-only" in said
    assert FILE.sha256 in said
    assert asked == []


@pytest.mark.parametrize("altered", [GOOD[:-1], GOOD + b"x", b""], ids=["truncated", "longer", "empty"])
def test_an_altered_file_is_refused_and_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, altered: bytes
) -> None:
    asked = answering(monkeypatch, GOOD)
    path = tmp_path / "gmn" / "numbers.npz"
    path.parent.mkdir()
    path.write_bytes(altered)
    said = message(lambda: FILE.verified(tmp_path))
    assert all(part in said for part in (str(path), FILE.sha256, hashlib.sha256(altered).hexdigest(), "delete it"))
    assert path.read_bytes() == altered
    assert asked == []


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "gmn" / "numbers.npz").mkdir(parents=True)
    assert "numbers.npz cannot be read" in message(lambda: FILE.verified(tmp_path))


def test_a_file_with_other_keys_is_refused(tmp_path: Path) -> None:
    assert "holds the key 'a' where keys like" in message(lambda: read_npz(GOOD, tmp_path / "x.npz", r"\d"))
    assert "holds no array" in message(lambda: read_npz(npz(), tmp_path / "x.npz", r"\d"))


@pytest.mark.parametrize(
    "data",
    [GOOD[:-30], GOOD[:40], b"no zip", b"", npz(a=np.array([{}], dtype=object))],
    ids=["cut late", "cut early", "text", "empty", "pickled"],
)
def test_what_is_no_whole_npz_of_plain_arrays_is_refused(tmp_path: Path, data: bytes) -> None:
    assert "x.npz is no whole npz file" in message(lambda: read_npz(data, tmp_path / "x.npz", r"\w"))


@pytest.mark.parametrize("name", ["omniglot28", "mnist28"])
@pytest.mark.parametrize("split", SPLITS)
def test_a_source_without_its_file_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, split: str
) -> None:
    answering(monkeypatch, urllib.error.URLError("offline"))
    part = "test" if split == "test" else "train"
    file = {"omniglot28": f"{part}_small.npz", "mnist28": f"binmnist_{part}.npz"}[name]
    assert str(tmp_path / "gmn" / file) in message(lambda: load_images(name, split, tmp_path))


# --- Omniglot's originals -------------------------------------------------------------------------------------

CHARACTERS = ["Zulu/character02", "Greek/character01", "Zulu/character01", "Angelic/character10"]


def original(small: np.ndarray, noise: np.random.Generator) -> Image.Image:
    """A 105x105 1-bit picture, ink black, whose pixels (floor(3.75 i), floor(3.75 j)) are ``small``."""
    ink = noise.random((105, 105)) < 0.3
    index = np.floor(3.75 * np.arange(28)).astype(int)
    ink[np.ix_(index, index)] = small
    return Image.fromarray(~ink)


def write_originals(folder: Path, classes: dict[str, np.ndarray]) -> None:
    """Writes drawings [20, 28, 28] as originals, the last class and the last drawer first."""
    noise = np.random.default_rng(0)
    for number, (name, drawings) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for drawer in reversed(range(len(drawings))):
            original(drawings[drawer], noise).save(folder / name / f"{number:04d}_{drawer + 1:02d}.png")


@pytest.fixture
def originals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Four background characters under ``tmp_path``, as torchvision keeps them."""
    drawings = (np.random.default_rng(1).random((len(CHARACTERS), 20, 28, 28)) < 0.2).astype(np.uint8)
    classes = dict(zip(CHARACTERS, drawings, strict=True))
    write_originals(tmp_path / "omniglot-py" / "images_background", classes)
    monkeypatch.setitem(omniglot.CHARACTERS, "images_background", len(classes))
    return classes


def test_originals_are_read_by_the_index_rule_in_sorted_order(originals: dict[str, np.ndarray], tmp_path: Path) -> None:
    train = load_images("omniglot", "train", tmp_path)
    assert train.class_names == ("Angelic/character10", "Zulu/character01", "Zulu/character02")
    assert np.array_equal(train.pixels[:, 0], np.concatenate([originals[name] for name in train.class_names]))
    assert train.labels.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    validation = load_images("omniglot", "validation", tmp_path)
    assert validation.class_names == ("Greek/character01",)
    assert np.array_equal(validation.pixels[:, 0], originals["Greek/character01"])


def test_originals_may_lie_in_a_folder_called_omniglot(originals: dict[str, np.ndarray], tmp_path: Path) -> None:
    digest = load_images("omniglot", "train", tmp_path).digest
    (tmp_path / "omniglot-py").rename(tmp_path / "omniglot")
    assert load_images("omniglot", "train", tmp_path).digest == digest


def test_at_28_the_originals_are_the_published_files(
    real: dict[tuple[str, str], Images], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part, split, some in (("images_background", "train", (0, 400, 862)), ("images_evaluation", "test", (0, 658))):
        published = real["omniglot28", split]
        classes = {published.class_names[i]: published.pixels[published.members[i], 0] for i in reversed(some)}
        write_originals(tmp_path / "omniglot-py" / part, classes)
        monkeypatch.setitem(omniglot.CHARACTERS, part, len(classes))
        ours = load_images("omniglot", split, tmp_path)
        assert ours.class_names == tuple(published.class_names[i] for i in some)
        assert np.array_equal(ours.pixels, np.concatenate([published.pixels[published.members[i]] for i in some]))


def test_torchvision_reads_the_same_drawings_of_the_same_classes(
    originals: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = vision.torchvision()
    monkeypatch.setattr(package.datasets.omniglot, "check_integrity", lambda *_: True)  # it checks the zip file
    theirs = package.datasets.Omniglot(str(tmp_path), background=True)
    read: dict[str, set[bytes]] = {}
    for picture, label in theirs:
        read.setdefault(theirs._characters[label], set()).add((np.asarray(picture) < 128).tobytes())
    ours = [load_images("omniglot", split, tmp_path, size=105) for split in ("train", "validation")]
    by_name = {
        name: {image.tobytes() for image in part.pixels[members]}
        for part in ours
        for name, members in zip(part.class_names, part.members, strict=True)
    }
    assert read == by_name


@pytest.mark.parametrize("size", [14, 32, 105, 200])
def test_originals_come_at_any_size_with_their_strokes(
    originals: dict[str, np.ndarray], tmp_path: Path, size: int
) -> None:
    picture = Image.new("1", (105, 105), 1)
    ImageDraw.Draw(picture).line([(50, 20), (50, 85)], 0, 2)
    for drawing in (tmp_path / "omniglot-py" / "images_background" / "Greek").glob("*/*.png"):
        picture.save(drawing)
    images = load_images("omniglot", "validation", tmp_path, size=size)
    assert images.event_shape == (1, size, size)
    stroke = images.pixels[0, 0, size // 4 : 3 * size // 4]
    assert stroke.any(1).all()
    assert stroke.sum(1).max() <= max(2, 2 * size // 105 + 1)


def test_missing_originals_say_what_to_put_where(tmp_path: Path) -> None:
    said = message(lambda: load_images("omniglot", "test", tmp_path))
    assert str(tmp_path / "omniglot-py" / "images_evaluation") in said
    assert "images_evaluation.zip" in said
    assert "download to true" in said


def test_a_failed_download_of_originals_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def refuse(root: str, background: bool, download: bool) -> None:
        asked.append((root, background))
        raise urllib.error.URLError("offline")

    monkeypatch.setattr(vision.torchvision().datasets, "Omniglot", refuse)
    said = message(lambda: load_images("omniglot", "train", tmp_path, download=True))
    assert asked == [(str(tmp_path), True)]
    assert "images_background cannot be downloaded" in said
    assert str(tmp_path / "omniglot-py") in said


def test_downloaded_originals_are_read(
    originals: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "omniglot-py").rename(tmp_path / "elsewhere")

    def fetch(root: str, background: bool, download: bool) -> None:
        (tmp_path / "elsewhere").rename(Path(root) / "omniglot-py")

    monkeypatch.setattr(vision.torchvision().datasets, "Omniglot", fetch)
    assert len(load_images("omniglot", "train", tmp_path, download=True).class_names) == 3


def test_incomplete_originals_are_refused(
    originals: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "omniglot-py" / "images_background"
    drawing = folder / "Zulu" / "character01" / "0002_03.png"
    Image.new("1", (28, 28)).save(drawing)
    assert "0002_03.png is 28x28, no original of 105x105" in message(lambda: load_images("omniglot", root=tmp_path))
    drawing.unlink()
    assert "character01 holds 19 drawings, not 20" in message(lambda: load_images("omniglot", root=tmp_path))
    monkeypatch.setitem(omniglot.CHARACTERS, "images_background", 964)
    assert "holds 4 of 964 characters" in message(lambda: load_images("omniglot", root=tmp_path))


@pytest.mark.parametrize("size", [0, -1, 100_000])
def test_a_size_out_of_range_is_refused(tmp_path: Path, size: int) -> None:
    assert f"size {size} is no side" in message(lambda: load_images("omniglot", root=tmp_path, size=size))
