"""The commands, from a first run without files to every kind of wrong input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Command, refusal
from PIL import Image
from tiny import config, flags, picture_folder, strokes

import fsgen
from fsgen import storage
from fsgen.cli import COMMANDS, main
from fsgen.data import files
from fsgen.data.sampler import EpisodeSampler
from fsgen.data.sources import load_images
from fsgen.model import load
from fsgen.registry import MODELS, SOURCES, build
from fsgen.run import Run

pytestmark = pytest.mark.usefixtures("as_a_user")
ROOT = Path(__file__).resolve().parents[1]
GLYPHS = {"alphabets": 6, "characters": 4, "drawers": 6, "size": 12}


@pytest.fixture(autouse=True)
def strokes_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(SOURCES.members, "strokes", strokes)
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setenv("FSGEN_DATA", str(tmp_path / "no-data"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on strokes: a folder that tests read and do not write."""
    path = tmp_path_factory.mktemp("runs") / "strokes"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SOURCES.members, "strokes", strokes)
        assert main(["train", "--out", str(path), "--quiet", *flags(config("beta-bernoulli"))]) == 0
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option(command: str, fsgen_: Command) -> None:
    status, out, err = fsgen_(command, "--help")
    assert (status, err) == (0, "")
    assert f"usage: fsgen {command}" in out
    if command == "train":
        assert "--optimiser.learning_rate" in out
        assert "Ctrl-C (or SIGTERM) saves a checkpoint" in " ".join(out.split())


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_usage_lists_the_commands(words: list[str], fsgen_: Command) -> None:
    status, out, _ = fsgen_(*words)
    assert status == 0
    assert all(f"  {name}" in out for name in COMMANDS)
    assert fsgen_() == (2, out, "")
    assert fsgen_("--version") == (0, f"fsgen {fsgen.__version__}\n", "")


def test_models_and_sources_are_listed_and_explained(fsgen_: Command) -> None:
    _, models, _ = fsgen_("models")
    _, sources, _ = fsgen_("data")
    assert all(name in models and entry.summary in models for name, entry in MODELS.catalogue().items())
    assert all(name in sources and entry.summary in sources for name, entry in SOURCES.catalogue().items())
    status, one, _ = fsgen_("models", "gmn")
    assert status == 0
    assert "dim_z = 50" in one
    assert "Presets (--model.preset): paper" in one


def test_a_first_run_from_training_to_samples(tmp_path: Path, fsgen_: Command) -> None:
    run, data = tmp_path / "first", [f"--data.options.{key}={value}" for key, value in GLYPHS.items()]
    small = ["--episodes.length=4", "--episodes.batch=2", "--validation.every=2", "--validation.sets=2", "--threads=1"]
    model = ["--model.name=vae", "--model.options={dim_z: 2, channels: [4], dim_features: 6}"]
    status, out, err = fsgen_("train", "--out", run, "--steps=4", *small, *model, *data)
    assert status == 0
    assert out.startswith(f"{run}: finished at step 4 of 4, best validation ")
    assert "step 4/4" in err
    assert (run / "tensorboard").is_dir()

    scored = ["--classes", 1, 2, "--shots", 0, 3, "--length", 6, "--sets", 5, "--particles", 7, "--seed", 3]
    status, out, err = fsgen_("evaluate", run, *scored, "--quiet")
    assert (status, err) == (0, "")
    assert "NLL in nats per image" in out
    assert "importance-weighted bound, K = 7" in out
    *records, one, two = Run.open(run).records("results")
    assert [(r["ways"], r["shots"]) for r in records] == [(1, 0), (1, 3), (2, 0), (2, 3)]
    assert [(r["kind"], r["list_digest"]) for r in (one, two)] == [
        ("covariates", r["list_digest"]) for r in (records[0], records[2])
    ]
    images = load_images("glyphs", "test", **GLYPHS)
    for record in records:
        assert f"{record['ways']:7d} {record['shots']:5d} {record['nats']:8.2f} {record['se']:8.2f}" in out
        listed = EpisodeSampler(images, ways=record["ways"], length=6, seed=3).digest(5)
        assert record["list_digest"] == listed
        assert record["data"] == {"name": "glyphs", "options": GLYPHS, "split": "test", "digest": images.digest}
        expected = {"protocol": "strict", "particles": 7, "sets": 5, "seed": 3, "exact": False, "run": "first"}
        assert {key: record[key] for key in expected} == expected
        assert 0 < record["ess_min"] <= record["ess"] <= 1
        assert len(record["per_set"]) == 5
        assert np.mean(record["per_set"]) == pytest.approx(record["nats"], abs=1e-4)
        assert record["provenance"]["fsgen"]
        assert record["model"]["name"] == "vae"

    status, out, _ = fsgen_("sample", run, "--data", "glyphs", "--sets", 2, "--num", 5, "--out", tmp_path / "a.png")
    assert (status, out) == (0, f"{tmp_path}/a.png: 5 samples after 5 shots, 2 rows\n")
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size[0] > 10 * 3 * 12
    status, out, _ = fsgen_("data", "glyphs", *[f"--options.{key}={value}" for key, value in GLYPHS.items()])
    assert status == 0
    held = "test            48 images of [1, 12, 12], 2 levels, 8 classes of 6-6 images in 2 groups"
    assert f"{held}, sha256 {images.digest[:16]}" in out


