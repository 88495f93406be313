"""One trainer a run folder, and none kept out by a dead one."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from crashes import in_child, scraps

from fsgen.errors import CheckpointError
from fsgen.run import WEIGHTS, Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", {})


def test_a_second_trainer_is_refused_by_the_number_of_the_first(run: Run) -> None:
    def second() -> str:
        with pytest.raises(CheckpointError) as caught, Run.open(run.path).lock():
            pass
        return str(caught.value)

    with run.lock():
        status, message = in_child(second)
        assert status == 0
        assert f"is being trained by process {os.getpid()} on " in message
        assert "choose another --out" in message
        with pytest.raises(CheckpointError, match=f"process {os.getpid()} on "), Run.open(run.path).lock():
            pass
        assert in_child(second) == (0, message)
    assert (run.path / "lock").read_bytes() == b""
    with run.lock():
        pass


def test_the_lock_of_a_killed_trainer_is_taken_over_while_its_workers_live(run: Run) -> None:
    receive, send = os.pipe()
    trainer = os.fork()
    if trainer == 0:
        with run.lock():
            worker = os.fork()
            if worker == 0:
                time.sleep(30)
            os.write(send, str(worker).encode())
            time.sleep(30)
        os._exit(0)
    worker = int(os.read(receive, 20))
    try:
        with pytest.raises(CheckpointError, match=f"process {trainer} on "), run.lock():
            pass
        os.kill(trainer, signal.SIGKILL)
        os.waitpid(trainer, 0)
        os.kill(worker, 0)
        (run.path / f".tmp-{trainer}-{WEIGHTS}").write_bytes(b"torn")
        with run.lock():
            assert scraps(run.path) == []
            assert (run.path / "lock").read_text().startswith(f"{os.getpid()} ")
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_worker_that_leaves_the_body_does_not_open_the_lock(run: Run) -> None:
    with run.lock():
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            assert (run.path / "lock").read_text().startswith(f"{os.getpid()} ")
            status, _ = in_child(lambda: run.lock().__enter__())
            assert status == 1
    if not pid:
        os._exit(0)
