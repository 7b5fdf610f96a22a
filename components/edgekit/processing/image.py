"""Images from whatever a client sends.

PNG, PNM ───── open_image ────────▶ Image ── preparation.prepare(spec) ──▶ input tensor
raw uint8 ──── raw_image ─────────▲
JSON numbers ─ image_from_pixels ─▲
JPEG, …, and what is too large ─ open_image ─▶ ImageFile, for a backend to decode
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from edgekit.errors import (
    InvalidInputError,
    PayloadTooLargeError,
    UnsupportedMediaTypeError,
)
from edgekit.processing.png import SIGNATURE, decode_png
from edgekit.processing.pnm import decode_pnm, is_pnm
from edgekit.processing.raster import Image

__all__ = [
    "FILE_TYPES",
    "Image",
    "ImageFile",
    "decode_image",
    "image_format",
    "image_from_pixels",
    "open_image",
    "raw_image",
]

_GENERIC_TYPES = frozenset({"", "application/octet-stream", "image/*", "*/*"})
_FORMAT_OF_TYPE: Final = {
    "image/png": "PNG",
    "image/x-portable-bitmap": "PNM",
    "image/x-portable-graymap": "PNM",
    "image/x-portable-pixmap": "PNM",
    "image/x-portable-anymap": "PNM",
}
_FOREIGN_TYPES: Final = {
    "JPEG": "image/jpeg",
    "WebP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
}
FILE_TYPES: Final = (*_FORMAT_OF_TYPE, *_FOREIGN_TYPES.values())
"""Media types of files, those that are decoded here first."""

_FOREIGN_SIGNATURES: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"RIFF", "WebP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
)


def image_format(data: bytes) -> str | None:
    """Name of the format by its first bytes ("PNG", "PNM", "JPEG", …), None when unknown."""
    if data.startswith(SIGNATURE):
        return "PNG"
    if is_pnm(data):
        return "PNM"
    return next((name for start, name in _FOREIGN_SIGNATURES if data.startswith(start)), None)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A picture that is not decoded here: of a foreign format, or too large for Python in Wasm.

    Attributes:
        media_type: Of the file.
        data: The whole file.
    """

    media_type: str
    data: bytes


def open_image(data: bytes, content_type: str = "", *, max_pixels: int) -> Image | ImageFile:
    """The picture in `data`: decoded where that is done here, else the file as it is.

    Arguments and errors are those of `decode_image`, but that JPEG, WebP, GIF, BMP and TIFF are
    no error, nor are more than `max_pixels`.
    """
    declared = next((name for name, kind in _FOREIGN_TYPES.items() if kind == content_type), None)
    found = image_format(data)
    if declared is not None and data and found != declared:
        raise _mismatch(content_type, found)
    if found in _FOREIGN_TYPES and (declared is not None or content_type in _GENERIC_TYPES):
        return ImageFile(_FOREIGN_TYPES[found], data)
    try:
        return decode_image(data, "" if declared else content_type, max_pixels=max_pixels)
    except PayloadTooLargeError:
        return ImageFile("image/png" if found == "PNG" else "image/x-portable-anymap", data)


def decode_image(data: bytes, content_type: str = "", *, max_pixels: int) -> Image:
    """The picture in `data`, a PNG or PNM file.

    Args:
        data: The whole file.
        content_type: Media type in lower case without parameters; a generic one ("",
            application/octet-stream) leaves the choice to the file's signature.
        max_pixels: Most pixels (width · height) taken.

    Raises:
        UnsupportedMediaTypeError: The type or the file is of a format not read here.
        InvalidInputError: The file is malformed, or not what its type says.
        PayloadTooLargeError: The picture has more than `max_pixels`.
    """
    declared = _FORMAT_OF_TYPE.get(content_type)
    if declared is None and content_type not in _GENERIC_TYPES:
        raise UnsupportedMediaTypeError(
            f"content type {content_type!r} is not read here; send {', '.join(_FORMAT_OF_TYPE)}"
        )
    if not data:
        raise InvalidInputError("the image is empty")
    found = image_format(data)
    if declared is not None and found != declared:
        raise _mismatch(content_type, found)
    if found == "PNG":
        return decode_png(data, max_pixels=max_pixels)
    if found == "PNM":
        return decode_pnm(data, max_pixels=max_pixels)
    raise UnsupportedMediaTypeError(
        f"the image is {found or 'of no known format'}; PNG and PNM (P1 to P6) are read here"
    )


