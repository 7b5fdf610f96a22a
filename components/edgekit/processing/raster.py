"""Images as values, and the few operations on them that run at C speed without numpy.

Sums of pixels are taken many at a time: a row becomes one Python integer with 32 bits per pixel,
so adding two rows, or scaling one, is a single integer operation.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from operator import mul

__all__ = ["Image", "composite_on_white", "crop", "resize", "to_gray", "to_rgb"]

_DIV255 = bytes((value + 127) // 255 for value in range(255 * 255 + 1))
_INVERT = bytes(range(255, -1, -1))

_WEIGHT_BITS = 16
"""Weights of one output pixel sum to 2¹⁶, so that a lane of 255 · 2¹⁶ stays below 2³²."""


@dataclass(frozen=True, slots=True)
class Image:
    """Pixels, row by row from the top, channels interleaved, 8 bits each.

    Attributes:
        width: In pixels, at least 1.
        height: In pixels, at least 1.
        channels: 1 (gray) or 3 (red, green, blue).
        pixels: `width * height * channels` bytes.
    """

    width: int
    height: int
    channels: int
    pixels: bytes

    def __post_init__(self) -> None:
        if len(self.pixels) != self.width * self.height * self.channels:
            raise ValueError(
                f"{len(self.pixels)} bytes for {self.width} × {self.height} × {self.channels}"
            )

    def rows(self) -> list[bytes]:
        """One byte string per row."""
        stride = self.width * self.channels
        return [self.pixels[at : at + stride] for at in range(0, len(self.pixels), stride)]


def composite_on_white(samples: bytes, alpha: bytes) -> bytes:
    """One channel laid over a white background: round(white + (sample − white) · alpha)."""
    if alpha.count(255) == len(alpha):
        return samples
    shade = map(mul, samples.translate(_INVERT), alpha)
    return bytes(map(_DIV255.__getitem__, shade)).translate(_INVERT)


# ITU-R BT.601 luma in 16-bit fixed point, the weights Pillow and libjpeg use. They sum to 2¹⁶.
_LUMA = tuple([value * weight for value in range(256)] for weight in (19595, 38470, 7471))


def to_gray(image: Image) -> Image:
    """`image` with one channel: luma by ITU-R BT.601, rounded."""
    if image.channels == 1:
        return image
    red, green, blue = (image.pixels[channel::3] for channel in range(3))
    red_luma, green_luma, blue_luma = _LUMA
    if red == green == blue:
        gray = red
    else:
        gray = bytes(
            [
                (red_luma[r] + green_luma[g] + blue_luma[b] + 0x8000) >> 16
                for r, g, b in zip(red, green, blue, strict=True)
            ]
        )
    return Image(image.width, image.height, 1, gray)


def to_rgb(image: Image) -> Image:
    """`image` with three channels."""
    if image.channels == 3:
        return image
    rgb = bytearray(3 * len(image.pixels))
    for channel in range(3):
        rgb[channel::3] = image.pixels
    return Image(image.width, image.height, 3, bytes(rgb))


def crop(image: Image, left: int, top: int, width: int, height: int) -> Image:
    """The rectangle at (`left`, `top`), which must lie within `image`."""
    start, end = left * image.channels, (left + width) * image.channels
    rows = image.rows()[top : top + height]
    return Image(width, height, image.channels, b"".join([row[start:end] for row in rows]))


def resize(image: Image, width: int, height: int) -> Image:
    """`image` at another size.

    Along an axis that shrinks, a pixel of the result is the average of the area it covers (a box
    filter); along one that grows, it is interpolated linearly. Both take time in proportion to
    `image.height + image.width` integer operations on whole rows.
    """
    rows = image.rows()
    if height != image.height:
        rows = _resize_rows(rows, height)
    if width != image.width:
        rows = _resize_rows(_transpose(rows, image.channels), width)
        rows = _transpose(rows, image.channels)
    return Image(width, height, image.channels, b"".join(rows))


def _transpose(rows: list[bytes], channels: int) -> list[bytes]:
    """Columns as rows; the channels of a pixel stay together."""
    pixels = b"".join(rows)
    stride = len(rows[0])
    if channels == 1:
        return [pixels[column::stride] for column in range(stride)]
    columns = []
    for start in range(0, stride, channels):
        column = bytearray(len(rows) * channels)
        for channel in range(channels):
            column[channel::channels] = pixels[start + channel :: stride]
        columns.append(bytes(column))
    return columns


def _resize_rows(rows: list[bytes], count: int) -> list[bytes]:
    """`count` rows, each a weighted mean of some of `rows`."""
    lanes = [_spread(row) for row in rows]
    size = 4 * len(rows[0])
    half = int.from_bytes((1 << _WEIGHT_BITS - 1).to_bytes(4, "little") * len(rows[0]), "little")
    result = []
    for first, weights in _weights(len(rows), count):
        total = half
        for offset, weight in enumerate(weights):
            total += lanes[first + offset] * weight
        result.append(total.to_bytes(size, "little")[_WEIGHT_BITS // 8 :: 4])
    return result


def _spread(row: bytes) -> int:
    """The bytes of `row` as one number with 32 bits for each."""
    wide = bytearray(4 * len(row))
    wide[::4] = row
    return int.from_bytes(wide, "little")


def _weights(source: int, target: int) -> list[tuple[int, list[int]]]:
    """For every target position the first source position and the weights from there on.

    Positions are counted in 1/`target` (shrinking) or 1/`2 * target` (growing) of a source pixel,
    so everything is exact until the weights are rounded; each set sums to 2¹⁶.
    """
    if target < source:
        return [_area_weights(index * source, source, target) for index in range(target)]
    return [
        _linear_weights((2 * index + 1) * source - target, source, target)
        for index in range(target)
    ]


def _area_weights(start: int, source: int, target: int) -> tuple[int, list[int]]:
    """Overlaps of the interval [start, start + source) with pixels that are `target` long."""
    first, last = start // target, (start + source - 1) // target
    edges = [start, *range((first + 1) * target, last * target + 1, target), start + source]
    # Rounding the running sum, not each weight, keeps the total exact.
    marks = [((edge - start) << _WEIGHT_BITS) // source for edge in edges]
    return first, [after - before for before, after in pairwise(marks)]


def _linear_weights(position: int, source: int, target: int) -> tuple[int, list[int]]:
    """Weights of the two pixels whose centres enclose `position` / (2 · target)."""
    first, rest = divmod(max(position, 0), 2 * target)
    if first >= source - 1:
        return source - 1, [1 << _WEIGHT_BITS]
    second_weight = (rest << _WEIGHT_BITS) // (2 * target)
    return first, [(1 << _WEIGHT_BITS) - second_weight, second_weight]
