"""Fields, bodies and messages of wasi:http without a guest behind them."""

from __future__ import annotations

from typing import Any

import pytest

from edgehost.abi.guest import Guest
from edgehost.abi.values import Err, ErrorResult, Ok
from edgehost.errors import GuestTrapError
from edgehost.ports import BodyFailedError, OutboundError, OutboundRequest
from edgehost.wasi.http import outgoing, syntax
from edgehost.wasi.http.bodies import MAX_HELD_BYTES, FutureTrailers, IncomingBody, OutgoingBody
from edgehost.wasi.http.errors import describe, error_code
from edgehost.wasi.http.fields import Fields
from edgehost.wasi.http.messages import (
    FutureIncomingResponse,
    OutgoingRequest,
    OutgoingResponse,
    ResponseOutparam,
)
from fakes.edgehost_http import (
    MemoryBody,
    MemorySink,
    MemoryWriter,
    ScriptedCall,
    ScriptedOutbound,
)


def error_of(caught: pytest.ExceptionInfo[ErrorResult]) -> object:
    return caught.value.value


# --- syntax ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "X-Y", "!#$%&'*+-.^_`|~09"])
def test_token_is_a_field_name(name: str) -> None:
    assert syntax.is_field_name(name)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "é", "a\n", "x" * 70_000])
def test_anything_else_is_no_field_name(name: str) -> None:
    assert not syntax.is_field_name(name)


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        (b"", True),
        (b"tab\there", True),
        (b"\x80\xff", True),
        (b"a\r\nb: c", False),
        (b"nul\0", False),
        (b"\x7f", False),
    ],
)
def test_field_value_holds_no_control_characters(value: bytes, valid: bool) -> None:
    assert syntax.is_field_value(value) is valid


@pytest.mark.parametrize(
    ("authority", "valid"),
    [
        ("example.com", True),
        ("example.com:443", True),
        ("user@example.com:80", True),
        ("[::1]:8080", True),
        ("[2001:db8::1]", True),
        (":443", True),
        ("", False),
        ("example.com:", False),
        ("example.com:abc", False),
        ("example.com:65536", False),
        ("exa mple", False),
        ("host/path", False),
        ("[::1", False),
    ],
)
def test_authority_is_host_and_optional_port(authority: str, valid: bool) -> None:
    assert syntax.is_authority(authority) is valid


@pytest.mark.parametrize(
    ("path", "valid"),
    [
        ("/", True),
        ("/a%20b?x=1&y={z}", True),
        ("*", True),
        ("", True),
        ("/é", True),
        ("/a b", False),
        ("/a\r\n", False),
        ("/<x>", False),
    ],
)
def test_path_with_query_has_no_spaces_or_controls(path: str, valid: bool) -> None:
    assert syntax.is_path_with_query(path) is valid


@pytest.mark.parametrize(
    "value", [b"", b"+5", b"-1", b" 5", b"5 ", b"0x5", b"18446744073709551616"]
)
def test_content_length_must_be_a_64_bit_decimal(value: bytes) -> None:
    with pytest.raises(ValueError, match="invalid content-length"):
        syntax.content_length(value)


def test_content_length_of_any_size_in_range() -> None:
    assert syntax.content_length(b"18446744073709551615") == (1 << 64) - 1


# --- fields ---------------------------------------------------------------------------------------


def test_set_keeps_the_position_of_the_first_value() -> None:
    fields = Fields([("a", b"1"), ("b", b"2"), ("a", b"3")], mutable=True)

    fields.set("A", [b"x", b"y"])

    assert fields.entries == [("a", b"x"), ("a", b"y"), ("b", b"2")]


def test_set_to_nothing_removes() -> None:
    fields = Fields([("a", b"1")], mutable=True)

    fields.set("a", [])

    assert fields.entries == []


def test_many_small_fields_meet_the_size_limit() -> None:
    fields = Fields([], mutable=True)

    def fill() -> None:
        for number in range(10_000):
            fields.append(f"x-{number}", b"")

    with pytest.raises(GuestTrapError, match="total size of fields exceeds limit"):
        fill()
    assert 1_000 < len(fields.entries) < 3_000


def test_failed_set_changes_nothing() -> None:
    fields = Fields([("a", b"1")], mutable=True)

    with pytest.raises(ErrorResult):
        fields.set("a", [b"fine", b"bad\n"])

    assert fields.entries == [("a", b"1")]


# --- outgoing bodies ------------------------------------------------------------------------------


def new_body(expected: int | None = None) -> OutgoingBody:
    return OutgoingBody("HTTP-response-body-size", expected)


