"""fsgen pictures: what the sheets hold, and what is said where a model has not what one shows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Command, refusal
from PIL import Image
from scored import line, scored
from tiny import SMALL_MODELS, strokes
from torch import Tensor, nn

from fsgen.data.sampler import EpisodeSampler
from fsgen.episode import Episode
from fsgen.inference import reconstruct
from fsgen.model import Attends
from fsgen.pictures import PICTURES, Scene, nearest, pictures
from fsgen.registry import MODELS, build
from fsgen.report.build import build as report

GLYPHS = {"alphabets": 6, "characters": 5, "drawers": 8, "size": 8}
NAMES = sorted(MODELS.discover())
ATTENTIVE = [name for name in NAMES if issubclass(MODELS.require(name), Attends)]
ORANGE = (230, 110, 0)
DATA = ["--data", "glyphs", *[f"--data-options.{key}={value}" for key, value in GLYPHS.items()]]


def test_the_nearest_of_an_image_of_the_set_is_itself() -> None:
    images = strokes("train", Path(), classes=9, images=6, size=8)
    asked = torch.from_numpy(images.pixels[[40, 3, 17]].copy()).float()
    assert nearest(asked, images, lambda x: x.flatten(1)).tolist() == [40, 3, 17]
    far = torch.cat([asked[:1], 1 - asked[:1]])  # of an inverted image the nearest has the fewest pixels in common
    apart = (torch.from_numpy(images.pixels.copy()).float() - far[1]).square().flatten(1).sum(1)
    assert nearest(far, images, lambda x: x.flatten(1)).tolist() == [40, int(apart.argmin())]


def test_a_reconstruction_is_what_the_decoder_makes_of_the_mean() -> None:
    model = build("vae", event_shape=(1, 4, 4), **SMALL_MODELS["vae"]).eval()
    episode = Episode(torch.zeros(2, 1, 1, 4, 4), torch.rand(2, 3, 1, 4, 4).round())
    again = reconstruct(model, episode)
    assert again.shape == episode.query.shape
    assert torch.equal(again, reconstruct(model, episode))
    other = Episode(episode.support, torch.cat([episode.query[:, :1], 1 - episode.query[:, 1:]], 1))
    assert torch.allclose(reconstruct(model, other)[:, 0], again[:, 0])
    assert not torch.allclose(reconstruct(model, other)[:, 1], again[:, 1])


def scene(model: Any, shots: int = 2) -> Scene:
    """Two sets of strokes on 8x8 pixels, three queries each."""
    train, test = (strokes(split, Path(), size=8) for split in ("train", "test"))
    return Scene(model.eval(), None, EpisodeSampler(test, shots=shots, queries=3, seed=0), train, 2, 0)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_gives_each_picture_or_says_why_not(name: str) -> None:
    model = MODELS.require(name).tiny((1, 8, 8))
    made = pictures(scene(model))
    assert made.keys() == PICTURES.keys()
    for one in made.values():
        assert one.sheet is None or (one.sheet.dtype, one.sheet.shape[2]) == (np.uint8, 3)
        assert one.caption.endswith(".")
    assert (made["attention"].sheet is not None) == (name in ATTENTIVE)
    assert name in ATTENTIVE or "does not attend to its support" in made["attention"].caption


@pytest.mark.parametrize("name", ATTENTIVE)
def test_shares_of_what_is_read_sum_to_one_and_what_is_not_seen_is_not_read(name: str) -> None:
    model = MODELS.require(name).tiny((1, 4, 4)).double()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    support, query = (torch.rand(2, n, 1, 4, 4).round().double() for n in (3, 2))
    visible = torch.tensor([[True, False, True], [False, False, False]]).expand(2, -1, -1)
    patches, nothing = model.attention_maps(Episode(support, query, visible))
    torch.testing.assert_close(patches.sum((-1, -2, -3)) + nothing, torch.ones_like(nothing))
    assert not patches[:, 0, ..., 1, :, :].any()
    assert not patches[:, 1].any()
    assert (patches[:, 0, ..., [0, 2], :, :] > 0).all()
    alone, _ = model.attention_maps(Episode(support[:, [0, 2]], query[:, :1]))
    torch.testing.assert_close(patches[:, :1, ..., [0, 2], :, :], alone)


class Reader(nn.Module):
    """Reads fixed shares of two empty images."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.like, self.shape = nn.Parameter(torch.zeros(1)), shape

    def attention_maps(self, episode: Episode) -> tuple[Tensor, Tensor]:
        shares = torch.tensor([0.5, 0.25])[:, None, None].expand(*self.shape, 2, 1, 1)
        return shares, torch.full(self.shape, 0.25)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("shape", [(1, 3, 1, 1, 2), (1, 1, 8, 8, 2)], ids=["whole images, two steps", "pixels"])
