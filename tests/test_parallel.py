"""Several processes train as one does: the same parameters and decisions, and none waits for a dead one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from job import spoilt, tiny_float64
from tiny import config, differences, flags, left_by, strokes

from fsgen.cli import main
from fsgen.data.sampler import EpisodeSampler
from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.inference import latent_sites
from fsgen.parallel import Alone, joined
from fsgen.parallel.processes import Processes
from fsgen.registry import MODELS
from fsgen.run import Run

pytestmark = [pytest.mark.usefixtures("as_a_user"), pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[1]
SPOILT_STEP = 2
IDLE = {"objective": {"free_nats": 1e6}, "optimiser": {"name": "adamw", "weight_decay": 0.1}}
GLYPHS = {"alphabets": 6, "characters": 4, "drawers": 6, "size": 8}
ONE_STEP = ("--max-minutes", "0")


def begin(path: Path, model: str, *more: str, **changes: Any) -> list[str]:
    """Words that train a tiny model for 20 steps of 4 episodes."""
    fixed: dict[str, Any] = {"steps": 20, "episodes": {"batch": 4}, "optimiser": {"clip": 1.0}, "checkpoint_every": 5}
    validation = {"every": 7, "sets": 2, "particles": 1}
    settings = config(model, options={}, **{**fixed, "validation": validation, **changes})
    return ["train", "--out", str(path), "--quiet", *flags(settings), *more]


def go_on(path: Path, *more: str) -> list[str]:
    return ["train", "--out", str(path), "--quiet", "--resume", *more]


def alone(words: list[str], spoil: int | None = None) -> int:
    """The exit status of a command in this process."""
    with tiny_float64(), spoilt(spoil, episode=3):
        return main(words)


class Told(NamedTuple):
    """What a job of two processes left: its folder, what it said, and the exit statuses of each command by rank."""

    path: Path
    said: str
    statuses: dict[str, list[int]]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Two processes that torchrun starts run many commands."""
    path = tmp_path_factory.mktemp("two")
    assert alone(begin(path / "one then two", "beta-bernoulli", *ONE_STEP)) == 0
    commands = {
        **{name: begin(path / name, name) for name in MODELS.catalogue()},
        "vae begun": begin(path / "vae parts", "vae", *ONE_STEP),
        "vae parts": go_on(path / "vae parts"),
        "spoilt": begin(path / "spoilt", "pixelcnn"),
        "idle": begin(path / "idle", "gmn", **IDLE),
        "one then two": go_on(path / "one then two"),
        "two then one": begin(path / "two then one", "beta-bernoulli", *ONE_STEP),
        "three episodes": begin(path / "three", "vae", episodes={"batch": 3}),
        "folder taken": begin(path / "vae", "vae"),
    }
    listed = [{"words": words, "spoilt": SPOILT_STEP if name == "spoilt" else None} for name, words in commands.items()]
    (path / "commands.json").write_text(json.dumps(listed), encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(ROOT / "tests" / "job.py"), str(path / "commands.json")],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    by_rank = [json.loads((path / f"commands.{rank}").read_text(encoding="utf-8")) for rank in (0, 1)]
    return Told(
        path, done.stderr, {name: list(s) for name, s in zip(commands, zip(*by_rank, strict=True), strict=True)}
    )


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def exact(name: str) -> bool:
    model: Any = MODELS.require(name)
    return not latent_sites(model.tiny((1, 4, 4)), Episode.sequential(torch.zeros(1, 2, 1, 4, 4)))


