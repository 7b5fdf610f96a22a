import io
import random
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from edgekit.errors import InvalidInputError, PayloadTooLargeError
from edgekit.processing.png import decode_png
from edgekit.processing.raster import Image
from unit.edgekit_processing.png_writer import (
    CHANNELS,
    SIGNATURE,
    chunk,
    encode_png,
    ihdr,
    png_of_stream,
)

LIMIT = 512 * 512
FORMATS = [
    (0, 1), (0, 2), (0, 4), (0, 8), (0, 16),
    (2, 8), (2, 16),
    (3, 1), (3, 2), (3, 4), (3, 8),
    (4, 8), (4, 16),
    (6, 8), (6, 16),
]  # fmt: skip


def random_samples(width: int, height: int, color: int, depth: int) -> list[list[int]]:
    source = random.Random(width * 1000 + height)
    count = width * CHANNELS[color]
    smooth = [[(x * 3 + y * 5) % (1 << depth) for x in range(count)] for y in range(height)]
    # Smooth with a few jumps, so that every case of every filter occurs.
    for _ in range(count * height // 6):
        smooth[source.randrange(height)][source.randrange(count)] = source.randrange(1 << depth)
    return smooth


def expected_pixels(samples: list[list[int]], color: int, depth: int, palette: bytes) -> bytes:
    """What the specification says, by floating point on whole arrays."""
    values = np.array(samples).reshape(len(samples), -1, CHANNELS[color])
    if color == 3:
        return bytes(np.frombuffer(palette, np.uint8).reshape(-1, 3)[values[..., 0]])
    levels = values >> 8 if depth == 16 else values * 255 // ((1 << depth) - 1)
    if color in (4, 6):
        alpha = levels[..., -1:] / 255
        levels = np.floor(255 + (levels[..., :-1] - 255.0) * alpha + 0.5)
    return levels.astype(np.uint8).tobytes()


def fail(data: bytes) -> str:
    with pytest.raises(InvalidInputError) as caught:
        decode_png(data, max_pixels=LIMIT)
    assert not isinstance(caught.value, PayloadTooLargeError)
    return caught.value.message


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 2), (5, 9), (17, 13)])
@pytest.mark.parametrize(("color", "depth"), FORMATS)
def test_decode_png_every_format_gives_the_pixels_of_the_specification(
    color: int, depth: int, width: int, height: int, interlaced: bool
) -> None:
    samples = random_samples(width, height, color, depth)
    palette = bytes(random.Random(depth).randbytes(3 << depth)) if color == 3 else b""
    data = encode_png(
        samples,
        color=color,
        depth=depth,
        interlaced=interlaced,
        extra=chunk(b"PLTE", palette) if color == 3 else b"",
    )
    image = decode_png(data, max_pixels=LIMIT)
    assert (image.width, image.height) == (width, height)
    assert image.channels == (1 if color in (0, 4) else 3)
    assert image.pixels == expected_pixels(samples, color, depth, palette)


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("color", [0, 2])
def test_decode_png_each_filter_alone_is_undone(kind: int, color: int) -> None:
    samples = random_samples(20, 20, color, 8)
    data = encode_png(samples, color=color, filters=[kind])
    assert decode_png(data, max_pixels=LIMIT).pixels == expected_pixels(samples, color, 8, b"")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA", "I;16"])
@pytest.mark.parametrize("optimize", [False, True])
def test_decode_png_files_by_pillow_equal_what_pillow_reads(mode: str, optimize: bool) -> None:
    y, x = np.mgrid[:37, :41]
    picture = Pillow.fromarray(
        np.stack([(128 + 100 * np.sin(x / (c + 3)) + y) % 256 for c in range(4)], -1).astype("u1")
    )
    source = (
        Pillow.fromarray((x * 1500 + y).astype("u2"))
        if mode == "I;16"
        else picture.convert(mode if mode != "P" else "RGB")
    )
    if mode == "P":
        source = source.quantize(50)
    file = io.BytesIO()
    source.save(file, "PNG", optimize=optimize)

    image = decode_png(file.getvalue(), max_pixels=LIMIT)

    if mode == "I;16":
        reference = (np.asarray(source) >> 8).astype("u1").tobytes()
    elif mode in ("LA", "RGBA"):
        channels = np.asarray(source).astype(float)
        mixed = 255 + (channels[..., :-1] - 255) * channels[..., -1:] / 255
        reference = np.floor(mixed + 0.5).astype("u1").tobytes()
    else:
        reference = source.convert("RGB" if mode in ("P", "RGB") else "L").tobytes()
    assert image.pixels == reference


