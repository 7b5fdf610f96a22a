"""`edgespin.outgoing`: outbound calls, their timeouts, and what every host error becomes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, get_args

import pytest
from spin_sdk.wit.imports import types
from spin_sdk.wit.imports.streams import StreamError_Closed, StreamError_LastOperationFailed
from spin_sdk.wit.types import Err

from edgekit.errors import InvalidInputError
from edgekit.http import Headers
from edgekit.ports import Timeouts, UpstreamError, UpstreamRequest, UpstreamTimeoutError
from edgespin.bodies import HostBody
from edgespin.outgoing import OutboundClient
from fakes import wasi_http
from fakes.wasi_http import FakeError, FakeIncomingRequest, FakeIncomingResponse, Network

TIMEOUTS = Timeouts(connect_s=0.5, first_byte_s=2, between_bytes_s=0.000_000_000_1)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    return wasi_http.install(monkeypatch)


def get(url: str = "http://backend:8080/v2") -> UpstreamRequest:
    return UpstreamRequest("GET", url, TIMEOUTS)


def failed(code: object) -> Err[Any]:
    return Err(StreamError_LastOperationFailed(FakeError(code)))  # type: ignore[arg-type]


def test_outgoing_request_has_every_part_and_bounds(network: Network) -> None:
    headers = Headers([("x-a", "1"), ("connection", "close")])
    url = "https://backend:8080/v2/infer?a=1"
    OutboundClient().send(UpstreamRequest("POST", url, TIMEOUTS, headers, b"body"))
    ((request, options),) = network.sent
    assert request.parts == {
        "method": types.Method_Post(),
        "scheme": types.Scheme_Https(),
        "authority": "backend:8080",
        "target": "/v2/infer?a=1",
    }
    assert request.fields.entries() == [("x-a", b"1"), ("content-length", b"4")]
    assert options.timeouts == {
        "connect": 500_000_000,
        "first_byte": 2_000_000_000,
        "between_bytes": 1,
    }
    assert request.sent_body is not None
    assert request.sent_body.data == b"body"
    assert request.sent_body.finished
    assert headers.get("connection") == "close", "the caller's fields stay as they were"


def test_outgoing_get_has_no_body_and_no_length(network: Network) -> None:
    OutboundClient().send(get("http://backend"))
    ((request, _),) = network.sent
    assert request.sent_body is None
    assert request.fields.entries() == []
    assert request.parts["target"] == "/"


def test_outgoing_post_without_body_says_so(network: Network) -> None:
    OutboundClient().send(UpstreamRequest("POST", "http://b/", TIMEOUTS))
    ((request, _),) = network.sent
    assert request.sent_body is None
    assert request.fields.entries() == [("content-length", b"0")]


def test_outgoing_unknown_method_is_passed_by_name(network: Network) -> None:
    OutboundClient().send(UpstreamRequest("PURGE", "http://b/", TIMEOUTS))
    assert network.sent[0][0].parts["method"] == types.Method_Other("PURGE")


@pytest.mark.parametrize("url", ["/relative", "ftp://x/", "http:///x", "http://a b/"])
def test_outgoing_malformed_url_is_an_upstream_error(network: Network, url: str) -> None:
    with pytest.raises(UpstreamError):
        OutboundClient().send(get(url))
    assert network.sent == []


def test_outgoing_answer_streams_and_releases_everything(network: Network) -> None:
    response = FakeIncomingResponse(201, [("A", b"1")], [b"ab", b"", b"c"])
    network.answer(response)
    answer = OutboundClient().send(get())
    assert answer.status == 201
    assert list(answer.headers) == [("a", "1")]
    assert list(answer.chunks) == [b"ab", b"c"]
    assert list(answer.chunks) == []
    assert response.released
    assert response.consumed is not None
    assert response.consumed.released


def test_outgoing_answer_that_drips_ends_with_its_total_time(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = FakeIncomingResponse(chunks=[b"x"] * 100)
    network.answer(response)
    clock = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    timeouts = replace(TIMEOUTS, total_s=5)
    received: list[bytes] = []
    with pytest.raises(UpstreamTimeoutError, match="as a whole"):
        received += OutboundClient().send(UpstreamRequest("GET", "http://b/", timeouts)).chunks
    assert response.released


def test_outgoing_answer_closed_early_releases_everything(network: Network) -> None:
    response = FakeIncomingResponse(chunks=[b"ab", b"c"])
    network.answer(response)
    chunks: Any = OutboundClient().send(get()).chunks
    assert next(chunks) == b"ab"
    chunks.close()
    assert response.released


def test_outgoing_upstream_that_reads_no_body_still_answers(network: Network) -> None:
    network.body_refused = True
    network.answer(FakeIncomingResponse(413))
    request = UpstreamRequest("POST", "http://b/", TIMEOUTS, body=bytes(10_000))
    assert OutboundClient().send(request).status == 413


TIMEOUT_NAMES = {
    "DnsTimeout",
    "ConnectionTimeout",
    "ConnectionReadTimeout",
    "ConnectionWriteTimeout",
    "HttpResponseTimeout",
}


def every_code() -> list[Any]:
    """One instance of each error code the interface knows."""
    codes = []
    for kind in get_args(types.ErrorCode):
        names = list(kind.__dataclass_fields__)
        codes.append(kind(*(["payload"] * len(names))))
    return codes


@pytest.mark.parametrize("code", every_code(), ids=lambda code: type(code).__name__)
def test_outgoing_every_error_code_is_an_upstream_error_by_name(
    network: Network, code: object
) -> None:
    network.fail(code)
    with pytest.raises(UpstreamError) as caught:
        OutboundClient().send(get())
    name = type(code).__name__.removeprefix("ErrorCode_")
    assert isinstance(caught.value, UpstreamTimeoutError) is (name in TIMEOUT_NAMES)
    assert str(caught.value).partition(":")[0].replace(" ", "") == name.lower()


def test_outgoing_call_that_is_not_allowed_is_an_upstream_error(network: Network) -> None:
    network.refused = Err(types.ErrorCode_HttpRequestDenied())
    with pytest.raises(UpstreamError, match="http request denied"):
        OutboundClient().send(get())


def test_outgoing_host_without_a_result_is_an_upstream_error(network: Network) -> None:
    network.result = Err(None)
    with pytest.raises(UpstreamError, match="no result"):
        OutboundClient().send(get())


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (failed(types.ErrorCode_ConnectionReadTimeout()), UpstreamTimeoutError, "read timeout"),
        (failed(types.ErrorCode_HttpProtocolError()), UpstreamError, "http protocol error"),
        (failed(None), UpstreamError, "the transfer broke off"),
        (Err("unknown"), UpstreamError, "the transfer broke off"),
    ],
)
def test_outgoing_body_that_fails_raises_between_chunks(
    network: Network, error: Err[Any], kind: type[Exception], text: str
) -> None:
    response = FakeIncomingResponse(chunks=[b"ab", error])
    network.answer(response)
    chunks = OutboundClient().send(get()).chunks
    assert next(chunks) == b"ab"
    with pytest.raises(kind, match=text):
        next(chunks)
    assert response.released


def test_outgoing_stream_closed_at_once_is_an_empty_body(network: Network) -> None:
    network.answer(FakeIncomingResponse(204, chunks=[Err(StreamError_Closed())]))
    assert list(OutboundClient().send(get()).chunks) == []


def relayed(*chunks: bytes | Err[Any]) -> tuple[UpstreamRequest, FakeIncomingRequest]:
    incoming: Any = FakeIncomingRequest(chunks=chunks)
    body = HostBody(incoming, lambda _error: InvalidInputError("the request body broke off"))
    headers = Headers([("content-length", "3")])
    return UpstreamRequest("POST", "http://b/", TIMEOUTS, headers, body), incoming


def test_outgoing_relayed_body_is_spliced_under_its_declared_length(network: Network) -> None:
    request, incoming = relayed(b"ab", b"c")
    OutboundClient().send(request)
    ((sent, _),) = network.sent
    assert sent.fields.entries() == [("content-length", b"3")]
    assert sent.sent_body is not None
    assert sent.sent_body.data == b"abc"
    assert sent.sent_body.stream is not None
    assert sent.sent_body.stream.spliced == 3
    assert sent.sent_body.finished
    assert incoming.released


def test_outgoing_relayed_body_that_breaks_off_is_not_finished(network: Network) -> None:
    request, _ = relayed(b"ab", failed(None))
    with pytest.raises(InvalidInputError, match="broke off"):
        OutboundClient().send(request)
    ((sent, _),) = network.sent
    assert sent.sent_body is not None
    assert not sent.sent_body.finished


def test_outgoing_upstream_that_refuses_a_relayed_body_still_answers(network: Network) -> None:
    network.body_refused = True
    network.answer(FakeIncomingResponse(413))
    request, _ = relayed(b"abc")
    assert OutboundClient().send(request).status == 413


def test_outgoing_answer_over_the_limit_is_cancelled(network: Network) -> None:
    response = FakeIncomingResponse(chunks=[b"ab", b"cd"])
    network.answer(response)
    with pytest.raises(UpstreamError, match="exceeds 3 bytes"):
        OutboundClient().send(get()).read(3)
    assert response.released


def test_outgoing_answer_that_is_dropped_releases_children_first(network: Network) -> None:
    response = FakeIncomingResponse(chunks=[b"ab", b"cd"])
    network.answer(response)
    answer = OutboundClient().send(get())
    assert next(answer.chunks) == b"ab"
    del answer
    assert response.released
