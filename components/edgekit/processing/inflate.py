"""Decompress zlib streams (RFC 1950, RFC 1951) in pure Python, into a bounded output.

The guest has no zlib. Output stops a few hundred bytes past the size the caller expects, so a
bomb costs no more than an honest stream of that size; blocks are counted too, since each one
pays for its decoding tables. Speed rests on three things: one bit buffer that is a Python int with
a sentinel bit on top (no separate bit count), full-width decoding tables (one look-up per symbol),
and slices for copies.
"""

from __future__ import annotations

from array import array
from itertools import accumulate

from edgekit.errors import InvalidInputError

__all__ = ["inflate"]

_REFILL_BYTES = 48
"""Bytes added to the bit buffer at once; 48 was fastest of 16–96 in Wasm."""
_LOW = 1 << 64
"""A buffer below this is refilled. One symbol with all its extra bits takes at most 48 bits."""
_PADDING_BYTES = 8
"""The low mark in bytes: a refill this far past the end means that no real bits are left."""

_MAX_CODE_BITS = 15
_REVERSED = array("H", (int(f"{code:015b}"[::-1], 2) for code in range(1 << _MAX_CODE_BITS)))
"""15-bit numbers with their bits in reverse: Huffman codes arrive most significant bit first."""

# Table entries are `symbol << 4 | code bits`; literals are the entries below 256 << 4.
_FIRST_NON_LITERAL = 256 << 4
_END_OF_BLOCK = 256
_FIRST_LENGTH = 257
_UNASSIGNED = 511 << 4 | 1
"""A bit pattern no code uses; as a length or a distance its symbol is out of range."""

_LENGTH_EXTRA = (0,) * 8 + tuple(bits for bits in range(1, 6) for _ in range(4)) + (0,)
_LENGTH_BASE = (
    *accumulate((1 << bits for bits in _LENGTH_EXTRA[:-2]), initial=3),
    258,  # RFC 1951, section 3.2.5: the last code is the maximum and has no extra bits
)
_DISTANCE_EXTRA = (0, 0, *(bits for bits in range(14) for _ in range(2)))
_DISTANCE_BASE = tuple(accumulate((1 << bits for bits in _DISTANCE_EXTRA[:-1]), initial=1))
_LENGTH_MASK = tuple((1 << bits) - 1 for bits in _LENGTH_EXTRA)
_DISTANCE_MASK = tuple((1 << bits) - 1 for bits in _DISTANCE_EXTRA)
_CODE_LENGTH_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)


class _BitReader:
    """Bits of a byte string, least significant first.

    `buffer` holds the bits to come below one sentinel bit; the hot loop keeps it in a local
    variable and gives it back.
    """

    __slots__ = ("_data", "_position", "buffer")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self.buffer = 1

    def refill(self, buffer: int) -> int:
        """`buffer` with the next 48 bytes on top (zeros past the end, but only once)."""
        position = self._position
        if position >= len(self._data) + _PADDING_BYTES:
            raise InvalidInputError(_TRUNCATED)
        count = buffer.bit_length() - 1
        fresh = int.from_bytes(self._data[position : position + _REFILL_BYTES], "little")
        self._position = position + _REFILL_BYTES
        return (buffer ^ 1 << count) | (fresh | 1 << _REFILL_BYTES * 8) << count

    def take(self, count: int) -> int:
        """The next `count` (at most 48) bits as a number."""
        if self.buffer < _LOW:
            self.buffer = self.refill(self.buffer)
        value = self.buffer & (1 << count) - 1
        self.buffer >>= count
        return value

    def bits_used(self) -> int:
        """Bits taken so far; more than there were when the padding has been read."""
        return self._position * 8 - (self.buffer.bit_length() - 1)

    def is_past_end(self) -> bool:
        """True when bits were taken that the data does not have."""
        return self.bits_used() > len(self._data) * 8

    def take_bytes(self, count: int) -> bytes:
        """The next `count` bytes from the next byte boundary on."""
        start = (self.bits_used() + 7) // 8
        end = start + count
        if end > len(self._data):
            raise InvalidInputError(_TRUNCATED)
        self._position = end
        self.buffer = 1
        return self._data[start:end]


_TRUNCATED = "the compressed data ends too early; the file is truncated"


