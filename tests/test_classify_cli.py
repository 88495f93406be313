"""fsgen classify: its lines, its table, and its refusals."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Command, refusal
from tiny import strokes

from fsgen.data.sampler import EpisodeSampler
from fsgen.data.sources import load_images
from fsgen.registry import SOURCES, build
from fsgen.report.tables import classification_table, read_results
from fsgen.run import Run

pytestmark = pytest.mark.usefixtures("as_a_user")
GLYPHS = {"alphabets": 6, "characters": 5, "drawers": 5, "size": 12}
DATA = ["--data", "glyphs", *[f"--data-options.{key}={value}" for key, value in GLYPHS.items()]]


@pytest.fixture(autouse=True)
def strokes_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(SOURCES.members, "strokes", strokes)
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setenv("FSGEN_DATA", str(tmp_path / "no-data"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A model of pixels apart, which classifies without any training."""
    build("beta-bernoulli", event_shape=(1, 12, 12), strength=0.5).save(tmp_path / "pixels-apart")
    return tmp_path / "pixels-apart"


def test_glyphs_are_classified_by_both_tasks(run: Path, fsgen_: Command) -> None:
    words = ["--ways", 2, 4, "--shots", 1, 3, "--episodes", 20, "--queries", 2, "--seed", 3, "--quiet"]
    images = load_images("glyphs", "test", **GLYPHS)
    for task in ("random", "alphabet"):
        status, out, err = fsgen_("classify", run, *DATA, *words, "--task", task)
        assert (status, err) == (0, "")
        assert f"{run}: accuracy by likelihood, K = 100; glyphs test, {task} classes, 20 episodes" in out
        records = Run.open(run).records("results")[-4:]
        assert [(r["ways"], r["shots"]) for r in records] == [(2, 1), (2, 3), (4, 1), (4, 3)]
        for r in records:
            span = f"{r['low']:.1%} to {r['high']:.1%}"
            assert f"{r['ways']:5d} {r['shots']:5d} {r['accuracy']:8.1%} {span:>17} {1 / r['ways']:7.1%}" in out
            sampler = EpisodeSampler(
                images, ways=r["ways"], shots=r["shots"], queries=2, grouped=task == "alphabet", seed=3
            )
            assert r["list_digest"] == sampler.digest(20)
            assert r["data"] == {"name": "glyphs", "options": GLYPHS, "split": "test", "digest": images.digest}
            expected = {"kind": "classification", "run": run.name, "task": task, "protocol": "strict", "queries": 2}
            assert {key: r[key] for key in expected} == expected
            assert (r["model"]["name"], r["classifier"]["name"]) == ("beta-bernoulli", "likelihood")
            assert len(r["weights_sha256"]) == 64
            assert r["provenance"]["fsgen"]
            assert len(r["per_episode"]) == 20
            assert np.mean(r["per_episode"]) == pytest.approx(r["accuracy"], abs=1e-4)
            assert sum(b["queries"] for b in r["bins"]) == 20 * 2 * r["ways"]
        assert records[-1]["accuracy"] > 0.5


def test_the_same_command_gives_the_same_line(run: Path, tmp_path: Path, fsgen_: Command) -> None:
    words = ["--ways", 3, "--shots", 2, "--episodes", 6, "--quiet", "--out", tmp_path / "r.jsonl"]
    for _ in range(2):
        assert fsgen_("classify", run, *DATA, *words)[0] == 0
    first, second = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert first.pop("provenance")["command"] == second.pop("provenance")["command"]
    assert first == second
    assert not (run / "results.jsonl").exists()


