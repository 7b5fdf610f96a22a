"""Draw digits by hand, so to speak: skeletons of strokes, bent at random, inked and scanned.

A skeleton is a few strokes in the unit square (x to the right, y down). Each drawing jitters its
points, runs a smooth curve through them, turns, slants and stretches it, inks it with a pen of
some width, and puts it somewhere on paper of some gray, dark on light or light on dark.
Nothing is taken from any font or data set, so what is drawn here has no licence but ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SKELETONS", "Paper", "draw_digit", "scan"]

Floats = NDArray[np.float64]
Stroke = list[tuple[float, float]]
"""Points of one movement of the pen; a curve runs through them, with a corner where one repeats."""


def _arc(
    x: float, y: float, rx: float, ry: float, start: float, end: float, points: int = 9
) -> Stroke:
    """Points on an ellipse from `start` to `end` degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, end, points))
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


def _corner(*points: tuple[float, float]) -> Stroke:
    """Straight lines: every point twice."""
    return [point for point in points for _ in range(2)]


SKELETONS: dict[int, list[list[Stroke]]] = {
    0: [
        [_arc(0.5, 0.5, 0.32, 0.5, -90, 270, 13)],
        [_arc(0.5, 0.5, 0.45, 0.5, -110, 260, 13)],
        [_arc(0.5, 0.5, 0.24, 0.5, -60, 310, 13)],
        [_arc(0.5, 0.5, 0.36, 0.5, -100, 285, 13)],
    ],
    1: [
        [_corner((0.5, 0.0), (0.5, 1.0))],
        [_corner((0.28, 0.26), (0.52, 0.0), (0.52, 1.0))],
        [_corner((0.3, 0.18), (0.5, 0.0), (0.5, 1.0)), _corner((0.28, 1.0), (0.74, 1.0))],
        [_corner((0.2, 0.42), (0.55, 0.0), (0.55, 1.0))],
        [[(0.34, 0.2), (0.46, 0.12), (0.54, 0.0), (0.54, 0.0), (0.54, 0.5), (0.54, 1.0)]],
        [_corner((0.5, 0.0), (0.5, 1.0)), _corner((0.3, 1.0), (0.7, 1.0))],
    ],
    2: [
        [
            [(0.16, 0.26), (0.28, 0.06), (0.52, 0.0), (0.76, 0.1), (0.8, 0.3), (0.66, 0.54),
             (0.4, 0.78), (0.14, 1.0), (0.14, 1.0), (0.5, 1.0), (0.86, 0.99)],
        ],
        [
            [(0.18, 0.2), (0.4, 0.02), (0.68, 0.06), (0.78, 0.28), (0.6, 0.58), (0.3, 0.88),
             (0.14, 0.94), (0.12, 0.82), (0.28, 0.78), (0.5, 0.92), (0.72, 1.0), (0.9, 0.92)],
        ],
        [
            [(0.14, 0.1), (0.4, 0.0), (0.72, 0.04), (0.72, 0.24), (0.44, 0.6), (0.14, 0.98),
             (0.14, 0.98), (0.5, 0.96), (0.9, 0.98)],
        ],
        [
            [(0.2, 0.34), (0.22, 0.12), (0.46, 0.0), (0.72, 0.08), (0.78, 0.3), (0.64, 0.52),
             (0.36, 0.76), (0.16, 0.97), (0.3, 0.9), (0.52, 0.94), (0.74, 1.0), (0.88, 0.9)],
        ],
        [
            [(0.06, 0.36), (0.18, 0.1), (0.4, 0.02), (0.5, 0.2), (0.4, 0.56), (0.26, 0.92),
             (0.26, 0.92), (0.52, 0.98), (0.76, 0.84), (0.94, 0.6)],
        ],
    ],
    3: [
        [
            [(0.18, 0.14), (0.36, 0.01), (0.64, 0.03), (0.76, 0.22), (0.64, 0.42), (0.42, 0.48),
             (0.42, 0.48), (0.7, 0.54), (0.82, 0.74), (0.68, 0.95), (0.4, 1.0), (0.14, 0.86)],
        ],
        [
            [*_corner((0.16, 0.02), (0.78, 0.02), (0.42, 0.4)), (0.7, 0.46), (0.82, 0.7),
             (0.68, 0.94), (0.4, 1.0), (0.14, 0.88)],
        ],
        [
            [(0.14, 0.1), (0.44, 0.0), (0.7, 0.12), (0.66, 0.34), (0.44, 0.46), (0.36, 0.5),
             (0.5, 0.5), (0.76, 0.62), (0.78, 0.84), (0.52, 1.0), (0.12, 0.94)],
        ],
    ],
    4: [
        [_corner((0.3, 0.0), (0.14, 0.56), (0.88, 0.56)), _corner((0.68, 0.24), (0.64, 1.0))],
        [_corner((0.64, 1.0), (0.64, 0.0), (0.1, 0.66), (0.92, 0.66))],
        [_corner((0.16, 0.0), (0.16, 0.52), (0.84, 0.52)), _corner((0.8, 0.0), (0.8, 1.0))],
        [
            [(0.24, 0.0), (0.18, 0.3), (0.22, 0.48), (0.44, 0.52), (0.78, 0.46)],
            _corner((0.78, 0.02), (0.7, 1.0)),
        ],
        [_corner((0.56, 0.0), (0.12, 0.7), (0.9, 0.7)), _corner((0.62, 0.36), (0.6, 1.0))],
        [_corner((0.6, 1.0), (0.66, 0.0), (0.2, 0.5), (0.84, 0.48))],
        [_corner((0.2, 0.04), (0.1, 0.5), (0.9, 0.46)), _corner((0.72, 0.0), (0.56, 1.0))],
    ],
    5: [
        [
            [*_corner((0.28, 0.04), (0.22, 0.46)), (0.46, 0.38), (0.74, 0.48), (0.82, 0.7),
             (0.66, 0.95), (0.36, 1.0), (0.12, 0.86)],
            _corner((0.28, 0.04), (0.8, 0.02)),
        ],
        [
            [*_corner((0.8, 0.0), (0.26, 0.02), (0.22, 0.44)), (0.5, 0.38), (0.76, 0.5),
             (0.8, 0.74), (0.6, 0.97), (0.34, 1.0), (0.14, 0.9)],
        ],
        [
            [(0.84, 0.02), (0.54, 0.02), (0.28, 0.12), (0.24, 0.34), (0.46, 0.46), (0.7, 0.58),
             (0.74, 0.82), (0.52, 0.99), (0.14, 0.94)],
        ],
        [
            [*_corner((0.86, 0.03), (0.34, 0.03), (0.24, 0.5)), (0.5, 0.46), (0.7, 0.58),
             (0.7, 0.82), (0.5, 0.98), (0.18, 1.0)],
        ],
    ],
    6: [
        [
            [(0.72, 0.02), (0.44, 0.16), (0.24, 0.42), (0.16, 0.7), (0.26, 0.94), (0.52, 1.0),
             (0.76, 0.9), (0.8, 0.7), (0.64, 0.54), (0.42, 0.54), (0.2, 0.7)],
        ],
        [
            [(0.46, 0.0), (0.3, 0.26), (0.2, 0.56), (0.22, 0.84), (0.42, 1.0), (0.68, 0.94),
             (0.76, 0.74), (0.62, 0.58), (0.4, 0.6), (0.24, 0.78)],
        ],
        [
            [(0.8, 0.12), (0.62, 0.0), (0.36, 0.08), (0.2, 0.36), (0.16, 0.66), (0.28, 0.94),
             (0.54, 1.0), (0.78, 0.88), (0.78, 0.64), (0.56, 0.5), (0.32, 0.56), (0.18, 0.72)],
        ],
        [
            [(0.3, 0.0), (0.18, 0.4), (0.16, 0.76), (0.36, 0.99), (0.66, 0.98), (0.82, 0.8),
             (0.7, 0.62), (0.46, 0.62), (0.28, 0.8)],
        ],
        [
            [(0.2, 0.0), (0.1, 0.36), (0.14, 0.74), (0.36, 0.98), (0.68, 0.96), (0.9, 0.72),
             (0.86, 0.44), (0.68, 0.36), (0.56, 0.54), (0.7, 0.76)],
        ],
        [
            [(0.74, 0.0), (0.5, 0.12), (0.34, 0.42), (0.3, 0.72)],
            _arc(0.5, 0.76, 0.22, 0.22, 180, 520),
        ],
    ],
    7: [
        [_corner((0.12, 0.03), (0.84, 0.03), (0.4, 1.0))],
        [_corner((0.12, 0.03), (0.84, 0.03), (0.42, 1.0)), _corner((0.3, 0.5), (0.8, 0.5))],
        [_corner((0.14, 0.22), (0.16, 0.03), (0.84, 0.03), (0.46, 1.0))],
        [[*_corner((0.12, 0.05), (0.84, 0.02)), (0.6, 0.38), (0.46, 0.7), (0.42, 1.0)]],
        [[(0.1, 0.14), (0.3, 0.04), (0.54, 0.1), (0.84, 0.02), (0.84, 0.02), (0.62, 0.46),
          (0.4, 1.0)]],
        [_corner((0.16, 0.02), (0.8, 0.04), (0.66, 1.0))],
        [[*_corner((0.12, 0.05), (0.84, 0.02)), (0.56, 0.5), (0.4, 1.0)],
         _corner((0.26, 0.56), (0.76, 0.5))],
    ],
    8: [
        [
            [(0.72, 0.14), (0.5, 0.0), (0.26, 0.1), (0.26, 0.32), (0.5, 0.47), (0.76, 0.64),
             (0.76, 0.88), (0.5, 1.0), (0.22, 0.88), (0.24, 0.64), (0.5, 0.47), (0.72, 0.32),
             (0.72, 0.14)],
        ],
        [_arc(0.5, 0.24, 0.26, 0.24, -90, 270), _arc(0.5, 0.74, 0.32, 0.27, -90, 270)],
        [_arc(0.5, 0.26, 0.3, 0.26, -80, 285), _arc(0.5, 0.75, 0.3, 0.25, -100, 265)],
        [
            [(0.8, 0.06), (0.5, 0.0), (0.24, 0.14), (0.34, 0.38), (0.6, 0.56), (0.74, 0.78),
             (0.56, 0.98), (0.3, 0.92), (0.26, 0.7), (0.5, 0.48), (0.74, 0.28), (0.82, 0.08)],
        ],
        [
            [(0.84, 0.2), (0.72, 0.03), (0.46, 0.04), (0.36, 0.24), (0.5, 0.44), (0.6, 0.66),
             (0.5, 0.92), (0.28, 1.0), (0.16, 0.84), (0.3, 0.6), (0.6, 0.4), (0.84, 0.2)],
        ],
        [_arc(0.54, 0.17, 0.19, 0.17, -90, 270), _arc(0.48, 0.66, 0.34, 0.34, -80, 280)],
    ],
    9: [
        [
            [(0.78, 0.24), (0.6, 0.02), (0.32, 0.06), (0.2, 0.28), (0.36, 0.48), (0.62, 0.44),
             (0.78, 0.22), (0.78, 0.22), (0.78, 0.6), (0.76, 1.0)],
        ],
        [
            [(0.74, 0.14), (0.5, 0.0), (0.24, 0.12), (0.22, 0.36), (0.46, 0.5), (0.7, 0.4),
             (0.78, 0.16), (0.8, 0.5), (0.68, 0.84), (0.4, 1.0), (0.18, 0.92)],
        ],
        [_arc(0.46, 0.26, 0.28, 0.26, 0, 350), _corner((0.74, 0.1), (0.62, 1.0))],
        [
            [(0.76, 0.1), (0.48, 0.02), (0.24, 0.2), (0.3, 0.44), (0.56, 0.46), (0.76, 0.26),
             (0.8, 0.04), (0.7, 0.5), (0.5, 1.0)],
        ],
        [_arc(0.46, 0.28, 0.3, 0.28, -20, 345), _corner((0.76, 0.02), (0.76, 1.0))],
        [_arc(0.42, 0.2, 0.22, 0.2, -10, 350), [(0.66, 0.14), (0.66, 0.5), (0.56, 1.0)]],
    ],
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Paper:
    """How a drawing is put on paper and scanned.

    Attributes:
        size: Width and height in pixels.
        paper: Gray level of the paper, 0 to 255.
        ink: Gray level of the ink.
        noise: Standard deviation of the noise, in gray levels.
        specks: Number of stray dots.
    """

    size: tuple[int, int]
    paper: int = 255
    ink: int = 0
    noise: float = 0.0
    specks: int = 0

    @classmethod
    def random(cls, random: np.random.Generator) -> Paper:
        """28 to 64 pixels, dark on light or light on dark, mostly clean."""
        size = (int(random.integers(28, 65)), int(random.integers(28, 65)))
        low, high = int(random.integers(0, 90)), int(random.integers(165, 256))
        if random.random() < 0.4:
            low, high = 0, 255
        paper, ink = (high, low) if random.random() < 0.5 else (low, high)
        noise = float(random.choice([0.0, 0.0, 4.0, 9.0]))
        return cls(size, paper, ink, noise, int(random.integers(0, 4)) // 3)


def draw_digit(
    digit: int, random: np.random.Generator, paper: Paper, *, wildness: float = 1.0
) -> NDArray[np.uint8]:
    """A drawing of `digit`, shape (height, width).

    Args:
        digit: 0 to 9.
        random: Source of everything that varies.
        paper: What it is drawn on.
        wildness: 0 draws the plain skeleton, 1 as people do.
    """
    styles = SKELETONS[digit]
    strokes = styles[random.integers(len(styles))]
    jitter = 0.035 * wildness
    curves = [_smooth(_jitter(np.array(stroke), jitter, random)) for stroke in strokes]
    width, height = paper.size
    fill = random.uniform(0.35, 0.95)
    matrix = _distortion(random, wildness)
    placed = _place(curves, matrix, fill, paper.size, random)
    extent = fill * min(width, height)
    pen = max(1.2, extent * random.uniform(0.05, 0.2)) / 2
    return scan(_ink(placed, pen, paper.size), paper, random)


def _jitter(points: Floats, amount: float, random: np.random.Generator) -> Floats:
    """Points moved at random; repeated points (corners) stay together."""
    moved = points + random.normal(0, amount, points.shape)
    same = (points[1:] == points[:-1]).all(axis=1)
    for index in np.flatnonzero(same):
        moved[index + 1] = moved[index]
    return np.asarray(moved, np.float64)


def _smooth(points: Floats, steps: int = 6) -> Floats:
    """A centripetal-like Catmull-Rom curve through `points`; repeated points make corners."""
    padded = np.concatenate([points[:1], points, points[-1:]])
    times = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = []
    for before, start, end, after in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        if (start == end).all():
            continue
        # At a corner the tangent is that of the straight line, so that lines stay straight.
        left = end - start if (before == start).all() else (end - before) / 2
        right = end - start if (after == end).all() else (after - start) / 2
        a, b = 2 * start - 2 * end + left + right, -3 * start + 3 * end - 2 * left - right
        pieces.append(((a * times + b) * times + left) * times + start)
    return np.concatenate([*pieces, points[-1:]])


def _distortion(random: np.random.Generator, wildness: float) -> Floats:
    """Rotation, slant and stretch as one 2 × 2 matrix."""
    angle = math.radians(random.normal(0, 8) * wildness)
    slant = random.normal(0.1, 0.22) * wildness
    stretch = math.exp(random.normal(-0.2, 0.28) * wildness)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.asarray(turn @ np.array([[stretch, -slant], [0, 1]]), np.float64)


def _place(
    curves: list[Floats],
    matrix: Floats,
    fill: float,
    size: tuple[int, int],
    random: np.random.Generator,
) -> list[Floats]:
    """Curves in pixels, filling `fill` of the shorter side, somewhere on the paper."""
    turned = [curve @ matrix.T for curve in curves]
    points = np.concatenate(turned)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = fill * min(size) / max(high - low)
    room = np.array(size) - (high - low) * scale
    offset = room * random.uniform(0.05, 0.95, 2)
    return [(curve - low) * scale + offset for curve in turned]


def _ink(curves: list[Floats], pen: float, size: tuple[int, int]) -> Floats:
    """Coverage by a round pen of radius `pen`, 0 to 1, shape (height, width), anti-aliased."""
    width, height = size
    centres = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)
    starts = np.concatenate([curve[:-1] for curve in curves])
    steps = np.concatenate([curve[1:] - curve[:-1] for curve in curves])
    nearest = np.full((height, width), np.inf)
    for start, step in zip(starts, steps, strict=True):
        relative = centres - start
        along = np.clip((relative @ step) / max(float(step @ step), 1e-9), 0, 1)
        gap = relative - along[..., None] * step
        nearest = np.minimum(nearest, np.hypot(gap[..., 0], gap[..., 1]))
    return np.clip(pen - nearest + 0.5, 0, 1)


def scan(coverage: Floats, paper: Paper, random: np.random.Generator) -> NDArray[np.uint8]:
    """Coverage (0 to 1) as gray levels on `paper`, with its noise and specks."""
    height, width = coverage.shape
    levels = paper.paper + (paper.ink - paper.paper) * coverage
    for _ in range(paper.specks):
        levels[random.integers(height), random.integers(width)] = paper.ink
    levels = levels + random.normal(0, 1, levels.shape) * paper.noise
    return np.clip(np.round(levels), 0, 255).astype(np.uint8)