def inflate(stream: bytes, size: int, *, max_blocks: int) -> bytearray:
    """The `size` bytes that `stream` holds.

    Args:
        stream: A whole zlib stream, nothing before or after it.
        size: Exact size of the result in bytes.
        max_blocks: Most deflate blocks taken; honest encoders need one per some thousand bytes.

    Raises:
        InvalidInputError: The stream is malformed, truncated, has a wrong checksum, holds more or
            fewer than `size` bytes, or is cut into too many blocks.
    """
    if len(stream) < 2:
        raise InvalidInputError(_TRUNCATED)
    _check_header(stream[0], stream[1])
    reader = _BitReader(stream[2:])
    out = bytearray()
    for _ in range(max_blocks):
        is_last = reader.take(1)
        _inflate_block(reader, reader.take(2), out, size)
        if is_last:
            break
    else:
        raise InvalidInputError(f"the compressed data is cut into more than {max_blocks} blocks")
    if reader.is_past_end():
        raise InvalidInputError(_TRUNCATED)
    if len(out) < size:
        raise InvalidInputError(f"the compressed data holds {len(out)} bytes of {size}")
    checksum = int.from_bytes(reader.take_bytes(4), "big")
    if checksum != _adler32(out):
        raise InvalidInputError("the compressed data has a wrong Adler-32; the file is damaged")
    if reader.bits_used() != (len(stream) - 2) * 8:
        raise InvalidInputError("bytes follow the end of the compressed data")
    return out


def _check_header(method: int, flags: int) -> None:
    """RFC 1950, section 2.2: method 8, window at most 32 KB, check bits, no dictionary."""
    if method & 0x0F != 8 or method >> 4 > 7 or (method << 8 | flags) % 31 or flags & 0x20:
        raise InvalidInputError(f"not a zlib stream: it starts with {method:02x} {flags:02x}")


def _inflate_block(reader: _BitReader, kind: int, out: bytearray, size: int) -> None:
    if kind == 0:
        _copy_stored(reader, out, size)
    elif kind == 1:
        _inflate_codes(reader, _FIXED_LITERALS, _FIXED_DISTANCES, out, size)
    elif kind == 2:
        literals, distances = _read_tables(reader)
        _inflate_codes(reader, literals, distances, out, size)
    else:
        raise InvalidInputError("the compressed data has a block of the reserved type 3")


def _copy_stored(reader: _BitReader, out: bytearray, size: int) -> None:
    header = reader.take_bytes(4)
    length = int.from_bytes(header[:2], "little")
    if length ^ int.from_bytes(header[2:], "little") != 0xFFFF:
        raise InvalidInputError("a stored block's length disagrees with its complement")
    if len(out) + length > size:
        raise _overflow(reader, size)
    out += reader.take_bytes(length)


