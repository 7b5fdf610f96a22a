"""`edgespin.incoming`: the trigger, with a host that traps on every misuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from spin_sdk.wit.imports import types
from spin_sdk.wit.imports.streams import StreamError_LastOperationFailed
from spin_sdk.wit.types import Err

from edgekit.http import Headers, Request, Response
from edgekit.ports import UpstreamError
from edgespin.incoming import HttpHandler
from fakes import wasi_http
from fakes.wasi_http import FakeError, FakeIncomingRequest, FakeOutgoingBody, Outparam


class Handler(HttpHandler):
    """Answers by a function and keeps what it was asked."""

    def __init__(self, answer: Callable[[Request], Response]) -> None:
        self._answer_by = answer
        self.requests: list[Request] = []

    def answer(self, request: Request) -> Response:
        self.requests.append(request)
        return self._answer_by(request)


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    wasi_http.install(monkeypatch)


def serve(
    answer: Callable[[Request], Response] | Response,
    incoming: FakeIncomingRequest | None = None,
    body_setup: Callable[[FakeOutgoingBody], None] | None = None,
) -> tuple[Outparam, Handler]:
    """What the host got for one request."""
    handler = Handler(answer if callable(answer) else lambda _request: answer)
    outparam = Outparam(body_setup)
    handle: Any = handler.handle
    handle(incoming or FakeIncomingRequest(), outparam)
    return outparam, handler


def test_incoming_request_is_parsed() -> None:
    incoming = FakeIncomingRequest(
        types.Method_Post(), "/a%20b?x=1?y", [("A", b"1"), ("b", b"\xe4")], [b"ab", b"", b"c"]
    )
    bodies: list[bytes] = []

    def answer(request: Request) -> Response:
        bodies.append(request.read(10))
        return Response(200)

    _, handler = serve(answer, incoming)
    (request,) = handler.requests
    assert (request.method, request.path, request.query) == ("POST", "/a%20b", "x=1?y")
    assert list(request.headers) == [("a", "1"), ("b", "ä")]
    assert bodies == [b"abc"]


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (types.Method_Get(), "GET"),
        (types.Method_Delete(), "DELETE"),
        (types.Method_Options(), "OPTIONS"),
        (types.Method_Other("PURGE"), "PURGE"),
    ],
)
def test_incoming_method_has_its_name(method: types.Method, name: str) -> None:
    _, handler = serve(Response(200), FakeIncomingRequest(method))
    assert handler.requests[0].method == name


@pytest.mark.parametrize("target", [None, "", "?x=1"])
def test_incoming_empty_path_is_the_root(target: str | None) -> None:
    _, handler = serve(Response(200), FakeIncomingRequest(target=target))
    assert handler.requests[0].path == "/"


def test_incoming_body_that_nobody_reads_is_not_taken() -> None:
    incoming = FakeIncomingRequest(chunks=[b"x"])
    serve(Response(200), incoming)
    assert incoming.consumed is None


def test_incoming_body_that_breaks_off_is_the_clients_fault() -> None:
    error = Err(StreamError_LastOperationFailed(FakeError()))  # type: ignore[arg-type]
    incoming = FakeIncomingRequest(types.Method_Post(), chunks=[b"x", error])

    def answer(request: Request) -> Response:
        with pytest.raises(Exception, match="broke off"):
            request.read(10)
        return Response(400)

    outparam, _ = serve(answer, incoming)
    assert outparam.response is not None
    assert outparam.response.status == 400
    assert incoming.consumed is not None
    assert incoming.consumed.released


def test_response_whole_is_sent_with_its_length() -> None:
    outparam, _ = serve(Response(201, Headers([("x-a", "1")]), b"hello"))
    assert outparam.response is not None
    assert outparam.response.status == 201
    assert outparam.headers() == {"x-a": "1", "content-length": "5"}
    assert outparam.body.data == b"hello"
    assert outparam.body.finished


def test_response_large_is_written_as_the_host_has_room() -> None:
    data = bytes(range(256)) * 64

    def narrow(body: FakeOutgoingBody) -> None:
        body.rooms = [0, 5000, 0, 1, 100_000]

    outparam, _ = serve(Response(200, body=data), body_setup=narrow)
    assert outparam.body.data == data
    assert [len(chunk) for chunk in outparam.body.chunks] == [5000, 1, 11383]
    assert outparam.body.stream is not None
    assert outparam.body.stream.blocked == 2
    assert outparam.body.stream.flushes == 1
    assert outparam.body.finished


def test_response_streamed_sends_the_head_before_the_first_chunk() -> None:
    outparam = Outparam()
    seen: list[bool] = []

    def chunks() -> Iterator[bytes]:
        seen.append(outparam.response is not None)
        yield b"a"
        seen.append(outparam.body.data == b"a")
        yield b"b"

    handle: Any = Handler(lambda _request: Response(200, body=chunks())).handle
    handle(FakeIncomingRequest(), outparam)
    assert seen == [True, True]
    assert outparam.body.chunks == [b"a", b"b"]
    assert "content-length" not in outparam.headers()


@pytest.mark.parametrize(
    ("method", "status"), [(types.Method_Head(), 200), (types.Method_Get(), 204)]
)
def test_response_without_a_body_has_no_length_either(method: types.Method, status: int) -> None:
    response = Response(status, Headers([("content-length", "5")]), b"hello")
    outparam, _ = serve(response, FakeIncomingRequest(method))
    assert outparam.headers() == {}
    assert outparam.body.data == b""
    assert outparam.body.finished


def test_response_to_head_closes_the_stream_it_does_not_send() -> None:
    closed: list[bool] = []

    def chunks() -> Iterator[bytes]:
        try:
            yield b"never"
        finally:
            closed.append(True)

    generator = chunks()
    next(generator)
    serve(Response(200, body=generator), FakeIncomingRequest(types.Method_Head()))
    assert closed == [True]


def test_response_fields_the_host_forbids_are_left_out() -> None:
    headers = Headers([("connection", "close"), ("bad name", "x"), ("x", "a\nb"), ("ok", "1")])
    outparam, _ = serve(Response(200, headers, b""))
    assert outparam.headers() == {"ok": "1", "content-length": "0"}


def test_response_field_beyond_latin1_is_replaced() -> None:
    outparam, _ = serve(Response(200, Headers([("x", "ä→")]), b""))
    assert outparam.headers()["x"] == "ä?"


def test_response_stream_that_fails_ends_as_incomplete(capsys: pytest.CaptureFixture[str]) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"a"
        raise UpstreamError("connection terminated")

    outparam, _ = serve(Response(200, body=chunks()))
    assert outparam.body.data == b"a"
    assert outparam.body.released
    assert not outparam.body.finished
    assert capsys.readouterr().err == "the relayed body broke off: connection terminated\n"


def test_response_stream_that_raises_anything_ends_as_incomplete(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"a"
        raise ZeroDivisionError

    outparam, _ = serve(Response(200, body=chunks()))
    assert not outparam.body.finished
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_response_client_that_leaves_stops_and_closes_the_stream() -> None:
    made: list[int] = []
    closed: list[bool] = []

    def chunks() -> Iterator[bytes]:
        try:
            for number in range(100):
                made.append(number)
                yield b"x"
        finally:
            closed.append(True)

    def leave(body: FakeOutgoingBody) -> None:
        body.gone = True

    outparam, _ = serve(Response(200, body=chunks()), body_setup=leave)
    assert made == [0]
    assert closed == [True]
    assert not outparam.body.finished


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), SystemExit(1), RecursionError()])
def test_handler_that_raises_answers_a_problem(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(_request: Request) -> Response:
        raise error

    outparam, _ = serve(answer)
    assert outparam.response is not None
    assert outparam.response.status == 500
    assert json.loads(outparam.body.data)["code"] == "internal"
    assert type(error).__name__ in capsys.readouterr().err


def test_after_runs_when_the_body_is_sent() -> None:
    states: list[bool] = []
    response = Response(200, body=b"x")
    outparam = Outparam()
    response.after.append(lambda: states.append(outparam.body.finished))
    handle: Any = Handler(lambda _request: response).handle
    handle(FakeIncomingRequest(), outparam)
    assert states == [True]


def test_after_runs_although_the_client_has_left() -> None:
    ran: list[bool] = []
    response = Response(200, body=b"x", after=[lambda: ran.append(True)])

    def leave(body: FakeOutgoingBody) -> None:
        body.gone = True

    serve(response, body_setup=leave)
    assert ran == [True]


def test_after_that_fails_does_not_stop_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[bool] = []

    def fail() -> None:
        raise KeyError("lost")

    serve(Response(200, after=[fail, lambda: ran.append(True)]))
    assert ran == [True]
    assert "KeyError: 'lost'" in capsys.readouterr().err


def test_handle_host_that_refuses_the_end_never_raises(capsys: pytest.CaptureFixture[str]) -> None:
    def leave(body: FakeOutgoingBody) -> None:
        body.gone = True

    serve(Response(200, body=b""), body_setup=leave)
    assert "ConnectionTerminated" in capsys.readouterr().err


def relay(request: Request) -> Response:
    return Response(200, body=request.body)


def test_relayed_body_never_enters_the_guest() -> None:
    incoming = FakeIncomingRequest(types.Method_Post(), chunks=[b"ab", b"", b"c"])
    outparam, _ = serve(relay, incoming)
    assert outparam.body.data == b"abc"
    assert outparam.body.stream is not None
    assert outparam.body.stream.spliced == 3
    assert outparam.body.finished
    assert incoming.released


def test_relayed_body_that_breaks_off_ends_as_incomplete(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = Err(StreamError_LastOperationFailed(FakeError()))  # type: ignore[arg-type]
    incoming = FakeIncomingRequest(types.Method_Post(), chunks=[b"ab", error])
    outparam, _ = serve(relay, incoming)
    assert outparam.body.data == b"ab"
    assert not outparam.body.finished
    assert outparam.body.released
    assert "the request body broke off" in capsys.readouterr().err


def test_relayed_body_whose_client_leaves_is_closed() -> None:
    incoming = FakeIncomingRequest(types.Method_Post(), chunks=[b"ab"] * 10)

    def leave(body: FakeOutgoingBody) -> None:
        body.gone = True

    outparam, _ = serve(relay, incoming, leave)
    assert outparam.body.data == b""
    assert not outparam.body.finished
    assert incoming.released


def test_relayed_body_partly_read_is_relayed_from_there() -> None:
    def answer(request: Request) -> Response:
        assert not isinstance(request.body, bytes)
        assert next(request.body) == b"ab"
        return relay(request)

    incoming = FakeIncomingRequest(types.Method_Post(), chunks=[b"ab", b"cd"])
    outparam, _ = serve(answer, incoming)
    assert outparam.body.data == b"cd"


def test_relayed_body_of_a_head_answer_is_closed_unread() -> None:
    incoming = FakeIncomingRequest(types.Method_Head(), chunks=[b"ab"])
    outparam, _ = serve(relay, incoming)
    assert outparam.body.data == b""
    assert incoming.released
