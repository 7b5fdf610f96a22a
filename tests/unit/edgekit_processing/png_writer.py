"""A PNG encoder for tests: any color type, bit depth, filter and interlacing, broken files."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)

Samples = Sequence[Sequence[int]]
"""Rows of samples, channels interleaved."""


def chunk(kind: bytes, payload: bytes = b"", *, crc: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + payload) if crc is None else crc
    return len(payload).to_bytes(4, "big") + kind + payload + checksum.to_bytes(4, "big")


def ihdr(width: int, height: int, depth: int, color: int, *rest: int) -> bytes:
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return chunk(b"IHDR", size + bytes([depth, color, *(rest or (0, 0, 0))]))


def encode_png(
    samples: Samples,
    *,
    color: int,
    depth: int = 8,
    interlaced: bool = False,
    filters: Sequence[int] = (0, 1, 2, 3, 4),
    extra: bytes = b"",
    pieces: int = 1,
) -> bytes:
    """A PNG file of `samples`; `filters` are used in turn, `extra` chunks stand before IDAT."""
    channels = CHANNELS[color]
    width, height = len(samples[0]) // channels, len(samples)
    raw = b""
    for left, top, step_x, step_y in ADAM7 if interlaced else ((0, 0, 1, 1),):
        part = [
            [row[x * channels + c] for x in range(left, width, step_x) for c in range(channels)]
            for row in samples[top::step_y]
        ]
        if part and part[0]:
            raw += _filter_rows([_pack(row, depth) for row in part], channels * depth, filters)
    stream = zlib.compress(raw)
    size = -(-len(stream) // pieces)
    data = b"".join(chunk(b"IDAT", stream[at : at + size]) for at in range(0, len(stream), size))
    header = ihdr(width, height, depth, color, 0, 0, int(interlaced))
    return SIGNATURE + header + extra + data + chunk(b"IEND")


def png_of_stream(
    stream: bytes, *, width: int = 4, height: int = 4, depth: int = 8, color: int = 0
) -> bytes:
    """A PNG file around a zlib stream of any content."""
    return SIGNATURE + ihdr(width, height, depth, color) + chunk(b"IDAT", stream) + chunk(b"IEND")


def _pack(row: Sequence[int], depth: int) -> bytes:
    if depth == 16:
        return b"".join(sample.to_bytes(2, "big") for sample in row)
    per_byte = 8 // depth
    padded = [*row, *[0] * (-len(row) % per_byte)]
    return bytes(
        sum(
            sample << depth * (per_byte - 1 - place)
            for place, sample in enumerate(padded[at : at + per_byte])
        )
        for at in range(0, len(padded), per_byte)
    )


def _filter_rows(rows: list[bytes], bits_per_pixel: int, filters: Sequence[int]) -> bytes:
    step = max(1, bits_per_pixel // 8)
    above = bytes(len(rows[0]))
    result = bytearray()
    for number, row in enumerate(rows):
        kind = filters[number % len(filters)]
        result.append(kind)
        for index, value in enumerate(row):
            left = row[index - step] if index >= step else 0
            corner = above[index - step] if index >= step else 0
            guess = _predict(kind, left, above[index], corner)
            result.append((value - guess) % 256)
        above = row
    return bytes(result)


def _predict(kind: int, left: int, up: int, corner: int) -> int:
    if kind == 4:
        target = left + up - corner
        return min((left, up, corner), key=lambda value: abs(target - value))
    return (0, left, up, (left + up) // 2)[kind]
