"""Where a number came from: versions, machine, code and command."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

_SECONDS = 5
_HOME = re.compile(r"^/(?:home|Users)/[^/]+|^/root(?=/|$)")
_PATH = re.compile(r"(?<![^\s=,\[{'\"])(?:/|[A-Za-z]:\\)[^,\]}'\"]*")


def provenance() -> dict[str, Any]:
    """Versions, threads, processor, accelerator, code, command and time, as plain JSON.

    "git" is None unless fsgen runs from a checkout, else its commit and whether tracked files differ from it.
    "command" holds no home folder: paths outside the working folder keep their last two parts.
    """
    import numpy
    import torch

    return {
        "fsgen": _version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git": checkout(Path(__file__).resolve().parents[2]),
        "command": [shortened(word) for word in sys.argv],
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def shortened(word: str) -> str:
    """A word of a command line without the folders that are nobody's business.

    Paths in the working folder become relative to it; others keep their last two parts, less a home folder.

    >>> shortened("--data=/mnt/disk7/alphabets/omniglot")
    '--data=alphabets/omniglot'
    """
    home, short = str(Path.home()), _PATH.sub(lambda match: _short(match[0]), word)
    return short.replace(home, "~") if len(home) > 1 else short


def checkout(folder: Path) -> dict[str, Any] | None:
    """Commit and dirty flag of the git checkout whose top is ``folder``; None where it is none, or git is absent."""
    found = _git(folder, "rev-parse", "HEAD", "--show-toplevel")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if found is None or status is None:
        return None
    commit, top = found.split("\n", 1)
    return {"commit": commit, "dirty": bool(status)} if Path(top).resolve() == folder.resolve() else None


def _git(folder: Path, *words: str) -> str | None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=clean, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version() -> str:
    try:
        return importlib.metadata.version("fsgen")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        names = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        names = None
    return names[1] if names else platform.processor() or platform.machine()


def _short(path: str) -> str:
    here = os.getcwd()
    if path == here or path.startswith(here.rstrip(os.sep) + os.sep):
        return os.path.relpath(path, here)
    for home in (re.compile(re.escape(str(Path.home())) + r"(?=/|\\|$)"), _HOME):
        path = home.sub("", path, count=1)
    return "/".join([part for part in re.split(r"[/\\]", path) if part][-2:]) or "~"
