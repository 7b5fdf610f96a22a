"""Decode portable any-maps (netpbm P1 to P6), ASCII and binary, strictly.

Samples are scaled from 0…maxval to 0…255 with rounding; bitmaps (P1, P4) become black on white as
they are meant. One file holds one picture: bytes after it are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from edgekit.errors import InvalidInputError, PayloadTooLargeError
from edgekit.processing.raster import Image

__all__ = ["decode_pnm", "is_pnm"]

_SPACE = b" \t\n\v\f\r"
_HEADER_FIELD = re.compile(rb"(?:[ \t\n\v\f\r]|#[^\r\n]*[\r\n])+([0-9]{1,10})(?![0-9])")
"""White space and comments, then a number; so many digits are beyond any limit already."""
_COMMENT = re.compile(rb"#[^\r\n]*")
_MAX_SAMPLE_DIGITS = 5


def is_pnm(data: bytes) -> bool:
    """True when `data` begins like a P1 to P6 file."""
    return len(data) > 2 and data[:1] == b"P" and data[1] in b"123456" and data[2] in _SPACE + b"#"


@dataclass(frozen=True, slots=True)
class _Header:
    width: int
    height: int
    channels: int
    maxval: int

    @property
    def samples(self) -> int:
        return self.width * self.height * self.channels


def decode_pnm(data: bytes, *, max_pixels: int) -> Image:
    """The picture in `data`: gray (P1, P2, P4, P5) or RGB (P3, P6).

    Args:
        data: A whole file.
        max_pixels: Most pixels (width · height) taken.

    Raises:
        InvalidInputError: The file is malformed, truncated, or longer than its picture.
        PayloadTooLargeError: The header announces more than `max_pixels`.
    """
    if not is_pnm(data):
        raise InvalidInputError("not a PNM file: it does not begin with P1 to P6")
    number = data[1] - ord("0")
    header, end = _parse_header(data, number)
    if header.width * header.height > max_pixels:
        raise PayloadTooLargeError(
            f"the image has {header.width} × {header.height} pixels; "
            f"at most {max_pixels} pixels are taken here"
        )
    pixels = _READERS[number](data[end:], header)
    return Image(header.width, header.height, header.channels, pixels)


def _parse_header(data: bytes, number: int) -> tuple[_Header, int]:
    """The header and the place where the raster begins."""
    fields = []
    position = 2
    for name in ("width", "height", "maxval") if number not in (1, 4) else ("width", "height"):
        match = _HEADER_FIELD.match(data, position)
        if not match:
            raise InvalidInputError(f"invalid PNM: the header has no {name}")
        fields.append(int(match[1]))
        position = match.end()
    width, height, maxval = *fields[:2], fields[2] if len(fields) > 2 else 1
    if not width or not height:
        raise InvalidInputError(f"invalid PNM: the dimensions are {width} × {height}")
    if not 0 < maxval < 1 << 16:
        raise InvalidInputError(f"invalid PNM: maxval is {maxval}, not 1 to 65535")
    if data[position : position + 1] not in (bytes([code]) for code in _SPACE):
        raise InvalidInputError("invalid PNM: no white space between header and pixels")
    return _Header(width, height, 3 if number in (3, 6) else 1, maxval), position + 1


def _check_length(given: int, expected: int, unit: str) -> None:
    if given < expected:
        raise InvalidInputError(f"invalid PNM: {given} {unit} of {expected}; the file is truncated")
    if given > expected:
        raise InvalidInputError(f"invalid PNM: data follows the {expected} {unit} of the picture")


def _scale_table(maxval: int) -> bytes:
    """0…255 for each sample of at most 8 bits."""
    return bytes((value * 255 + maxval // 2) // maxval for value in range(maxval + 1))


def _check_range(highest: int, maxval: int) -> None:
    if highest > maxval:
        raise InvalidInputError(f"invalid PNM: a sample is {highest}, above maxval {maxval}")


def _scale(samples: list[int], maxval: int) -> bytes:
    _check_range(max(samples), maxval)
    if maxval == 255:
        return bytes(samples)
    half = maxval // 2
    return bytes([(value * 255 + half) // maxval for value in samples])


def _read_plain_bits(raster: bytes, header: _Header) -> bytes:
    """P1: digits 0 and 1, with or without white space between them."""
    digits = _COMMENT.sub(b"", raster).translate(None, _SPACE)
    if unknown := digits.translate(None, b"01"):
        raise InvalidInputError(f"invalid PNM: {unknown[:1]!r} among the bits of a P1 file")
    _check_length(len(digits), header.samples, "bits")
    return digits.translate(_BIT_SHADES)


_BIT_SHADES = bytes(255 if code == ord("0") else 0 for code in range(256))


def _read_plain_samples(raster: bytes, header: _Header) -> bytes:
    """P2 and P3: decimal numbers."""
    text = _COMMENT.sub(b"", raster)
    if unknown := text.translate(None, b"0123456789" + _SPACE):
        raise InvalidInputError(f"invalid PNM: {unknown[:1]!r} among the samples")
    # One word more than needed tells that there are too many, however many there are.
    words = text.split(None, header.samples)
    _check_length(len(words), header.samples, "samples")
    if max(map(len, words)) > _MAX_SAMPLE_DIGITS:
        raise InvalidInputError(f"invalid PNM: a sample has more than {_MAX_SAMPLE_DIGITS} digits")
    return _scale(list(map(int, words)), header.maxval)


def _read_bits(raster: bytes, header: _Header) -> bytes:
    """P4: eight pixels per byte, the leftmost in the highest bit, rows padded to bytes."""
    stride = (header.width + 7) // 8
    _check_length(len(raster), stride * header.height, "bytes")
    pixels = b"".join(map(_BYTE_SHADES.__getitem__, raster))
    return b"".join([pixels[at : at + header.width] for at in range(0, len(pixels), stride * 8)])


_BYTE_SHADES = tuple(
    bytes(0 if byte >> bit & 1 else 255 for bit in range(7, -1, -1)) for byte in range(256)
)


def _read_samples(raster: bytes, header: _Header) -> bytes:
    """P5 and P6: one byte per sample, or two (most significant first) when maxval needs them."""
    if header.maxval < 256:
        _check_length(len(raster), header.samples, "bytes")
        if header.maxval == 255:
            return raster
        _check_range(max(raster), header.maxval)
        return raster.translate(_scale_table(header.maxval).ljust(256, b"\0"))
    _check_length(len(raster), 2 * header.samples, "bytes")
    pairs = zip(raster[::2], raster[1::2], strict=True)
    return _scale([high << 8 | low for high, low in pairs], header.maxval)


_READERS: dict[int, Callable[[bytes, _Header], bytes]] = {
    1: _read_plain_bits,
    2: _read_plain_samples,
    3: _read_plain_samples,
    4: _read_bits,
    5: _read_samples,
    6: _read_samples,
}