def test_a_folder_of_pictures_from_check_to_samples(tmp_path: Path, fsgen_: Command) -> None:
    folder, run = picture_folder(tmp_path / "own pictures é"), tmp_path / "run"
    options = [f"--data.options.path={folder}", "--data.options.mode=binary", "--data.options.validation=0.25"]
    status, out, _ = fsgen_(
        "data", "folder", f"--options.path={folder}", "--options.mode=binary", "--out", tmp_path / "p.png"
    )
    assert status == 0
    assert f"page: {tmp_path / 'p.png'}" in out
    settings = flags(config("beta-bernoulli"))
    chosen = [word for word in settings if not word.startswith("--data.")]
    assert fsgen_("train", "--out", run, "--quiet", "--data.name=folder", *options, *chosen)[0] == 0
    inked = [str(path) for path in sorted(folder.rglob("*.png")) if b"\xff" in np.asarray(Image.open(path)).tobytes()]
    drawing = ["sample", run, "--support", *inked[:3], "--ink", "light", "--num", 3, "--out"]
    status, out, _ = fsgen_(*drawing, tmp_path / "s" / "a.npy")
    assert (status, out) == (0, f"{tmp_path}/s/a.npy: 3 samples after 3 shots, 1 row\n")
    drawn = np.load(tmp_path / "s" / "a.npy")
    assert drawn.shape == (1, 3, 1, 4, 4)
    assert set(np.unique(drawn)) <= {0.0, 1.0}
    fsgen_(*drawing, tmp_path / "b.npy")
    assert np.array_equal(drawn, np.load(tmp_path / "b.npy"))
    assert fsgen_("evaluate", run, "--shots", 1, "--length", 4, "--sets", 3, "--quiet")[0] == 0


def test_samples_without_support(trained: Path, tmp_path: Path, fsgen_: Command) -> None:
    words = ["--num", 5, "--columns", 2, "--out", tmp_path / "a.webp"]
    status, out, _ = fsgen_("sample", trained, *words)
    assert (status, out) == (0, f"{tmp_path}/a.webp: 5 samples after 0 shots, 1 row\n")


def test_runs_are_compared_set_by_set(trained: Path, tmp_path: Path, fsgen_: Command) -> None:
    other = tmp_path / "other"
    assert fsgen_("train", "--out", other, "--quiet", *flags(config("beta-bernoulli", seed=1, steps=40)))[0] == 0
    scored = ["--shots", 0, 2, "--length", 4, "--sets", 9, "--quiet", "--data-root", tmp_path]
    mine = ["evaluate", trained, "--out", tmp_path / "mine.jsonl", *scored]
    refusal(fsgen_(*mine, "--against", other), f"{other}/results.jsonl", "evaluate it with the same options first")
    assert fsgen_("evaluate", other, *scored)[0] == 0
    status, out, _ = fsgen_(*mine, "--against", other)
    assert status == 0
    ours = [json.loads(line) for line in (tmp_path / "mine.jsonl").read_text().splitlines()][-2:]
    theirs = [record for record in Run.open(other).records("results") if record["kind"] == "likelihood"]
    for us, them in zip(ours, theirs, strict=True):
        assert us["list_digest"] == them["list_digest"]
        gaps = np.subtract(us["per_set"], them["per_set"])
        assert f"{1:7d} {us['shots']:5d} {gaps.mean():+8.2f} {gaps.std(ddof=1) / 3:8.2f}" in out
    different = ["--seed", 1, "--against", other]
    refusal(fsgen_(*mine, *different), "holds no scores of these sets")


