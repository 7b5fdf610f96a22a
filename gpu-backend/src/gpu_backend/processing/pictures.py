"""Encoded pictures to pixels, within bounds: what is too large is refused before it is decoded."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from gpu_backend.errors import (
    InvalidInputError,
    PayloadTooLargeError,
    UnsupportedMediaTypeError,
)

__all__ = ["MEDIA_TYPES", "decode_picture"]

MEDIA_TYPES = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
    "image/x-portable-bitmap": "PPM",
    "image/x-portable-graymap": "PPM",
    "image/x-portable-pixmap": "PPM",
    "image/x-portable-anymap": "PPM",
}
"""Media types that are read, and Pillow's name of their format."""

_GENERIC_TYPES = frozenset({"", "application/octet-stream", "image/*"})

_DETAIL = 4
"""JPEGs are decoded at the smallest scale that leaves this many times the target's size."""

# The bound is ours, per request (`max_pixels`), and an error where Pillow would only warn.
Image.MAX_IMAGE_PIXELS = None


def decode_picture(
    data: bytes, content_type: str, *, max_pixels: int, target: tuple[int, int]
) -> Image.Image:
    """The picture in `data`, upright, as gray ("L") or colour ("RGB"), on white where it is clear.

    Args:
        data: The whole file.
        content_type: Media type in lower case, without parameters; a generic one leaves the
            choice to the file's signature.
        max_pixels: Most pixels taken.
        target: Width and height it will be brought to; lets JPEGs be decoded smaller.

    Raises:
        UnsupportedMediaTypeError: The type or the file is of a format not read here.
        PayloadTooLargeError: It has more than `max_pixels`.
        InvalidInputError: The file is damaged, or not what its type says.
    """
    if content_type in _GENERIC_TYPES:
        formats = tuple(set(MEDIA_TYPES.values()))
    elif content_type in MEDIA_TYPES:
        formats = (MEDIA_TYPES[content_type],)
    else:
        raise UnsupportedMediaTypeError(
            f"content type {content_type[:40]!r} is not read here; send {', '.join(MEDIA_TYPES)}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # metadata that is odd changes no pixel
            with Image.open(io.BytesIO(data), formats=formats) as picture:
                _check_size(picture, max_pixels)
                width, height = target
                picture.draft(None, (width * _DETAIL, height * _DETAIL))
                picture.load()
                return _plain(ImageOps.exif_transpose(picture))
    except InvalidInputError:
        raise
    except Exception as exc:  # decoders of third parties raise whatever they like
        what = content_type if content_type not in _GENERIC_TYPES else "a picture of a known format"
        raise InvalidInputError(f"the data is not {what}, or is damaged ({_line(exc)})") from exc


def _check_size(picture: Image.Image, max_pixels: int) -> None:
    width, height = picture.size
    if width < 1 or height < 1:
        raise InvalidInputError(f"the picture has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise PayloadTooLargeError(
            f"the picture has {width} x {height} pixels, at most {max_pixels} are taken"
        )


def _plain(picture: Image.Image) -> Image.Image:
    """`picture` as "L" or "RGB"."""
    if picture.mode in ("L", "RGB"):
        if "transparency" not in picture.info:
            return picture
    elif picture.mode.startswith("I"):
        # 16 bits: Pillow's own conversion would cut values off at 255 instead of scaling them.
        levels = np.clip(np.asarray(picture).astype(np.int64) >> 8, 0, 255)
        return Image.fromarray(levels.astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, clear).convert("RGB")
    return picture.convert("L" if picture.mode == "1" else "RGB")


def _line(exc: Exception) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0][:120]
