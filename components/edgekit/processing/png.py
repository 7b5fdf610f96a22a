"""Decode PNG (W3C PNG, third edition) strictly, in pure Python.

Every colour type, bit depth and interlacing of the specification is read. The result has 8 bits
per channel: 16-bit samples keep their high byte, palettes become RGB, and transparency (alpha
channels, tRNS) is laid over white, as on paper. gAMA, sRGB and iCCP are not applied.

    signature · IHDR · … PLTE … tRNS … · IDAT, IDAT, … (in one run) · … · IEND · nothing more

Checked before anything is allocated: the dimensions. Checked on the way: CRC and order of all
chunks, unknown critical chunks, the size and Adler-32 of the pixel data, filter types, palette
indexes. What is wrong is an `InvalidInputError`; what is too big, a `PayloadTooLargeError`.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgekit.errors import InvalidInputError, PayloadTooLargeError
from edgekit.processing.inflate import inflate
from edgekit.processing.png_filters import undo_filters
from edgekit.processing.raster import Image, composite_on_white

__all__ = ["SIGNATURE", "decode_png"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_CHANNELS = {_GRAY: 1, _RGB: 3, _PALETTE: 1, _GRAY_ALPHA: 2, _RGB_ALPHA: 4}
_BIT_DEPTHS = {
    _GRAY: (1, 2, 4, 8, 16),
    _RGB: (8, 16),
    _PALETTE: (1, 2, 4, 8),
    _GRAY_ALPHA: (8, 16),
    _RGB_ALPHA: (8, 16),
}

_MAX_CHUNKS = 10_000
"""Encoders write IDAT in pieces of 8 KB or more; even a piece per row of a big image fits."""

_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""First column, first row, column step and row step of the seven passes (section 8.1)."""


def decode_png(data: bytes, *, max_pixels: int) -> Image:
    """The picture in `data`, gray or RGB.

    Args:
        data: A whole PNG file.
        max_pixels: Most pixels (width · height) taken.

    Raises:
        InvalidInputError: The file is no PNG, or is malformed or damaged.
        PayloadTooLargeError: The header announces more than `max_pixels`.
    """
    if not data.startswith(SIGNATURE):
        raise InvalidInputError("not a PNG file: the signature is missing")
    try:
        return _decode(data, max_pixels)
    except PayloadTooLargeError:
        raise
    except InvalidInputError as error:
        raise InvalidInputError(f"invalid PNG: {error.message}") from error


def _decode(data: bytes, max_pixels: int) -> Image:
    chunks = _chunks(data)
    kind, payload = next(chunks, (b"IEND", b""))
    if kind != b"IHDR":
        raise InvalidInputError(f"the first chunk is {_name(kind)}, not IHDR")
    header = _parse_header(payload)
    if header.width * header.height > max_pixels:
        raise PayloadTooLargeError(
            f"the image has {header.width} × {header.height} pixels; "
            f"at most {max_pixels} pixels are taken here"
        )
    body = _collect(chunks, header)
    size = sum(rows * (1 + header.row_bytes(columns)) for *_, columns, rows in header.passes())
    if len(body.compressed) > 2 * size + 4096:
        # Deflate's worst case adds 5 bytes per block; twice the size is an attack or a mistake.
        raise InvalidInputError(
            f"{len(body.compressed)} bytes of IDAT for {size} bytes of pixel data"
        )
    # Each block may cost a millisecond in Wasm for its tables alone. Encoders that flush rows end
    # two blocks with each; others need one per some kilobytes.
    max_blocks = 64 + 2 * header.height + size // 4096
    raw = inflate(body.compressed, size, max_blocks=max_blocks)
    to_pixels = _converter(header, body)
    channels = 1 if header.color in (_GRAY, _GRAY_ALPHA) else 3
    if not header.interlaced:
        pixels = to_pixels(
            undo_filters(raw, header.row_bytes(header.width), header.filter_step), header.width
        )
    else:
        pixels = _deinterlace(raw, header, channels, to_pixels)
    return Image(header.width, header.height, channels, pixels)


