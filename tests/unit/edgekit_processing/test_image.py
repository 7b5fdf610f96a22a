import math

import pytest

from edgekit.errors import (
    InvalidInputError,
    PayloadTooLargeError,
    UnsupportedMediaTypeError,
)
from edgekit.processing.image import (
    Image,
    ImageFile,
    decode_image,
    image_format,
    image_from_pixels,
    open_image,
    raw_image,
)
from unit.edgekit_processing.png_writer import encode_png

PNG = encode_png([[1, 2], [3, 4]], color=0)
PNM = b"P5 2 2 255\n\1\2\3\4"
EXPECTED = Image(2, 2, 1, bytes([1, 2, 3, 4]))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (PNG, "PNG"), (PNM, "PNM"), (b"\xff\xd8\xff\xe0", "JPEG"), (b"GIF89a", "GIF"),
        (b"BM..", "BMP"), (b"RIFF....WEBP", "WebP"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"),
        (b"hello", None), (b"", None),
    ],
)  # fmt: skip
def test_image_format_is_told_by_the_signature(data: bytes, name: str | None) -> None:
    assert image_format(data) == name


@pytest.mark.parametrize("content_type", ["image/png", "", "application/octet-stream", "image/*"])
def test_decode_image_png_under_its_own_or_a_generic_type(content_type: str) -> None:
    assert decode_image(PNG, content_type, max_pixels=4) == EXPECTED


@pytest.mark.parametrize("kind", ["bitmap", "graymap", "pixmap", "anymap"])
def test_decode_image_pnm_under_any_portable_type(kind: str) -> None:
    assert decode_image(PNM, f"image/x-portable-{kind}", max_pixels=4) == EXPECTED
    assert decode_image(PNM, max_pixels=4) == EXPECTED


