"""A user's folder: what is a class, which split it falls in, and everything wrong with it said at once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fsgen.data import folder as room
from fsgen.data.folder import check_folder, ignored_files
from fsgen.data.images import Images
from fsgen.data.sources import SPLITS, load_images
from fsgen.errors import FsgenError

SIDE = 8


def draw(path: Path, seed: int, side: int = SIDE, suffix: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    Image.fromarray(pixels).save(path, suffix)


def make(root: Path, *classes: str, pictures: int = 2) -> Path:
    """Classes in reverse order of their names, pictures too; every picture differs."""
    for c, name in reversed(list(enumerate(classes))):
        for i in reversed(range(pictures)):
            draw(root / name / f"{i}.png", 1000 * c + i)
    return root


def load(root: Path, split: str = "train", **options: Any) -> Images:
    return load_images("folder", split, root.parent, path=root.name, **options)


def refusal(root: Path, **options: Any) -> list[str]:
    with pytest.raises(FsgenError) as caught:
        load(root, **options)
    return str(caught.value).splitlines()


# --- classes and splits ---------------------------------------------------------------------------------------


def test_classes_are_folders_in_sorted_order(tmp_path: Path) -> None:
    root = make(tmp_path / "set", "b", "a", "C", "group/é", "group/x y", pictures=3)
    images = load(root, validation=0.0, test=0.0)
    assert images.class_names == ("C", "a", "b", "group/x y", "group/é")
    assert images.groups == ("", "", "", "group", "group")
    assert images.pixels.shape == (15, 1, SIDE, SIDE)
    assert images.levels == 256
    expected = np.asarray(Image.open(root / "b" / "1.png"))
    assert np.array_equal(images.pixels[images.members[2][1], 0], expected)


def test_the_order_of_the_file_system_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "set", *"abcdefgh")
    before = {split: load(root, split).digest for split in SPLITS}
    genuine = os.scandir
    monkeypatch.setattr(room.os, "scandir", lambda path: list(genuine(path))[::-1])
    assert {split: load(root, split).digest for split in SPLITS} == before


def test_splits_are_disjoint_complete_and_depend_on_the_seed_alone(tmp_path: Path) -> None:
    names = [f"c{i:02d}" for i in range(20)]
    root = make(tmp_path / "set", *names, pictures=1)
    dealt = {seed: [load(root, split, seed=seed).class_names for split in SPLITS] for seed in (0, 1)}
    for parts in dealt.values():
        assert [len(part) for part in parts] == [12, 3, 5]
        assert sorted(name for part in parts for name in part) == names
    assert dealt[0] != dealt[1]
    assert dealt[1][2] == ("c00", "c05", "c10", "c16", "c17")  # for ever: results compare only on equal splits


def test_every_split_asked_for_gets_a_class(tmp_path: Path) -> None:
    root = make(tmp_path / "set", "a", "b", "c")
    assert [len(load(root, split).class_names) for split in SPLITS] == [1, 1, 1]
    assert "no class is left for 'validation' of 3" in refusal(root, split="validation", validation=0.0)[0]
    shutil.rmtree(root / "c")
    assert "no class is left for 'train' of 2" in refusal(root)[0]


def test_folders_called_train_validation_and_test_are_the_splits(tmp_path: Path) -> None:
    root = make(tmp_path / "set", "train/a", "train/g/b", "validation/c", "test/d")
    assert [load(root, split).class_names for split in SPLITS] == [("a", "g/b"), ("c",), ("d",)]
    make(root, "test/g/b")
    assert any("class g/b is in train and test" in line for line in refusal(root))
    shutil.rmtree(root / "test")
    assert any("no 'test'" in line for line in refusal(root))


def test_a_class_may_be_called_test_among_others(tmp_path: Path) -> None:
    root = make(tmp_path / "set", "test", "toast")
    assert load(root, validation=0.0, test=0.0).class_names == ("test", "toast")


def test_modes_and_sizes(tmp_path: Path) -> None:
    root = make(tmp_path / "set", "a", "b", "c")
    binary, inverted = (load(root, mode="binary", invert=invert) for invert in (False, True))
    assert binary.levels == 2
    assert np.array_equal(binary.pixels + inverted.pixels, np.ones_like(binary.pixels))
    assert load(root, mode="rgb").event_shape == (3, SIDE, SIDE)
    assert load(root, size=5, mode="rgb").event_shape == (3, 5, 5)


def test_an_absolute_path_needs_no_root(tmp_path: Path) -> None:
    root = make(tmp_path / "set", "a", "b", "c")
    absolute = load_images("folder", root=tmp_path / "elsewhere", path=str(root))
    assert absolute.digest == load(root).digest


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "gray"}, "no mode 'gray'; give --data.options.mode grey, rgb or binary"),
        ({"size": 0}, "size 0 is no side"),
        ({"validation": 0.5, "test": 0.5}, "leave no class to train on"),
        ({"test": -0.1}, "shares of at least 0"),
        ({"validation": float("nan")}, "validation nan"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    assert said in refusal(make(tmp_path / "set", "a", "b", "c"), **options)[0]


def test_a_missing_or_empty_folder_is_named(tmp_path: Path) -> None:
    assert "no folder" in refusal(tmp_path / "none")[0]
    (tmp_path / "empty").mkdir()
    assert "holds no class folder" in refusal(tmp_path / "empty")[1]


# --- everything wrong, all at once ----------------------------------------------------------------------------


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return make(tmp_path / "set", "a", "b", "c")


def test_a_sound_folder_has_no_problem(sound: Path) -> None:
    assert check_folder(sound) == []


def test_all_bad_pictures_are_listed_in_one_error(sound: Path) -> None:
    whole = (sound / "a" / "0.png").read_bytes()
    (sound / "a" / "cut.png").write_bytes(whole[:-40])
    (sound / "b" / "empty.png").write_bytes(b"")
    (sound / "c" / "text.png").write_text("no picture")
    draw(sound / "c" / "big.png", 0, 2 * SIDE)
    listed = check_folder(sound)
    assert [line.partition(": ")[0] for line in listed] == ["a/cut.png", "b/empty.png", "c/big.png", "c/text.png"]
    for split in SPLITS:
        lines = refusal(sound, split=split)
        assert lines[0].startswith("4 problems in")
        assert [line.strip() for line in lines[1:]] == listed
    assert len(check_folder(sound, size=4)) == 3


def test_a_long_list_is_cut_and_counted(sound: Path) -> None:
    for i in range(30):
        (sound / "a" / f"bad{i:02d}.png").write_bytes(b"")
    lines = refusal(sound)
    assert len(lines) == 22
    assert lines[0].startswith("30 problems in")
    assert lines[-1].strip() == "... and 10 more"
    assert len(check_folder(sound)) == 30


def test_a_file_that_changes_is_checked_again_even_at_the_same_length(sound: Path) -> None:
    load(sound)
    picture = sound / "a" / "0.png"
    whole = picture.read_bytes()
    for second, (content, problems) in enumerate([(bytes(len(whole)), 1), (whole, 0)]):
        picture.write_bytes(content)
        os.utime(picture, (second, second))
        assert len(check_folder(sound)) == problems
    load(sound)


def test_pictures_of_several_sizes_need_a_size(sound: Path) -> None:
    draw(sound / "b" / "9.png", 9, SIDE + 1)
    assert check_folder(sound) == ["b/9.png: 9x9 where most are 8x8; give --data.options.size to scale all to one size"]
    assert load(sound, size=8, validation=0.0, test=0.0).pixels.shape == (7, 1, 8, 8)


def test_links_out_of_a_class_and_to_folders_are_refused(sound: Path, tmp_path: Path) -> None:
    draw(tmp_path / "outside.png", 5)
    (sound / "a" / "out.png").symlink_to(tmp_path / "outside.png")
    (sound / "a" / "other.png").symlink_to(sound / "b" / "0.png")
    (sound / "a" / "none.png").symlink_to(sound / "a" / "missing.png")
    (sound / "a" / "loop.png").symlink_to(sound / "a" / "loop.png")
    (sound / "b" / "inside").symlink_to(sound / "a")
    (sound / "d").symlink_to(sound / "a")
    assert check_folder(sound) == [
        "d is a link to a folder, which is never followed; copy the folder",
        "a/loop.png is a link to nothing; remove it",
        "a/none.png is a link to nothing; remove it",
        "a/other.png is a link that leaves its folder; copy the picture",
        "a/out.png is a link that leaves its folder; copy the picture",
        "b/inside is a link to a folder, which is never followed; copy the folder",
    ]


def test_a_link_within_its_class_and_a_link_to_the_whole_folder_are_read(sound: Path, tmp_path: Path) -> None:
    (sound / "a" / "again.png").symlink_to(sound / "a" / "0.png")
    (tmp_path / "link").symlink_to(sound)
    assert len(load(tmp_path / "link", validation=0.0, test=0.0).labels) == 7


def test_a_folder_that_is_no_clear_class_is_refused(sound: Path) -> None:
    make(sound, "a/inner", "deep/deeper/deepest")
    (sound / "nothing").mkdir()
    (sound / "hollow" / "within").mkdir(parents=True)
    draw(sound / "stray.png", 3)
    assert check_folder(sound) == [
        "stray.png lies outside any class folder; move it into one",
        "a holds both pictures and folders; it must be a class or a group of classes",
        "deep/deeper nests folders too deep; classes are class/ or group/class/",
        "hollow/within holds no picture; fill or remove it",
        "nothing holds no picture; fill or remove it",
    ]


@pytest.mark.parametrize(
    "name", ["bell\x07", "line\nbreak", "\u202eright", "\udc80bytes", f"{'g' * 150}/{'c' * 150}"], ids=ascii
)
def test_a_name_that_cannot_be_printed_is_refused_on_one_line(sound: Path, name: str) -> None:
    make(sound, name)
    (line,) = check_folder(sound)
    assert "is no class name; use up to 200 printable characters" in line
    assert line.isprintable()


def test_names_equal_but_for_their_unicode_form_are_refused(sound: Path) -> None:
    make(sound, "\u00e9", "e\u0301")
    assert len(list(sound.iterdir())) == 5
    assert ["other Unicode" in line for line in check_folder(sound)] == [True]


def test_hidden_files_are_passed_over_and_others_reported(sound: Path) -> None:
    (sound / ".cache").mkdir()
    (sound / "a" / ".DS_Store").write_bytes(b"x")
    (sound / "a" / "README.txt").write_text("x")
    (sound / "licence").write_text("x")
    assert check_folder(sound) == []
    assert ignored_files(sound) == ["licence", "a/README.txt"]
    assert len(load(sound, validation=0.0, test=0.0).labels) == 6


def test_a_folder_that_cannot_be_listed_is_a_problem(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = os.scandir

    def scandir(path: Path) -> Any:
        if path.name == "b":
            raise PermissionError(13, "Permission denied")
        return genuine(path)

    monkeypatch.setattr(room.os, "scandir", scandir)
    assert "b cannot be listed (Permission denied)" in check_folder(sound)
