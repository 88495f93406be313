"""What `fsgen sample` draws after each of several shot counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import strokes

import fsgen
from fsgen.cli import main
from fsgen.data.sampler import EpisodeSampler
from fsgen.registry import SOURCES


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of 4x4 images, and the strokes as a source of them."""
    monkeypatch.setitem(SOURCES.members, "strokes", strokes)
    model = fsgen.build("beta-bernoulli", event_shape=(1, 4, 4))
    model.save(tmp_path / "model")
    return tmp_path / "model"


def command(*words: Any) -> int:
    return main([str(word) for word in words])


def test_each_row_is_drawn_given_the_first_images_of_the_support(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["sample", saved, "--data", "strokes", "--each", 0, 2, 5, "--sets", 3, "--num", 4, "--seed", 7]
    assert command(*asked, "--out", tmp_path / "a.npy") == 0
    assert "4 samples after 0 2 5 shots, 3 rows" in capsys.readouterr().out
    drawn = np.load(tmp_path / "a.npy")
    assert drawn.shape == (3, 3, 4, 1, 4, 4)
    sampler = EpisodeSampler(strokes("test", tmp_path), shots=5, seed=7)
    support = sampler.gather([sampler.draw(1)])[0, :5]
    for column, shots in enumerate((0, 2, 5)):
        expected = fsgen.load(saved).condition(support[:shots]).sample((4,), seed=8)
        assert torch.equal(torch.from_numpy(drawn[1, column]), expected)


def test_the_sheet_holds_a_block_a_class(saved: Path, tmp_path: Path) -> None:
    asked = ["sample", saved, "--data", "strokes", "--each", 1, 3, "--sets", 2, "--num", 6, "--scale", 1]
    assert command(*asked, "--out", tmp_path / "a.png") == 0
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (6 * (4 + 2) + 2, 2 * 4 * (4 + 2) + 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--each", -1], "--each is [-1]; give shot counts of 0"), (["--each", 1], "--each asks for 1 images, but 0")],
)
def test_shot_counts_that_cannot_be_drawn_are_refused(
    saved: Path, capsys: pytest.CaptureFixture[str], words: list[Any], said: str
) -> None:
    assert command("sample", saved, *words) != 0
    assert said in capsys.readouterr().err
