"""wasi:io streams over a source and a sink that give and take little by little."""

from __future__ import annotations

from typing import Any

import pytest

from edgehost.abi.guest import Guest
from edgehost.abi.values import ErrorResult
from edgehost.errors import GuestTrapError
from edgehost.wasi import io
from edgehost.wasi.io import CLOSED, InputStream, OutputStream


class Source(InputStream):
    """Gives its chunks one read at a time, with an empty read before each."""

    def __init__(self, *chunks: bytes) -> None:
        super().__init__()
        self.chunks = list(chunks)
        self.waiting = True

    def ready(self) -> bool:
        return not self.waiting

    def read(self, max_bytes: int) -> bytes:
        if not self.chunks:
            raise ErrorResult(CLOSED)
        if self.waiting:
            return b""
        self.waiting = True
        chunk = self.chunks.pop(0)
        if len(chunk) > max_bytes:
            self.chunks.insert(0, chunk[max_bytes:])
        return chunk[:max_bytes]


class Sink(OutputStream):
    """Takes `room` bytes at a time; `drain` makes room again."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.size = self.room = room
        self.data = b""

    def ready(self) -> bool:
        return self.room > 0

    def check_write(self) -> int:
        return self.room

    def write(self, data: bytes) -> None:
        assert len(data) <= self.room
        self.room -= len(data)
        self.data += data

    def drain(self) -> None:
        self.room = self.size


def test_blocking_read_waits_for_the_first_byte(guest: Guest, wakeup: Any) -> None:
    source = Source(b"abc")
    wakeup.planned = [lambda: setattr(source, "waiting", False)]

    assert io.input_blocking_read(guest, source, 10) == b"abc"


def test_read_returns_what_is_there(guest: Guest) -> None:
    source = Source(b"abc")

    assert io.input_read(guest, source, 10) == b""


def test_blocking_read_of_nothing_returns_at_once(guest: Guest, wakeup: Any) -> None:
    assert io.input_blocking_read(guest, Source(b"abc"), 0) == b""
    assert wakeup.sleeps == []


def test_empty_stream_is_closed(guest: Guest) -> None:
    with pytest.raises(ErrorResult) as caught:
        io.input_blocking_skip(guest, InputStream(), 1)

    assert caught.value.value == CLOSED


def test_blocking_write_passes_on_as_room_appears(guest: Guest, wakeup: Any) -> None:
    sink = Sink(room=4)
    wakeup.planned = [sink.drain] * 3

    io.output_blocking_write_and_flush(guest, sink, b"0123456789")

    assert sink.data == b"0123456789"


@pytest.mark.parametrize("size", [4097, 1 << 20])
def test_blocking_write_of_more_than_4096_bytes_traps(guest: Guest, size: int) -> None:
    sink = Sink(room=1 << 30)

    with pytest.raises(GuestTrapError, match="blocking-write-and-flush"):
        io.output_blocking_write_and_flush(guest, sink, bytes(size))
    with pytest.raises(GuestTrapError, match="blocking-write-zeroes-and-flush"):
        io.output_blocking_write_zeroes(guest, sink, size)


def test_write_zeroes_over_the_budget_traps_before_it_allocates(guest: Guest) -> None:
    with pytest.raises(GuestTrapError, match="write exceeded budget"):
        io.output_write_zeroes(guest, Sink(room=10), 1 << 62)


def test_splice_moves_no_more_than_the_sink_takes(guest: Guest) -> None:
    source = Source(b"abcdef")
    source.waiting = False
    sink = Sink(room=4)

    assert io.output_splice(guest, sink, source, 100) == 4
    assert sink.data == b"abcd"


def test_splice_into_a_full_sink_reads_nothing(guest: Guest) -> None:
    source = Source(b"abc")

    assert io.output_splice(guest, Sink(room=0), source, 100) == 0
    assert source.chunks == [b"abc"]


def test_blocking_splice_waits_for_both_ends(guest: Guest, wakeup: Any) -> None:
    source, sink = Source(b"abc"), Sink(room=5)
    sink.room = 0
    wakeup.planned = [sink.drain, lambda: setattr(source, "waiting", False)]

    assert io.output_blocking_splice(guest, sink, source, 100) == 3
    assert sink.data == b"abc"


def test_error_text_is_for_developers(guest: Guest) -> None:
    failed = io.stream_failed("it broke", "HTTP-protocol-error")
    assert isinstance(failed.value, tuple)
    case, error = failed.value

    assert case == "last-operation-failed"
    assert io.to_debug_string(guest, error) == "it broke"
