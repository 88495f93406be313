"""However a run is interrupted, its continuation ends at the same bits as if it had never been."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from crashes import scraps
from tiny import before_each, config, differences, flags, left_by, strokes

from fsgen import storage, training_objective
from fsgen.cli import main
from fsgen.config import TrainConfig
from fsgen.model import FewShotModel
from fsgen.registry import SOURCES, build
from fsgen.run import Run
from fsgen.training import Trainer

pytestmark = [
    pytest.mark.usefixtures("as_a_user"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="trainers are forked, which this system cannot"),
]
FAST = {"validation": {"every": 2, "sets": 2, "particles": 1}, "checkpoint_every": 2}


@pytest.fixture(autouse=True)
def strokes_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES.members, "strokes", strokes)
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # what it guards against is a power cut, not a kill


def begin(path: Path, settings: TrainConfig, *more: str) -> list[str]:
    return ["train", "--out", str(path), "--quiet", *flags(settings), *more]


def go_on(path: Path, *more: str) -> list[str]:
    return ["train", "--out", str(path), "--quiet", "--resume", *more]


@contextlib.contextmanager
def running(words: list[str]) -> Iterator[int]:
    """A forked process, leader of its own group, that runs a command and exits with its status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads: the child only trains
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setpgid(0, 0)
            status = main(words)
        except KeyboardInterrupt:
            status = 130
        finally:
            os._exit(status)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def ended(pid: int, seconds: float = 60) -> int:
    """Exit status of a child, negative after a signal; it is killed after so many seconds."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("the trainer did not end")


def first_step(path: Path, pid: int, lines: int = 1) -> bool:
    """Waits until a trainer has logged so many lines; False if it ended before."""
    metrics = path / "metrics.jsonl"
    for _ in range(6000):
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= lines:
            return True
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        time.sleep(0.005)
    raise AssertionError("the trainer took no step")


@pytest.fixture
def whole(tmp_path: Path) -> Callable[[TrainConfig], dict[str, Any]]:
    """What a run leaves that nothing interrupts."""

    def run(settings: TrainConfig) -> dict[str, Any]:
        assert main(begin(tmp_path / "whole", settings)) == 0
        return left_by(tmp_path / "whole")

    return run


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("beta-bernoulli", {"optimiser": {"name": "adamw", "weight_decay": 0.1, "schedule": "thirds"}}),
        ("vae", {"objective": {"name": "iwae", "particles": 3, "kl_warmup": 9}, "episodes": {"workers": 2}}),
        ("gmn", {"optimiser": {"ema": 0.0}, "episodes": {"ways": [1, 2]}, "bf16": True}),
        ("gmn", {"checkpoint_every": 100}),
    ],
    ids=["adamw", "workers", "no average", "channels last"],
)
def test_a_run_stopped_by_the_clock_goes_on_bit_by_bit(
    model: str, changes: dict[str, Any], whole: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(model, **{**FAST, "steps": 9, **changes})
    expected, path = whole(settings), tmp_path / "parts"
    assert main(begin(path, settings, "--max-minutes", "0")) == 0
    assert f"continue with: fsgen train --out {path} --resume" in capsys.readouterr().out
    for _ in range(3):
        assert main(go_on(path, "--max-minutes", "0")) == 0
    checkpoint = Run.open(path).load_checkpoint()
    assert checkpoint is not None
    assert checkpoint.step == 4
    assert main(go_on(path)) == 0
    assert differences(expected, left_by(path)) == []


def test_skipped_steps_are_resumed_too(whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = Trainer._advance

    def sometimes_bad(self: Trainer, episode: Any) -> tuple[float, float]:
        if self.step in (3, 4, 6):
            return self._skip("planted")
        return advance(self, episode)

    monkeypatch.setattr(Trainer, "_advance", sometimes_bad)
    settings = config(**{**FAST, "steps": 9})
    expected, path = whole(settings), tmp_path / "parts"
    assert main(begin(path, settings, "--max-minutes", "0")) == 0
    for _ in range(4):
        main(go_on(path, "--max-minutes", "0"))
    assert main(go_on(path)) == 0
    assert differences(expected, left_by(path)) == []
    assert [r["in_a_row"] for r in Run.open(path).records("metrics") if "skipped" in r] == [1, 2, 1]


def test_the_best_so_far_is_resumed_too(whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def worse_and_worse() -> Callable[..., torch.Tensor]:
        scores = iter(range(100))
        return lambda *args, **kwargs: torch.full((2, 4), float(next(scores)))

    settings = config(**{**FAST, "steps": 9})
    monkeypatch.setattr(training_objective, "sequential_nats", worse_and_worse())
    expected, path = whole(settings), tmp_path / "parts"
    monkeypatch.setattr(training_objective, "sequential_nats", worse_and_worse())
    for words in (begin(path, settings, "--max-minutes", "0"), *[go_on(path, "--max-minutes", "0")] * 3, go_on(path)):
        assert main(words) == 0
    assert differences(expected, left_by(path)) == []


def killed_again_and_again(path: Path, settings: TrainConfig, kills: int, seed: int) -> int:
    """Kills a trainer at random moments after its first step, until it has been killed so often or is done."""
    moments, done = random.Random(seed), 0
    for attempt in range(3 * kills):
        words = begin(path, settings, "--resume") if attempt == 0 else go_on(path)
        with running(words) as pid:
            if first_step(path, pid):
                time.sleep(moments.uniform(0, 0.12))
            os.kill(pid, signal.SIGKILL)
            status = ended(pid)
        if status == 0:
            return done
        assert status == -signal.SIGKILL
        done += 1
        if done == kills:
            break
    assert main(go_on(path)) == 0
    return done


@pytest.mark.parametrize(("model", "workers"), [("vae", 0), ("gmn", 2)])
def test_a_killed_trainer_goes_on_bit_by_bit(model: str, workers: int, whole: Any, tmp_path: Path) -> None:
    settings = config(model, **{**FAST, "steps": 40, "checkpoint_every": 1, "episodes": {"workers": workers}})
    expected = whole(settings)
    assert killed_again_and_again(tmp_path / "parts", settings, kills=5, seed=1) >= 3
    assert differences(expected, left_by(tmp_path / "parts")) == []
    assert scraps(tmp_path / "parts") == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("model", "workers"), [("beta-bernoulli", 0), ("vae", 2), ("gmn", 0)])
def test_three_hundred_kills(model: str, workers: int, seed: int, whole: Any, tmp_path: Path) -> None:
    settings = config(model, **{**FAST, "steps": 120, "checkpoint_every": 1, "episodes": {"workers": workers}})
    expected = whole(settings)
    assert killed_again_and_again(tmp_path / "parts", settings, kills=10, seed=seed) >= 5
    assert differences(expected, left_by(tmp_path / "parts")) == []


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=lambda n: n.name)
def test_a_signal_leaves_a_checkpoint_of_that_step(number: signal.Signals, workers: int, tmp_path: Path) -> None:
    path = tmp_path / "run"
    settings = config(**{**FAST, "steps": 100_000, "checkpoint_every": 10**6, "episodes": {"workers": workers}})
    with running(begin(path, settings)) as pid:
        assert first_step(path, pid, lines=2)
        os.killpg(pid, number)  # as a terminal or a scheduler does: the workers get it too
        sent = time.monotonic()
        assert ended(pid) == 128 + number
        assert time.monotonic() - sent < 10
    checkpoint = Run.open(path).load_checkpoint()
    assert checkpoint is not None
    records = Run.open(path).records("metrics")
    assert checkpoint.step in (records[-1]["step"], records[-1]["step"] + 1)
    assert main(go_on(path, "--max-minutes", "0")) == 0


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="this system does not list a process's children")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=lambda n: n.name)
def test_workers_leave_signals_to_the_trainer(number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with running(begin(path, config(**{**FAST, "steps": 100_000, "episodes": {"workers": 2}}))) as pid:
        assert first_step(path, pid)
        workers = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        assert len(workers) == 2
        for worker in workers * 2:
            os.kill(worker, number)
        assert first_step(path, pid, lines=(path / "metrics.jsonl").read_bytes().count(b"\n") + 10)
        os.kill(pid, signal.SIGTERM)
        assert ended(pid) == 128 + signal.SIGTERM


def test_a_second_interrupt_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    monkeypatch.setattr(Trainer, "_checkpoint", lambda self: time.sleep(60))
    with running(begin(path, config(**{**FAST, "steps": 100_000, "checkpoint_every": 10**6}))) as pid:
        assert first_step(path, pid)
        os.kill(pid, signal.SIGINT)
        time.sleep(0.3)
        os.kill(pid, signal.SIGINT)
        assert ended(pid, seconds=20) == 130


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A finished run of 12 steps with checkpoints of steps 9 and 12."""
    assert main(begin(tmp_path / "done", config())) == 0
    return tmp_path / "done"


