"""A run survives the death of its trainer at any point, and refuses what is not its own."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from crashes import crashes, scraps
from torch import Tensor

from fsgen import storage
from fsgen.errors import CheckpointError, StorageError
from fsgen.run import CONFIG, STATE, WEIGHTS, Run

CONFIG_OF_MODEL = {"model": {"name": "vae", "options": {"event_shape": [1, 2, 2]}}, "steps": 10, "rate": 1e-3}


def weights(step: int) -> dict[str, Tensor]:
    return {"a": torch.full((2, 3), float(step)), "b": torch.arange(3)}


def state(step: int) -> dict[str, Any]:
    return {"adam": {0: torch.full((4,), step / 7)}, "seen": step}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", CONFIG_OF_MODEL)


@pytest.fixture
def saved(run: Run) -> Run:
    """A run with checkpoints of steps 10 and 20."""
    for step in (10, 20):
        run.save_checkpoint(step, weights(step), state(step))
    return run


def step_of(path: Path) -> int:
    """Step of the checkpoint that loads, once its content is found to be that step's."""
    checkpoint = Run.open(path).load_checkpoint()
    assert checkpoint is not None
    assert torch.equal(checkpoint.weights["a"], weights(checkpoint.step)["a"])
    assert torch.equal(checkpoint.state["adam"][0], state(checkpoint.step)["adam"][0])
    assert checkpoint.skipped == ()
    return checkpoint.step


def names(run: Run) -> set[str]:
    return {path.name for path in (run.path / "checkpoints").iterdir()}


# The folder


def test_a_run_opens_as_it_was_created(tmp_path: Path) -> None:
    created = Run.create(tmp_path / "deep" / "run", CONFIG_OF_MODEL)
    assert created == Run.open(tmp_path / "deep" / "run")
    assert created.config == CONFIG_OF_MODEL
    assert yaml.safe_load((created.path / CONFIG).read_text(encoding="utf-8")) == CONFIG_OF_MODEL


def test_a_config_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a config is numbers"):
        Run.create(tmp_path / "run", {"path": tmp_path})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (["photo.png"], "is no run folder and not empty: it holds photo.png. Choose another --out"),
        (list("abcde"), "it holds a, b, c and 2 more"),
        ([CONFIG], f"it holds {CONFIG}"),
        ([storage.MANIFEST, WEIGHTS], f"it holds {WEIGHTS}"),
    ],
)
def test_a_folder_of_other_things_is_left_alone(tmp_path: Path, held: list[str], words: str) -> None:
    for name in held:
        (tmp_path / name).write_text("mine")
    with pytest.raises(CheckpointError, match=words):
        Run.create(tmp_path, CONFIG_OF_MODEL)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(held, "mine")


def test_a_run_is_not_created_over_another_or_over_a_file(run: Run) -> None:
    with pytest.raises(CheckpointError, match=r"holds a run already. Continue it with --resume, or choose"):
        Run.create(run.path, {})
    with pytest.raises(CheckpointError, match="is no folder"):
        Run.create(run.path / CONFIG, {})
    assert Run.open(run.path).config == CONFIG_OF_MODEL


def test_a_creation_that_died_is_a_run_or_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    opened = []
    for place in crashes(tmp_path / "t", lambda place: Run.create(place / "run", CONFIG_OF_MODEL)):
        try:
            found = Run.open(place / "run")
            opened.append(True)
        except CheckpointError:
            found = Run.create(place / "run", CONFIG_OF_MODEL)
            opened.append(False)
        assert Run.open(place / "run").config == found.config == CONFIG_OF_MODEL
        with found.lock():
            assert scraps(place / "run") == []
    assert len(opened) > 20
    assert set(opened) == {False, True}


def test_of_several_creators_at_once_one_wins_and_the_run_is_whole(tmp_path: Path) -> None:
    start = time.time() + 0.3
    pids = []
    for number in range(6):
        pids.append(os.fork())
        if pids[-1] == 0:
            time.sleep(max(0.0, start - time.time()))
            try:
                Run.create(tmp_path / "run", {"number": number})
                os._exit(50)
            except CheckpointError:
                os._exit(51)
            finally:
                os._exit(1)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert sorted(statuses) == [50, 51, 51, 51, 51, 51]
    assert Run.open(tmp_path / "run").config == {"number": statuses.index(50)}


def test_a_run_that_another_process_creates_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(folder: Path) -> None:
        monkeypatch.undo()
        Run.create(tmp_path / "run", {"number": 1})

    monkeypatch.setattr(storage, "sync_folder", other)
    with pytest.raises(CheckpointError, match="holds a run already"):
        Run.create(tmp_path / "run", {"number": 2})
    assert Run.open(tmp_path / "run").config == {"number": 1}


