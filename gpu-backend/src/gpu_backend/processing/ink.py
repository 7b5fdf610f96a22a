"""Bring a drawn sign into the form of scanned training data: bright ink that fills a black frame.

    gray → shrink to 96 → polarity and paper level → noise floor → specks off → bounding box
         → frame of the target's aspect, sign centred → area average → strongest ink at 255

The edge does the same in pure Python for small pictures; both must see the same digit, so the
constants and the order of steps are part of the contract of `fit = "ink"` (a test holds them
together).
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from gpu_backend.errors import InvalidInputError
from gpu_backend.processing.resizing import Pixels, resize, to_gray

__all__ = ["fit_ink"]

Gray = npt.NDArray[np.uint8]
"""Shape (height, width)."""

_WORKING_SIZE = 96
"""Longest side on which ink is analysed: finer detail is lost on the target anyway."""

_MIN_CONTRAST = 12
"""Gray levels between paper and ink below which a picture counts as blank."""

_EXACT_MIN_CONTRAST = 2
"""The same for pictures of exact size, whose pixels may count from 0 to 16."""

_FLOOR = 0.3
"""Part of the ink level below which a pixel is paper: shadows, noise, the rims of strokes."""

_NOISE_FACTOR = 5
"""Noise below this many times the paper's mean deviation is paper (4 sigma of a normal one)."""

_SPECK = 0.06
"""A connected piece with less than this part of the heaviest one's ink is a speck, no stroke."""

_RUN = re.compile(rb"[^\0]+")


def fit_ink(pixels: Pixels, width: int, height: int) -> Pixels:
    """The sign in `pixels` as gray ink (255) on black (0), `width` x `height`.

    Args:
        pixels: One sign, dark on light or light on dark, anywhere on a plain ground.
        width: Of the result, in pixels.
        height: Of the result, in pixels.

    Raises:
        InvalidInputError: The picture shows no ink.
    """
    gray = to_gray(pixels)
    if gray.shape[:2] == (height, width):
        # Taken as training data: its frame stays, only polarity and contrast are set.
        return _stretch(_subtract_paper(gray[:, :, 0], _EXACT_MIN_CONTRAST)[0])
    ink, noise = _subtract_paper(_shrink(gray)[:, :, 0], _MIN_CONTRAST)
    framed = _frame(_keep_strokes(_cut_noise(ink, noise)), width, height)
    return _stretch(resize(framed[:, :, None], width, height)[:, :, 0])


def _shrink(gray: Pixels) -> Pixels:
    height, width = gray.shape[:2]
    longest = max(height, width)
    if longest <= _WORKING_SIZE:
        return gray
    return resize(
        gray,
        max(1, width * _WORKING_SIZE // longest),
        max(1, height * _WORKING_SIZE // longest),
    )


def _subtract_paper(gray: Gray, min_contrast: int) -> tuple[Gray, float]:
    """Distance of each pixel from the paper towards the ink, and the paper's mean deviation.

    The paper is the median of the border. The ink is on that side of it where the squared
    distances weigh more, so a few bright specks do not turn a dark sign round.
    """
    border = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]]).astype(np.int64)
    paper = int(np.sort(border)[len(border) // 2])
    noise = float(np.abs(border - paper).mean())
    distance = gray.astype(np.int64) - paper
    darker = int((np.minimum(distance, 0) ** 2).sum())
    lighter = int((np.maximum(distance, 0) ** 2).sum())
    ink = np.maximum(-distance if darker > lighter else distance, 0)
    if ink.max() < min_contrast:
        raise InvalidInputError(
            "the image is blank: all its pixels have about the same brightness; "
            "draw dark on light or light on dark"
        )
    return ink.astype(np.uint8), noise


def _cut_noise(ink: Gray, paper_noise: float) -> Gray:
    """`ink` with everything fainter than the floor at 0 and full ink at 255."""
    strong = ink[ink > ink.max() / 2].astype(np.int64)
    level = float(strong.sum()) / len(strong)
    # Strokes that cross the border look like noise there, so noise raises the floor only so far.
    floor = max(_FLOOR * level, min(_NOISE_FACTOR * paper_noise, 0.5 * level))
    table = np.array(
        [min(255, round(value * 255 / level)) if value >= floor else 0 for value in range(256)],
        dtype=np.uint8,
    )
    kept: Gray = table[ink]
    return kept


def _keep_strokes(ink: Gray) -> Gray:
    """`ink` without specks, cropped to what is left. Pieces touch by edges or corners."""
    runs, roots = _pieces(ink)
    weights = np.zeros(len(runs), dtype=np.int64)
    for index, (row, start, end) in enumerate(runs):
        weights[_root(roots, index)] += int(ink[row, start:end].sum())
    least = _SPECK * weights.max()
    cleaned = np.zeros_like(ink)
    for index, (row, start, end) in enumerate(runs):
        if weights[_root(roots, index)] >= least:
            cleaned[row, start:end] = ink[row, start:end]
    rows, columns = np.flatnonzero(cleaned.any(axis=1)), np.flatnonzero(cleaned.any(axis=0))
    return cleaned[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _pieces(ink: Gray) -> tuple[list[tuple[int, int, int]], list[int]]:
    """Horizontal runs of ink (row, start, end), joined over adjacent rows by union-find."""
    runs: list[tuple[int, int, int]] = []
    roots: list[int] = []
    above: list[int] = []
    for row in range(ink.shape[0]):
        current = []
        for match in _RUN.finditer(ink[row].tobytes()):
            index = len(runs)
            runs.append((row, match.start(), match.end()))
            roots.append(index)
            current.append(index)
            for other in above:
                if runs[other][1] <= match.end() and match.start() <= runs[other][2]:
                    roots[_root(roots, other)] = _root(roots, index)
        above = current
    return runs, roots


def _root(roots: list[int], index: int) -> int:
    while roots[index] != index:
        roots[index] = roots[roots[index]]
        index = roots[index]
    return index


def _frame(sign: Gray, width: int, height: int) -> Gray:
    """`sign` in the middle of the smallest frame that has the target's aspect."""
    rows, columns = sign.shape
    frame_width = max(columns, -(-rows * width // height))
    frame_height = max(rows, -(-columns * height // width))
    top, left = (frame_height - rows) // 2, (frame_width - columns) // 2
    framed = np.zeros((frame_height, frame_width), dtype=np.uint8)
    framed[top : top + rows, left : left + columns] = sign
    return framed


def _stretch(ink: Gray) -> Pixels:
    """`ink` scaled so that its strongest pixel is 255."""
    highest = int(ink.max())
    levels = np.minimum(255, (ink.astype(np.int64) * 255 + highest // 2) // highest)
    return levels.astype(np.uint8)[:, :, None]
