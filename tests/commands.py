"""Commands run in this process, and what a refusal looks like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Command = Callable[..., tuple[int, str, str]]


def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command; gives its exit status, output and error output."""

    def call(*words: Any) -> tuple[int, str, str]:
        from fsgen.cli import main  # not before pytest's shape checks are in place

        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else 99
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def refusal(answer: tuple[int, str, str], *said: str, status: int = 2) -> None:
    """Checks one line on stderr with these words."""
    code, _, err = answer
    assert (code, err.count("\n")) == (status, 1), err
    assert err.startswith("fsgen ")
    assert [words for words in said if words not in err] == []
