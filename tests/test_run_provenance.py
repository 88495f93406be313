"""What a result says about its origin, and what it keeps to itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from fsgen.run import provenance
from fsgen.run.provenance import checkout, shortened


def test_provenance_is_plain_and_names_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    home = "/".join(("", "home", "jane"))
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr("sys.argv", [f"{home}/bin/fsgen", "train", f"--out={home}/runs/first", "--steps", "3"])
    found = provenance()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["command"] == ["bin/fsgen", "train", "--out=runs/first", "--steps", "3"]
    assert "jane" not in json.dumps(found)
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["time"].endswith("+00:00")
    assert all(found[key] for key in ("fsgen", "numpy", "python", "platform", "processor"))


@pytest.mark.parametrize(
    ("word", "short"),
    [
        ("--lr=0.1", "--lr=0.1"),
        ("a/b/c/d", "a/b/c/d"),
        ("/mnt/a/b/c", "b/c"),
        ("--data=/mnt/a/b/c", "--data=b/c"),
        ("[/x/a/b,/x/c/d]", "[a/b,c/d]"),
        ("{'root': '/x/a/b'}", "{'root': 'a/b'}"),
        ("HOME/x", "x"),
        ("HOME", "~"),
        ("HOME2/a/b", "a/b"),
        ("--x=HOME", "--x=~"),
        ("file://HOME/x", "file://~/x"),
        ("a:HOME/x", "a:~/x"),
        ("HERE/runs/a/b", "runs/a/b"),
        ("HERE", "."),
        ("1/2", "1/2"),
    ],
)
def test_paths_in_a_command_are_shortened(
    word: str, short: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = "/".join(("", "home", "jane"))
    monkeypatch.setenv("HOME", home)
    monkeypatch.chdir(tmp_path)
    assert shortened(word.replace("HOME", home).replace("HERE", str(tmp_path))) == short


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_checkout_is_known_by_its_commit_and_by_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    top = tmp_path / "top"
    (top / "inner").mkdir(parents=True)
    assert checkout(top) is None
    git(top, "init", "-q")
    assert checkout(top) is None
    (top / "file").write_text("one")
    git(top, "add", "file")
    git(top, "commit", "-qm", "one")
    clean = {"commit": git(top, "rev-parse", "HEAD"), "dirty": False}
    (top / "untracked").write_text("results")
    assert checkout(top) == clean
    assert checkout(top / "inner") is None
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert checkout(top) == clean
    (top / "file").write_text("two")
    assert checkout(top) == clean | {"dirty": True}
    monkeypatch.setenv("PATH", "")
    assert checkout(top) is None