@pytest.mark.parametrize(
    ("data", "content_type", "text"),
    [
        (b"", "image/png", "the image is empty"),
        (PNM, "image/png", "the content type is image/png, but the data is PNM"),
        (PNG, "image/x-portable-anymap", "but the data is PNG"),
        (b"hello", "image/png", "but the data is of no known format"),
        (b"\xff\xd8\xff", "image/png", "but the data is JPEG"),
    ],
)
def test_decode_image_data_unlike_its_type_is_invalid(
    data: bytes, content_type: str, text: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        decode_image(data, content_type, max_pixels=4)
    assert text in caught.value.message


@pytest.mark.parametrize(
    ("data", "content_type", "text"),
    [
        (PNG, "image/jpeg", "content type 'image/jpeg' is not read here; send image/png"),
        (PNG, "text/plain", "content type 'text/plain'"),
        (b"\xff\xd8\xff\xe0", "", "the image is JPEG; PNG and PNM"),
        (b"hello", "", "of no known format; PNG and PNM"),
    ],
)
def test_decode_image_other_format_is_unsupported(
    data: bytes, content_type: str, text: str
) -> None:
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        decode_image(data, content_type, max_pixels=4)
    assert text in caught.value.message


@pytest.mark.parametrize("data", [PNG, PNM])
def test_decode_image_above_the_pixel_limit_is_too_large(data: bytes) -> None:
    with pytest.raises(PayloadTooLargeError, match="at most 3 pixels"):
        decode_image(data, max_pixels=3)


@pytest.mark.parametrize(("size", "channels"), [(6, 1), (18, 3)])
def test_raw_image_channels_follow_from_the_length(size: int, channels: int) -> None:
    assert raw_image(bytes(size), 3, 2, max_pixels=6) == Image(3, 2, channels, bytes(size))


@pytest.mark.parametrize("size", [0, 5, 7, 12, 24])
def test_raw_image_of_another_length_is_invalid(size: int) -> None:
    with pytest.raises(InvalidInputError, match=r"do not fit 3 × 2: 6 \(gray\) or 18 \(RGB\)"):
        raw_image(bytes(size), 3, 2, max_pixels=6)


@pytest.mark.parametrize(("width", "height"), [(0, 2), (3, 0), (-3, -2)])
def test_raw_image_without_a_size_is_invalid(width: int, height: int) -> None:
    with pytest.raises(InvalidInputError, match="must be at least 1"):
        raw_image(bytes(6), width, height, max_pixels=6)


def test_raw_image_above_the_pixel_limit_is_too_large() -> None:
    with pytest.raises(PayloadTooLargeError, match="10000000000 pixels; at most 6"):
        raw_image(b"", 100_000, 100_000, max_pixels=6)


@pytest.mark.parametrize(
    ("pixels", "image"),
    [
        ([[1, 2], [3, 4]], EXPECTED),
        ([1, 2, 3, 4], EXPECTED),
        ([[1.4, 1.6], [3.0, 4]], EXPECTED),
        ([[[1, 2, 3]], [[4, 5, 6]]], Image(1, 2, 3, bytes([1, 2, 3, 4, 5, 6]))),
        ([[[1], [2]], [[3], [4]]], EXPECTED),
    ],
)
def test_image_from_pixels_takes_flat_and_nested_lists(pixels: object, image: Image) -> None:
    assert image_from_pixels(pixels, max_pixels=4) == image


@pytest.mark.parametrize(("count", "channels"), [(6, 1), (18, 3)])
def test_image_from_pixels_flat_list_with_a_size(count: int, channels: int) -> None:
    image = image_from_pixels([7] * count, width=3, height=2, max_pixels=6)
    assert image == Image(3, 2, channels, bytes([7]) * count)


@pytest.mark.parametrize(
    ("pixels", "text"),
    [
        (None, "must be a list"),
        ("abc", "must be a list"),
        ({}, "must be a list"),
        ([], "must be a list"),
        ([1, 2, 3], "3 pixels are no square"),
        ([[]], "must be at least 1, not 0 × 1"),
        ([[[]]], "0 bytes of raw pixels do not fit"),
        ([[1], [1, 2]], "pixel rows must be lists of one length"),
        ([[1], 2], "pixel rows must be lists"),
        ([[[1, 2, 3], [1, 2]]], "pixels must be lists of one length"),
        ([[[1, 2, 3], 4]], "pixels must be lists of one length"),
        ([[[1, 2]]], "do not fit"),
        ([[1, [1]]], "must be numbers"),
        ([[1, None]], "must be numbers"),
        ([[True]], "must be numbers"),
        ([["1"]], "must be numbers"),
        ([[256]], "from 0 to 255"),
        ([[-1]], "from 0 to 255"),
        ([[255.4]], "from 0 to 255"),
        ([[math.nan]], "from 0 to 255"),
        ([[1, math.nan]], "from 0 to 255"),
        ([[math.nan, 1]], "from 0 to 255"),
        ([[math.inf]], "from 0 to 255"),
        ([[-math.inf]], "from 0 to 255"),
        ([[10**400]], "from 0 to 255"),
    ],
)
def test_image_from_pixels_anything_else_is_invalid(pixels: object, text: str) -> None:
    with pytest.raises(InvalidInputError, match=text):
        image_from_pixels(pixels, max_pixels=100)


@pytest.mark.parametrize("pixels", [[[1, 2], [3, 4]], [0] * 9])
def test_image_from_pixels_above_the_limit_is_too_large(pixels: object) -> None:
    with pytest.raises(PayloadTooLargeError):
        image_from_pixels(pixels, max_pixels=2)


@pytest.mark.parametrize("content_type", ["image/png", "", "application/octet-stream"])
def test_open_image_decodes_what_can_be_decoded_here(content_type: str) -> None:
    assert open_image(PNG, content_type, max_pixels=4) == EXPECTED


@pytest.mark.parametrize(
    ("data", "content_type", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg", "image/jpeg"),
        (b"\xff\xd8\xff\xe0", "", "image/jpeg"),
        (b"RIFF0000WEBP", "image/webp", "image/webp"),
        (b"GIF89a", "", "image/gif"),
        (b"BM....", "image/bmp", "image/bmp"),
        (b"MM\0*", "image/tiff", "image/tiff"),
        (PNG, "image/png", "image/png"),
        (PNM, "image/x-portable-pixmap", "image/x-portable-anymap"),
    ],
)
def test_open_image_leaves_foreign_and_large_files_as_they_are(
    data: bytes, content_type: str, kind: str
) -> None:
    assert open_image(data, content_type, max_pixels=3) == ImageFile(kind, data)


@pytest.mark.parametrize(
    ("data", "content_type", "error"),
    [
        (PNG, "image/jpeg", InvalidInputError),
        (b"hello", "image/jpeg", InvalidInputError),
        (b"", "image/jpeg", InvalidInputError),
        (b"\xff\xd8\xff\xe0", "image/png", InvalidInputError),
        (b"\xff\xd8\xff\xe0", "image/heic", UnsupportedMediaTypeError),
        (b"hello", "", UnsupportedMediaTypeError),
    ],
)
def test_open_image_refuses_what_nobody_decodes(
    data: bytes, content_type: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        open_image(data, content_type, max_pixels=4)