def test_decode_png_data_in_many_idat_chunks_is_joined() -> None:
    samples = random_samples(9, 9, 0, 8)
    data = encode_png(samples, color=0, pieces=40)
    assert data.count(b"IDAT") > 20
    assert decode_png(data, max_pixels=LIMIT).pixels == expected_pixels(samples, 0, 8, b"")


@pytest.mark.parametrize(("depth", "key"), [(1, 1), (4, 7), (8, 200), (16, 0x1234)])
def test_decode_png_transparent_gray_becomes_white(depth: int, key: int) -> None:
    other = 0x1235 if depth == 16 else 0
    data = encode_png(
        [[key, other], [other, key]],
        color=0,
        depth=depth,
        extra=chunk(b"tRNS", key.to_bytes(2, "big")),
    )
    pixels = decode_png(data, max_pixels=LIMIT).pixels
    assert pixels[0] == pixels[3] == 255
    assert pixels[1] == pixels[2] == (0x12 if depth == 16 else 0)


@pytest.mark.parametrize("depth", [8, 16])
def test_decode_png_transparent_rgb_becomes_white_only_where_all_samples_match(depth: int) -> None:
    key = [1, 2, 3]
    data = encode_png(
        [[*key, 3, 1, 2], [3, 3, 1, 2, 3, 4]],
        color=2,
        depth=depth,
        extra=chunk(b"tRNS", b"".join(value.to_bytes(2, "big") for value in key)),
    )
    pixels = decode_png(data, max_pixels=LIMIT).pixels
    rest = bytes([3, 1, 2, 3, 3, 1, 2, 3, 4])
    assert pixels == b"\xff" * 3 + (rest if depth == 8 else bytes(9))


def test_decode_png_transparent_palette_entries_are_laid_over_white() -> None:
    extra = chunk(b"PLTE", bytes([0, 0, 0, 100, 100, 100])) + chunk(b"tRNS", b"\x80")
    data = encode_png([[0, 1]], color=3, extra=extra)
    assert decode_png(data, max_pixels=LIMIT).pixels == bytes([127] * 3 + [100] * 3)


def test_decode_png_suggested_palette_of_an_rgb_image_changes_nothing() -> None:
    data = encode_png([[1, 2, 3]], color=2, extra=chunk(b"PLTE", bytes(6)))
    assert decode_png(data, max_pixels=LIMIT).pixels == bytes([1, 2, 3])


def test_decode_png_unknown_ancillary_chunks_are_skipped() -> None:
    data = encode_png([[7]], color=0, extra=chunk(b"tEXt", b"a\0b") + chunk(b"zzZz"))
    assert decode_png(data, max_pixels=LIMIT) == Image(1, 1, 1, b"\x07")


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (513, 512)])
def test_decode_png_too_many_pixels_raises_payload_too_large(size: tuple[int, int]) -> None:
    data = SIGNATURE + ihdr(*size, 8, 0) + chunk(b"IDAT", b"x") + chunk(b"IEND")
    with pytest.raises(PayloadTooLargeError, match=f"{size[0]} × {size[1]} pixels; at most"):
        decode_png(data, max_pixels=LIMIT)


def test_decode_png_zip_bomb_is_refused_before_it_unfolds() -> None:
    bomb = png_of_stream(zlib.compress(bytes(50_000_000), 9), width=512, height=512)
    assert "more than the 262656 bytes" in fail(bomb)