def _inflate_codes(
    reader: _BitReader, literals: list[int], distances: list[int], out: bytearray, size: int
) -> None:
    """Decode symbols up to the end of the block. Kept in one piece: calls would double its time."""
    buffer = reader.buffer
    literal_mask = len(literals) - 1
    distance_mask = len(distances) - 1
    append = out.append
    while True:
        if buffer < _LOW:
            buffer = reader.refill(buffer)
            if len(out) > size:
                break
        entry = literals[buffer & literal_mask]
        buffer >>= entry & 15
        if entry < _FIRST_NON_LITERAL:
            append(entry >> 4)
            continue
        symbol = (entry >> 4) - _FIRST_LENGTH
        if symbol < 0:
            break
        if symbol > 28:
            raise InvalidInputError("the compressed data has an invalid length code")
        length = _LENGTH_BASE[symbol] + (buffer & _LENGTH_MASK[symbol])
        buffer >>= _LENGTH_EXTRA[symbol]

        entry = distances[buffer & distance_mask]
        buffer >>= entry & 15
        symbol = entry >> 4
        if symbol > 29:
            raise InvalidInputError("the compressed data has an invalid distance code")
        distance = _DISTANCE_BASE[symbol] + (buffer & _DISTANCE_MASK[symbol])
        buffer >>= _DISTANCE_EXTRA[symbol]

        start = len(out) - distance
        if start < 0:
            raise InvalidInputError("the compressed data refers to bytes before its start")
        if length <= distance:
            out += out[start : start + length]
        else:
            out += (out[start:] * (length // distance + 1))[:length]
        if start + distance + length > size:
            break
    reader.buffer = buffer
    if len(out) > size:
        raise _overflow(reader, size)


def _overflow(reader: _BitReader, size: int) -> InvalidInputError:
    if reader.is_past_end():
        return InvalidInputError(_TRUNCATED)
    return InvalidInputError(f"the compressed data holds more than the {size} bytes expected")


def _read_tables(reader: _BitReader) -> tuple[list[int], list[int]]:
    """Decoding tables of a dynamic block (RFC 1951, section 3.2.7)."""
    literal_count = reader.take(5) + 257
    distance_count = reader.take(5) + 1
    code_length_count = reader.take(4) + 4
    if literal_count > 286 or distance_count > 30:
        raise InvalidInputError("a block declares more length or distance codes than there are")
    code_lengths = [0] * 19
    for symbol in _CODE_LENGTH_ORDER[:code_length_count]:
        code_lengths[symbol] = reader.take(3)
    lengths = _read_code_lengths(
        reader, _decoding_table(code_lengths), literal_count + distance_count
    )
    if not lengths[_END_OF_BLOCK]:
        raise InvalidInputError("a block has no end-of-block code")
    return (
        _decoding_table(lengths[:literal_count], may_be_single=True),
        _decoding_table(lengths[literal_count:], may_be_single=True),
    )


def _read_code_lengths(reader: _BitReader, table: list[int], count: int) -> list[int]:
    lengths: list[int] = []
    mask = len(table) - 1
    while len(lengths) < count:
        if reader.buffer < _LOW:
            reader.buffer = reader.refill(reader.buffer)
        entry = table[reader.buffer & mask]
        reader.buffer >>= entry & 15
        symbol = entry >> 4
        if symbol < 16:
            lengths.append(symbol)
        elif symbol == 16:
            if not lengths:
                raise InvalidInputError("a block repeats a code length before the first one")
            lengths += lengths[-1:] * (3 + reader.take(2))
        elif symbol == 17:
            lengths += [0] * (3 + reader.take(3))
        else:
            lengths += [0] * (11 + reader.take(7))
    if len(lengths) > count:
        raise InvalidInputError("a block declares more code lengths than it announced")
    return lengths


def _decoding_table(lengths: list[int], *, may_be_single: bool = False) -> list[int]:
    """Entries for every pattern of as many bits as the longest code has.

    Args:
        lengths: Code length in bits by symbol, 0 for none.
        may_be_single: Accept no code at all, or one alone of a single bit (as zlib does).

    Raises:
        InvalidInputError: The lengths describe no complete prefix code.
    """
    longest = max(lengths)
    counts = [lengths.count(length) for length in range(1, longest + 1)]
    space = 1 << longest
    next_code = []
    code = 0
    for length, count in enumerate(counts, start=1):
        next_code.append(code)
        code += count << longest - length
    if code != space and not (may_be_single and longest <= 1 and code < space):
        raise InvalidInputError("a block has an over-subscribed or incomplete Huffman code")
    table = [_UNASSIGNED] * space
    shift = _MAX_CODE_BITS - longest
    for symbol, length in enumerate(lengths):
        if length:
            code = next_code[length - 1]
            step = 1 << length
            table[_REVERSED[code << shift] :: step] = [symbol << 4 | length] * (space // step)
            next_code[length - 1] = code + space // step
    return table


# RFC 1951, section 3.2.6. Symbols 286, 287, 30 and 31 have codes but never occur in valid data.
_FIXED_LITERALS = _decoding_table([8] * 144 + [9] * 112 + [7] * 24 + [8] * 8)
_FIXED_DISTANCES = _decoding_table([5] * 32)

_ADLER_MODULUS = 65521
_ADLER_BLOCK = 1024
"""Bytes between reductions: all sums stay below 2³¹, where `sum` adds machine words in Wasm too."""


def _adler32(data: bytearray) -> int:
    """RFC 1950, section 8.2: running sum and sum of running sums, with the loops in C."""
    low, high = 1, 0
    for start in range(0, len(data), _ADLER_BLOCK):
        sums = list(accumulate(data[start : start + _ADLER_BLOCK], initial=low))
        high = (high + sum(sums) - low) % _ADLER_MODULUS
        low = sums[-1] % _ADLER_MODULUS
    return high << 16 | low
