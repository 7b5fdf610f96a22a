import random
import zlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.errors import InvalidInputError
from edgekit.processing.inflate import inflate


class Bits:
    """Writes deflate by hand: bits least significant first, codes most significant first."""

    def __init__(self) -> None:
        self.text = ""

    def put(self, value: int, count: int) -> "Bits":
        self.text += f"{value:0{count}b}"[::-1] if count else ""
        return self

    def code(self, bits: str) -> "Bits":
        self.text += bits
        return self

    def stream(self, out: bytes = b"", *, trailer: bytes | None = None) -> bytes:
        padded = self.text + "0" * (-len(self.text) % 8)
        body = bytes(int(padded[at : at + 8][::-1], 2) for at in range(0, len(padded), 8))
        return (
            b"\x78\x9c"
            + body
            + (zlib.adler32(out).to_bytes(4, "big") if trailer is None else trailer)
        )


def dynamic_block(code_lengths: dict[int, int], literals: int = 257, distances: int = 1) -> Bits:
    """A final dynamic block up to its code length code lengths."""
    order = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
    bits = Bits().put(1, 1).put(2, 2).put(literals - 257, 5).put(distances - 1, 5).put(15, 4)
    for symbol in order:
        bits.put(code_lengths.get(symbol, 0), 3)
    return bits


def fixed_block() -> Bits:
    return Bits().put(1, 1).put(1, 2)


def fail(stream: bytes, size: int = 4, max_blocks: int = 100) -> str:
    with pytest.raises(InvalidInputError) as caught:
        inflate(stream, size, max_blocks=max_blocks)
    return caught.value.message


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize(
    "strategy",
    [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED],
)
@pytest.mark.parametrize("alphabet", [1, 2, 30, 256])
def test_inflate_any_encoder_setting_gives_the_input(
    level: int, strategy: int, alphabet: int
) -> None:
    source = random.Random(alphabet)
    data = bytes(source.randrange(alphabet) for _ in range(70_000))
    encoder = zlib.compressobj(level, zlib.DEFLATED, 15, 8, strategy)
    stream = encoder.compress(data) + encoder.flush()
    assert inflate(stream, len(data), max_blocks=100) == data


@given(st.binary(max_size=2000), st.integers(9, 15), st.integers(0, 9))
@example(b"", 9, 9)
def test_inflate_any_bytes_round_trip(data: bytes, window_bits: int, level: int) -> None:
    encoder = zlib.compressobj(level, zlib.DEFLATED, window_bits)
    stream = encoder.compress(data) + encoder.flush()
    assert inflate(stream, len(data), max_blocks=100) == data


@settings(max_examples=300)
@given(st.binary(max_size=300), st.data())
def test_inflate_damaged_stream_raises_or_gives_what_zlib_gives(
    data: bytes, draw: st.DataObject
) -> None:
    stream = bytearray(zlib.compress(data))
    for _ in range(draw.draw(st.integers(1, 4))):
        stream[draw.draw(st.integers(0, len(stream) - 1))] ^= draw.draw(st.integers(1, 255))
    damaged = bytes(stream[: draw.draw(st.integers(0, len(stream)))])
    try:
        expected: bytes | None = zlib.decompress(damaged)
    except zlib.error:
        expected = None
    if expected is None:
        fail(damaged, len(data))
    else:
        assert inflate(damaged, len(expected), max_blocks=100) == expected


