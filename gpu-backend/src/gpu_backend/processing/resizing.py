"""Pixels at another size, exactly as at the edge.

Along an axis that shrinks, a pixel of the result is the average of the area it covers; along one
that grows, it is interpolated linearly. (Pillow's box filter is no area average: it counts pixels
whole or not at all.) Weights are 16-bit fixed point, so both programs round alike.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["FITS", "Pixels", "resize", "to_gray"]

Pixels = npt.NDArray[np.uint8]
"""Shape (height, width, channels); 1 channel is gray, 3 are red, green and blue."""

_WEIGHT_BITS = 16

_ONE = 1 << _WEIGHT_BITS

_LUMA = np.array([19595, 38470, 7471], dtype=np.uint32)
"""ITU-R BT.601 in 16-bit fixed point; they sum to 2^16."""


def to_gray(pixels: Pixels) -> Pixels:
    """`pixels` with one channel: luma by ITU-R BT.601, rounded."""
    if pixels.shape[2] == 1:
        return pixels
    luma = (pixels.astype(np.uint32) @ _LUMA + 0x8000) >> 16
    return luma.astype(np.uint8)[:, :, None]


def resize(pixels: Pixels, width: int, height: int) -> Pixels:
    """`pixels` at `width` x `height`."""
    if height != pixels.shape[0]:
        pixels = _resize_rows(pixels, height)
    if width != pixels.shape[1]:
        pixels = _resize_rows(pixels.transpose(1, 0, 2), width).transpose(1, 0, 2)
    return pixels


def _resize_rows(pixels: Pixels, count: int) -> Pixels:
    """`count` rows, each a weighted mean of some rows of `pixels`."""
    source = pixels.shape[0]
    first, weights = _area_weights(source, count) if count < source else _lines(source, count)
    rows = np.ascontiguousarray(pixels).reshape(source, -1)
    total = np.full((count, rows.shape[1]), _ONE // 2, dtype=np.uint32)
    for offset in range(weights.shape[1]):
        # A weight beyond the last row is zero, whatever row stands in for it.
        total += weights[:, offset, None] * rows[np.minimum(first + offset, source - 1)]
    return (total >> _WEIGHT_BITS).astype(np.uint8).reshape(count, *pixels.shape[1:])


def _area_weights(source: int, target: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    """First source row and weights of each target row: overlaps of their areas.

    A target row covers `source` units, a source row `target` units.
    """
    start = np.arange(target, dtype=np.int64) * source
    first = start // target
    reach = int(((start + source - 1) // target - first).max()) + 1
    ends = (first[:, None] + np.arange(1, reach + 1)) * target - start[:, None]
    # Rounding the running sum, not each weight, keeps the total exact.
    marks = (np.clip(ends, 0, source) << _WEIGHT_BITS) // source
    return first, np.diff(marks, axis=1, prepend=0).astype(np.uint32)


def _lines(source: int, target: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    """First source row and weights of each target row: the two whose centres enclose it."""
    position = (2 * np.arange(target, dtype=np.int64) + 1) * source - target
    first, rest = np.divmod(np.maximum(position, 0), 2 * target)
    second = (rest << _WEIGHT_BITS) // (2 * target)
    is_last = first >= source - 1
    first[is_last], second[is_last] = source - 1, 0
    return first, np.stack([_ONE - second, second], axis=1).astype(np.uint32)


def _fit_cover(pixels: Pixels, width: int, height: int) -> Pixels:
    """The largest central part with the target's aspect, resized."""
    rows, columns = pixels.shape[:2]
    part_width = max(1, min(columns, rows * width // height))
    part_height = max(1, min(rows, columns * height // width))
    left, top = (columns - part_width) // 2, (rows - part_height) // 2
    return resize(pixels[top : top + part_height, left : left + part_width], width, height)


def _fit_contain(pixels: Pixels, width: int, height: int) -> Pixels:
    """The whole picture, resized into the middle of a black frame."""
    rows, columns, channels = pixels.shape
    inner_width = max(1, min(width, columns * height // rows))
    inner_height = max(1, min(height, rows * width // columns))
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    frame = np.zeros((height, width, channels), dtype=np.uint8)
    inner = resize(pixels, inner_width, inner_height)
    frame[top : top + inner_height, left : left + inner_width] = inner
    return frame


FITS = {"stretch": resize, "cover": _fit_cover, "contain": _fit_contain}
"""Ways to bring a picture to a size, by the name that `fit` has in a manifest; `ink` apart."""