def test_a_finished_run_is_left_as_it_is(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {
        p: (p.read_bytes(), p.stat().st_mtime_ns) for p in finished.rglob("*") if p.is_file() and p.stem != "lock"
    }
    assert main(go_on(finished)) == 0
    assert "finished at step 12 of 12" in capsys.readouterr().out
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in finished.rglob("*") if p.is_file() and p.stem != "lock"}
    assert before == after


@pytest.mark.parametrize("left", ["nothing", "an empty folder", "a folder whose making was interrupted"])
def test_resuming_what_has_not_begun_begins_it(left: str, whole: Any, tmp_path: Path) -> None:
    expected, path = whole(config()), tmp_path / "run"
    if left != "nothing":
        path.mkdir()
    if left.startswith("a folder"):
        (path / "lock").touch()
        (path / ".tmp-999999999-config.yaml").touch()
    assert main(begin(path, config(), "--resume")) == 0
    assert differences(expected, left_by(path)) == []


def test_a_torn_checkpoint_is_passed_over_and_said(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = left_by(finished)
    torn = finished / "checkpoints" / "step-00000012" / "weights.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1])
    assert main(["train", "--out", str(finished), "--resume"]) == 0
    said = capsys.readouterr().err
    assert f"{torn} is altered" in said
    assert "resumed at step 9 of 12" in said
    assert differences(expected, left_by(finished)) == []


def test_without_a_whole_checkpoint_the_run_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (finished / "checkpoints").iterdir():
        (folder / "state.pt").write_bytes(b"\0" * 10)
    assert main(go_on(finished)) == 2
    said = capsys.readouterr().err
    assert "holds no checkpoint that is whole" in said
    assert said.count("\n") == 1


def test_a_second_trainer_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Run.open(finished).lock():
        assert main(go_on(finished)) == 2
    assert f"is being trained by process {os.getpid()}" in capsys.readouterr().err
    assert main(go_on(finished)) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", "99"], "steps 12, not 99"),
        (["--steps", "10000"], "steps 12, not 10000"),  # the default, but asked for
        (["--seed", "5"], "seed 0, not 5"),
        (["--model.name", "gmn"], "model.name vae, not gmn"),
        (["--model.options.dim_z", "3"], "model.options"),
        (["--optimiser.betas", "[0.5, 0.9]"], "optimiser.betas [0.9, 0.99], not [0.5, 0.9]"),
        (["--episodes.ways", "[1, 2]"], "episodes.ways [1], not [1, 2]"),
        (["--data.name", "omniglot28"], "data.name strokes, not omniglot28"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_an_option_that_contradicts_the_run_is_refused(
    words: list[str], said: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(go_on(finished, *words)) == 2
    message = capsys.readouterr().err
    assert f"{finished} was begun with {said}" in message
    assert "choose another --out" in message
    assert message.count("\n") == 1


def test_what_only_moves_a_run_may_change(whole: Any, tmp_path: Path) -> None:
    settings = config(**{**FAST, "steps": 9})
    expected, path = whole(settings), tmp_path / "parts"
    assert main(begin(path, settings, "--max-minutes", "0")) == 0
    same = ["--steps", "9", "--model.options.dim_z", "2", "--optimiser.ema", "0.9"]
    moved = ["--checkpoint_every", "1", "--episodes.workers", "1", "--data.root", str(tmp_path), "--threads", "0"]
    assert main(go_on(path, *same, *moved)) == 0
    assert differences(expected, left_by(path)) == []


def test_a_model_without_training_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model: FewShotModel = build("beta-bernoulli", event_shape=(1, 4, 4))
    model.save(tmp_path / "model")
    assert main(go_on(tmp_path / "model")) == 2
    assert "no training to resume; choose another --out" in capsys.readouterr().err


def test_checkpoints_of_another_model_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, run = build("beta-bernoulli", event_shape=(1, 4, 4)), Run.open(finished)
    checkpoint = run.load_checkpoint()
    assert checkpoint is not None
    run.save_checkpoint(13, other.state_dict(), checkpoint.state)
    assert main(go_on(finished)) == 2
    assert "holds the weights of another model" in capsys.readouterr().err


def test_a_full_disk_ends_the_run_with_its_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"

    def full(count: int) -> None:
        if count > 2:
            raise OSError(28, "No space left on device")

    write_folder = storage.write_folder

    def failing(folder: Path, files: Any) -> None:
        with storage.refusals(folder, sum(map(len, files.values()))):
            writes(folder, files)

    writes = before_each(write_folder, full)
    monkeypatch.setattr(storage, "write_folder", failing)
    assert main(begin(path, config())) == 74
    said = capsys.readouterr().err
    assert "disk full" in said
    assert "step-00000009" in said
    assert said.count("\n") == 1
    monkeypatch.setattr(storage, "write_folder", write_folder)
    checkpoint = Run.open(path).load_checkpoint()
    assert checkpoint is not None
    assert checkpoint.step == 6
    assert main(go_on(path)) == 0
    assert torch.isfinite(torch.tensor(Run.open(path).records("metrics")[-1]["validation_nats"]))
