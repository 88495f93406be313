"""Grey and colour images through the whole pipeline, and bits per dimension where they are defined."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import SMALL_MODELS, config

from fsgen import storage
from fsgen.cli import main
from fsgen.data.images import Images
from fsgen.data.sampler import EpisodeSampler
from fsgen.errors import InputError
from fsgen.evaluation import evaluate
from fsgen.model import load
from fsgen.registry import build
from fsgen.report.tables import bits_table, likelihood_table
from fsgen.run import Run
from fsgen.training import build_model

pytestmark = pytest.mark.usefixtures("as_a_user")
DIMS = {"grey": 36, "rgb": 108}


def coloured_folder(path: Path) -> Path:
    """Ten classes of six 6x6 pictures: a class is a colour, an image a noisy tile of it."""
    rng = np.random.default_rng(3)
    for c in range(10):
        (path / f"class{c}").mkdir(parents=True)
        colour = rng.integers(30, 130, 3)
        for i in range(6):
            tile = np.clip(colour + rng.normal(0, 12, (6, 6, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(tile).save(path / f"class{c}" / f"{i}.png")
    return path


def images(channels: int, levels: int) -> Images:
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, levels, (40, channels, 4, 4)).astype(np.uint8)
    return Images("noise", "train", pixels, np.repeat(np.arange(8), 5), tuple(f"c{i}" for i in range(8)), levels)


@pytest.mark.parametrize("mode", ["grey", "rgb"])
def test_pictures_of_256_levels_go_from_training_to_samples(
    mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = coloured_folder(tmp_path / "pictures")
    data = ["--data.name=folder", f"--data.options.path={folder}", f"--data.options.mode={mode}"]
    small = ["--episodes.length=4", "--episodes.batch=4", "--episodes.ways=[1]", "--validation.sets=3", "--threads=1"]
    model = ["--model.name=vae", "--model.options={dim_z: 2, channels: [4], dim_features: 6}", "--bf16=true"]
    fast = ["--optimiser.learning_rate=0.01", "--optimiser.warmup=1", "--optimiser.ema=0.9"]
    assert main(["train", "--out", "run", "--steps=40", "--validation.every=20", *small, *model, *fast, *data]) == 0
    run = Run.open("run")
    channels = {"grey": 1, "rgb": 3}[mode]
    assert run.config["model"]["options"]["likelihood"] == "logistic-mixture"
    assert run.records("metrics")[-1]["train_nats"] < 0.97 * math.log(256) * DIMS[mode], "better than uniform"
    shown = EventAccumulator("run/tensorboard", size_guidance={"images": 0}).Reload()  # type: ignore[no-untyped-call]
    assert [found.step for found in shown.Images("samples")] == [20, 40]  # type: ignore[no-untyped-call]

    capsys.readouterr()
    scored = ["--classes", "1", "--shots", "0", "3", "--length", "4", "--sets", "4", "--particles", "5", "--quiet"]
    assert main(["evaluate", "run", *scored]) == 0
    said = capsys.readouterr().out
    assert "+- s.e. bits/dim     ESS" in said
    for record in (record for record in run.records("results") if record["kind"] == "likelihood"):
        bits = record["nats"] / (math.log(2) * DIMS[mode])
        assert record["bits_per_dim"] == pytest.approx(bits, rel=1e-9)
        assert f"{record['se']:8.2f}        -        - {bits:8.4f} " in said  # too few sets to adjust

    for out in ("sheet.png", "drawn.npy"):
        words = ["sample", "run", "--data", "folder", "--sets", "2", "--shots", "2", "--num", "5", "--out", out]
        assert main(words) == 0
    drawn = np.load("drawn.npy")
    assert drawn.shape == (2, 5, channels, 6, 6)
    assert np.allclose(np.rint(drawn * 255) / 255, drawn, atol=1e-7)
    with Image.open("sheet.png") as sheet:
        pixels = np.asarray(sheet).astype(int)
    coloured = (np.ptp(pixels, axis=2) > 30).mean()
    assert coloured > 0.2 if mode == "rgb" else coloured == 0


@pytest.mark.parametrize(("levels", "expected"), [(2, "bernoulli"), (256, "logistic-mixture")])
@pytest.mark.parametrize("name", ["vae", "gmn"])
def test_a_likelihood_left_out_is_that_of_the_levels(name: str, levels: int, expected: str) -> None:
    sampler = EpisodeSampler(images(3, levels), length=4)
    model = build_model(config(name), sampler)
    assert (model.recipe["options"]["likelihood"], model.levels, model.discrete) == (expected, levels, True)
    if levels == 256:
        chosen = build_model(config(name, options={**SMALL_MODELS[name], "likelihood": "gaussian"}), sampler)
        assert (chosen.recipe["options"]["likelihood"], chosen.levels, chosen.discrete) == ("gaussian", 256, False)


@pytest.mark.parametrize(
    ("likelihood", "said"),
    [
        ("bernoulli", "2 levels, but .* has 256; leave out --model.options.likelihood, or make it logistic-mixture"),
        ("normal", "no likelihood 'normal'. Known: bernoulli, gaussian, logistic-mixture"),
    ],
)
def test_a_likelihood_of_other_levels_is_refused(likelihood: str, said: str) -> None:
    settings = config("vae", options={**SMALL_MODELS["vae"], "likelihood": likelihood})
    with pytest.raises(InputError, match=said):
        build_model(settings, EpisodeSampler(images(3, 256), length=4))


@pytest.mark.parametrize("name", ["vae", "gmn"])
def test_a_recipe_saved_before_there_was_a_choice_is_bernoulli(name: str, tmp_path: Path) -> None:
    model = build(name, event_shape=(1, 4, 4), **SMALL_MODELS[name])
    options = {key: value for key, value in model.recipe["options"].items() if key != "likelihood"}
    weights = storage.tensors_to_bytes(model.state_dict())
    recipe = storage.config_to_bytes({"model": {"name": name, "options": options}})
    storage.write_folder(tmp_path / "old", {"config.yaml": recipe, "weights.safetensors": weights})
    old = load(tmp_path / "old")
    assert (old.levels, old.discrete, old.recipe["options"]["likelihood"]) == (2, True, "bernoulli")
    support = torch.ones(2, 1, 4, 4)
    samples = [m.condition(support).sample((3,), seed=1) for m in (old, model.eval())]
    assert torch.equal(*samples)


def test_bits_per_dimension_are_those_of_a_mass_alone() -> None:
    sampler, rows = EpisodeSampler(images(3, 256), length=4), []
    for likelihood in ("logistic-mixture", "gaussian"):
        model = build("vae", event_shape=(3, 4, 4), likelihood=likelihood, **SMALL_MODELS["vae"])
        (score,) = evaluate(model, sampler, [1], 8, 3)
        rows.append({"run": likelihood, "protocol": "strict", "model": model.recipe, **score.record()})
    mass, density = rows
    assert mass["bits_per_dim"] * math.log(2) * 48 == pytest.approx(mass["nats"])
    assert 8 < mass["bits_per_dim"] < 10, "an untrained model of uniform noise, which takes 8"
    assert density["bits_per_dim"] is None
    error = mass["se"] / (math.log(2) * 48)
    assert f"{mass['bits_per_dim']:.3f} ± {error:.3f} |" in bits_table(rows)
    assert "gaussian" not in bits_table(rows)
    assert f"{density['nats']:.1f} ± {density['se']:.1f} |" in likelihood_table(rows)


def test_the_binary_table_has_no_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build("beta-bernoulli", event_shape=(1, 8, 8)).save(tmp_path / "model")
    data = ["--data", "glyphs", "--data-options", "{alphabets: 3, characters: 4, drawers: 5, size: 8}"]
    scored = ["--shots", "1", "--length", "4", "--sets", "3", "--quiet"]
    assert main(["evaluate", str(tmp_path / "model"), *data, *scored]) == 0
    assert "bits" not in capsys.readouterr().out
    record, covariates = Run.open(tmp_path / "model").records("results")
    assert covariates["kind"] == "covariates"
    assert record["bits_per_dim"] == pytest.approx(record["nats"] / (64 * math.log(2)))