@pytest.mark.parametrize(
    ("remove", "words"),
    [(storage.MANIFEST, f"it lacks {storage.MANIFEST}"), (CONFIG, f"it lacks {CONFIG}"), ("", "no such folder")],
)
def test_what_a_folder_lacks_to_be_a_run_is_named(run: Run, remove: str, words: str) -> None:
    shutil.rmtree(run.path) if not remove else (run.path / remove).unlink()
    with pytest.raises(CheckpointError, match=f"is no run folder: .*{words}"):
        Run.open(run.path)


def test_an_altered_config_is_refused(run: Run) -> None:
    (run.path / CONFIG).write_bytes((run.path / CONFIG).read_bytes().replace(b"10", b"11"))
    with pytest.raises(CheckpointError, match=r"config.yaml is altered"):
        Run.open(run.path)


# Weights


def test_weights_come_back_and_are_replaced(run: Run) -> None:
    with pytest.raises(CheckpointError, match=r"has no weights.safetensors yet. Train it"):
        run.load_weights()
    for step in (1, 2):
        run.save_weights(weights(step))
        assert torch.equal(run.load_weights()["a"], weights(step)["a"])


def test_weights_are_old_or_new_wherever_the_trainer_dies(run: Run) -> None:
    run.save_weights(weights(1))
    found = [
        Run.open(place).load_weights()["a"][0, 0].item()
        for place in crashes(run.path, lambda place: Run.open(place).save_weights(weights(2)))
    ]
    assert sorted(found) == found
    assert set(found) == {1.0, 2.0}


def test_weights_of_another_run_are_refused(run: Run, tmp_path: Path) -> None:
    other = Run.create(tmp_path / "other", CONFIG_OF_MODEL)
    run.save_weights(weights(1))
    other.save_weights(weights(2))
    shutil.copy(other.path / WEIGHTS, run.path / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"weights.safetensors is altered"):
        run.load_weights()


# Checkpoints


def test_the_last_two_checkpoints_are_kept(saved: Run) -> None:
    saved.save_checkpoint(30, weights(30), state(30))
    assert names(saved) == {"step-00000020", "step-00000030"}
    assert step_of(saved.path) == 30


def test_steps_of_more_digits_come_after_those_of_fewer(run: Run) -> None:
    for step in (99_999_999, 100_000_000, 100_000_001):
        run.save_checkpoint(step, weights(step), state(step))
    assert names(run) == {"step-100000000", "step-100000001"}
    assert step_of(run.path) == 100_000_001


def test_a_run_without_checkpoints_loads_none(run: Run) -> None:
    assert run.load_checkpoint() is None


@pytest.mark.parametrize("step", [30, 20])
def test_a_checkpoint_loads_wherever_the_trainer_dies(saved: Run, step: int) -> None:
    """At a new step, and at one that is saved again: at most one interval is lost."""
    saved.append("metrics", {"step": 20})
    found = []
    for place in crashes(saved.path, lambda place: Run.open(place).save_checkpoint(step, weights(step), state(step))):
        found.append(step_of(place))
        with Run.open(place).lock():
            assert scraps(place) == []
        Run.open(place).save_checkpoint(step + 10, weights(step + 10), state(step + 10))
        assert step_of(place) == step + 10
        assert len(names(Run.open(place))) == 2
    assert len(found) > 20
    assert set(found) == {20, step}


def test_the_first_checkpoint_saved_again_is_never_gone(run: Run) -> None:
    run.save_checkpoint(10, weights(10), state(10))
    places = list(crashes(run.path, lambda place: Run.open(place).save_checkpoint(10, weights(10), state(10))))
    assert [step_of(place) for place in places] == [10] * len(places)
    assert names(Run.open(places[-1])) == {"step-00000010"}


def test_every_torn_or_flipped_checkpoint_is_skipped_for_the_one_before(saved: Run) -> None:
    draw = random.Random(7)
    folder = saved.path / "checkpoints" / "step-00000020"
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    assert len(whole) == 3
    for trial in range(300):
        path = draw.choice(sorted(whole))
        data = bytearray(whole[path])
        if trial % 2:
            del data[draw.randrange(len(data)) :]
        else:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        checkpoint = saved.load_checkpoint()
        assert checkpoint is not None
        assert (checkpoint.step, len(checkpoint.skipped)) == (10, 1)
        path.write_bytes(whole[path])
    assert "step-00000020" in checkpoint.skipped[0]
    assert step_of(saved.path) == 20


