"""Trained models are found by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scored import annealed, line, scored, verdict

import fsgen
from fsgen.errors import CheckpointError
from fsgen.published import VARIABLE, located, published


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("first", "second"):
        fsgen.build("beta-bernoulli", event_shape=(1, 8, 8)).save(folder / name)
    (folder / "notes").mkdir()
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


def test_published_models_are_folders_with_a_configuration(models: Path) -> None:
    assert published() == {name: models / name for name in ("first", "second")}


def test_a_name_is_a_published_model_unless_there_is_such_a_folder(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert located("first") == models / "first"
    (tmp_path / "first").mkdir()
    assert located("first") == Path("first")
    assert located(tmp_path / "away" / "second") == tmp_path / "away" / "second"


def test_an_unknown_name_is_refused_with_the_nearest(models: Path) -> None:
    said = r"secnd is no run folder and no published model.*Did you mean 'second'.*Published: first, second"
    with pytest.raises(CheckpointError, match=said):
        fsgen.load("secnd")


def test_without_the_variable_those_of_the_project_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assets = Path(__file__).resolve().parents[1] / "assets" / "models"
    assert set(published()) >= {path.parent.name for path in assets.glob("*/config.yaml")}
    assert fsgen.load("gmn-omniglot").recipe == fsgen.load(assets / "gmn-omniglot").recipe


def test_commands_take_a_name_and_list_its_figure(models: Path, tmp_path: Path, fsgen_) -> None:
    status, out, _ = fsgen_("sample", "first", "--num", 2, "--out", tmp_path / "sheet.png")
    assert status == 0
    assert (tmp_path / "sheet.png").is_file()
    scored(models / "first", line(0), line(5), verdict(), annealed())
    status, out, _ = fsgen_("models")
    assert status == 0
    rows = {row.split()[0]: row for row in out.splitlines() if row.split()[:1] in (["first"], ["second"])}
    assert f"nats at {line(0)['shots']} shots" in rows["first"]
    assert "at 5 (" in rows["first"]
    assert "not evaluated yet" in rows["second"]
    (models / "second" / "results.jsonl").write_text((scored(tmp_path / "x", verdict()) / "results.jsonl").read_text())
    assert "82.5% 5-way 1-shot" in fsgen_("models")[1]


def test_a_published_model_is_evaluated_by_name(models: Path, fsgen_) -> None:
    words = ("evaluate", "first", "--data", "glyphs", "--data-options", "{size: 8, alphabets: 10}", "--sets", 2)
    status, _, told = fsgen_(*words, "--shots", 0, "--quiet")
    assert status == 0, told
    assert (models / "first" / "results.jsonl").is_file()
    assert torch.is_tensor(fsgen.load("first").raw)
