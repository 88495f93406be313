"""The argument parser of every command: typed, with YAML files, and with the nearest known key in its errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from fsgen.errors import UnknownOptionError
from fsgen.registry import nearest

_UNKNOWN = (
    r"unrecognized arguments: --?([\w.-]+)",
    r"does not accept option '([\w.-]+)'",
    r"[Kk]ey ['\"]([\w.-]+)['\"]",
)


class Parser(ArgumentParser):
    """A jsonargparse parser whose errors are one line with the edit."""

    def __init__(self, command: str, description: str, **settings: Any) -> None:
        super().__init__(
            prog=f"fsgen {command}", description=description, exit_on_error=False, default_env=False, **settings
        )

    def parse(self, words: Sequence[str]) -> Namespace:
        """The parsed arguments.

        Raises:
            UnknownOptionError: a key, type or file that the command does not take. SystemExit: after --help.
        """
        try:
            return self.parse_args(list(words))
        except ArgumentError as error:
            raise UnknownOptionError(self._one_line(str(error))) from error
        except UnicodeDecodeError as error:
            raise UnknownOptionError(
                f"the --config file is not UTF-8 text ({error.reason}); save it as UTF-8."
            ) from error

    def _one_line(self, message: str) -> str:
        text = " ".join(message.split())
        for pattern in _UNKNOWN:
            if found := re.search(pattern, text):
                key = found.group(1)
                group = re.search(r"Group '([\w.]+)'", text)
                known = self._keys()
                if key in known or f"{group.group(1)}.{key}" in known if group else key in known:
                    break
                path = f"{group.group(1)}.{key}" if group else key
                return f"{text}.{nearest(path, known)}{_also(path, known)} See `{self.prog} --help`."
        return f"{text}. See `{self.prog} --help`."

    def _keys(self) -> list[str]:
        return [a.dest for a in self._actions if a.dest not in ("help", "==SUPPRESS==")]


def _also(path: str, known: Sequence[str]) -> str:
    """The keys that end in the same word, such as optimiser.learning_rate for learning_rate."""
    last = path.rsplit(".", 1)[-1]
    same = [k for k in known if k.endswith(f".{last}")]
    return f" It takes {', '.join(same[:3])}." if same and path not in same else ""
