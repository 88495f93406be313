"""The argument parser of every command: typed, with YAML files, and with the nearest known key in its errors."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from fsgen.errors import InputError, UnknownOptionError
from fsgen.registry import Registry, nearest

_UNKNOWN = re.compile(
    r"unrecognized arguments: --?(?P<flag>[\w.-]+)"
    r"|Group '(?P<group>[\w.]+)' does not accept option '(?P<part>[\w.-]+)'"
    r"|Option '(?P<option>[\w.-]+)' is not accepted"
)
_VALUE = re.compile(r'Parser key "([^"]+)"(?: element \d+)?: Expected an? (.+?)\. Got value: (.*)')
_FILE = re.compile(r"Unexpected config|Problems parsing config|Option '|Group '")
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "dict": "a mapping such as {size: 28}",
    "list": "a list such as [1, 2]",
    "tuple": "a list such as [1, 2]",
    "collections.abc.Sequence": "a list such as [1, 2]",
}
_LONGEST = 300  # characters of a foreign message


class Parser(ArgumentParser):
    """A jsonargparse parser whose errors are one line with the edit."""

    def __init__(self, command: str, description: str, **settings: Any) -> None:
        super().__init__(
            prog=f"fsgen {command}",
            description=description,
            exit_on_error=False,
            default_env=False,
            allow_abbrev=False,
            **settings,
        )

    def parse(self, words: Sequence[str]) -> Namespace:
        """The parsed arguments; "given" lists the keys that stood in the words or in a file they name.

        Raises:
            UnknownOptionError: a key, type or file that the command does not take. SystemExit: after --help.
        """
        printing = [word for word in words if word.startswith("--print_config")]
        ordered = [word for word in words if word not in printing] + printing  # it prints what was read before it
        try:
            args = self.parse_args(ordered)
            given = self.parse_args(ordered, defaults=False)
        except ArgumentError as error:
            raise UnknownOptionError(self._one_line(str(error), words)) from error
        except UnicodeDecodeError as error:
            raise UnknownOptionError(f"{_file(words)} is not UTF-8 text ({error.reason}); save it as UTF-8.") from error
        self._refuse_gaps(given)
        args["given"] = list(given.keys())
        return args

    def _refuse_gaps(self, given: Namespace) -> None:
        """Refuses null where a value is needed and a value where a group of options stands; jsonargparse takes both."""
        usual = {action.dest: (action.default, action.required) for action in self._actions}
        for key, value in given.items():
            default, required = usual.get(key, (None, False))
            if parts := self._parts(key):
                raise UnknownOptionError(f"--{key} is a group of options; give {', '.join(parts)}.")
            if value is None and (required or default is not None):
                raise UnknownOptionError(f"{key} is null; give a value{'' if required else f' such as {default}'}.")

    def _one_line(self, message: str, words: Sequence[str]) -> str:
        text = " ".join(message.split())
        file = f"{_file(words)}: " if _FILE.search(text) else ""
        if text.startswith("Unexpected config"):
            return f"{file}it holds no mapping of options; write lines such as `steps: 1000`."
        if found := _UNKNOWN.search(text):
            parts = [found["group"], found["part"]] if found["group"] else [found["flag"] or found["option"]]
            return f"{file}no option '{'.'.join(parts)}'.{self._nearest('.'.join(parts))} See `{self.prog} --help`."
        if found := _VALUE.search(text):
            return f"{file}{wrong_value(*found.groups())}"
        if found := re.match(r'Parser key "(\w+)": Unable to load config', text):
            return f"--{found[1]} is a group of options; give {', '.join(self._parts(found[1]))}."
        if found := re.fullmatch(r"the following arguments are required: (.*)", text):
            return f"{found[1]} is required. See `{self.prog} --help`."
        return f"{file}{text[:_LONGEST]}. See `{self.prog} --help`."

    def _nearest(self, path: str) -> str:
        """The known key nearest to an unknown one, or what its group takes."""
        leaves = self._leaves()
        group, _, last = path.rpartition(".")
        if same := [k for k in leaves if k.rpartition(".")[2] == last]:
            return f" Did you mean '{same[0]}'?"
        siblings = [k.rpartition(".")[2] for k in leaves if group and k.rpartition(".")[0] == group]
        if siblings and not nearest(last, siblings):
            return f" '{group}' takes: {', '.join(siblings)}."
        return nearest(path, [k for k in leaves if not siblings or k.startswith(f"{group}.")])

    def _parts(self, group: str) -> list[str]:
        return [f"--{key}" for key in self._leaves() if key.startswith(f"{group}.")]

    def _leaves(self) -> list[str]:
        """The keys of the options, without their groups."""
        known = [a.dest for a in self._actions if a.dest not in ("help", "print_config", "==SUPPRESS==")]
        return [k for k in known if not any(other.startswith(f"{k}.") for other in known)]


def check_values(registry: Registry, name: str, options: Mapping[str, Any]) -> None:
    """Refuses unknown options of a model, data source or classifier, and values of another type than it declares.

    Raises:
        UnknownNameError, UnknownOptionError, InputError: names the option, its value and what it takes.
    """
    registry.check_options(name, options)
    member = registry.require(name)
    parser = ArgumentParser(exit_on_error=False)
    parameters = inspect.signature(member).parameters.items()
    positional: set[str | int] = {key for key, p in parameters if p.kind is not p.KEYWORD_ONLY}
    add = parser.add_class_arguments if inspect.isclass(member) else parser.add_function_arguments
    add(member, skip=positional)
    try:
        parser.parse_object(dict(options))
    except ArgumentError as error:
        text = " ".join(str(error).split())
        found = _VALUE.search(text)
        reason = wrong_value(*found.groups()) if found else f"{text[:_LONGEST]}."
        raise InputError(f"{registry.kind} '{name}': {reason}") from error


def wrong_value(key: str, kind: str, value: str) -> str:
    """One line on a value of the wrong type, from jsonargparse's words for it.

    >>> wrong_value("optimiser.name", "typing.Literal['adam', 'adamw']", "adm")
    "optimiser.name is adm; give adam or adamw. Did you mean 'adam'?"
    """
    shown = value if len(value) <= 80 else f"{value[:77]}..."
    if kind.startswith("typing.Literal["):
        names = re.findall(r"'([^']*)'", kind)
        return f"{key} is {shown}; give {' or '.join(names)}.{nearest(value, names)}"
    name = re.sub(r"<class '([\w.]+)'>", r"\1", kind).removeprefix("typing.")
    return f"{key} is {shown}; give {_KINDS.get(name, name)}."


def _file(words: Sequence[str]) -> str:
    """The last file that --config names."""
    for word, following in reversed(list(zip(words, [*words[1:], ""], strict=True))):
        if word == "--config" or word.startswith("--config="):
            return word.partition("=")[2] or following
    return "--config"