def test_the_published_protocol_prints_repeated_targets_apart(trained: Path, tmp_path: Path, fsgen_: Command) -> None:
    words = ["--protocol", "published", "--shots", 0, 7, "--length", 8, "--sets", 20, "--quiet"]
    status, out, _ = fsgen_("evaluate", trained, *words, "--out", tmp_path / "r.jsonl")
    assert status == 0
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    first, last = [line for line in lines if line["kind"] == "likelihood"]
    assert "unrepeated        repeated" in out
    assert first["repeated"]["sets"] == 0
    assert last["repeated"]["sets"] + last["unrepeated"]["sets"] == 20
    assert f"{last['unrepeated']['nats']:.2f} ({last['unrepeated']['sets']})" in out
    assert "- (0)" in out


WRONG: list[tuple[list[Any], list[str]]] = [
    (["trian"], ["no command 'trian'", "Did you mean 'train'?"]),
    (["models", "gnm"], ["no model 'gnm'", "Did you mean 'gmn'?"]),
    (["data", "glyps"], ["no data source 'glyps'", "Did you mean 'glyphs'?"]),
    (["data", "glyphs", "--options.sise", 9], ["no option 'sise'", "'size'"]),
    (["data", "glyphs", "--options.size", "x"], ["data source 'glyphs': size is x; give a whole number"]),
    (["data", "glyphs", "--split", "tset", "--out", "a.png"], ["no split 'tset'", "'test'"]),
    (["data", "strokes", "--out", "a.xyz"], ["a.xyz", ".png"]),
    (["data", "folder", "--options.path", 5], ["folder", "5"]),
    (["evaluate", "nowhere"], ["nowhere is no run folder", "fsgen train"]),
    (["sample", "nowhere"], ["nowhere is no run folder", "fsgen train"]),
    (["evaluate", "RUN", "--length", 8, "--shots", 8], ["shots [8]", "0 to 7"]),
    (["evaluate", "RUN", "--length", 30, "--shots", 1], ["30 images a class", "'test/000' (8)"]),
    (["evaluate", "RUN", "--sets", 1, "--length", 4, "--shots", 1], ["give 2 sets"]),
    (["evaluate", "RUN", "--sets", "few"], ["sets is few; give a whole number"]),
    (["evaluate", "RUN", "--sets", "null"], ["sets"]),
    (["evaluate", "RUN", "--split", "tset"], ["no split 'tset'"]),
    (["evaluate", "RUN", "--protocol", "stric"], ["no protocol 'stric'", "strict, published"]),
    (["evaluate", "RUN", "--classes", 0], ["ways is 0"]),
    (["evaluate", "RUN", "--classes", 99, "--length", 4, "--shots", 1], ["8 classes", "99 ways"]),
    (["evaluate", "RUN", "--budget", 0], ["--budget is 0"]),
    (["evaluate", "RUN", "--threads", -1], ["--threads is -1"]),
    (["evaluate", "RUN", "--seed", -1, "--length", 4, "--shots", 1], ["seed is -1"]),
    (["evaluate", "RUN", "--data", "stroks"], ["no data source 'stroks'"]),
    (["evaluate", "RUN", "--data", "glyphs"], ["knows images of [1, 4, 4]", "[1, 28, 28]", "--data"]),
    (["evaluate", "RUN", "--data-options.clases", 3], ["no option 'clases'"]),
    (["evaluate", "RUN", "--shot", 3], ["no option 'shot'", "Did you mean 'shots'?"]),
    (["sample", "RUN", "--num", 0], ["--num is 0"]),
    (["sample", "RUN", "--shots", -1], ["--shots is -1"]),
    (["sample", "RUN", "--seed", -1], ["--seed is -1"]),
    (["sample", "RUN", "--data", "strokes", "--shots", 8], ["9 images a class", "(8)"]),
    (["sample", "RUN", "--data", "strokes", "--support", "a.png"], ["--support and --data", "give one"]),
    (["sample", "RUN", "--support", "absent.png"], ["absent.png: no such file"]),
    (["sample", "RUN", "--support", "text.png"], ["text.png: no PNG"]),
    (["sample", "RUN", "--support", "torn.png"], ["torn.png"]),
    (["sample", "RUN", "--support", "empty"], ["empty holds no picture"]),
    (["sample", "RUN", "--support", "torn.png", "--ink", "blue"], ["no ink 'blue'", "auto, dark, light"]),
    (["sample", "RUN", "--out", "samples.xyz"], ["samples.xyz", ".npy"]),
    (["sample", "RUN", "--out", "samples"], ["samples", ".png"]),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), WRONG, ids=lambda value: " ".join(map(str, value)))
