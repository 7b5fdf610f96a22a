"""Guest output becomes lines, whatever pieces it is written in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.abi.output import MAX_LINE_BYTES, GuestOutput


def lines_of(*pieces: bytes) -> list[str]:
    lines: list[str] = []
    output = GuestOutput(lines.append)
    for piece in pieces:
        output.write(piece)
    output.close()
    return lines


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"a\nb\n"], ["a", "b"]),
        ([b"a", b"b\nc"], ["ab", "c"]),
        ([b"windows\r\n"], ["windows"]),
        ([b"\n\n"], ["", ""]),
        ([b""], []),
        ([b"\xff\xfe\n"], ["��"]),
        ([b"\xc3", b"\xa9\n"], ["é"]),
    ],
)
def test_output_is_cut_at_line_ends(pieces: list[bytes], expected: list[str]) -> None:
    assert lines_of(*pieces) == expected


def test_line_without_end_is_cut_between_characters() -> None:
    lines = lines_of(b"x" + "é".encode() * MAX_LINE_BYTES)

    assert "".join(lines) == "x" + "é" * MAX_LINE_BYTES
    assert all(len(line.encode()) <= MAX_LINE_BYTES for line in lines)


@given(st.lists(st.binary(max_size=50)))
def test_output_in_pieces_equals_output_at_once(pieces: list[bytes]) -> None:
    assert lines_of(*pieces) == lines_of(b"".join(pieces))
