"""The parts of a report, before they are HTML or Markdown. Their text is plain: whoever renders it escapes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of text under a head; the first ``left`` columns are words, the others numbers."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1


@dataclass(frozen=True)
class Chart:
    """A drawing of curves; ``name`` is that of its file, without the suffix."""

    name: str
    svg: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Picture:
    """A contact sheet; ``name`` is that of its file, without the suffix."""

    name: str
    png: bytes
    alt: str
    caption: str


Block = Note | Table | Chart | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it; ``anchor`` is unique in the report."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]