def test_wrong_input_is_refused_in_one_line(
    words: list[Any], said: list[str], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsgen_: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bad_pictures(tmp_path)
    before = sorted(path.name for path in trained.rglob("*"))
    refusal(fsgen_(*[trained if word == "RUN" else word for word in words]), *said)
    assert sorted(path.name for path in trained.rglob("*")) == before


def write_bad_pictures(folder: Path) -> None:
    (folder / "empty").mkdir(parents=True)
    (folder / "text.png").write_text("a picture, they said")
    Image.fromarray(np.full((40, 40), 255, np.uint8)).save(folder / "torn.png")
    (folder / "torn.png").write_bytes((folder / "torn.png").read_bytes()[:60])


def test_everything_wrong_with_a_folder_is_listed_before_training(tmp_path: Path, fsgen_: Command) -> None:
    folder = picture_folder(tmp_path / "pictures")
    write_bad_pictures(folder / "class00")
    (folder / "class01" / "a" / "b" / "c").mkdir(parents=True)
    (folder / "empty").mkdir()
    status, out, err = fsgen_("data", "folder", f"--options.path={folder}")
    bad = ["class00", "class01", "empty holds no picture"]
    assert status == 2
    assert [words for words in bad if words not in out] == []
    assert (
        err
        == f"fsgen data: {folder}: {len(out.splitlines()) - 1} problems, listed above; mend or remove these files.\n"
    )
    status, out, err = fsgen_("train", "--out", tmp_path / "run", "--data.name=folder", f"--data.options.path={folder}")
    assert (status, out) == (2, "")
    assert [words for words in bad if words not in err] == []
    assert not (tmp_path / "run").exists()
    assert "Traceback" not in err


@pytest.mark.parametrize("broken", ["torn", "text"])
def test_a_broken_picture_is_found_before_training(broken: str, tmp_path: Path, fsgen_: Command) -> None:
    folder = picture_folder(tmp_path / "pictures")
    write_bad_pictures(tmp_path / "bad")
    (tmp_path / "bad" / f"{broken}.png").rename(folder / "class03" / "broken.png")
    status, _, err = fsgen_("train", "--out", tmp_path / "run", "--data.name=folder", f"--data.options.path={folder}")
    assert status == 2
    assert "class03/broken.png" in err
    assert not (tmp_path / "run").exists()


def test_grey_pictures_for_a_binary_model_are_refused(tmp_path: Path, fsgen_: Command) -> None:
    words = [f"--data.options.path={picture_folder(tmp_path / 'held')}", "--data.name=folder", "--episodes.ways=[1]"]
    answer = fsgen_("train", "--out", tmp_path / "run", *words, "--model.name=beta-bernoulli", "--episodes.length=4")
    refusal(answer, "256", "--data.options.mode binary", "knows both", "gmn, ", "vae")


def test_missing_and_altered_data_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsgen_: Command
) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> Any:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(files, "urlopen", unreachable)
    words = ["train", "--out", tmp_path / "run", "--data.name=omniglot28", f"--data.root={tmp_path}"]
    refusal(fsgen_(*words), f"{tmp_path}/gmn/train_small.npz is missing", "no network", "put the file there yourself")
    (tmp_path / "gmn").mkdir(exist_ok=True)
    (tmp_path / "gmn" / "train_small.npz").write_bytes(b"something else")
    refusal(fsgen_(*words), "train_small.npz is altered", "delete it")
    refusal(fsgen_("data", "omniglot28", "--root", tmp_path), "train_small.npz is altered")


