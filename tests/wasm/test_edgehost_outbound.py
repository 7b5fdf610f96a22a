"""Outbound HTTP as a guest makes it: permission, requests, answers, failures, timers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from edgehost.ports import BodyFailedError, OutboundError
from fakes.edgehost_http import (
    MemoryBody,
    MemorySink,
    ScriptedCall,
    ScriptedOutbound,
    request,
)

pytestmark = pytest.mark.wasm


class AllowAll:
    def check(self, scheme: str, authority: str) -> str | None:
        return None


class DenyAll:
    def check(self, scheme: str, authority: str) -> str | None:
        return f"no entry for {scheme}://{authority}"


def json_of(sink: MemorySink) -> Any:
    assert sink.error is None, sink.error
    return json.loads(sink.body)


def answer_with(status: int, body: MemoryBody, **headers: bytes) -> Callable[[ScriptedCall], None]:
    fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return lambda call: call.respond(status, fields, body)


def test_outbound_answer_reaches_the_guest(probe: Any) -> None:
    outbound = ScriptedOutbound(
        answer_with(201, MemoryBody(b"from upstream"), x_up=b"1", connection=b"close")
    )
    with probe(outbound=outbound, outbound_policy=AllowAll()) as guest:
        answer = json_of(guest.run("/fetch"))

    assert answer == {
        "status": 201,
        "headers": [["x-up", "1"]],
        "body": "from upstream",
        "again": "err",
    }
    call = outbound.calls[0]
    assert (call.request.method, call.request.scheme) == ("GET", "http")
    assert call.request.authority == "upstream.test:8080"
    assert call.request.path_with_query == "/answer?x=1"
    assert call.request.headers == [("x-probe", b"yes")]
    assert call.writer.finished
    assert not call.cancelled


def test_outbound_post_streams_body_and_passes_timeouts(probe: Any) -> None:
    outbound = ScriptedOutbound(answer_with(202, MemoryBody()))
    payload = bytes(50_000)
    with probe(outbound=outbound, outbound_policy=AllowAll()) as guest:
        incoming = request("/fetch-post", method="POST", body=MemoryBody(payload))
        assert json_of(guest.run("", incoming)) == 202

    sent = outbound.calls[0].request
    assert sent.method == "POST"
    assert (sent.connect_timeout_s, sent.first_byte_timeout_s) == (1.5, 2.0)
    assert sent.between_bytes_timeout_s is None
    assert outbound.calls[0].writer.data == payload


def test_outbound_body_written_before_handle_is_sent(probe: Any) -> None:
    outbound = ScriptedOutbound(answer_with(200, MemoryBody()))
    with probe(outbound=outbound, outbound_policy=AllowAll()) as guest:
        guest.run("/fetch-written-first")

    call = outbound.calls[0]
    assert call.request.method == "PURGE"
    assert call.writer.data == b"written before handle"
    assert call.writer.trailers == [("x-end", b"1")]


def test_outbound_refused_by_policy_is_denied_and_logged(probe: Any) -> None:
    with probe(outbound_policy=DenyAll()) as guest:
        answer = json_of(guest.run("/fetch?authority=secret.test"))
        lines = list(guest.lines)

    assert answer == {"error": "HttpRequestDenied"}
    assert lines == [("probe", "stderr", "no entry for http://secret.test")]


def test_outbound_without_policy_is_denied(probe: Any) -> None:
    with probe() as guest:
        assert json_of(guest.run("/fetch")) == {"error": "HttpRequestDenied"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OutboundError("refused", "connection-refused"), "ConnectionRefused"),
        (OutboundError("tls", "TLS-certificate-error"), "TlsCertificateError"),
        (OutboundError("dns", "DNS-error", ("NXDOMAIN", 3)), ["DnsError", "NXDOMAIN", 3]),
        (OutboundError("large", "HTTP-response-body-size", 7), ["HttpResponseBodySize", 7]),
        (OutboundError("why", "internal-error"), ["InternalError", "why"]),
        (OutboundError("odd", "no-such-case"), ["InternalError", "no-such-case"]),
    ],
)
def test_outbound_failure_arrives_as_its_error_code(
    probe: Any, error: OutboundError, expected: object
) -> None:
    outbound = ScriptedOutbound(lambda call: call.refuse(error))
    with probe(outbound=outbound, outbound_policy=AllowAll()) as guest:
        assert json_of(guest.run("/fetch")) == {"error": expected}


def test_outbound_answer_that_breaks_off_traps_only_an_unprepared_guest(probe: Any) -> None:
    body = MemoryBody(b"half", ended=False)
    body.break_off(BodyFailedError("reset"))
    outbound = ScriptedOutbound(answer_with(200, body))
    with probe(outbound=outbound, outbound_policy=AllowAll()) as guest:
        broken = guest.run("/fetch")
        healthy = guest.run("/hello")

    assert broken.error is not None
    assert body.cancelled
    assert healthy.body == b"hello"


def test_outbound_call_nobody_waits_for_is_cancelled(probe: Any) -> None:
    outbound = ScriptedOutbound(lambda call: None)
    with probe(outbound=outbound, outbound_policy=AllowAll()) as guest:
        assert guest.run("/fetch-and-forget").body == b"forgotten"

    assert outbound.calls[0].cancelled


def test_poll_returns_the_timer_when_the_upstream_is_silent(probe: Any) -> None:
    outbound = ScriptedOutbound(lambda call: None)
    with probe(outbound=outbound, outbound_policy=AllowAll()) as guest:
        answer = json_of(guest.run("/fetch-with-timeout"))

    assert answer == {"ready": [1], "state": [False, True], "pending": True}


def test_poll_wakes_when_the_upstream_answers_later(probe: Any) -> None:
    outbound = ScriptedOutbound(lambda call: None)
    with probe(outbound=outbound, outbound_policy=AllowAll()) as guest:
        running = guest.start("/fetch")
        while not outbound.calls:
            running.thread.join(0.001)
        outbound.calls[0].respond(200, [], MemoryBody(b"late"))
        running.join()

    assert json_of(running.sink)["body"] == "late"


def test_outgoing_request_checks_the_syntax_of_its_parts(probe: Any) -> None:
    with probe() as guest:
        answer = json_of(guest.run("/request-syntax"))

    assert answer == {
        "method": "err",
        "scheme": "err",
        "authority": "err",
        "no authority": "err",
        "path": "err",
        "defaults": ["Get", None, None],
        "immutable": "Immutable",
    }


def test_scheme_other_than_http_is_a_protocol_error(probe: Any) -> None:
    with probe(outbound_policy=AllowAll()) as guest:
        assert json_of(guest.run("/unsupported-scheme")) == "HttpProtocolError"


def test_guest_cancelled_while_it_waits_for_upstream_frees_the_call(probe: Any) -> None:
    outbound = ScriptedOutbound(lambda call: None)
    with probe(outbound=outbound, outbound_policy=AllowAll()) as guest:
        running = guest.start("/fetch")
        while not outbound.calls:
            running.thread.join(0.001)
        running.cancellation.cancel()
        running.join(2.0)

    assert outbound.calls[0].cancelled
    assert str(running.sink.error) == "the client has gone"
