"""Pen strokes: random numbers by counter, motor programs as splines, and ink on a grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

STROKES, PARTS, POINTS = 4, 3, 5  # strokes a character, sub-strokes a stroke, control points a sub-stroke
PRIMITIVES = 10  # sub-strokes that the characters of an alphabet share
SAMPLES = 96  # points at which a stroke is drawn

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea & Flood, 2014): a bijection that scatters neighbouring integers."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def keys(*parts: int | np.ndarray) -> np.ndarray:
    """One uint64 key for each broadcast combination of integers; equal integers, equal key."""
    key = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            key = _mix(np.asarray(key + _GOLDEN + _mix(np.asarray(part).astype(np.uint64))))
    return np.asarray(key)


def uniforms(key: np.ndarray, stream: int, *shape: int) -> np.ndarray:
    """Uniform numbers in (0, 1), ``[*key.shape, *shape]``; they depend on key and stream alone."""
    count = int(np.prod(shape, dtype=np.int64))
    with np.errstate(over="ignore"):
        counter = np.arange(1, count + 1, dtype=np.uint64) + (np.uint64(stream) << np.uint64(32))
        bits = _mix(key[..., None] + counter * _GOLDEN) >> np.uint64(11)
    return ((bits.astype(np.float64) + 0.5) * 2.0**-53).reshape(*key.shape, *shape)


def normals(key: np.ndarray, stream: int, *shape: int) -> np.ndarray:
    """Standard normal numbers, as :func:`uniforms`."""
    return ndtri(uniforms(key, stream, *shape))


@dataclass(frozen=True)
class Programs:
    """Motor programs of N characters.

    Attributes:
        points: [N, strokes, PARTS * POINTS, 2], control points (x right, y down) in units of the image, centre 0.
        drawn: bool [N, strokes], which strokes exist; the others are left out.
        alphabet: [N], the alphabet of each, whose drawers share a hand.
        key: uint64 [N], from which the executions draw.
    """

    points: np.ndarray
    drawn: np.ndarray
    alphabet: np.ndarray
    key: np.ndarray


def draw_programs(seed: int, alphabet: np.ndarray, character: np.ndarray) -> Programs:
    """The programs of characters ``(alphabet[i], character[i])``; each depends on its own numbers and ``seed`` alone.

    A stroke chains one to three sub-strokes from its alphabet's primitives. A later stroke begins at the start, at the
    end or along the stroke before it, or by itself.

    Source: the structure of Lake, Salakhutdinov & Tenenbaum (2015), "Human-level concept learning through
    probabilistic program induction"; all distributions are fsgen's own.
    """
    alphabet, character = np.broadcast_arrays(np.asarray(alphabet), np.asarray(character))
    style = keys(seed, 1, alphabet)
    key = keys(seed, 2, alphabet, character)
    n = len(key)
    parts = _sub_strokes(style, key)
    which = _choose(uniforms(key, 1), _number_of_strokes(style)) + 1
    length = _choose(uniforms(key, 2, STROKES), np.array([0.42, 0.36, 0.22])) + 1
    length = np.where(which[:, None] == 1, np.maximum(length, 2), length)
    drawn = np.arange(STROKES) < which[:, None]

    steps = np.where((np.arange(PARTS) < length[..., None])[..., None, None], np.diff(parts, axis=-2), 0.0)
    ends = np.cumsum(steps.sum(-2), axis=2)
    starts = np.concatenate([np.zeros_like(ends[:, :, :1]), ends[:, :, :-1]], 2)
    within = np.concatenate([np.zeros_like(steps[..., :1, :]), np.cumsum(steps, -2)], -2)
    strokes = (starts[..., None, :] + within).reshape(n, STROKES, PARTS * POINTS, 2)
    return Programs(_fitted(_related(strokes, key), drawn, key), drawn, alphabet, key)


def _number_of_strokes(style: np.ndarray) -> np.ndarray:
    weights = np.array([0.26, 0.36, 0.26, 0.12]) * np.exp(0.5 * normals(style, 3, STROKES))
    return weights / weights.sum(-1, keepdims=True)


def _choose(u: np.ndarray, probability: np.ndarray) -> np.ndarray:
    return (u[..., None] > np.cumsum(probability, -1)[..., :-1]).sum(-1)


def _sub_strokes(style: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Control points of every sub-stroke from its own origin, [N, STROKES, PARTS, POINTS, 2]."""
    curl = 0.15 + 0.75 * uniforms(style, 4, 1) ** 1.5
    bend = curl * normals(style, 5, PRIMITIVES)
    kind = uniforms(style, 6, PRIMITIVES)
    bend = np.where(kind < 0.35, 0.0, bend)
    bend = np.where(kind > 0.8, np.sign(bend + 1e-9) * (0.9 + 3 * (kind - 0.8)), bend)  # hooks and loops
    turn = bend[..., None] * (1 + 0.5 * normals(style, 7, PRIMITIVES, POINTS - 2))
    eighths = np.array([0, 4, 2, 6, 0, 2, 4, 2, 1, 3, 5, 7])  # more level and upright strokes than slanted ones
    direction = eighths[np.floor(12 * uniforms(style, 8, PRIMITIVES)).astype(int)]
    compass = direction * np.pi / 4 + 0.1 * normals(style, 9, PRIMITIVES)
    first = (compass - bend)[..., None]
    heading = np.concatenate([first, first + np.cumsum(turn, -1)], -1)
    reach = 0.45 + 0.6 * uniforms(style, 10, PRIMITIVES)

    chosen = np.floor(PRIMITIVES * uniforms(key, 11, STROKES, PARTS) ** 1.3).astype(np.int64)
    row = np.arange(len(key))[:, None, None]
    heading, reach = heading[row, chosen], reach[row, chosen]
    heading = heading + 0.12 * normals(key, 12, STROKES, PARTS)[..., None]
    for part in range(1, PARTS):  # a pen does not run back along its own line
        back = np.cos(heading[:, :, part, 0] - heading[:, :, part - 1, -1]) < -0.6
        heading[:, :, part] += np.where(back, np.pi / 2, 0.0)[..., None]
    reach = reach * (0.65 + 0.5 * uniforms(key, 13, STROKES, PARTS))
    dot = (uniforms(key, 18, STROKES) < 0.1) & (np.arange(STROKES) > 0)
    reach = np.where(dot[..., None], 0.02, reach)
    step = reach[..., None, None] / (POINTS - 1) * np.stack([np.cos(heading), np.sin(heading)], -1)
    return np.concatenate([np.zeros_like(step[..., :1, :]), np.cumsum(step, -2)], -2)