def test_body_held_before_its_head_is_bounded() -> None:
    body = new_body()
    stream = body.take_stream()
    while (room := stream.check_write()) > 0:
        stream.write(bytes(room))

    assert not stream.ready()
    with pytest.raises(GuestTrapError, match="write exceeded budget"):
        stream.write(b"x")
    assert MAX_HELD_BYTES == 256 * 1024


def test_attach_waits_until_the_transport_takes_what_was_held(guest: Guest, wakeup: Any) -> None:
    body = new_body()
    body.take_stream().write(b"0123456789")
    body.finish(None)
    writer = MemoryWriter(room=4)
    wakeup.planned = [lambda: writer.drain(3), lambda: writer.drain(10)]

    body.attach(guest, writer)

    assert writer.chunks == [b"0123", b"456", b"789"]
    assert writer.finished


def test_attach_to_a_broken_transport_drops_what_was_held(guest: Guest) -> None:
    body = new_body()
    stream = body.take_stream()
    stream.write(b"data")
    writer = MemoryWriter()
    writer.break_off(BodyFailedError("gone"))

    body.attach(guest, writer)

    with pytest.raises(ErrorResult) as caught:
        stream.check_write()
    assert error_of(caught) == "closed"
    assert stream.ready()


def test_body_dropped_before_its_head_is_aborted_with_it(guest: Guest) -> None:
    body = new_body()
    body.drop()
    writer = MemoryWriter()

    body.attach(guest, writer)

    assert writer.aborted


def test_finish_of_a_short_body_aborts_and_reports(guest: Guest) -> None:
    body, writer = new_body(expected=5), MemoryWriter()
    body.attach(guest, writer)
    body.take_stream().write(b"1234")

    with pytest.raises(ErrorResult) as caught:
        body.finish(None)

    assert error_of(caught) == ("HTTP-response-body-size", 4)
    assert writer.aborted


def test_excess_over_the_content_length_is_not_sent(guest: Guest) -> None:
    body, writer = new_body(expected=3), MemoryWriter()
    body.attach(guest, writer)
    stream = body.take_stream()
    stream.write(b"123")

    with pytest.raises(ErrorResult):
        stream.write(b"4")

    assert writer.data == b"123"


def test_finish_towards_a_client_that_left_is_quiet(guest: Guest) -> None:
    class Left(MemoryWriter):
        def finish(self, trailers: Any = None) -> None:
            raise BodyFailedError("the client has gone")

    body, writer = new_body(), Left()
    body.attach(guest, writer)

    body.finish(None)

    assert writer.aborted


def test_drop_after_finish_does_nothing(guest: Guest) -> None:
    body, writer = new_body(), MemoryWriter()
    body.attach(guest, writer)
    body.finish(None)

    body.drop()

    assert writer.finished
    assert not writer.aborted


# --- incoming bodies ------------------------------------------------------------------------------


def test_stream_after_its_end_stays_closed(guest: Guest) -> None:
    stream = IncomingBody(guest, MemoryBody(b"ab")).take_stream()
    assert stream.read(10) == b"ab"

    for _ in range(2):
        with pytest.raises(ErrorResult) as caught:
            stream.read(10)
        assert error_of(caught) == "closed"
    assert stream.ready()


def test_broken_stream_reports_once_and_then_is_closed(guest: Guest) -> None:
    source = MemoryBody(ended=False)
    source.break_off(BodyFailedError("reset", "connection-terminated"))
    stream = IncomingBody(guest, source).take_stream()

    with pytest.raises(ErrorResult) as first:
        stream.read(10)
    with pytest.raises(ErrorResult) as second:
        stream.read(10)

    failed: Any = error_of(first)
    assert failed[0] == "last-operation-failed"
    assert failed[1].http_code == "connection-terminated"
    assert error_of(second) == "closed"


def test_trailers_wait_for_the_rest_of_the_body(guest: Guest) -> None:
    source = MemoryBody(b"unread", ended=False)
    trailers = FutureTrailers(source)
    assert trailers.get() is None

    source.feed(b"more")
    source.end([("x-sum", b"1"), ("connection", b"close")])

    outcome = trailers.get()
    assert isinstance(outcome, Ok)
    assert isinstance(outcome.value, Ok)
    fields = outcome.value.value
    assert isinstance(fields, Fields)
    assert fields.entries == [("x-sum", b"1")]
    assert trailers.get() == Err()


def test_trailers_of_a_broken_body_are_an_error(guest: Guest) -> None:
    source = MemoryBody(ended=False)
    source.break_off(BodyFailedError("timeout", "connection-read-timeout"))

    assert FutureTrailers(source).get() == Ok(Err("connection-read-timeout"))