def furthest(a: Any, b: Any) -> float:
    """The largest difference between the numbers of two nested values of the same form."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return max((furthest(a[key], b[key]) for key in a), default=0.0)
    if isinstance(a, list | tuple):
        return max((furthest(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    if isinstance(a, torch.Tensor | float):
        return (torch.as_tensor(a).double() - torch.as_tensor(b).double()).abs().max().item()
    assert a == b
    return 0.0


def learnt(path: Path) -> dict[str, Any]:
    """Weights, selected weights, and the state of optimiser and average."""
    left = left_by(path)
    return {**{key: left[key] for key in ("step", "weights", "selected")}, "state": left["state"]["optimiser"]} | {
        "average": left["state"]["average"]
    }


def checkpointed(path: Path) -> dict[str, torch.Tensor]:
    checkpoint = Run.open(path).load_checkpoint()
    assert checkpoint is not None
    return checkpoint.weights


@pytest.mark.parametrize("name", sorted(MODELS.catalogue()))
def test_two_processes_train_every_model_and_exact_ones_like_one(name: str, two: Told, tmp_path: Path) -> None:
    assert two.statuses[name] == [0, 0]
    assert alone(begin(tmp_path / "run", name)) == 0
    ours, theirs = left_by(two.path / name), left_by(tmp_path / "run")
    far = furthest(learnt(two.path / name), learnt(tmp_path / "run")) if exact(name) else 0.0
    assert far < 1e-12
    records = [Run.open(path).records("metrics") for path in (two.path / name, tmp_path / "run")]
    assert [r["step"] for r in records[0]] == [r["step"] for r in records[1]] == [7, 14, 20]
    if exact(name):
        assert furthest(*records) < 1e-12
    else:
        assert differences(ours["weights"], theirs["weights"]), "latents are drawn by each process for itself"
    assert all(weight.isfinite().all() for weight in ours["weights"].values())
    (session,) = Run.open(two.path / name).records("sessions")
    assert session["processes"] == 2


def test_a_run_with_latents_of_two_processes_goes_on_bit_by_bit(two: Told) -> None:
    assert two.statuses["vae begun"] == two.statuses["vae parts"] == [0, 0]
    assert len(Run.open(two.path / "vae parts").records("sessions")) == 2
    assert differences(left_by(two.path / "vae"), left_by(two.path / "vae parts")) == []


@pytest.mark.parametrize("name", ["one then two", "two then one"])
def test_a_run_goes_on_with_another_number_of_processes(name: str, two: Told) -> None:
    path = two.path / name
    assert two.statuses[name] == [0, 0]
    if name == "two then one":
        assert alone(go_on(path)) == 0
    assert [s["processes"] for s in Run.open(path).records("sessions")] == [
        1 + (n == "two") for n in name.split(" then ")
    ]
    assert furthest(learnt(path), learnt(two.path / "beta-bernoulli")) < 1e-12


def test_a_bad_episode_of_one_process_skips_the_step_in_all(two: Told, tmp_path: Path) -> None:
    assert two.statuses["spoilt"] == [0, 0]
    assert alone(begin(tmp_path / "run", "pixelcnn"), spoil=SPOILT_STEP) == 0
    ours, theirs = (Run.open(path).records("metrics") for path in (two.path / "spoilt", tmp_path / "run"))
    assert furthest(ours, theirs) < 1e-12
    assert ours[0]["skipped"] == "non-finite log-weight in episodes [11]"
    assert furthest(learnt(two.path / "spoilt"), learnt(tmp_path / "run")) < 1e-12


def test_what_no_process_has_a_gradient_of_stays_as_it_was(two: Told, tmp_path: Path) -> None:
    assert alone(begin(tmp_path / "run", "gmn", *ONE_STEP, **IDLE)) == 0
    one, ours = (checkpointed(path) for path in (tmp_path / "run", two.path / "idle"))
    still = [name for name in ours if torch.equal(ours[name], one[name])]
    assert any(name.startswith("prior") for name in still), still
    assert len(still) < len(ours)


def test_a_refusal_is_said_once(two: Told) -> None:
    assert two.statuses["three episodes"] == two.statuses["folder taken"] == [2, 2]
    said = [line for line in two.said.splitlines() if line.startswith("fsgen")]
    assert said == [
        "fsgen train: episodes.batch is 3, which 2 processes cannot share equally; "
        "give --episodes.batch 2 or 4, or start another number of processes.",
        f"fsgen train: {two.path / 'vae'} holds a run already. Continue it with --resume, or choose another --out.",
    ]


@contextlib.contextmanager
def started(path: Path, *more: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes of `fsgen train` on the glyphs, as torchrun starts them but without it, after some steps."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    settings = config("beta-bernoulli", steps=10**6, episodes={"batch": 4}, validation={"every": 20, "sets": 2})
    settings.data.name, settings.data.options = "glyphs", GLYPHS
    words = [sys.executable, "-m", "fsgen", "train", "--out", str(path), "--quiet", *flags(settings), *more]
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    job = [
        subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment(RANK=r, LOCAL_RANK=r, **where))
        for r in "01"
    ]
    try:
        limit = time.monotonic() + 300
        while not (path / "metrics.jsonl").exists() or (path / "metrics.jsonl").read_bytes().count(b"\n") < 2:
            assert all(process.poll() is None for process in job), [process.communicate() for process in job]
            assert time.monotonic() < limit
            time.sleep(0.02)
        yield job
    finally:
        for process in job:
            process.kill()
            process.communicate()


def test_a_signal_to_one_process_ends_all_with_a_checkpoint(tmp_path: Path) -> None:
    with started(tmp_path / "run", "--checkpoint_every=1000000") as job:
        job[1].send_signal(signal.SIGTERM)
        assert [process.wait(60) for process in job] == [128 + signal.SIGTERM] * 2
    checkpoint = Run.open(tmp_path / "run").load_checkpoint()
    assert checkpoint is not None
    (session,) = Run.open(tmp_path / "run").records("sessions")
    assert (session["reason"], session["step"]) == ("SIGTERM", checkpoint.step)


@pytest.mark.parametrize(("number", "victim"), [(signal.SIGKILL, 0), (signal.SIGSTOP, 1)], ids=["killed", "hangs"])
def test_a_lost_process_ends_the_others(number: signal.Signals, victim: int, tmp_path: Path) -> None:
    with started(tmp_path / "run", "--peer-timeout=20") as job:
        job[victim].send_signal(number)
        survivor = job[1 - victim]
        _, said = survivor.communicate(timeout=60)
    assert survivor.returncode == 1
    assert said.startswith(f"fsgen train: process {1 - victim} of 2 lost the others (")
    assert "Start the whole job again with --resume" in said
    assert "--peer-timeout more than 20 seconds" in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_a_signal_to_torchrun_leaves_a_checkpoint(tmp_path: Path) -> None:
    settings = config("beta-bernoulli", steps=10**6, episodes={"batch": 4}, checkpoint_every=10**6)
    settings.data.name, settings.data.options = "glyphs", GLYPHS
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fsgen"]
    words += ["train", "--out", str(tmp_path / "run"), "--quiet", *flags(settings)]
    with subprocess.Popen(words, env=environment(), stderr=subprocess.DEVNULL) as torchrun:
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            assert torchrun.poll() is None
            time.sleep(0.1)
        torchrun.send_signal(signal.SIGTERM)
        assert torchrun.wait(60) != 0
    assert Run.open(tmp_path / "run").load_checkpoint() is not None


def test_shares_of_a_batch_are_its_episodes(tmp_path: Path) -> None:
    sampler = EpisodeSampler(strokes("train", tmp_path), length=3)
    shares = [next(sampler.stream(6, 5, share=placed(rank, 3).share(6))) for rank in range(3)]
    assert torch.equal(torch.cat([part.query for part in shares]), next(sampler.stream(6, 5)).query)


def test_processes_draw_noise_of_their_own_that_follows_from_the_step() -> None:
    def noise(rank: int, step: int) -> float:
        placed(rank, 2).own_noise(0, step)
        return torch.rand(()).item()

    drawn = [noise(rank, step) for rank in (0, 1) for step in (0, 1)]
    assert len(set(drawn)) == 4
    assert drawn == [noise(rank, step) for rank in (0, 1) for step in (0, 1)]


def placed(rank: int, size: int) -> Processes:
    """One process of a job that is not connected to the others."""
    job = Processes.__new__(Processes)
    job.rank, job.size = rank, size
    return job


def test_devices_are_numbered_by_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [placed(5, 8).device(name) for name in ("cpu", "cuda", "cuda:0")] == ["cpu", "cuda:1", "cuda:1"]
    assert Alone().device("cuda") == "cuda"


def test_a_batch_smaller_than_the_job_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"batch is 2, which 3 processes cannot share equally; give --episodes\.batch 3,"
    ):
        placed(0, 3).share(2)


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf")])
def test_a_timeout_out_of_range_is_refused(timeout: float) -> None:
    with pytest.raises(InputError, match="--peer-timeout is"), joined(timeout):
        pass


def test_an_environment_that_names_no_job_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"WORLD_SIZE is set, but .* Start the job by torchrun"), joined(1.0):
        pass


def test_a_process_started_alone_sets_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(600.0) as job:
        assert (job.rank, job.size, job.lead) == (0, 1, True)
    assert not torch.distributed.is_initialized()
