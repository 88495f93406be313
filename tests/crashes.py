"""Processes that die: at a chosen system call, with an exit status, with a word to their parent."""

from __future__ import annotations

import itertools
import os
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CALLS = ("open", "write", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir")
CRASHED = 113


def in_child(action: Callable[[], Any]) -> tuple[int, str]:
    """Exit status of ``action`` in a forked process (0: done, 1: exception), and its result as text."""
    receive, send = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads: the child only runs what is here
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.write(send, str(action()).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(send)
    with open(receive, encoding="utf-8") as file:
        said = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


def die_at(count: int) -> None:
    """Ends this process at the ``count``-th input/output call from now; a write is cut in half."""
    calls = itertools.count()

    def deadly(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == count:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                os._exit(CRASHED)
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, deadly(name))


def crashes(template: Path, action: Callable[[Path], Any]) -> Iterator[Path]:
    """A copy of ``template`` for each point at which ``action`` can die on it, and one where it finishes."""
    for count in itertools.count():
        folder = template.with_name(f"{template.name}-{count}")
        shutil.copytree(template, folder)

        def doomed(folder: Path = folder, count: int = count) -> None:
            die_at(count)
            action(folder)

        status, _ = in_child(doomed)
        assert status in (0, CRASHED)
        yield folder
        if status == 0:
            return


def scraps(folder: Path) -> list[str]:
    """What interrupted writers left in a folder and below it."""
    return [path.name for path in folder.rglob(".tmp-*")]