def test_classes_with_too_few_images_are_named(tmp_path: Path, fsgen_: Command) -> None:
    words = [*flags(config(episodes={"length": 9})), "--out", tmp_path / "run"]
    refusal(fsgen_("train", *words), "9 images a class", "'train/000' (8)", "and 3 more", "--episodes.small skip")


@pytest.mark.parametrize("kind", ["a file", "a folder of something else", "another run"])
def test_training_never_touches_what_is_there(kind: str, trained: Path, tmp_path: Path, fsgen_: Command) -> None:
    out = {"a file": tmp_path / "file", "another run": trained}.get(kind, tmp_path / "folder")
    if kind == "a file":
        out.touch()
    elif kind != "another run":
        (out / "thesis").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    for resume in ([], ["--resume"]):
        if not (resume and kind == "another run"):
            refusal(fsgen_("train", "--out", out, *flags(config()), *resume), str(out), "hoose another --out")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["evaluate", "sample"])
def test_torn_weights_and_other_folders_are_refused(command: str, tmp_path: Path, fsgen_: Command) -> None:
    run = tmp_path / "run"
    build("beta-bernoulli", event_shape=(1, 4, 4)).save(run)
    data = ["--data", "strokes", "--length", "4", "--shots", "1"] if command == "evaluate" else []
    weights = run / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    refusal(fsgen_(command, run, *data), f"{weights} is altered", "Restore it from a copy")
    weights.unlink()
    refusal(fsgen_(command, run, *data), f"{weights} is missing")
    (run / storage.MANIFEST).unlink()
    refusal(fsgen_(command, run, *data), f"{run} is no run folder", "MANIFEST.json")


def test_a_saved_model_is_evaluated_once_its_data_are_named(tmp_path: Path, fsgen_: Command) -> None:
    build("beta-bernoulli", event_shape=(1, 4, 4)).save(tmp_path / "model")
    words = ["--length", 4, "--shots", 1, "--sets", 3, "--quiet"]
    refusal(fsgen_("evaluate", tmp_path / "model", *words), "name a data source with --data")
    assert fsgen_("evaluate", tmp_path / "model", *words, "--data", "strokes")[0] == 0
    assert load(tmp_path / "model").event_shape == (1, 4, 4)


@pytest.mark.parametrize("words", [["sample", "RUN", "--out", "full/a.png"], ["sample", "RUN", "--out", "full/a.npy"],
                                   ["data", "strokes", "--out", "full/a.png"]])  # fmt: skip
def test_a_full_disk_is_said(
    words: list[str], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsgen_: Command
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Image.Image, "save", full)
    monkeypatch.setattr(np, "save", full)
    answer = fsgen_(*[trained if word == "RUN" else word for word in words])
    refusal(answer, words[-1], "disk full", "choose another --out", status=74)


def test_results_that_cannot_be_written_are_said(trained: Path, tmp_path: Path, fsgen_: Command) -> None:
    words = ["--length", 4, "--shots", 1, "--sets", 3, "--quiet", "--out", tmp_path / "absent" / "r.jsonl"]
    refusal(fsgen_("evaluate", trained, *words), "r.jsonl", "no such folder")


def test_the_installed_program_exits_as_it_says(tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path}
        command = [sys.executable, "-m", "fsgen", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)

    assert run("models").returncode == 0
    wrong = run("evaluate", "nowhere")
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (2, "", 1)


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        [sys.executable, "-m", "fsgen", "models"], stdout=writer, stderr=subprocess.PIPE, env=environment, cwd=tmp_path
    ) as program:
        os.close(writer)
        _, err = program.communicate(timeout=120)
    assert (program.returncode, err) == (141, b"")
