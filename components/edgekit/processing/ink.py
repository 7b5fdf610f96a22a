"""Bring a drawn sign into the form of scanned training data: bright ink that fills a black frame.

    gray → shrink to 96 → polarity and paper level → noise floor → specks off → bounding box
         → frame of the target's aspect, sign centred → area average → strongest ink at 255

An image that already has the target's size is taken as training data: its frame stays as it is,
only polarity and contrast are set.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from edgekit.errors import InvalidInputError
from edgekit.processing.raster import Image, crop, resize, to_gray

__all__ = ["fit_ink"]

_WORKING_SIZE = 96
"""Longest side on which ink is analysed: finer detail is lost on the target anyway."""

_MIN_CONTRAST = 12
"""Gray levels between paper and ink below which a picture counts as blank."""
_EXACT_MIN_CONTRAST = 2
"""The same for images of exact size, whose pixels may count from 0 to 16."""

_FLOOR = 0.3
"""Part of the ink level below which a pixel is paper: shadows, noise, the rims of strokes."""
_NOISE_FACTOR = 5
"""Noise below this many times the paper's mean deviation is paper (4σ of a normal distribution)."""
_SPECK = 0.06
"""A connected piece with less than this part of the heaviest one's ink is a speck, not a stroke."""


def fit_ink(image: Image, width: int, height: int) -> Image:
    """The sign in `image` as gray ink (255) on black (0), `width` × `height`.

    Args:
        image: One sign, dark on light or light on dark, anywhere on a plain ground.
        width: Width of the result in pixels.
        height: Height of the result in pixels.

    Raises:
        InvalidInputError: The image shows no ink.
    """
    gray = to_gray(image)
    if (gray.width, gray.height) == (width, height):
        return _stretch(_subtract_paper(gray, _EXACT_MIN_CONTRAST)[0])
    ink, paper_noise = _subtract_paper(_shrink(gray), _MIN_CONTRAST)
    sign = _keep_strokes(_cut_noise(ink, paper_noise))
    return _stretch(resize(_frame(sign, width, height), width, height))


def _shrink(image: Image) -> Image:
    longest = max(image.width, image.height)
    if longest <= _WORKING_SIZE:
        return image
    return resize(
        image,
        max(1, image.width * _WORKING_SIZE // longest),
        max(1, image.height * _WORKING_SIZE // longest),
    )


def _subtract_paper(gray: Image, min_contrast: int) -> tuple[Image, float]:
    """Distance of each pixel from the paper towards the ink, and the paper's mean deviation.

    The paper is the median of the border. The ink is on that side of it where the squared
    distances weigh more, so a few bright specks do not turn a dark sign round.
    """
    border = _border(gray)
    paper = sorted(border)[len(border) // 2]
    noise = sum([abs(value - paper) for value in border]) / len(border)
    counts = Counter(gray.pixels)
    darker = sum([count * (paper - value) ** 2 for value, count in counts.items() if value < paper])
    lighter = sum(
        [count * (value - paper) ** 2 for value, count in counts.items() if value > paper]
    )
    sign = -1 if darker > lighter else 1
    distance = bytes([max(0, sign * (value - paper)) for value in range(256)])
    ink = gray.pixels.translate(distance)
    if max(ink) < min_contrast:
        raise InvalidInputError(
            "the image is blank: all its pixels have about the same brightness; "
            "draw dark on light or light on dark"
        )
    return Image(gray.width, gray.height, 1, ink), noise


def _border(image: Image) -> bytes:
    pixels, width = image.pixels, image.width
    return pixels[:width] + pixels[-width:] + pixels[::width] + pixels[width - 1 :: width]


def _cut_noise(ink: Image, paper_noise: float) -> Image:
    """`ink` with everything fainter than the floor at 0 and full ink at 255."""
    half = max(ink.pixels) / 2
    counts = Counter(ink.pixels)
    strong = [(value, count) for value, count in counts.items() if value > half]
    level = sum([value * count for value, count in strong]) / sum([count for _, count in strong])
    # Strokes that cross the border look like noise there, so noise raises the floor only so far.
    floor = max(_FLOOR * level, min(_NOISE_FACTOR * paper_noise, 0.5 * level))
    scale = bytes(
        [min(255, round(value * 255 / level)) if value >= floor else 0 for value in range(256)]
    )
    return Image(ink.width, ink.height, 1, ink.pixels.translate(scale))


_RUN = re.compile(rb"[^\0]+")


def _keep_strokes(ink: Image) -> Image:
    """`ink` without specks, cropped to what is left.

    Pieces are connected by edges or corners. They are found by joining the horizontal runs of
    adjacent rows (union-find over some hundred runs, not thousands of pixels).
    """
    rows = ink.rows()
    runs: list[tuple[int, int, int]] = []  # row, start, end
    parents: list[int] = []
    above: list[int] = []
    for y, row in enumerate(rows):
        current = []
        for match in _RUN.finditer(row):
            index = len(runs)
            runs.append((y, match.start(), match.end()))
            parents.append(index)
            current.append(index)
            for other in above:
                if runs[other][1] <= match.end() and match.start() <= runs[other][2]:
                    parents[_root(parents, other)] = _root(parents, index)
        above = current
    weights: Counter[int] = Counter()
    for index, (y, start, end) in enumerate(runs):
        weights[_root(parents, index)] += sum(rows[y][start:end])
    least = _SPECK * max(weights.values())
    kept = [run for index, run in enumerate(runs) if weights[_root(parents, index)] >= least]
    return _copy_runs(ink, rows, kept)


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


def _copy_runs(ink: Image, rows: list[bytes], runs: Iterable[tuple[int, int, int]]) -> Image:
    """The runs on black, cropped to their bounding box."""
    canvas = [bytearray(ink.width) for _ in rows]
    left, right = ink.width, 0
    used = []
    for y, start, end in runs:
        canvas[y][start:end] = rows[y][start:end]
        left, right = min(left, start), max(right, end)
        used.append(y)
    top, bottom = min(used), max(used) + 1
    cleaned = Image(ink.width, ink.height, 1, b"".join(canvas))
    return crop(cleaned, left, top, right - left, bottom - top)


def _frame(sign: Image, width: int, height: int) -> Image:
    """`sign` in the middle of the smallest frame that has the target's aspect."""
    frame_width = max(sign.width, -(-sign.height * width // height))
    frame_height = max(sign.height, -(-sign.width * height // width))
    left = (frame_width - sign.width) // 2
    top = (frame_height - sign.height) // 2
    right = frame_width - sign.width - left
    body = b"".join([bytes(left) + row + bytes(right) for row in sign.rows()])
    below = frame_height - sign.height - top
    return Image(
        frame_width, frame_height, 1, bytes(top * frame_width) + body + bytes(below * frame_width)
    )


def _stretch(ink: Image) -> Image:
    """`ink` scaled so that its strongest pixel is 255."""
    highest = max(ink.pixels)
    table = bytes([min(255, (value * 255 + highest // 2) // highest) for value in range(256)])
    return Image(ink.width, ink.height, 1, ink.pixels.translate(table))