def swap(a: Path, b: Path) -> None:
    a.rename(a.with_name("third"))
    b.rename(a)
    a.with_name("third").rename(b)


SPOILT: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "empty file": (lambda new, old: (new / STATE).write_bytes(b""), "state.pt is altered: .* holds 0 bytes"),
    "no file": (lambda new, old: (new / WEIGHTS).unlink(), "weights.safetensors is missing"),
    "no manifest": (lambda new, old: (new / storage.MANIFEST).unlink(), "MANIFEST.json is missing"),
    "no files": (lambda new, old: [path.unlink() for path in new.iterdir()], "MANIFEST.json is missing"),
    "swapped files": (lambda new, old: swap(new / STATE, new / WEIGHTS), "weights.safetensors is altered"),
    "weights of the other": (lambda new, old: shutil.copy(old / WEIGHTS, new), "weights.safetensors is altered"),
    "state of the other": (lambda new, old: shutil.copy(old / STATE, new), "state.pt is altered"),
    "linked file": (
        lambda new, old: ((new / STATE).rename(new / "s"), (new / STATE).symlink_to("s")),
        "state.pt cannot be read: it is a symbolic link",
    ),
    "linked folder": (lambda new, old: (new.rename(new.parent / "x"), new.symlink_to("x")), "is a symbolic link"),
    "a file": (lambda new, old: (shutil.rmtree(new), new.write_bytes(b"")), "cannot be read"),
    "the other, renamed": (lambda new, old: (shutil.rmtree(new), shutil.copytree(old, new)), "is not of step 20"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_checkpoint_is_skipped_with_a_word(saved: Run, kind: str) -> None:
    spoil, words = SPOILT[kind]
    spoil(saved.path / "checkpoints" / "step-00000020", saved.path / "checkpoints" / "step-00000010")
    checkpoint = saved.load_checkpoint()
    assert checkpoint is not None
    assert checkpoint.step == 10
    (word,) = checkpoint.skipped
    with pytest.raises(CheckpointError, match=words):
        raise CheckpointError(word)


@pytest.mark.parametrize("kind", ["empty file", "no manifest", "swapped files", "the other, renamed"])
def test_training_goes_on_behind_a_spoilt_checkpoint_and_replaces_it(saved: Run, kind: str) -> None:
    SPOILT[kind][0](saved.path / "checkpoints" / "step-00000020", saved.path / "checkpoints" / "step-00000010")
    saved.save_checkpoint(15, weights(15), state(15))
    assert names(saved) == {"step-00000010", "step-00000015"}
    saved.save_checkpoint(20, weights(20), state(20))
    assert step_of(saved.path) == 20


def test_a_run_of_spoilt_checkpoints_does_not_start_anew_in_silence(saved: Run) -> None:
    for folder in (saved.path / "checkpoints").iterdir():
        (folder / STATE).write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"no checkpoint that is whole; the newest: .*step-00000020.*state.pt"):
        saved.load_checkpoint()


def test_a_state_with_a_call_in_it_is_refused_even_where_its_hash_is_right(saved: Run, tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'canary'}",)

    torch.save({"step": 30, "state": Call()}, tmp_path / "state")
    files = {WEIGHTS: storage.tensors_to_bytes(weights(30)), STATE: (tmp_path / "state").read_bytes()}
    storage.write_folder(saved.path / "checkpoints" / "step-00000030", files)
    checkpoint = saved.load_checkpoint()
    assert checkpoint is not None
    assert checkpoint.step == 20
    assert "it asks for 'posix.system'" in checkpoint.skipped[0]
    assert not (tmp_path / "canary").exists()


def test_a_full_disk_leaves_the_old_checkpoints(saved: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = os.write, [500]

    def write(fd: int, data: Any) -> int:
        if not left[0]:
            raise OSError(28, "No space left on device")
        count = real(fd, data[: left[0]])
        left[0] -= count
        return count

    for step in (20, 30):
        left[0] = 500
        monkeypatch.setattr(os, "write", write)
        with pytest.raises(StorageError, match=rf"step-000000{step} \(\d+ bytes\): disk full. Free \d+ bytes"):
            saved.save_checkpoint(step, weights(step), state(step))
        monkeypatch.undo()
        assert step_of(saved.path) == 20
        assert scraps(saved.path) == []
    saved.save_checkpoint(30, weights(30), state(30))
    assert names(saved) == {"step-00000030", "step-00000020-replaced"}
