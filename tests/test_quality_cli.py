"""fsgen quality: its lines, its table, and its refusals."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from commands import Command, refusal

from fsgen.data.sampler import EpisodeSampler
from fsgen.data.sources import load_images
from fsgen.registry import build
from fsgen.report.tables import quality_table, read_results

pytestmark = pytest.mark.usefixtures("as_a_user")
GLYPHS = {"alphabets": 6, "characters": 5, "drawers": 8, "size": 12}
DATA = ["--data", "glyphs", *[f"--data-options.{key}={value}" for key, value in GLYPHS.items()], "--quiet"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """A model of pixels apart, and a critic."""
    torch.manual_seed(0)
    build("beta-bernoulli", event_shape=(1, 12, 12), strength=0.5).save(tmp_path / "pixels-apart")
    build("prototypical-network", event_shape=(1, 12, 12), channels=[8]).save(tmp_path / "critic")
    return [tmp_path / "pixels-apart", tmp_path / "critic"]


def test_a_line_names_the_critic_and_all_that_is_needed_to_repeat_it(runs: list[Path], fsgen_: Command) -> None:
    run, critic = runs
    words = ["--critic", critic, "--ways", 3, "--shots", 1, 4, "--samples", 3, "--episodes", 6, "--seed", 2, *DATA]
    status, out, err = fsgen_("quality", run, *words)
    assert (status, err) == (0, "")
    assert f"{run}: samples beside images, by critic; glyphs test, 6 episodes of 3 classes, 3 samples a class" in out
    images = load_images("glyphs", "test", **GLYPHS)
    records = read_results(run / "results.jsonl", "quality")
    for record, shots in zip(records, (1, 4), strict=True):
        sampler = EpisodeSampler(images, ways=3, shots=shots, queries=3, seed=2)
        assert (record["shots"], record["samples"], record["list_digest"]) == (shots, 3, sampler.digest(6))
        for row, folder in ((record, run), (record["critic"], critic)):
            assert row["run"] == folder.name
            assert row["weights_sha256"] == hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
        assert record["critic"]["model"]["name"] == "prototypical-network"
        assert record["data"] == {"name": "glyphs", "options": GLYPHS, "split": "test", "digest": images.digest}
        assert record["provenance"]["command"]
        assert f"{record['shots']:5d} {record['recognizability']['mean']:10.1%}" in out
    assert fsgen_("quality", run, *words)[0] == 0
    again = read_results(run / "results.jsonl", "quality")
    assert [{**r, "provenance": None} for r in again] == [{**r, "provenance": None} for r in records]


def test_the_table_holds_each_model_beside_the_images(runs: list[Path], fsgen_: Command) -> None:
    run, critic = runs
    words = ["--critic", critic, "--ways", 2, "--samples", 2, "--episodes", 4, *DATA]
    assert fsgen_("quality", run, "--shots", 1, 3, *words)[0] == 0
    records = read_results(run / "results.jsonl", "quality")
    rows = [row.split(" | ") for row in quality_table(records).splitlines()]
    assert [row[0] for row in rows[2:]] == ["| pixels-apart", "| pixels-apart", "| *the images*", "| *the images*"]
    assert [row[1] for row in rows[2:]] == ["2-way 1-shot", "2-way 3-shot"] * 2
    first = records[0]
    half = 50 * (first["recognizability"]["high"] - first["recognizability"]["low"])
    assert rows[2][2] == f"{100 * first['recognizability']['mean']:.1f} ± {half:.1f}"
    assert rows[2][3].startswith(f"{first['diversity']['mean']:.2f} ± ")
    assert rows[4][2].startswith(f"{100 * first['real_recognizability']['mean']:.1f} ± ")
    assert rows[4][3:] == ["1", "1 |"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--samples 1", "--samples is 1; give 2 or more"),
        ("--budget 0", "--budget is 0"),
        ("--threads -1", "--threads is -1"),
        ("--episodes 1", "1 episodes; give 2 or more"),
        ("--ways 1", "2 ways, 1 shot and 2 samples"),
        ("--shots 0", "2 ways, 1 shot and 2 samples"),
        ("--shots 7 --samples 5", "hold fewer"),
        ("--critic {run}", "holds a generative model; name the folder of a learner"),
        ("--data-options.size=16", "knows images of [1, 12, 12]"),
        ("--critic {run}-not", "no run folder"),
    ],
)
def test_wrong_input_is_one_line(words: str, said: str, runs: list[Path], fsgen_: Command) -> None:
    run, critic = runs
    given = ["--critic", critic, "--ways", 2, "--samples", 2, "--episodes", 3, *DATA, *words.format(run=run).split()]
    answer = fsgen_("quality", run, *given)
    refusal(answer, said, status=answer[0])
    assert answer[0] in (1, 2)
    assert not (run / "results.jsonl").exists()


def test_a_learner_is_no_model_of_images(runs: list[Path], fsgen_: Command) -> None:
    refusal(fsgen_("quality", runs[1], "--critic", runs[1], *DATA), "holds a learner")
    refusal(fsgen_("quality", runs[0], *DATA), "critic is required")