@pytest.mark.parametrize("cut", range(12))
def test_inflate_truncated_stream_says_so(cut: int) -> None:
    stream = zlib.compress(bytes(range(256)))
    assert "truncated" in fail(stream[: len(stream) * cut // 12], 256)


def test_inflate_stream_that_ends_inside_its_last_symbol_is_truncated() -> None:
    # One literal of the fixed code, then nothing: the zeros read past the end are no end of block.
    assert "truncated" in fail(Bits().put(1, 1).put(1, 2).code("10110000").stream(trailer=b""), 1)


@pytest.mark.parametrize("size", [0, 1, 99_999])
def test_inflate_more_output_than_expected_stops_early(size: int) -> None:
    assert "more than" in fail(zlib.compress(bytes(10_000_000), 9), size)


def test_inflate_stored_block_larger_than_expected_is_refused() -> None:
    assert "more than the 3 bytes" in fail(zlib.compress(b"abcd", 0), 3)


def one_bit_literals() -> bytes:
    """A hundred thousand zeros as literals of one bit each."""
    encoder = zlib.compressobj(9, zlib.DEFLATED, 15, 8, zlib.Z_HUFFMAN_ONLY)
    return encoder.compress(bytes(100_000)) + encoder.flush()


def test_inflate_literals_beyond_the_size_are_refused() -> None:
    assert "more than the 100 bytes" in fail(one_bit_literals(), 100)


@pytest.mark.parametrize("length", [100, 101, 130, 146, 147, 148, 149, 150])
def test_inflate_literals_cut_anywhere_are_truncated(length: int) -> None:
    # Zeros past the end would decode as more literals.
    assert "truncated" in fail(one_bit_literals()[:length], 100_000)


def test_inflate_less_output_than_expected_is_refused() -> None:
    assert "holds 3 bytes of 4" in fail(zlib.compress(b"abc"))


def test_inflate_too_many_blocks_is_refused() -> None:
    encoder = zlib.compressobj()
    stream = b"".join(encoder.compress(b"a") + encoder.flush(zlib.Z_FULL_FLUSH) for _ in range(20))
    assert "more than 10 blocks" in fail(stream + encoder.flush(), 20, max_blocks=10)


def test_inflate_wrong_checksum_is_refused() -> None:
    stream = zlib.compress(b"abcd")
    assert "Adler-32" in fail(stream[:-1] + bytes([stream[-1] ^ 1]))


def test_inflate_trailing_bytes_are_refused() -> None:
    assert "follow the end" in fail(zlib.compress(b"abcd") + b"x")


@pytest.mark.parametrize("header", [b"\x79\x9c", b"\x88\x1c", b"\x78\x9d", b"\x78\xbb"])
def test_inflate_wrong_zlib_header_is_refused(header: bytes) -> None:
    assert "not a zlib stream" in fail(header + zlib.compress(b"abcd")[2:])


def test_inflate_reserved_block_type_is_refused() -> None:
    assert "reserved type" in fail(Bits().put(1, 1).put(3, 2).put(0, 60).stream())


def test_inflate_stored_length_without_its_complement_is_refused() -> None:
    assert "complement" in fail(b"\x78\x9c\x01\x04\x00\x00\x00abcd")


@pytest.mark.parametrize("bits", ["11000110", "11000111"])
def test_inflate_invalid_length_symbol_is_refused(bits: str) -> None:
    assert "invalid length code" in fail(fixed_block().code(bits).put(0, 60).stream())


@pytest.mark.parametrize("bits", ["11110", "11111"])
def test_inflate_invalid_distance_symbol_is_refused(bits: str) -> None:
    block = fixed_block().code("00110000").code("0000001").code(bits)
    assert "invalid distance code" in fail(block.put(0, 60).stream())


def test_inflate_distance_before_the_start_is_refused() -> None:
    block = fixed_block().code("00110000").code("0000001").code("00001").put(0, 60)
    assert "before its start" in fail(block.stream())


@pytest.mark.parametrize(("literals", "distances"), [(287, 1), (288, 30), (257, 31), (286, 32)])
def test_inflate_too_many_symbols_is_refused(literals: int, distances: int) -> None:
    block = dynamic_block({0: 1, 1: 1}, literals, distances).put(0, 60)
    assert "than there are" in fail(block.stream())


@pytest.mark.parametrize(
    "lengths", [{}, {0: 1}, {0: 1, 1: 2}, {0: 1, 1: 1, 2: 1}, {0: 1, 1: 1, 2: 7}]
)
def test_inflate_incomplete_or_oversubscribed_code_lengths_are_refused(
    lengths: dict[int, int],
) -> None:
    assert "Huffman code" in fail(dynamic_block(lengths).put(0, 60).stream())


def test_inflate_repeat_before_first_code_length_is_refused() -> None:
    # Codes: 0 → "0", 16 → "1".
    assert "before the first" in fail(dynamic_block({0: 1, 16: 1}).code("1").put(0, 60).stream())


def test_inflate_more_code_lengths_than_announced_is_refused() -> None:
    # Codes: 0 → "0", 18 → "1": two runs of 138 zeros exceed 258 symbols.
    block = dynamic_block({0: 1, 18: 1}).code("1").put(127, 7).code("1").put(127, 7).put(0, 60)
    assert "than it announced" in fail(block.stream())


def test_inflate_block_without_end_code_is_refused() -> None:
    # Codes: 0 → "0", 18 → "1": all 258 symbols have no code.
    block = dynamic_block({0: 1, 18: 1}).code("1").put(127, 7).code("1").put(109, 7).put(0, 60)
    assert "no end-of-block" in fail(block.stream())


def test_inflate_block_with_a_single_code_is_taken_as_zlib_does() -> None:
    # Codes: 1 → "0", 18 → "1": 138 + 118 zeros, one bit for end of block, none for distances.
    block = dynamic_block({1: 2, 18: 1, 0: 2})
    block.code("0").put(127, 7).code("0").put(107, 7).code("11").code("10").code("0")
    stream = block.stream()
    assert zlib.decompress(stream) == b""
    assert inflate(stream, 0, max_blocks=1) == b""


def test_inflate_pattern_no_code_uses_is_refused() -> None:
    block = dynamic_block({1: 2, 18: 1, 0: 2})
    block.code("0").put(127, 7).code("0").put(107, 7).code("11").code("10").code("1").put(0, 60)
    assert "invalid length code" in fail(block.stream())
