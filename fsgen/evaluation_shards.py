"""Shards of an evaluation: which sets each holds, the file it leaves, and how files are joined. Torch stays out."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsgen.errors import InputError
from fsgen.run.log import Log

KIND = "likelihood-shard"
_LISTS = {"nats": (int, float, type(None)), "ess": (int, float, type(None)), "repeated": (bool,), "bounds": (list,)}
_VALUES = {"ways": (int,), "shots": (int,), "exact": (bool,), "particles": (int,), "nats_of_a_bit": (float, type(None))}

Shards = dict[int, tuple[Path, list[dict[str, Any]]]]


@dataclass(frozen=True)
class Shard:
    """Shard ``index`` of ``of``, counted from 1.

    >>> Shard.parse("2/3").sets(10, group=1), Shard.parse("2/3").sets(40, group=16), Shard(2, 3).sets(5, group=16)
    (range(3, 6), range(16, 32), range(1, 3))
    """

    index: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard written "i/n".

        Raises:
            InputError: not of that form, or i outside 1 ... n.
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(f"--shard is {text}; give i/n, such as 1/4, with i from 1 to n.")
        return cls(int(found[1]), int(found[2]))

    def sets(self, total: int, group: int) -> range:
        """The numbers of its sets: a stretch of the list, of whole groups where every shard can get one.

        Raises:
            InputError: fewer sets than shards.
        """
        if self.of > total:
            raise InputError(f"--shard is {self}, but {total} sets make no more than {total} shards; give a smaller n.")
        unit = group if -(-total // group) >= self.of else 1
        parts = -(-total // unit)
        first, stop = (min(total, parts * i // self.of * unit) for i in (self.index - 1, self.index))
        return range(first, stop)

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"


WHOLE = Shard()


def refuse_other_lines(
    path: Path, settings: Mapping[str, Any], cells: Collection[tuple[int, int]], particles: int
) -> None:
    """Refuses a file that a shard would replace and that holds anything but an earlier run of the same shard.

    Args:
        settings: what every line of the shard holds. cells: numbers of classes and shots that it scores.

    Raises:
        InputError: names the file. CheckpointError: it holds other things than lines.
    """
    expected = json.loads(json.dumps(settings))
    for line in Log(path).records():
        found = line["per_set"] if _is_whole(line) else {}
        same = found and all(line.get(key) == value for key, value in expected.items())
        if not same or (found["ways"], found["shots"]) not in cells or found["particles"] not in (particles, 1):
            raise InputError(
                f"{path} holds lines of something else, which this shard would replace; choose another --out."
            )


def join(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The lines of the shards as one line for each line of an undivided evaluation.

    Returns:
        The settings; "per_set", with the values of all sets in list order; "provenance", a list, one a shard.

    Raises:
        InputError: a file that holds other lines, a shard that is missing or given twice, or shards of different
            evaluations; says which and what to do. CheckpointError: a file that cannot be read.
    """
    shards = _by_index(paths)
    first_path, first = shards[min(shards)]
    of = first[0]["shard"]["of"]
    for path, lines in shards.values():
        _refuse_difference(first_path, first, path, lines)
    if missing := list(itertools.islice((i for i in range(1, of + 1) if i not in shards), 5)):
        more = " and more" if of - len(shards) > len(missing) else ""
        raise InputError(
            f"no file holds shard {', '.join(map(str, missing))}{more} of {of}; add it, or score it with "
            f"`fsgen evaluate --shard {missing[0]}/{of}`."
        )
    ordered = [shards[index] for index in sorted(shards)]
    return [_joined([(path, lines[row]) for path, lines in ordered]) for row in range(len(first))]


def _by_index(paths: Sequence[Path]) -> Shards:
    """The shards by their number, each with its file and lines."""
    found: Shards = {}
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such file.")
        lines = Log(path).records()
        if not lines or not all(map(_is_whole, lines)):
            raise InputError(f"{path} does not hold what `fsgen evaluate --shard` writes; give the files of shards.")
        index, of = lines[0]["shard"]["index"], lines[0]["shard"]["of"]
        if any((line["shard"]["index"], line["shard"]["of"]) != (index, of) for line in lines):
            raise InputError(f"{path} holds lines of several shards; give each shard in a file of its own.")
        for other, theirs in found.values():
            if theirs[0]["shard"]["of"] != of:
                raise InputError(
                    f"{other} is one of {theirs[0]['shard']['of']} shards, {path} one of {of}; give shards of one cut."
                )
        if index in found:
            raise InputError(f"{found[index][0]} and {path} both hold shard {index} of {of}; give each shard once.")
        found[index] = path, lines
    return found