def test_a_baseline_needs_no_run(tmp_path: Path, fsgen_: Command) -> None:
    out = tmp_path / "r.jsonl"
    words = ["--ways", 3, "--shots", 2, "--episodes", 10, "--quiet", "--out", out, *DATA]
    options = ["--classifier", "kernel-density", "--classifier-options.bandwidth=0.1"]
    status, said, _ = fsgen_("classify", *options, *words)
    assert status == 0
    assert said.startswith("kernel-density: accuracy by kernel-density; glyphs test, random classes")
    (record,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert record["classifier"] == {"name": "kernel-density", "options": {"bandwidth": 0.1}}
    assert (record["run"], record["model"], record["weights_sha256"]) == (None, None, None)


def test_a_source_of_few_classes_shows_its_confusions(tmp_path: Path, fsgen_: Command) -> None:
    words = ["--ways", 8, "--shots", 1, "--episodes", 5, "--quiet", "--out", tmp_path / "r.jsonl"]
    status, said, _ = fsgen_("classify", "--classifier", "pixel-neighbours", "--data", "strokes", *words)
    assert status == 0
    assert "answers in percent of the true class, 8 ways, 1 shots" in said
    (record,) = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert np.array(record["confusion"]).sum(1).tolist() == [5] * 8
    assert record["names"] == [f"test/{c:03d}" for c in range(8)]


def test_likelihoods_and_accuracies_share_a_file(run: Path, fsgen_: Command) -> None:
    classes = ["--ways", 2, "--shots", 1, "--episodes", 4, "--quiet", *DATA]
    scored = ["--shots", 1, "--length", 4, "--sets", 4, "--quiet", *DATA]
    assert fsgen_("classify", run, *classes)[0] == 0
    refusal(fsgen_("evaluate", run, *scored, "--out", run.parent / "r.jsonl", "--against", run), "holds no scores")
    assert fsgen_("evaluate", run, *scored)[0] == 0
    assert fsgen_("evaluate", run, *scored, "--against", run)[0] == 0
    file = run / "results.jsonl"
    assert {r["kind"] for r in read_results(file)} == {"likelihood"}
    (record,) = read_results(file, "classification")
    shown = f"{100 * record['accuracy']:.1f} ± {50 * (record['high'] - record['low']):.1f}"
    printed = {"rows": [{"model": "A", "method": "cosine", "2way_1shot": 98.1}, {"model": "B", "method": "x"}]}
    assert classification_table([record], printed).splitlines() == [
        "| model | by | classes | 2-way 1-shot |",
        "|---|---|---|---:|",
        f"| pixels-apart | likelihood | glyphs, random | {shown} |",
        "| *A (printed)* | cosine | Omniglot, random | 98.1 |",
    ]


WRONG: list[tuple[list[Any], list[str]]] = [
    (["nowhere"], ["nowhere is no run folder"]),
    (["RUN"], ["name a data source with --data"]),
    ([], ["without a RUN", "--data", "--out"]),
    ([*DATA, "--out", "r.jsonl"], ["classifier 'likelihood' reads a model", "fsgen classify RUN"]),
    (["RUN", *DATA, "--classifier", "cosin"], ["no classifier 'cosin'", "Did you mean 'cosine'?"]),
    (["RUN", *DATA, "--classifier", "cosine"], ["infers no latent z", "give a model that does"]),
    (["RUN", *DATA, "--classifier", "context"], ["has no normal latent c"]),
    (["RUN", *DATA, "--classifier-options.marign=3"], ["no option 'marign'", "'margin'"]),
    (["RUN", *DATA, "--classifier-options.margin=wide"], ["margin is wide; give a number"]),
    (["RUN", *DATA, "--classifier-options.margin=-1"], ["margin -1"]),
    (["RUN", *DATA, "--task", "alphabets"], ["no task 'alphabets'. Known: random, alphabet"]),
    (["RUN", *DATA, "--task", "alphabet", "--ways", 6, "--shots", 1], ["holds 5 usable classes, an episode 6"]),
    (["RUN", *DATA, "--ways", 99, "--shots", 1], ["10 classes", "99 ways"]),
    (["RUN", *DATA, "--ways", 2, "--shots", 5], ["needs 6 images a class", "(5)"]),
    (["RUN", *DATA, "--ways", 1, "--shots", 1], ["2 ways or more"]),
    (["RUN", *DATA, "--ways", 2, "--shots", 0], ["1 shot or more"]),
    (["RUN", *DATA, "--ways", 2, "--shots", 1, "--episodes", 1], ["give 2 or more"]),
    (["RUN", *DATA, "--ways", 2, "--shots", 1, "--queries", 0], ["queries is 0"]),
    (["RUN", *DATA, "--particles", 0], ["particles 0"]),
    (["RUN", *DATA, "--budget", 0], ["budget 0"]),
    (["RUN", *DATA, "--threads", -1], ["--threads is -1"]),
    (["RUN", *DATA, "--split", "tset"], ["no split 'tset'"]),
    (["RUN", "--data", "strokes"], ["knows images of [1, 12, 12]"]),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=lambda value: " ".join(map(str, value)))
def test_wrong_input_is_refused_in_one_line(
    words: list[Any],
    said: list[str],
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fsgen_: Command,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    refusal(fsgen_("classify", *[run if word == "RUN" else word for word in words]), *said)
    assert sorted(tmp_path.rglob("*")) == before
