import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from edgekit.errors import InvalidInputError, PayloadTooLargeError
from edgekit.processing.pnm import decode_pnm, is_pnm
from edgekit.processing.raster import Image

LIMIT = 512 * 512


@pytest.mark.parametrize(
    ("data", "image"),
    [
        (b"P1 3 2 101 010", Image(3, 2, 1, bytes([0, 255, 0, 255, 0, 255]))),
        (b"P1\n3 2\n1 0 1 # row\n0 1 0\n", Image(3, 2, 1, bytes([0, 255, 0, 255, 0, 255]))),
        (b"P2#c\n 2 #d\r\n 1\n15\n0 15", Image(2, 1, 1, bytes([0, 255]))),
        (b"P2 1 1 7 3", Image(1, 1, 1, bytes([109]))),
        (b"P2 1 1 65535 32768", Image(1, 1, 1, bytes([128]))),
        (b"P3 1 2 255 1 2 3\n4 5 6\n", Image(1, 2, 3, bytes([1, 2, 3, 4, 5, 6]))),
        (b"P4 3 2\n\xa0\x5f", Image(3, 2, 1, bytes([0, 255, 0, 255, 0, 255]))),
        (b"P4 9 1 \x00\x80", Image(9, 1, 1, bytes([255] * 8 + [0]))),
        (b"P5 2 1 255\n\x00\xff", Image(2, 1, 1, b"\x00\xff")),
        (b"P5 2 1 16\n\x00\x10", Image(2, 1, 1, b"\x00\xff")),
        (b"P5 1 1 65535\n\x80\x00", Image(1, 1, 1, bytes([128]))),
        (b"P5 1 1 256\n\x01\x00", Image(1, 1, 1, bytes([255]))),
        (b"P6 1 1 255\nabc", Image(1, 1, 3, b"abc")),
        (b"P5 1 1 255\n#", Image(1, 1, 1, b"#")),
    ],
)
def test_decode_pnm_each_variant_is_scaled_to_8_bits(data: bytes, image: Image) -> None:
    assert decode_pnm(data, max_pixels=LIMIT) == image


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "I;16"])
def test_decode_pnm_files_by_pillow_equal_what_pillow_reads(mode: str) -> None:
    y, x = np.mgrid[:13, :19]
    if mode == "I;16":
        source = Pillow.fromarray((x * 3000 + y * 17).astype("u2"))
        reference = (
            np.floor(np.asarray(source).astype(int) * 255 / 65535 + 0.5).astype("u1").tobytes()
        )
    else:
        grid = np.stack([(x * 9 + y * 5 * c) % 256 for c in range(3)], -1).astype("u1")
        source = Pillow.fromarray(grid).convert(mode)
        reference = source.convert("L" if mode == "1" else mode).tobytes()
    file = io.BytesIO()
    source.save(file, "PPM")
    assert decode_pnm(file.getvalue(), max_pixels=LIMIT).pixels == reference


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not a PNM"),
        (b"P", "not a PNM"),
        (b"P7 1 1 255\n", "not a PNM"),
        (b"P5x1 1 255\n", "not a PNM"),
        (b"P5 ", "no width"),
        (b"P5 -1 1 255\n", "no width"),
        (b"P5 1 ", "no height"),
        (b"P5 1 1 ", "no maxval"),
        (b"P5 1 1 x", "no maxval"),
        (b"P5 99999999999 1 255\n", "no width"),
        (b"P5 # no end of comment", "no width"),
        (b"P5 0 1 255\n", "0 × 1"),
        (b"P5 1 0 255\n", "1 × 0"),
        (b"P5 1 1 0\na", "maxval is 0"),
        (b"P5 1 1 65536\na", "maxval is 65536"),
        (b"P5 1 1 255", "no white space"),
        (b"P5 1 1 255a", "no white space"),
        (b"P5 2 1 255\na", "1 bytes of 2; the file is truncated"),
        (b"P5 1 1 255\nab", "data follows the 1 bytes"),
        (b"P5 1 1 65535\na", "truncated"),
        (b"P5 1 1 9\n\x0a", "10, above maxval 9"),
        (b"P5 1 1 300\n\xff\xff", "65535, above maxval 300"),
        (b"P6 1 1 255\nab", "truncated"),
        (b"P4 9 1\n\x00", "truncated"),
        (b"P4 1 1\n\x00\x00", "data follows"),
        (b"P1 2 1 1", "truncated"),
        (b"P1 2 1 111", "data follows"),
        (b"P1 2 1 12", "b'2' among the bits"),
        (b"P2 2 1 255 1", "1 samples of 2"),
        (b"P2 2 1 255 1 2 3 4", "data follows the 2 samples"),
        (b"P2 2 1 255 1 -2", "b'-' among the samples"),
        (b"P2 2 1 255 1 1_0", "b'_' among the samples"),
        (b"P2 1 1 255 000001", "more than 5 digits"),
        (b"P2 1 1 255 256", "256, above maxval 255"),
    ],
)
def test_decode_pnm_malformed_file_names_the_fault(data: bytes, text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        decode_pnm(data, max_pixels=LIMIT)
    assert text in caught.value.message


@pytest.mark.parametrize("kind", range(1, 7))
def test_decode_pnm_too_many_pixels_raises_payload_too_large(kind: int) -> None:
    data = f"P{kind} 9999999999 9999999999 255\n".encode()
    with pytest.raises(PayloadTooLargeError, match="at most 262144 pixels"):
        decode_pnm(data, max_pixels=LIMIT)


@pytest.mark.parametrize(("data", "expected"), [(b"P5\n", True), (b"P6#", True), (b"PK\3", False)])
def test_is_pnm_decides_by_the_first_bytes(data: bytes, expected: bool) -> None:
    assert is_pnm(data) is expected


@settings(max_examples=400)
@given(
    st.integers(1, 6),
    st.integers(0, 9),
    st.integers(0, 9),
    st.sampled_from([b"1", b"255", b"65535", b"0", b"70000", b""]),
    st.binary(max_size=200) | st.text("0123456789 #\n", max_size=200).map(str.encode),
)
def test_decode_pnm_any_raster_ends_in_an_image_or_an_error(
    kind: int, width: int, height: int, maxval: bytes, raster: bytes
) -> None:
    data = f"P{kind} {width} {height} ".encode() + maxval + b"\n" + raster
    try:
        image = decode_pnm(data, max_pixels=60)
    except InvalidInputError:
        return
    assert (image.width, image.height) == (width, height)


@given(st.binary(max_size=60))
def test_decode_pnm_random_bytes_end_in_an_image_or_an_error(data: bytes) -> None:
    with contextlib.suppress(InvalidInputError):
        assert decode_pnm(b"P" + data, max_pixels=60).pixels