def _mismatch(content_type: str, found: str | None) -> InvalidInputError:
    return InvalidInputError(
        f"the content type is {content_type}, but the data is {found or 'of no known format'}"
    )


def raw_image(data: bytes, width: int, height: int, *, max_pixels: int) -> Image:
    """`data` as gray (one byte per pixel) or RGB (three) pixels, row by row.

    Raises:
        InvalidInputError: The length fits neither.
        PayloadTooLargeError: More than `max_pixels`.
    """
    if width < 1 or height < 1:
        raise InvalidInputError(f"width and height must be at least 1, not {width} × {height}")
    _check_pixels(width * height, max_pixels)
    channels, rest = divmod(len(data), width * height)
    if rest or channels not in (1, 3):
        raise InvalidInputError(
            f"{len(data)} bytes of raw pixels do not fit {width} × {height}: "
            f"{width * height} (gray) or {3 * width * height} (RGB) are needed"
        )
    return Image(width, height, channels, data)


def image_from_pixels(
    pixels: object, *, width: int | None = None, height: int | None = None, max_pixels: int
) -> Image:
    """The image that nested or flat lists of numbers from 0 to 255 describe.

    Args:
        pixels: Rows of numbers (gray) or of [r, g, b]; or one flat list of either, with `width`
            and `height`, or without them for a square gray image.
        width: Width of a flat list, in pixels.
        height: Height of a flat list, in pixels.
        max_pixels: Most pixels taken.

    Raises:
        InvalidInputError: Ragged rows, no rectangle, or something other than such numbers.
        PayloadTooLargeError: More than `max_pixels`.
    """
    if not isinstance(pixels, list) or not pixels:
        raise InvalidInputError("pixels must be a list of numbers or of rows", param="pixels")
    if not isinstance(pixels[0], list):
        if width is None or height is None:
            width = height = math.isqrt(len(pixels))
            if width * height != len(pixels):
                raise InvalidInputError(
                    f"{len(pixels)} pixels are no square; give width and height", param="pixels"
                )
        _check_pixels(len(pixels) // 3, max_pixels)
        return raw_image(_to_bytes(pixels), width, height, max_pixels=max_pixels)
    rows = _check_rows(pixels, "pixel rows")
    _check_pixels(len(rows) * len(rows[0]), max_pixels)
    values = [value for row in rows for value in row]
    if values and isinstance(values[0], list):
        colors = _check_rows(values, "pixels")
        values = [value for color in colors for value in color]
    return raw_image(_to_bytes(values), len(rows[0]), len(rows), max_pixels=max_pixels)


def _check_rows(rows: list[Any], what: str) -> list[list[Any]]:
    if not all(isinstance(row, list) and len(row) == len(rows[0]) for row in rows):
        raise InvalidInputError(f"{what} must be lists of one length", param="pixels")
    return rows


def _check_pixels(count: int, max_pixels: int) -> None:
    if count > max_pixels:
        raise PayloadTooLargeError(
            f"the image has {count} pixels; at most {max_pixels} pixels are taken here"
        )


def _to_bytes(values: list[Any]) -> bytes:
    """Numbers from 0 to 255 as bytes, floats rounded."""
    if not values:
        return b""
    kinds = set(map(type, values))
    if not kinds <= {int, float}:
        raise InvalidInputError("pixels must be numbers", param="pixels")
    # `not (a and b)`, so that NaN fails too.
    if not (min(values) >= 0 and max(values) <= 255 and all(map(math.isfinite, values))):
        raise InvalidInputError("pixels must be numbers from 0 to 255", param="pixels")
    return bytes(values if kinds == {int} else map(round, values))
