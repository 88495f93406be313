"""Charts as SVG whose text stays text: colours that colour-blind readers tell apart, one line style a protocol."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fsgen.report.names import shown

# Okabe & Ito (2008), without its yellow, which is faint on white; then wine, olive and indigo of Tol (2021).
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255", "#999933", "#332288",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p", ">")
REFERENCE = "#6b6b6b"
PRINTED = "printed"
STYLES = {"strict": "-", "published": "-.", PRINTED: "--"}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fsgen",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}
_WIDTH, _HEIGHT, _LINE = 5.4, 3.4, 0.22  # inches: about a phone's width at full text size


@dataclass(frozen=True)
class Curve:
    """One line of a chart; ``colour`` numbers its subject, or its row among the printed ones; see :class:`Spot`."""

    label: str
    colour: int | None
    style: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Spot:
    """One point of a scatter chart; ``colour`` numbers its subject, None for what subjects are measured by."""

    label: str
    colour: int | None
    text: str
    x: tuple[float, float, float]  # low end, value and high end, as y
    y: tuple[float, float, float]


def by_shots(curves: Sequence[Curve], label: str, zero: bool = False, across: str = "shots: images given") -> str:
    """Curves against the number of images given, on an axis in log(1 + shots)."""
    shots = sorted({x for curve in curves for x in curve.x})
    placed = [np.log1p(x) for x in shots]
    kept: list[int] = []
    for i in range(len(shots)):
        if not kept or placed[i] - placed[kept[-1]] > 0.05 * (placed[-1] - placed[0]):
            kept.append(i)

    def axes(ax: Any) -> None:
        ax.set_xticks([placed[i] for i in kept], [f"{shots[i]:g}" for i in kept])
        ax.set_xlabel(across)
        if zero:
            ax.axhline(0, color="#555555", linewidth=0.8)

    return _drawn(curves, label, axes, np.log1p)


def by_particles(curves: Sequence[Curve], label: str) -> str:
    """Curves against the number of particles, on a logarithmic axis."""
    counts = sorted({x for curve in curves for x in curve.x})

    def axes(ax: Any) -> None:
        ax.set_xscale("log")
        ax.set_xticks(counts, [f"{k:g}" for k in counts])
        ax.minorticks_off()
        ax.set_xlabel("particles K")

    return _drawn(curves, label, axes, np.asarray)


def reliability(curves: Sequence[Curve]) -> str:
    """Accuracy against confidence; a calibrated classifier lies on the diagonal."""

    def axes(ax: Any) -> None:
        ax.plot([0, 1], [0, 1], color="#555555", linewidth=0.8)
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
        ax.set_xlabel("confidence")

    return _drawn(curves, "accuracy", axes, np.asarray)


def scatter(spots: Sequence[Spot], across: str, up: str, floor: float) -> str:
    """Points with their intervals, numbered by their text; ``floor`` is a dotted level."""

    def axes(ax: Any) -> None:
        ax.axhline(floor, color="#555555", linewidth=0.8, linestyle=":")
        for spot in spots:
            (left, x, right), (low, y, high) = spot.x, spot.y
            colour = _look(spot.colour)["color"]
            sides: Any = {"xerr": [[x - left], [right - x]], "yerr": [[y - low], [high - y]]}
            ax.errorbar(x, y, **sides, fmt="none", ecolor=colour, elinewidth=0.9)
            ax.annotate(spot.text, (x, y), (4, 4), textcoords="offset points", fontsize=10, color=colour)
        ax.set_xlim(left=0)
        ax.set_ylim(0, 1.03)
        ax.set_xlabel(across)

    lines: dict[str, list[Spot]] = {}
    for spot in spots:
        lines.setdefault(spot.label, []).append(spot)
    curves = [
        Curve(label, held[0].colour, "strict", [spot.x[1] for spot in held], [spot.y[1] for spot in held])
        for label, held in lines.items()
    ]
    return _drawn(curves, up, axes, np.asarray)


def _drawn(curves: Sequence[Curve], label: str, axes: Any, place: Any) -> str:
    columns = 1 if max((len(curve.label) for curve in curves), default=0) > 26 else 2
    rows = -(-len(curves) // columns)
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the reader's fonts draw the text, not ours
        figure = Figure(figsize=(_WIDTH, _HEIGHT + _LINE * rows), layout="constrained")
        ax = figure.add_subplot()
        handles = [_line(ax, curve, place) for curve in curves]
        axes(ax)
        ax.set_ylabel(label)
        names = [f" {shown(curve.label)}" for curve in curves]  # a space, as a leading _ would hide the entry
        figure.legend(handles, names, loc="outside lower left", ncols=columns, frameon=False, fontsize=10)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _trimmed(file.getvalue())


def _line(ax: Any, curve: Curve, place: Any) -> Any:
    x = place(np.asarray(curve.x, float))
    look = _look(curve.colour) | {"linestyle": STYLES.get(curve.style, ":")}
    if curve.style == PRINTED:
        look |= {"color": REFERENCE, "linewidth": 1.0, "markerfacecolor": "white"}
    (line,) = ax.plot(x, curve.y, **look)
    if curve.low is not None and curve.high is not None:
        ax.fill_between(x, curve.low, curve.high, color=look["color"], alpha=0.15, linewidth=0)
    return line


def _look(number: int | None) -> dict[str, Any]:
    """Colour and marker of a subject; grey stars for what subjects are measured by."""
    if number is None:
        return {"color": REFERENCE, "marker": "*"}
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
    }


def _trimmed(svg: str) -> str:
    """The drawing without prolog, fixed size, ids that nothing refers to and a style rule for the whole page."""
    body = svg[svg.index("<svg") :]
    for part in (r"<defs>\s*<style type=\"text/css\">.*?</style>\s*</defs>", r"<metadata>.*?</metadata>"):
        body = re.sub(part, "", body, count=1, flags=re.S)
    body = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', ' style="stroke-linejoin: round"', body, count=1)
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', body))
    named = {name for pair in used for name in pair}
    return re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in named else "", body)
