"""Names as a page can show them: one short printable line each, and no two alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
LONGEST = 60


def shown(text: object, limit: int = LONGEST) -> str:
    """``text`` on one line of at most ``limit`` characters; what does not print is written as its escape.

    >>> shown("a\\nb\\x00"), shown("x" * 100, 11)
    ('a b\\\\x00', 'xxxxx…xxxxx')
    """
    line = " ".join(str(text).split())
    plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    half = (limit - 1) // 2
    return plain if len(plain) <= limit else f"{plain[:half]}…{plain[-half:]}"


def told_apart(items: Sequence[Item], ways: Sequence[Callable[[Item], str]]) -> list[str]:
    """A name for each item: by the first of ``ways`` alone where that is enough, else with the first other that helps.

    >>> told_apart(["a/run", "b/run", "c/other"], [lambda p: p[2:], lambda p: p[0]])
    ['run (a)', 'run (b)', 'other']
    """
    plain = [shown(ways[0](item)) or "unnamed" for item in items]
    names = list(plain)
    for name in sorted({name for name in plain if plain.count(name) > 1}):
        alike = [i for i, other in enumerate(plain) if other == name]
        tried = [[f"{name} ({shown(way(items[i]))})" for i in alike] for way in ways[1:]]
        tried.append([f"{name} (#{n})" for n in range(1, len(alike) + 1)])
        good = [labels for labels in tried if len(set(labels)) == len(alike) and not set(labels) & set(names)]
        for i, label in zip(alike, good[0] if good else tried[-1], strict=True):
            names[i] = label
    return names