def _related(strokes: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Places every stroke by its relation to the one before it."""
    placed = strokes.copy()
    relation = _choose(uniforms(key, 14, STROKES), np.array([0.24, 0.2, 0.14, 0.42]))
    relation = np.where(np.ptp(strokes, axis=2).max(-1) < 0.2, 0, relation)  # a dot stands by itself
    where, free = uniforms(key, 15, STROKES), uniforms(key, 16, STROKES, 2)
    row, last = np.arange(len(key)), strokes.shape[2] - 1
    for s in range(1, STROKES):
        before = placed[:, s - 1]
        low, high = placed[:, :s].min((1, 2)), placed[:, :s].max((1, 2))
        at = np.select([relation[:, s] == 1, relation[:, s] == 2], [0, last], np.rint(where[:, s] * last)).astype(int)
        alone = low + (1.3 * free[:, s] - 0.15) * (high - low)
        origin = np.where((relation[:, s] == 0)[:, None], alone, before[row, at])
        # A stroke that begins by itself or along another is centred there half of the time, so that strokes cross.
        middle = (where[:, s] * 7 % 1 < 0.5) & (relation[:, s] % 3 == 0)
        shift = np.where(middle[:, None], strokes[:, s].mean(1), 0.0)
        placed[:, s] = strokes[:, s] - shift[:, None] + origin[:, None]
    return placed


def _fitted(strokes: np.ndarray, drawn: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Centred, and scaled to the share of the image that people fill; very flat or thin shapes are filled out."""
    visible = drawn[:, :, None, None]
    low = np.where(visible, strokes, np.inf).min((1, 2))
    high = np.where(visible, strokes, -np.inf).max((1, 2))
    extent = high - low
    target = 0.58 + 0.24 * uniforms(key, 17, 1)
    scale = target / np.maximum(extent, 0.45 * extent.max(-1, keepdims=True))
    scale = np.sqrt(scale * scale.min(-1, keepdims=True))
    return (strokes - ((low + high) / 2)[:, None, None]) * scale[:, None, None]


def render(programs: Programs, drawers: np.ndarray, seed: int, size: int = 28) -> np.ndarray:
    """Executes every program once by every drawer: uint8 [N, D, 1, size, size], ink = 1.

    Execution (program, drawer) depends on the two and on ``seed`` alone. A drawer has a slant, a size and a pen of his
    own for each alphabet; each execution adds jitter of control points, strokes, position and shape.
    """
    drawers = np.asarray(drawers)
    n, d = len(programs.key), len(drawers)
    basis = _spline_basis()
    out = np.empty((n, d, 1, size, size), np.uint8)
    rows = max(1, 4000 // d)
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        key = keys(programs.key[part, None], 3, drawers)
        hand = keys(seed, 4, programs.alphabet[part, None], drawers)
        points = _executed(programs.points[part, None], key, hand)
        curve = (basis @ points + 0.5) * size - 0.5
        width = size / 28 * np.clip(0.68 + 0.1 * normals(hand, 1) + 0.05 * normals(key, 7), 0.45, 1.0)
        shown = np.broadcast_to(programs.drawn[part, None], points.shape[:3])
        out[part, :, 0] = _inked(curve, shown, width, size)
    return out


def _executed(points: np.ndarray, key: np.ndarray, hand: np.ndarray) -> np.ndarray:
    """Noisy control points [N, D, strokes, P, 2]."""
    strokes, count = points.shape[2], points.shape[3]
    wobble = 0.016 * normals(key, 1, strokes, count, 2) + 0.018 * normals(key, 2, strokes, 1, 2)
    moved = points + wobble
    turn = 0.05 * normals(hand, 2) + 0.06 * normals(key, 3)
    slant = 0.12 * normals(hand, 3) + 0.05 * normals(key, 4)
    stretch = np.exp(0.07 * normals(hand, 4, 2) + 0.07 * normals(key, 5, 2))
    cos, sin = np.cos(turn), np.sin(turn)
    shape = np.stack([np.stack([cos, -sin - slant], -1), np.stack([sin, cos], -1)], -2) * stretch[..., None, :]
    moved = np.einsum("ndspi,ndji->ndspj", moved, shape)
    return moved + (0.035 * normals(key, 6, 2) + 0.02 * normals(hand, 5, 2))[:, :, None, None]


def _spline_basis() -> np.ndarray:
    """[SAMPLES, P]: a uniform cubic B-spline over the control points, clamped to the first and the last."""
    count = PARTS * POINTS
    knots = np.clip(np.arange(-2, count + 2), 0, count - 1)
    t = np.linspace(0, len(knots) - 3 - 1e-9, SAMPLES)
    segment, u = t.astype(int), t % 1
    weights = np.stack([(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3], -1) / 6
    basis = np.zeros((SAMPLES, count))
    for k in range(4):
        np.add.at(basis, (np.arange(SAMPLES), knots[segment + k]), weights[:, k])
    return basis


def _inked(curve: np.ndarray, drawn: np.ndarray, width: np.ndarray, size: int) -> np.ndarray:
    """Pixels whose centre lies within ``width`` (pixels) of a point of a drawn curve, uint8 [N, D, size, size]."""
    n, d = curve.shape[:2]
    reach = int(np.ceil(width.max()))
    margin = reach + 1
    canvas = np.zeros((n * d, size + 2 * margin, size + 2 * margin), np.uint8)
    image, stroke = np.nonzero(drawn.reshape(n * d, -1))
    points = curve.reshape(n * d, -1, SAMPLES, 2)[image, stroke]
    inside = np.clip(points, -0.5, size - 0.5)
    nearest = np.rint(inside).astype(np.int64)
    offset = inside - nearest
    limit = (width.reshape(-1) ** 2)[image, None]
    flat = canvas.reshape(-1)
    side = size + 2 * margin
    base = image[:, None] * side * side + (nearest[..., 1] + margin) * side + nearest[..., 0] + margin
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            hit = (offset[..., 0] - dx) ** 2 + (offset[..., 1] - dy) ** 2 <= limit
            flat[base[hit] + dy * side + dx] = 1
    return canvas[:, margin:-margin, margin:-margin].reshape(n, d, size, size)