def test_tint_and_bar_of_an_image_are_its_share(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    blank = Episode(torch.zeros(1, 2, 1, 8, 8), torch.zeros(1, 3, 1, 8, 8))
    monkeypatch.setattr(Scene, "episode", lambda self: blank)
    made = PICTURES["attention"](scene(Reader(*shape)))
    rows = 4 if shape[2] > 1 else 3 * 2  # four pixels of one image, or three images at two steps
    assert made.sheet is not None
    assert made.sheet.shape[:2] == (rows * (12 * 3 + 2) + 2, 4 * 26 + 8)
    last = made.sheet[-38:]
    tiles = [last[:, x : x + 24] for x in (34, 60, 86)]
    assert [tuple(tile[10, 10]) for tile in tiles] == [ORANGE, (242, 182, 128), (255, 255, 255)]
    assert [int((tile[29] == ORANGE).all(-1).sum()) for tile in tiles] == [12, 6, 6]  # of 24 columns
    assert ("tip of the red line asks" in made.caption) == (shape[2] > 1)
    assert ("each of 2 attention steps" in made.caption) == (shape[2] == 1)


def test_a_model_built_without_attention_says_so() -> None:
    plain = MODELS.require("few-shot-pixelcnn")(event_shape=(1, 8, 8), attention=False, channels=4, layers=2)
    pooled = MODELS.require("gmn")(event_shape=(1, 8, 8), **{**SMALL_MODELS["gmn"], "steps": 0})
    for model, said in ((plain, "built with attention=False"), (pooled, "built with steps=0: it reads the mean")):
        made = pictures(scene(model))["attention"]
        assert made.sheet is None
        assert said in made.caption


@pytest.mark.usefixtures("as_a_user")
def test_sheets_are_written_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsgen_: Command) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    torch.manual_seed(0)
    runs = [tmp_path / name for name in ("beta-bernoulli", "vae", "gmn")]
    for run in runs:
        build(run.name, event_shape=(1, 8, 8), **SMALL_MODELS[run.name]).save(run)
    build("prototypical-network", event_shape=(1, 8, 8), channels=[8]).save(tmp_path / "critic")
    words = ["--shots", 2, "--samples", 3, "--sets", 2, "--critic", tmp_path / "critic", *DATA]
    said = {run.name: fsgen_("pictures", run, *words) for run in runs}
    assert {code for code, _, _ in said.values()} == {0}
    assert "no reconstructions: The model has no latent" in said["beta-bernoulli"][1]
    assert "no codes: The latents of the model do not depend on the support" in said["vae"][1]
    held = {run.name: sorted(path.stem for path in (run / "pictures").glob("*.png")) for run in runs}
    assert held["beta-bernoulli"] == ["neighbours"]
    assert held["vae"] == ["neighbours", "reconstructions"]
    assert held["gmn"] == ["attention", "codes", "neighbours", "reconstructions"]
    assert fsgen_("pictures", runs[1], *words, "--out", tmp_path / "elsewhere" / "vae")[0] == 0
    for path in (runs[1] / "pictures").iterdir():
        assert (tmp_path / "elsewhere" / "vae" / path.name).read_bytes() == path.read_bytes()
    for run in runs:
        sheet = np.asarray(Image.open(run / "pictures" / "neighbours.png"))
        assert sheet.shape[0] == 2 * 3 * 18 + 2  # two classes of samples, their pixel neighbours and the critic's
        scored(run, line(run=run.name))
    files = report(runs)
    assert {"neighbours-1.png", "neighbours-2.png", "reconstructions-2.png", "codes-3.png", "attention-3.png"} <= set(
        files
    )
    text = files["report.md"].decode()
    assert "beta-bernoulli. The model has no latent, so there is nothing to reconstruct from." in text
    assert "under each the nearest training image by pixels and the critic's features" in text
    refusal(fsgen_("pictures", tmp_path / "critic", *DATA), "holds a learner")
    refusal(fsgen_("pictures", runs[0], "--critic", runs[1], *DATA), "name the folder of a learner")
    refusal(fsgen_("pictures", runs[0], "--sets", 0, *DATA), "--sets is 0; give 1 or more")
