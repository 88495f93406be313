"""Numbers as a report writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fsgen.report.names import shown

NONE = "–"


def plus_minus(part: Mapping[str, Any] | None, digits: int = 1, scale: float = 1.0) -> str:
    """A mean and its standard error.

    >>> plus_minus({"nats": 90.04, "se": 1.25}), plus_minus({"nats": 2.0, "se": None}), plus_minus(None)
    ('90.0 ± 1.2', '2.0', '–')
    """
    if part is None or part["nats"] is None:
        return NONE
    error = "" if part["se"] is None else f" ± {part['se'] * scale:.{digits}f}"
    return f"{part['nats'] * scale:.{digits}f}{error}"


def with_interval(row: Mapping[str, Any] | None, name: str = "nats", digits: int = 2, sign: str = "+") -> str:
    """A number and the ends of its interval.

    >>> with_interval({"nats": -1.234, "interval": [-2.0, 0.5]})
    '−1.23 [−2.00, +0.50]'
    """
    if row is None or row[name] is None:
        return NONE
    ends = row["interval"] and " [" + ", ".join(f"{end:{sign}.{digits}f}" for end in row["interval"]) + "]"
    return f"{row[name]:{sign}.{digits}f}{ends or ''}".replace("-", "−")


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent.

    >>> percent(0.0283)
    '2.8 %'
    """
    return NONE if share is None else f"{100 * share:.{digits}f} %"


def span(values: Iterable[str]) -> str:
    """The first and the last of ordered values, or the only one.

    >>> span(["100", "100"]), span(["1", "5"])
    ('100', '1 to 5')
    """
    listed = list(dict.fromkeys(values))
    return listed[0] if len(listed) == 1 else f"{listed[0]} to {listed[-1]}"


def counted(number: int, one: str, many: str) -> str:
    """A number with its noun.

    >>> counted(1, "class", "classes"), counted(2, "class", "classes")
    ('1 class', '2 classes')
    """
    return f"{number} {one if number == 1 else many}"


def known(value: object) -> str:
    """A number or name, or a dash where there is none."""
    return NONE if value is None else shown(value)


def short(digest: object) -> str:
    """The start of a digest."""
    return shown(digest)[:12] if digest else NONE


def likelihood_kind(scores: Iterable[Mapping[str, Any]]) -> str:
    """What the numbers of one row are: exact, or a bound with its particles and effective sample share."""
    bounds = [score for score in scores if not score["exact"]]
    if not bounds:
        return "exact"
    particles = span(map(str, sorted({score["particles"] for score in bounds})))
    shares = sorted(score["ess"] for score in bounds if score["ess"] is not None)
    ess = f", ESS {span(percent(share) for share in shares)}" if shares else ""
    return f"bound, K = {particles}{ess}"
