"""What a guest sees of HTTP: its request, its response, bodies in both directions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgehost.ports import BodyFailedError, IncomingRequest
from fakes.edgehost_http import MemoryBody, MemorySink, MemoryWriter, request
from fakes.edgehost_runner import GuestHarness

pytestmark = pytest.mark.wasm


@pytest.fixture(scope="module")
def guest(wasm_engine: Any, probe_component: Any) -> Any:
    from edgehost.ports import ComponentSpec

    spec = ComponentSpec("probe", probe_component.source)
    with GuestHarness(wasm_engine, probe_component, spec) as harness:
        yield harness


def json_of(sink: MemorySink) -> Any:
    assert sink.error is None, sink.error
    assert sink.writer.finished
    return json.loads(sink.body)


def test_response_with_body_arrives_whole(guest: GuestHarness) -> None:
    sink = guest.run("/hello")

    assert (sink.status, sink.headers, sink.body) == (200, [("content-length", b"5")], b"hello")
    assert sink.writer.finished
    assert sink.writer.trailers is None


@pytest.mark.parametrize("size", [0, 1, 4096, 150_528, 1_000_000])
def test_body_of_any_size_comes_back_unchanged(guest: GuestHarness, size: int) -> None:
    data = bytes(index * 7 % 256 for index in range(size))

    sink = guest.run("/echo", request("/echo", method="POST", body=MemoryBody(data)))

    assert sink.body == data


def test_request_is_seen_as_sent_without_transport_headers(guest: GuestHarness) -> None:
    incoming = IncomingRequest(
        method="PROPFIND",
        scheme="https",
        authority="example.test",
        path_with_query="/describe-request?q=%C3%A9",
        headers=[
            ("host", b"example.test"),
            ("x-a", b"1"),
            ("connection", b"close"),
            ("x-a", b"\xff"),
            ("transfer-encoding", b"chunked"),
        ],
        body=MemoryBody(),
    )

    seen = json_of(guest.run("", incoming))

    assert seen == {
        "method": ["Other", "PROPFIND"],
        "scheme": "Https",
        "authority": "example.test",
        "path": "/describe-request?q=%C3%A9",
        "headers": [["x-a", "1"], ["x-a", "\xff"]],
    }


@pytest.mark.parametrize(("code", "expected"), [(100, 100), (404, 404), (999, 999), (99, 400)])
def test_status_code_outside_its_range_is_refused(
    guest: GuestHarness, code: int, expected: int
) -> None:
    sink = guest.run(f"/status?code={code}")

    assert sink.status == expected
    assert sink.writer.finished


def test_response_trailers_reach_the_client(guest: GuestHarness) -> None:
    sink = guest.run("/trailers-out")

    assert sink.body == b"data"
    assert sink.writer.trailers == [("x-checksum", b"42")]


@pytest.mark.parametrize(
    ("trailers", "expected"), [(None, None), ([("x-sum", b"7")], [["x-sum", "7"]])]
)
def test_request_trailers_are_read_once(
    guest: GuestHarness, trailers: list[tuple[str, bytes]] | None, expected: object
) -> None:
    body = MemoryBody(b"data", trailers=trailers)

    answer = json_of(guest.run("", request("/trailers-in", method="POST", body=body)))

    assert answer == {"trailers": expected, "second": "err"}


def test_body_written_before_the_head_is_held_and_sent(guest: GuestHarness) -> None:
    sink = guest.run("/write-before-set")

    assert sink.body == b"early"
    assert sink.writer.finished


def test_streaming_starts_before_the_request_has_ended(guest: GuestHarness) -> None:
    body = MemoryBody(b"first", ended=False)
    running = guest.start("", request("/echo-streaming", method="POST", body=body))
    assert running.sink.writer.changed.wait(5)
    assert running.sink.body == b"first"

    body.feed(b" second")
    body.end()
    running.join()

    assert running.sink.body == b"first second"
    assert running.sink.writer.finished


def test_slow_client_holds_the_guest_back(guest: GuestHarness) -> None:
    sink = MemorySink(writer=MemoryWriter(room=5000))
    running = guest.start("/stream-out?size=20000", sink=sink)
    assert sink.writer.changed.wait(5)
    assert not sink.writer.finished

    sink.writer.drain(1 << 20)
    running.join()

    assert len(sink.body) == 20_000
    assert sink.writer.finished


def test_client_that_leaves_ends_the_stream_for_the_guest(guest: GuestHarness) -> None:
    sink = MemorySink(writer=MemoryWriter(room=100))
    running = guest.start("/stream-out?size=20000", sink=sink)
    assert sink.writer.changed.wait(5)

    sink.writer.break_off(BodyFailedError("the client has gone"))
    running.join()

    assert sink.writer.aborted


def test_second_take_of_a_body_or_stream_is_an_error(guest: GuestHarness) -> None:
    assert json_of(guest.run("/body-twice")) == ["err", "err"]
    assert json_of(guest.run("/consume-twice")) == ["err", "err"]


def test_zero_writes_and_flushes_reach_the_client(guest: GuestHarness) -> None:
    assert guest.run("/zeroes").body == bytes(16)


def test_skip_discards_what_is_there(guest: GuestHarness) -> None:
    body = MemoryBody(b"abcdef")

    assert json_of(guest.run("", request("/skip", method="POST", body=body))) == [2, 1, "def"]


def test_broken_request_body_gives_its_reason(guest: GuestHarness) -> None:
    body = MemoryBody(b"part", ended=False)
    body.break_off(BodyFailedError("connection reset", "connection-terminated"))

    answer = json_of(guest.run("", request("/read-failure", method="POST", body=body)))

    assert answer == ["connection reset", "ConnectionTerminated"]


def test_unread_request_body_is_cancelled(guest: GuestHarness) -> None:
    body = MemoryBody(b"never read", ended=False)

    guest.run("", request("/hello", method="POST", body=body))

    assert body.cancelled


def test_fields_follow_the_rules_of_wasi_http(guest: GuestHarness) -> None:
    incoming = request("/fields", headers=[("x-received", b"1")])

    assert json_of(guest.run("", incoming)) == {
        "entries": [["x-one", "1"], ["x-one", "2"], ["x-two", "a"], ["x-two", "b"]],
        "get": ["1", "2"],
        "has": [True, False, False],
        "bad name": "InvalidSyntax",
        "bad value": "InvalidSyntax",
        "bad length": "InvalidSyntax",
        "forbidden": "Forbidden",
        "forbidden list": "Forbidden",
        "immutable": "Immutable",
        "immutable delete": "Immutable",
        "clone": True,
    }


def test_fields_beyond_their_limit_trap(guest: GuestHarness) -> None:
    sink = guest.run("/fields-too-large")

    assert str(sink.error) == "total size of fields exceeds limit"
