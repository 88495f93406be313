"""The trained models that come with fsgen: they load, and score as their results files say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fsgen
from fsgen.classification import Learner, accuracy
from fsgen.data.sampler import EpisodeSampler
from fsgen.evaluation import evaluate
from fsgen.report.tables import read_results

MODELS = Path(__file__).resolve().parents[1] / "assets" / "models"
FOLDERS = sorted(path for path in MODELS.glob("*") if path.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_trained_model_loads_and_answers(folder):
    model = fsgen.load(folder)
    if isinstance(model, Learner):
        images = torch.rand(3, *model.event_shape).round()
        assert model.fit(images, ["a", "b", "c"]).predict_proba(images).shape == (3, 3)
    else:
        images = model.condition(torch.zeros(0, *model.event_shape)).sample((2,), seed=0)
        assert images.shape == (2, *model.event_shape)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 12 * 2**20


@pytest.mark.parametrize("protocol", ["strict", "published"])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_first_sets_score_as_recorded(folder, protocol, data_root):
    records = [r for r in read_results(folder / "results.jsonl") if r["protocol"] == protocol and r["ways"] == 1]
    if not records:
        pytest.skip(f"{folder.name} was not scored under the {protocol} protocol")
    first, shots = records[0], [r["shots"] for r in records]
    data = first["data"]
    if data["name"] == "folder":
        pytest.skip(f"{folder.name} was scored on pictures that a script makes")
    images = fsgen.load_images(data["name"], data["split"], data_root, **data["options"])
    assert images.digest == data["digest"]
    sampler = EpisodeSampler(images, ways=1, length=first["length"], protocol=protocol, seed=first["seed"])
    assert sampler.digest(first["sets"]) == first["list_digest"]
    scores = evaluate(
        fsgen.load(folder), sampler, shots, 2, first["particles"], seed=first["seed"], budget=first["budget"]
    )
    for record, score in zip(records, scores, strict=True):
        assert score.per_set == pytest.approx(record["per_set"][:2], abs=0.01)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_first_episodes_are_answered_as_recorded(folder, data_root):
    records = [r for r in read_results(folder / "results.jsonl", "classification") if r["classifier"]["name"] == "own"]
    if not records:
        pytest.skip(f"{folder.name} is no learner that was asked")
    learner = fsgen.load(folder)
    for r in records:
        images = fsgen.load_images(r["data"]["name"], r["data"]["split"], data_root, **r["data"]["options"])
        same = {name: r[name] for name in ("ways", "shots", "queries", "seed")}
        sampler = EpisodeSampler(images, grouped=r["task"] == "alphabet", **same)
        assert sampler.digest(r["episodes"]) == r["list_digest"]
        assert accuracy(learner, sampler, 3, seed=r["seed"]).per_episode == r["per_episode"][:3]