def test_decode_png_more_idat_than_the_picture_can_need_is_refused() -> None:
    assert "bytes of IDAT" in fail(png_of_stream(bytes(10_000)))


IHDR = ihdr(4, 4, 8, 0)
IDAT = chunk(b"IDAT", zlib.compress(bytes(20)))
PLTE = chunk(b"PLTE", bytes(6))
END = chunk(b"IEND")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "signature is missing"),
        (b"\xff\xd8\xff\xe0", "signature is missing"),
        (SIGNATURE, "truncated"),
        (SIGNATURE + IHDR, "truncated"),
        (SIGNATURE + IHDR + IDAT, "truncated"),
        (SIGNATURE + IHDR + IDAT[:-5], "ends within its IDAT chunk"),
        (SIGNATURE + END, "first chunk is IEND, not IHDR"),
        (SIGNATURE + IDAT + IHDR + END, "first chunk is IDAT"),
        (SIGNATURE + IHDR + END, "no IDAT"),
        (SIGNATURE + IHDR + IHDR + IDAT + END, "IHDR is repeated or an unknown critical"),
        (SIGNATURE + IHDR + chunk(b"ABCD") + IDAT + END, "ABCD is repeated or an unknown"),
        (SIGNATURE + IHDR + chunk(b"AB1D") + IDAT + END, "no chunk type"),
        (SIGNATURE + IHDR + chunk(b"abcd") + IDAT + END, "no chunk type"),
        (SIGNATURE + IHDR + IDAT + chunk(b"tEXt") + IDAT + END, "between the IDAT"),
        (SIGNATURE + IHDR + IDAT + END + b"x", "follow the end"),
        (SIGNATURE + IHDR + IDAT + chunk(b"IEND", b"x"), "follow the end"),
        (SIGNATURE + IHDR + chunk(b"IDAT", b"x", crc=1) + END, "IDAT chunk has a wrong CRC"),
        (SIGNATURE + chunk(b"IHDR", bytes(12)) + END, "IHDR has 12 bytes"),
        (SIGNATURE + ihdr(0, 4, 8, 0) + IDAT + END, "0 × 4 are out of range"),
        (SIGNATURE + ihdr(4, 0, 8, 0) + IDAT + END, "4 × 0 are out of range"),
        (SIGNATURE + ihdr(1 << 31, 1, 8, 0) + IDAT + END, "out of range"),
        (SIGNATURE + ihdr(4, 1 << 31, 8, 0) + IDAT + END, "out of range"),
        (SIGNATURE + ihdr(4, 4, 3, 0) + IDAT + END, "bit depth 3"),
        (SIGNATURE + ihdr(4, 4, 16, 3) + IDAT + END, "bit depth 16"),
        (SIGNATURE + ihdr(4, 4, 8, 5) + IDAT + END, "color type 5"),
        (SIGNATURE + ihdr(4, 4, 8, 0, 1, 0, 0) + IDAT + END, "method 1, 0"),
        (SIGNATURE + ihdr(4, 4, 8, 0, 0, 1, 0) + IDAT + END, "method 0, 1"),
        (SIGNATURE + ihdr(4, 4, 8, 0, 0, 0, 2) + IDAT + END, "interlace method 2"),
        (SIGNATURE + IHDR + PLTE + IDAT + END, "gray image has a PLTE"),
        (SIGNATURE + ihdr(4, 4, 8, 3) + IDAT + END, "no PLTE"),
        (SIGNATURE + ihdr(4, 4, 8, 3) + PLTE + PLTE + IDAT + END, "PLTE is repeated"),
        (SIGNATURE + ihdr(4, 4, 8, 2) + IDAT + PLTE + END, "PLTE is repeated or stands after"),
        (SIGNATURE + ihdr(4, 4, 8, 3) + chunk(b"PLTE") + IDAT + END, "PLTE has 0 bytes"),
        (SIGNATURE + ihdr(4, 4, 8, 3) + chunk(b"PLTE", bytes(5)) + END, "PLTE has 5 bytes"),
        (SIGNATURE + ihdr(4, 4, 1, 3) + chunk(b"PLTE", bytes(9)) + END, "at most 2 colors"),
        (SIGNATURE + ihdr(4, 4, 8, 3) + chunk(b"tRNS", b"a") + PLTE, "tRNS must follow PLTE"),
        (SIGNATURE + ihdr(4, 4, 8, 3) + PLTE + chunk(b"tRNS", bytes(3)), "no more entries"),
        (SIGNATURE + IHDR + chunk(b"tRNS", bytes(3)) + IDAT + END, "tRNS has 3 bytes"),
        (SIGNATURE + IHDR + chunk(b"tRNS", bytes(2)) * 2 + IDAT + END, "tRNS is repeated"),
        (SIGNATURE + IHDR + IDAT + chunk(b"tRNS", bytes(2)) + END, "tRNS is repeated or stands"),
        (SIGNATURE + ihdr(4, 4, 8, 4) + chunk(b"tRNS", bytes(2)) + END, "alpha channel has a tRNS"),
        (SIGNATURE + IHDR + chunk(b"tEXt") * 10_001 + IDAT + END, "more than 10000 chunks"),
        (png_of_stream(zlib.compress(bytes(19))), "holds 19 bytes of 20"),
        (png_of_stream(zlib.compress(bytes(21))), "more than the 20 bytes"),
        (png_of_stream(zlib.compress(b"\5" * 20)), "row 0 has the unknown filter type 5"),
        (png_of_stream(b""), "truncated"),
        (encode_png([[0, 2]], color=3, extra=PLTE), "color 2 of a palette of 2"),
    ],
)
def test_decode_png_malformed_file_names_the_fault(data: bytes, text: str) -> None:
    assert text in fail(data)