def test_dropped_trailers_stop_the_transfer() -> None:
    source = MemoryBody(ended=False)

    FutureTrailers(source).drop()

    assert source.cancelled


# --- messages -------------------------------------------------------------------------------------


def test_outparam_dropped_without_an_answer_fails_the_request() -> None:
    sink = MemorySink()

    ResponseOutparam(sink, "GET").drop()

    assert str(sink.error) == "guest failed to produce a response prior to returning"


def test_response_without_a_body_is_finished_at_once(guest: Guest) -> None:
    sink = MemorySink()

    ResponseOutparam(sink, "GET").send(guest, OutgoingResponse(Fields([], mutable=False)))

    assert sink.status == 200
    assert sink.writer.finished


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("GET", 204)])
def test_message_without_a_body_may_state_a_length(guest: Guest, method: str, status: int) -> None:
    response = OutgoingResponse(Fields([("content-length", b"100")], mutable=False))
    response.set_status(status)
    body, sink = response.take_body(), MemorySink()
    ResponseOutparam(sink, method).send(guest, response)

    body.finish(None)

    assert sink.writer.finished


def test_content_length_that_was_smuggled_in_refuses_the_body() -> None:
    response = OutgoingResponse(Fields([("content-length", b"many")], mutable=False))

    with pytest.raises(ErrorResult):
        response.take_body()


@pytest.mark.parametrize(
    ("case", "payload", "expected"),
    [
        ("connection-refused", None, "connection-refused"),
        ("dns-timeout", None, "DNS-timeout"),
        ("DNS-error", None, ("DNS-error", (None, None))),
        ("HTTP-response-body-size", None, ("HTTP-response-body-size", None)),
        ("internal-error", "why", ("internal-error", "why")),
        ("made-up", None, ("internal-error", "made-up")),
    ],
)
def test_error_code_has_a_payload_exactly_where_wit_has_one(
    case: str, payload: object, expected: object
) -> None:
    assert error_code(case, payload) == expected


def test_error_code_reads_well_in_a_log() -> None:
    assert describe("loop-detected") == "loop-detected"
    assert describe(("DNS-error", (None, None))) == "DNS-error"
    assert describe(("HTTP-request-body-size", 7)) == "HTTP-request-body-size(7)"


def test_future_response_gives_its_outcome_once() -> None:
    call = ScriptedCall(OutboundRequest("GET", "http", "a", "/", []))
    future = FutureIncomingResponse(call)
    assert future.get() is None

    call.refuse(OutboundError("no", "connection-refused"))

    assert future.get() == Ok(Err("connection-refused"))
    assert future.get() == Err()
    future.drop()
    assert not call.cancelled


def outgoing_request(**parts: Any) -> OutgoingRequest:
    message = OutgoingRequest(Fields([], mutable=False))
    for name, value in parts.items():
        setattr(message, name, value)
    return message


class Policy:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def check(self, scheme: str, authority: str) -> str | None:
        self.asked.append((scheme, authority))
        return None


@pytest.mark.parametrize(
    ("parts", "asked", "target"),
    [
        ({"authority": "a.test"}, ("https", "a.test"), "/"),
        ({"scheme": "HTTP", "authority": "a.test"}, ("http", "a.test"), "/"),
        ({"scheme": ("other", "HTTP"), "authority": "a"}, ("http", "a"), "/"),
        ({"authority": ":443", "path_with_query": "/x"}, ("https", ""), "/x"),
        ({"path_with_query": "?q=1#frag"}, ("https", ""), "/?q=1"),
        ({"path_with_query": "*"}, ("https", ""), "*"),
    ],
)
def test_outbound_request_is_normalised_before_it_is_checked(
    guest: Guest, parts: dict[str, Any], asked: tuple[str, str], target: str
) -> None:
    from dataclasses import replace

    policy, client = Policy(), ScriptedOutbound(lambda call: None)
    guest.spec = replace(guest.spec, outbound=policy)
    guest.outbound = client

    outgoing.handle(guest, outgoing_request(**parts), None)

    assert policy.asked == [asked]
    assert client.calls[0].request.path_with_query == target
    assert client.calls[0].writer.finished


def test_refused_outbound_request_frees_its_body(guest: Guest) -> None:
    message = outgoing_request(scheme="HTTP", authority="a.test")
    stream = message.take_body().take_stream()

    future = outgoing.handle(guest, message, None)

    assert future.get() == Ok(Err("HTTP-request-denied"))
    with pytest.raises(ErrorResult):
        stream.check_write()
