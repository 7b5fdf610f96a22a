"""Undo the row filters of PNG (W3C PNG, third edition, section 9).

Sub and Up run as single operations on whole rows; Average and Paeth depend on the byte just
decoded, so they loop.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from itertools import accumulate

from edgekit.errors import InvalidInputError

__all__ = ["undo_filters"]


def undo_filters(data: bytes | bytearray, size: int, step: int) -> bytes:
    """The rows of one pass, joined.

    Args:
        data: Rows of `size` bytes, each after the byte that tells its filter type.
        size: Bytes per row.
        step: Bytes from a sample to the one left of it.

    Raises:
        InvalidInputError: A filter type is unknown.
    """
    add = _RowAdder(size)
    previous = bytes(size)
    result = []
    for start in range(0, len(data), size + 1):
        kind = data[start]
        row = bytes(data[start + 1 : start + 1 + size])
        if kind == 1:
            row = _by_channel(row, previous, step, _undo_sub)
        elif kind == 2:
            row = add(row, previous)
        elif kind == 3:
            row = _by_channel(row, previous, step, _undo_average)
        elif kind == 4:
            row = _by_channel(row, previous, step, _undo_paeth)
        elif kind:
            raise InvalidInputError(f"row {start // (size + 1)} has the unknown filter type {kind}")
        result.append(row)
        previous = row
    return b"".join(result)


class _RowAdder:
    """Adds two rows byte by byte modulo 256, all bytes at once as two big numbers."""

    __slots__ = ("_high", "_low", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._low = int.from_bytes(b"\x7f" * size, "little")
        self._high = int.from_bytes(b"\x80" * size, "little")

    def __call__(self, row: bytes, above: bytes) -> bytes:
        a, b = int.from_bytes(row, "little"), int.from_bytes(above, "little")
        # Carries stop below bit 7 of each byte, which is added without carry.
        total = ((a & self._low) + (b & self._low)) ^ ((a ^ b) & self._high)
        return total.to_bytes(self._size, "little")


def _by_channel(
    row: bytes, above: bytes, step: int, undo: Callable[[bytes, bytes], bytes]
) -> bytes:
    """Undo a filter that looks `step` bytes to the left: each residue class on its own."""
    if step == 1:
        return undo(row, above)
    result = bytearray(len(row))
    for channel in range(step):
        result[channel::step] = undo(row[channel::step], above[channel::step])
    return bytes(result)


_LOW_BYTE = 0 if sys.byteorder == "little" else 3


def _undo_sub(row: bytes, above: bytes) -> bytes:  # noqa: ARG001
    return array("I", accumulate(row)).tobytes()[_LOW_BYTE::4]


def _undo_average(row: bytes, above: bytes) -> bytes:
    result = bytearray()
    append = result.append
    left = 0
    for value, up in zip(row, above, strict=True):
        left = value + (left + up >> 1) & 255
        append(left)
    return bytes(result)


def _undo_paeth(row: bytes, above: bytes) -> bytes:
    """Section 9.4, with the predictor's cases ordered to need no distances for most pixels."""
    result = bytearray()
    append = result.append
    left = corner = 0
    for value, up in zip(row, above, strict=True):
        if left < up:
            low, high = left, up
        else:
            low, high = up, left
        if corner >= high:
            left = value + low & 255
        elif corner <= low:
            left = value + high & 255
        else:
            to_left = up - corner if up > corner else corner - up
            to_up = left - corner if left > corner else corner - left
            to_corner = to_left - to_up if to_left > to_up else to_up - to_left
            if to_left <= to_up and to_left <= to_corner:
                left = value + left & 255
            elif to_up <= to_corner:
                left = value + up & 255
            else:
                left = value + corner & 255
        append(left)
        corner = up
    return bytes(result)
