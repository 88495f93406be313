"""fsgen pictures: what the sheets hold, and what is said where a model has not what one shows."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Command, refusal
from PIL import Image
from scored import line, scored
from tiny import SMALL_MODELS, strokes

from fsgen.episode import Episode
from fsgen.inference import reconstruct
from fsgen.pictures import nearest
from fsgen.registry import build
from fsgen.report.build import build as report

GLYPHS = {"alphabets": 6, "characters": 5, "drawers": 8, "size": 8}
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
    assert held["gmn"] == ["codes", "neighbours", "reconstructions"]
    for run in runs:
        sheet = np.asarray(Image.open(run / "pictures" / "neighbours.png"))
        assert sheet.shape[0] == 2 * 3 * 18 + 2  # two classes of samples, their pixel neighbours and the critic's
        scored(run, line(run=run.name))
    files = report(runs)
    assert {"neighbours-1.png", "neighbours-2.png", "reconstructions-2.png", "codes-3.png"} <= set(files)
    text = files["report.md"].decode()
    assert "beta-bernoulli. The model has no latent, so there is nothing to reconstruct from." in text
    assert "under each the nearest training image by pixels and the critic's features" in text
    refusal(fsgen_("pictures", tmp_path / "critic", *DATA), "holds a learner")
    refusal(fsgen_("pictures", runs[0], "--critic", runs[1], *DATA), "name the folder of a learner")
    refusal(fsgen_("pictures", runs[0], "--sets", 0, *DATA), "--sets is 0; give 1 or more")