@pytest.fixture(scope="module")
def valid_files() -> list[bytes]:
    return [
        encode_png(
            random_samples(6, 5, color, depth),
            color=color,
            depth=depth,
            interlaced=depth % 3 == 1,
            extra=chunk(b"PLTE", bytes(3 << depth)) if color == 3 else b"",
        )
        for color, depth in FORMATS
    ]


def survives(data: bytes) -> None:
    """Decoding ends in an image or in one of the two errors."""
    try:
        image = decode_png(data, max_pixels=10_000)
    except InvalidInputError:
        return
    assert image.width * image.height <= 10_000


@settings(max_examples=300)
@given(data=st.data())
def test_decode_png_flipped_bits_and_cuts_never_raise_anything_else(
    valid_files: list[bytes], data: st.DataObject
) -> None:
    damaged = bytearray(data.draw(st.sampled_from(valid_files)))
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    survives(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))


@settings(max_examples=300)
@given(st.data())
def test_decode_png_damage_behind_correct_checksums_never_raises_anything_else(
    data: st.DataObject,
) -> None:
    color, depth = data.draw(st.sampled_from(FORMATS))
    interlace = data.draw(st.integers(0, 1))
    width, height = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    raw = data.draw(st.binary(min_size=1, max_size=300))
    stream = data.draw(st.one_of(st.just(zlib.compress(raw)), st.binary(max_size=100)))
    chunks = data.draw(
        st.lists(
            st.one_of(
                st.just(chunk(b"IDAT", stream)),
                st.builds(
                    chunk,
                    st.sampled_from([b"PLTE", b"tRNS", b"IEND", b"tEXt"]),
                    st.binary(max_size=30),
                ),
            ),
            max_size=5,
        )
    )
    head = SIGNATURE + ihdr(width, height, depth, color, 0, 0, interlace)
    survives(head + b"".join(chunks) + chunk(b"IEND"))


@given(st.binary(max_size=200))
def test_decode_png_random_bytes_after_the_signature_never_raise_anything_else(
    data: bytes,
) -> None:
    survives(SIGNATURE + data)