def _is_whole(line: Mapping[str, Any]) -> bool:
    """Whether a line has every part that joining and printing read, of the right kind."""
    shard, found = line.get("shard"), line.get("per_set")
    if line.get("kind") != KIND or not isinstance(shard, dict) or not isinstance(found, dict):
        return False
    whole = [line.get("sets"), line.get("levels"), shard.get("index"), shard.get("of"), found.get("first")]
    if any(type(n) is not int for n in whole) or not isinstance(line.get("data"), dict):
        return False
    terms, needed = found.get("terms", {}), {"first", *_VALUES, *_LISTS}
    if found.keys() - {"terms"} != needed or not 1 <= shard["index"] <= shard["of"] <= line["sets"]:
        return False
    if any(type(found[key]) not in kinds for key, kinds in _VALUES.items()):
        return False
    lists = all(
        isinstance(found[key], list) and all(type(v) in kinds for v in found[key]) for key, kinds in _LISTS.items()
    )
    lists = lists and isinstance(terms, dict) and all(_are_numbers(values) for values in terms.values())
    return lists and all(_are_numbers(row) for row in found["bounds"])


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) in _LISTS["nats"] for v in values)


def _refuse_difference(
    path: Path, lines: Sequence[Mapping[str, Any]], other: Path, theirs: Sequence[Mapping[str, Any]]
) -> None:
    """Refuses shards of different evaluations: every setting of every line has to agree."""
    if len(lines) != len(theirs):
        raise InputError(
            f"{path} has {len(lines)} lines and {other} {len(theirs)}; score both with the same --classes and --shots."
        )
    for mine, yours in zip(lines, theirs, strict=True):
        for key, a, b in _differences(_shared(mine), _shared(yours)):
            raise InputError(
                f"{path} and {other} differ in {key} ({a} and {b}); shards are joined if weights, data and options "
                f"are the same."
            )


def _shared(line: Mapping[str, Any]) -> dict[str, Any]:
    """What the lines of all shards have in common; the digest of the list last, which other settings change too."""
    own = ("shard", "per_set", "provenance", "run", "list_digest", "covariates")
    return {
        **{key: value for key, value in line.items() if key not in own},
        **{key: line["per_set"][key] for key in _VALUES},
        "list_digest": line.get("list_digest"),
    }


def _differences(a: Any, b: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The places at which two nested mappings differ, with both values."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        if a != b:
            yield name, a, b
        return
    for key in [*a, *(key for key in b if key not in a)]:
        yield from _differences(a.get(key), b.get(key), f"{name}.{key}" if name else key)


def _joined(parts: Sequence[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    line, following = parts[0][1], 0
    for path, part in parts:
        held = part["per_set"]
        columns = [*(held[key] for key in _LISTS), *held.get("terms", {}).values()]
        if held["first"] != following or len(set(map(len, columns))) > 1:
            raise InputError(
                f"{path} holds other sets than its shard, from {held['first']} on; score that shard again."
            )
        following += len(held["nats"])
    if following != line["sets"]:
        raise InputError(f"{parts[-1][0]} ends at set {following} of {line['sets']}; score that shard again.")
    found = {**line["per_set"], **{key: [v for _, part in parts for v in part["per_set"][key]] for key in _LISTS}}
    for key, lost in (("nats", math.inf), ("ess", math.nan)):  # a set of probability 0; JSON has neither number
        found[key] = [lost if v is None else v for v in found[key]]
    if len(set(map(len, found["bounds"]))) > 1:
        raise InputError(f"{parts[0][0]} and others differ in --by-particles; score all shards with it, or none.")
    found["bounds"] = [[math.inf if v is None else v for v in row] for row in found["bounds"]]
    found |= _joined_terms(parts)
    kept = {key: value for key, value in line.items() if key not in ("shard", "per_set", "provenance")}
    return {**kept, "per_set": found, "provenance": [part.get("provenance") for _, part in parts]}


def _joined_terms(parts: Sequence[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    """The terms of all sets, under "terms"; nothing where no shard holds any."""
    (first, _), held = parts[0], [part["per_set"].get("terms", {}) for _, part in parts]
    for (path, _), terms in zip(parts, held, strict=True):
        if terms.keys() != held[0].keys():
            names = [", ".join(found) or "none" for found in (held[0], terms)]
            raise InputError(
                f"{first} and {path} differ in the sites of their terms ({names[0]} and {names[1]}); score all shards "
                f"with one version of fsgen."
            )
    joined = {site: [math.inf if v is None else v for terms in held for v in terms[site]] for site in held[0]}
    return {"terms": joined} if joined else {}
