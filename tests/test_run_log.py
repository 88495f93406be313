"""Logs lose at most the line that was being written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from crashes import crashes

from fsgen.errors import CheckpointError, StorageError
from fsgen.run import CONFIG, Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", {})


def test_records_come_back_in_order_and_json_has_no_nan(run: Run) -> None:
    run.append("results", {"nats": -61.5, "shots": [1, 5], "name": "Ünï\n"})
    run.append("results", {"loss": float("nan"), "deep": [{"bound": -float("inf")}]})
    assert run.records("results") == [
        {"nats": -61.5, "shots": [1, 5], "name": "Ünï\n"},
        {"loss": None, "deep": [{"bound": None}]},
    ]
    assert run.records("metrics") == []


def test_a_line_torn_anywhere_is_cut_by_the_next_one(run: Run) -> None:
    for step in (1, 2):
        run.append("metrics", {"step": step, "text": "a é"})
    log = run.path / "metrics.jsonl"
    whole = log.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(len(whole) + 1):
        log.write_bytes(whole[:length])
        steps = [1, 2][: (length >= first - 1) + (length >= len(whole) - 1)]
        assert [record["step"] for record in run.records("metrics")] == steps
        run.append("metrics", {"step": 3})
        assert [record["step"] for record in run.records("metrics")] == [*steps, 3]


def test_blocks_of_zeros_after_a_power_failure_are_cut(run: Run) -> None:
    run.append("metrics", {"step": 1})
    with open(run.path / "metrics.jsonl", "ab") as file:
        file.write(bytes(4096))
    run.append("metrics", {"step": 2})
    assert run.records("metrics") == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("line", [b"{", b"[1]", b"3", b"", b"\xff", b"[" * 100_000])
def test_a_damaged_line_in_the_middle_is_named(run: Run, line: bytes) -> None:
    run.append("metrics", {"step": 1})
    with open(run.path / "metrics.jsonl", "ab") as file:
        file.write(line + b"\n")
    run.append("metrics", {"step": 2})
    for call in (run.records, lambda log: run.rewind(log, 1)):
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl, line 2, is no JSON object. Remove that line"):
            call("metrics")


@pytest.mark.parametrize("died", [0, 1, 20])
def test_a_resumed_log_equals_that_of_an_uninterrupted_run(run: Run, died: int) -> None:
    def train(start: int, end: int) -> None:
        for step in range(start, end):
            run.append("metrics", {"step": step, "loss": 1 / (step + 1)})

    run.append("metrics", {"note": "no step: kept"})
    train(0, 10)
    log = run.path / "metrics.jsonl"
    expected = log.read_bytes()
    log.write_bytes(expected[: len(expected) - died])
    run.rewind("metrics", 4)
    assert [record.get("step") for record in run.records("metrics")] == [None, 0, 1, 2, 3, 4]
    train(5, 10)
    assert log.read_bytes() == expected


def test_a_log_is_whole_wherever_its_rewinding_dies(run: Run) -> None:
    for step in range(4):
        run.append("metrics", {"step": step})
    found = [
        [record["step"] for record in Run.open(place).records("metrics")]
        for place in crashes(run.path, lambda place: Run.open(place).rewind("metrics", 1))
    ]
    assert found[0] == [0, 1, 2, 3]
    assert all(steps in ([0, 1, 2, 3], [0, 1]) for steps in found)
    assert found[-1] == [0, 1]


def test_a_log_needs_a_plain_name_and_a_writable_disk(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("../metrics", "metrics.jsonl", "", "a/b", "A"):
        with pytest.raises(ValueError, match="no log can be called"):
            run.append(name, {})
    with pytest.raises(TypeError, match="not JSON serializable"):
        run.append("metrics", {"loss": torch.ones(())})
    (run.path / "elsewhere.jsonl").symlink_to(run.path / CONFIG)
    with pytest.raises(StorageError, match="symbolic link"):
        run.append("elsewhere", {})
