"""Body pipes: what each side sees, and when the other one is told."""

from __future__ import annotations

import pytest

from edgehost.http.pipes import InboundBody, OutboundBody
from edgehost.ports import BodyEndedError, BodyFailedError, Wakeup


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def test_inbound_read_before_data_returns_empty_and_is_not_ready() -> None:
    body = InboundBody()
    assert body.read(10) == b""
    assert not body.ready()


def test_inbound_read_smaller_than_chunk_keeps_the_rest() -> None:
    body = InboundBody()
    body.feed(b"abcdef")
    assert [body.read(4), body.read(4)] == [b"abcd", b"ef"]


def test_inbound_read_larger_than_chunks_joins_them() -> None:
    body = InboundBody()
    for part in (b"ab", b"cd", b"efgh"):
        body.feed(part)
    assert body.read(5) == b"abcd"
    assert body.read(5) == b"efgh"


def test_inbound_end_raises_after_last_byte_and_gives_trailers() -> None:
    body = InboundBody()
    body.feed(b"x")
    body.feed_end([("x-sum", b"1")])
    assert body.read(10) == b"x"
    with pytest.raises(BodyEndedError):
        body.read(10)
    assert body.trailers() == [("x-sum", b"1")]


def test_inbound_failure_leaves_buffered_bytes_readable() -> None:
    body = InboundBody()
    body.feed(b"x")
    body.fail(BodyFailedError("gone"))
    assert body.read(10) == b"x"
    with pytest.raises(BodyFailedError, match="gone"):
        body.read(10)


def test_inbound_full_pauses_producer_and_reading_half_notifies_once() -> None:
    notified = Counter()
    body = InboundBody(notified, limit_bytes=100)
    body.feed(b"x" * 100)
    assert body.pause_if_full()
    body.read(30)
    assert notified.count == 0
    body.read(30)
    body.read(30)
    assert notified.count == 1
    assert not body.pause_if_full()


def test_inbound_cancel_frees_buffer_and_drops_later_bytes() -> None:
    notified = Counter()
    body = InboundBody(notified, limit_bytes=10)
    body.feed(b"x" * 20)
    body.cancel()
    body.feed(b"y")
    assert notified.count == 1
    assert not body.pause_if_full()
    assert not body.ready()


def test_inbound_first_wait_is_announced_once() -> None:
    notified = Counter()
    body = InboundBody(notified, announce_first_read=True)
    body.read(1)
    body.read(1)
    body.ready()
    assert notified.count == 1
    assert body.wanted


def test_inbound_feed_wakes_the_guest() -> None:
    wakeup = Wakeup()
    body = InboundBody()
    body.watch(wakeup)
    body.feed(b"x")
    assert wakeup.wait(0)


def test_outbound_first_write_notifies_and_next_ones_wait_for_a_take() -> None:
    notified, clock = Counter(), Clock()
    body = OutboundBody(notified, clock=clock)
    body.write(b"a")
    body.write(b"b")
    assert notified.count == 1
    assert body.take().chunks == [b"a", b"b"]
    body.write(b"c")
    assert notified.count == 1
    assert body.dirty
    clock.now += 1
    body.write(b"d")
    assert notified.count == 2


def test_outbound_known_length_reached_notifies_at_once() -> None:
    notified = Counter()
    body = OutboundBody(notified, expected_bytes=3, clock=Clock())
    body.take()
    body.write(b"ab")
    assert notified.count == 0
    body.write(b"c")
    assert notified.count == 1


def test_outbound_full_has_no_capacity_until_taken_and_take_wakes_the_guest() -> None:
    wakeup = Wakeup()
    body = OutboundBody(limit_bytes=4)
    body.watch(wakeup)
    body.write(b"abcd")
    assert body.capacity() == 0
    assert not wakeup.wait(0)
    body.take()
    assert wakeup.wait(0)
    assert body.capacity() == 4


def test_outbound_short_of_content_length_finish_fails_and_aborts() -> None:
    body = OutboundBody(expected_bytes=5)
    body.write(b"abc")
    with pytest.raises(BodyFailedError, match="promised 5 bytes, but 3 were written") as caught:
        body.finish()
    assert caught.value.wasi_code == "HTTP-response-body-size"
    assert body.take().aborted


def test_outbound_beyond_content_length_write_fails_and_aborts() -> None:
    notified = Counter()
    body = OutboundBody(notified, expected_bytes=2)
    with pytest.raises(BodyFailedError, match="promised 2 bytes, but 3 were written"):
        body.write(b"abc")
    assert body.take().aborted
    assert notified.count == 1


def test_outbound_known_length_reached_is_the_end_without_finish() -> None:
    body = OutboundBody(expected_bytes=3)
    body.write(b"abc")
    assert body.take().finished
    with pytest.raises(BodyFailedError, match="promised 3 bytes, but 4 were written"):
        body.write(b"d")
    body.abort()
    assert not body.take().aborted


def test_outbound_discard_counts_nothing() -> None:
    body = OutboundBody(expected_bytes=500, discard=True)
    body.write(b"abc")
    body.finish()
    batch = body.take()
    assert (batch.chunks, batch.finished, batch.aborted) == ([], True, False)


def test_outbound_failure_reaches_every_guest_call() -> None:
    wakeup = Wakeup()
    body = OutboundBody()
    body.watch(wakeup)
    body.fail(BodyFailedError("gone"))
    assert wakeup.wait(0)
    for use in (body.capacity, body.flushed, body.finish, lambda: body.write(b"x")):
        with pytest.raises(BodyFailedError, match="gone"):
            use()


def test_outbound_finish_twice_is_one_end() -> None:
    body = OutboundBody()
    body.finish([("x-t", b"1")])
    body.finish()
    assert body.take().trailers == [("x-t", b"1")]


def test_outbound_abort_after_finish_changes_nothing() -> None:
    body = OutboundBody()
    body.finish()
    body.abort()
    assert not body.take().aborted
