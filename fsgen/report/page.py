"""Sections as one HTML file that asks nothing of any other machine, and as Markdown with its pictures beside it."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from fsgen.report.blocks import Block, Chart, Picture, Section, Table

_TEMPLATES = Path(__file__).with_name("templates")


def to_html(title: str, summary: str, sections: Sequence[Section]) -> str:
    """The page; every text in it is escaped."""
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    pages = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters |= {"inline": _inline, "data_uri": _data_uri, "kind": lambda block: type(block).__name__}
    pages.filters |= {"parts": _parts}
    return pages.get_template("report.html").render(title=title, summary=summary, sections=sections)


def _parts(cell: str) -> list[str]:
    """A number and what stands in brackets after it: on paper, lines break between them and nowhere else.

    >>> _parts("-1.23 [-2.00, +0.50]")
    ['-1.23', '[-2.00, +0.50]']
    """
    return re.split(r" (?=[\[(])", cell)


def _inline(chart: Chart) -> str:
    """A drawing as part of a page: ids that no other drawing has, and no names of namespaces."""
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", chart.svg)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(chart.alt)}"', 1)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{chart.name}-", svg)


def _data_uri(picture: Picture) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"


def to_markdown(title: str, summary: str, sections: Sequence[Section]) -> str:
    """The report for a reader of text; pictures are named as in :func:`pictures`."""
    lines = [f"# {escaped(title)}", "", escaped(summary)]
    for section in sections:
        lines += ["", f"## {escaped(section.title)}"]
        for block in section.blocks:
            lines += ["", *_markdown(block)]
    return "\n".join(lines) + "\n"


def pictures(sections: Sequence[Section]) -> dict[str, bytes]:
    """Charts and sheets by the names that the Markdown gives them."""
    blocks = [block for section in sections for block in section.blocks]
    charts = {f"{block.name}.svg": f"{block.svg}\n".encode() for block in blocks if isinstance(block, Chart)}
    return charts | {f"{block.name}.png": block.png for block in blocks if isinstance(block, Picture)}


def _markdown(block: Block) -> list[str]:
    if isinstance(block, Table):
        rule = "|" + "---|" * block.left + "---:|" * (len(block.head) - block.left)
        return [f"{escaped(block.caption)}:", "", _row(block.head), rule, *map(_row, block.rows)]
    if isinstance(block, Chart | Picture):
        suffix = "svg" if isinstance(block, Chart) else "png"
        return [f"![{escaped(block.alt)}]({block.name}.{suffix})", "", escaped(block.caption)]
    return [escaped(block.text)]


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(map(escaped, cells)) + " |"


def escaped(text: str) -> str:
    r"""Text that Markdown shows as it is.

    >>> print(escaped("a|b <i>_c_"))
    a\|b &lt;i&gt;\_c\_
    """
    plain = html.escape(text, quote=False)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])|[\\`*\[\]|~#]", r"\\\g<0>", plain)