# --- chunks -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Header:
    """IHDR (section 11.2.1)."""

    width: int
    height: int
    depth: int
    color: int
    interlaced: bool

    @property
    def bits_per_pixel(self) -> int:
        return self.depth * _CHANNELS[self.color]

    @property
    def filter_step(self) -> int:
        """Bytes from a sample to the one left of it (section 9.2)."""
        return max(1, self.bits_per_pixel // 8)

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of `columns` pixels, without its filter type."""
        return (columns * self.bits_per_pixel + 7) // 8

    def passes(self) -> Iterator[tuple[int, int, int, int, int, int]]:
        """Column and row start, column and row step, columns and rows of each non-empty pass."""
        for left, top, step_x, step_y in _ADAM7 if self.interlaced else ((0, 0, 1, 1),):
            columns = -(-(self.width - left) // step_x)
            rows = -(-(self.height - top) // step_y)
            if columns > 0 and rows > 0:
                yield left, top, step_x, step_y, columns, rows


@dataclass(slots=True)
class _Body:
    """What the chunks after IHDR hold: IDAT joined, PLTE and tRNS as they are."""

    compressed: bytes = b""
    palette: bytes = b""
    transparency: bytes | None = None


def _name(kind: bytes) -> str:
    return kind.decode("ascii", "backslashreplace")


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and payload of every chunk up to IEND, which must end the file."""
    position = len(SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if len(data) < position + 12:
            raise InvalidInputError("the file ends in the middle of a chunk; it is truncated")
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        end = position + 8 + length
        if not kind.isalpha() or not kind[2:3].isupper():
            raise InvalidInputError(f"{_name(kind)!r} at byte {position + 4} is no chunk type")
        if len(data) < end + 4:
            raise InvalidInputError(
                f"the file ends within its {_name(kind)} chunk; it is truncated"
            )
        if crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise InvalidInputError(f"the {_name(kind)} chunk has a wrong CRC; the file is damaged")
        payload = data[position + 8 : end]
        position = end + 4
        if kind == b"IEND":
            if payload or position != len(data):
                raise InvalidInputError("bytes follow the end of the image")
            return
        yield kind, payload
    raise InvalidInputError(f"the file has more than {_MAX_CHUNKS} chunks")


def _parse_header(payload: bytes) -> _Header:
    if len(payload) != 13:
        raise InvalidInputError(f"IHDR has {len(payload)} bytes, not 13")
    width, height = int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big")
    depth, color, compression, filtering, interlace = payload[8:]
    if not 0 < width < 1 << 31 or not 0 < height < 1 << 31:
        raise InvalidInputError(f"the dimensions {width} × {height} are out of range")
    if depth not in _BIT_DEPTHS.get(color, ()):
        raise InvalidInputError(f"there is no color type {color} with bit depth {depth}")
    if compression or filtering:
        raise InvalidInputError(f"unknown compression or filter method {compression}, {filtering}")
    if interlace > 1:
        raise InvalidInputError(f"unknown interlace method {interlace}")
    return _Header(width, height, depth, color, interlace == 1)


def _collect(chunks: Iterator[tuple[bytes, bytes]], header: _Header) -> _Body:
    """Read the chunks after IHDR and hold them to the order of section 5.6."""
    body = _Body()
    parts: list[bytes] = []
    previous = b"IHDR"
    for kind, payload in chunks:
        if kind == b"IDAT":
            if parts and previous != b"IDAT":
                raise InvalidInputError("other chunks stand between the IDAT chunks")
            parts.append(payload)
        elif kind == b"PLTE":
            if parts or body.palette or body.transparency is not None:
                raise InvalidInputError("PLTE is repeated or stands after tRNS or IDAT")
            body.palette = _check_palette(payload, header)
        elif kind == b"tRNS":
            if parts or body.transparency is not None:
                raise InvalidInputError("tRNS is repeated or stands after IDAT")
            body.transparency = _check_transparency(payload, header, body.palette)
        elif kind[:1].isupper():
            raise InvalidInputError(f"{_name(kind)} is repeated or an unknown critical chunk")
        previous = kind
    if not parts:
        raise InvalidInputError("there is no IDAT chunk")
    if header.color == _PALETTE and not body.palette:
        raise InvalidInputError("there is no PLTE chunk")
    body.compressed = b"".join(parts)
    return body


def _check_palette(payload: bytes, header: _Header) -> bytes:
    if header.color in (_GRAY, _GRAY_ALPHA):
        raise InvalidInputError("a gray image has a PLTE chunk")
    entries = 1 << header.depth if header.color == _PALETTE else 256
    if not payload or len(payload) % 3 or len(payload) > 3 * entries:
        raise InvalidInputError(f"PLTE has {len(payload)} bytes for at most {entries} colors")
    return payload


def _check_transparency(payload: bytes, header: _Header, palette: bytes) -> bytes:
    if header.color in (_GRAY_ALPHA, _RGB_ALPHA):
        raise InvalidInputError("an image with an alpha channel has a tRNS chunk")
    if header.color == _PALETTE:
        if not 0 < len(payload) <= len(palette) // 3:
            raise InvalidInputError("tRNS must follow PLTE and have no more entries than it")
    elif len(payload) != 2 * _CHANNELS[header.color]:
        raise InvalidInputError(f"tRNS has {len(payload)} bytes for color type {header.color}")
    return payload


# --- colors and interlacing -------------------------------------------------------------------


def _deinterlace(
    raw: bytearray, header: _Header, channels: int, to_pixels: Callable[[bytes, int], bytes]
) -> bytes:
    """Place the pixels of the seven passes."""
    canvas = bytearray(header.width * header.height * channels)
    stride = header.width * channels
    position = 0
    for left, top, step_x, step_y, columns, rows in header.passes():
        size = rows * (1 + header.row_bytes(columns))
        filtered = raw[position : position + size]
        position += size
        pixels = to_pixels(
            undo_filters(filtered, header.row_bytes(columns), header.filter_step), columns
        )
        for row in range(rows):
            start = (top + row * step_y) * stride
            for channel in range(channels):
                target = slice(start + left * channels + channel, start + stride, step_x * channels)
                source = slice(
                    row * columns * channels + channel, (row + 1) * columns * channels, channels
                )
                canvas[target] = pixels[source]
    return bytes(canvas)


_UNPACKED = {
    depth: tuple(
        bytes(byte >> shift & (1 << depth) - 1 for shift in range(8 - depth, -1, -depth))
        for byte in range(256)
    )
    for depth in (1, 2, 4)
}
"""The samples of each byte, by bit depth (section 7.2: leftmost pixel in the high bits)."""


def _unpack(data: bytes, columns: int, depth: int) -> bytes:
    """One byte per sample instead of `depth` bits; rows lose their padding."""
    table = _UNPACKED[depth]
    samples = b"".join(map(table.__getitem__, data))
    stride = -(-columns * depth // 8) * (8 // depth)
    if stride == columns:
        return samples
    return b"".join([samples[at : at + columns] for at in range(0, len(samples), stride)])


def _converter(header: _Header, body: _Body) -> Callable[[bytes, int], bytes]:
    """The function that turns unfiltered rows of so many columns into 8-bit gray or RGB."""
    if header.color == _PALETTE:
        return _palette_converter(header.depth, body.palette, body.transparency or b"")
    if header.color in (_GRAY_ALPHA, _RGB_ALPHA):
        channels = _CHANNELS[header.color] - 1
        return lambda data, _: _drop_alpha(data, channels, header.depth // 8)
    if header.depth < 8:
        return _gray_converter(header.depth, body.transparency)
    return _plain_converter(_CHANNELS[header.color], header.depth // 8, body.transparency)


def _gray_converter(depth: int, transparency: bytes | None) -> Callable[[bytes, int], bytes]:
    maximum = (1 << depth) - 1
    shades = bytearray(value * 255 // maximum for value in range(maximum + 1))
    if transparency is not None:
        shades[transparency[1] & maximum] = 255
    table = bytes(shades) + bytes(256 - len(shades))
    return lambda data, columns: _unpack(data, columns, depth).translate(table)


def _plain_converter(
    channels: int, sample_bytes: int, transparency: bytes | None
) -> Callable[[bytes, int], bytes]:
    """Gray or RGB of 8 or 16 bits; pixels of the one transparent color become white."""
    key = None if transparency is None else transparency[2 - sample_bytes :: 3 - sample_bytes]

    def convert(data: bytes, _: int) -> bytes:
        pixels = data[::sample_bytes]
        return pixels if key is None else _whiten(pixels, data, key, channels)

    return convert


def _whiten(pixels: bytes, data: bytes, key: bytes, channels: int) -> bytes:
    """`pixels` with those white whose samples in `data` equal `key`."""
    result = bytearray(pixels)
    white = b"\xff" * channels
    position = data.find(key)
    while position >= 0:
        index, rest = divmod(position, len(key))
        if not rest:
            result[index * channels : (index + 1) * channels] = white
        position = data.find(key, position + 1)
    return bytes(result)


def _drop_alpha(data: bytes, channels: int, sample_bytes: int) -> bytes:
    """Gray + alpha or RGB + alpha, laid over white."""
    step = (channels + 1) * sample_bytes
    alpha = data[channels * sample_bytes :: step]
    result = bytearray(len(alpha) * channels)
    for channel in range(channels):
        samples = data[channel * sample_bytes :: step]
        result[channel::channels] = composite_on_white(samples, alpha)
    return bytes(result)


def _palette_converter(
    depth: int, palette: bytes, transparency: bytes
) -> Callable[[bytes, int], bytes]:
    colors = len(palette) // 3
    alpha = transparency + b"\xff" * (colors - len(transparency))
    known = bytes(range(colors))
    tables = [
        composite_on_white(palette[channel::3], alpha) + bytes(256 - colors) for channel in range(3)
    ]

    def convert(data: bytes, columns: int) -> bytes:
        indexes = data if depth == 8 else _unpack(data, columns, depth)
        if unknown := indexes.translate(None, known):
            raise InvalidInputError(f"a pixel has color {unknown[0]} of a palette of {colors}")
        result = bytearray(3 * len(indexes))
        for channel, table in enumerate(tables):
            result[channel::3] = indexes.translate(table)
        return bytes(result)

    return convert
