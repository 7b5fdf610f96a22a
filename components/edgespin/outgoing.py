"""Outbound HTTP over `wasi:http/outgoing-handler`, in blocking style.

Blocking on one pollable costs the guest a third of what the SDK's asyncio loop does, and a
request handler in a fresh instance has nothing else to do meanwhile. Every wait is bounded by
the host through `RequestOptions`; without them its default is 600 seconds.
"""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from spin_sdk.wit.imports import outgoing_handler, types
from spin_sdk.wit.imports.streams import StreamError_LastOperationFailed
from spin_sdk.wit.types import Err, Ok

from edgekit.http import Body, Headers
from edgekit.ports import (
    Timeouts,
    UpstreamError,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamTimeoutError,
)
from edgespin.bodies import HostBody, write_body
from edgespin.fields import decode_fields, encode_fields

__all__ = ["OutboundClient"]

NANOSECONDS = 1_000_000_000

METHODS: dict[str, types.Method] = {
    "GET": types.Method_Get(),
    "HEAD": types.Method_Head(),
    "POST": types.Method_Post(),
    "PUT": types.Method_Put(),
    "DELETE": types.Method_Delete(),
    "OPTIONS": types.Method_Options(),
    "PATCH": types.Method_Patch(),
}

BODILESS = ("GET", "HEAD")

TIMEOUT_CODES = (
    types.ErrorCode_DnsTimeout,
    types.ErrorCode_ConnectionTimeout,
    types.ErrorCode_ConnectionReadTimeout,
    types.ErrorCode_ConnectionWriteTimeout,
    types.ErrorCode_HttpResponseTimeout,
)


class OutboundClient:
    """`edgekit.ports.HttpClient` for a guest."""

    def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """Send and wait for the head of the answer.

        Raises:
            UpstreamTimeoutError: One of the request's timeouts ran out.
            UpstreamError: The URL is malformed, or the call failed in any other way.
        """
        started_s = time.monotonic()
        outgoing, sink = _open(request)
        try:
            future = outgoing_handler.handle(outgoing, _options(request.timeouts))
        except Err as error:
            raise _translated(error.value) from error
        if sink is not None:
            _send_body(sink, request.body)
        response = _wait(future)
        with response.headers() as fields:
            headers = decode_fields(fields)
        left_s = request.timeouts.total_s - (time.monotonic() - started_s)
        body = HostBody(response, _broken_off, left_s)
        return UpstreamResponse(response.status(), headers, body)


def _open(request: UpstreamRequest) -> tuple[types.OutgoingRequest, types.OutgoingBody | None]:
    """The request, and its body where there is something to write."""
    url = urlsplit(request.url)
    if url.scheme not in ("http", "https") or not url.netloc:
        raise UpstreamError(f"{request.url!r} is no absolute http or https URL")
    headers = Headers(request.headers)
    if isinstance(request.body, bytes) and (request.body or request.method not in BODILESS):
        headers.set("content-length", str(len(request.body)))
    outgoing = types.OutgoingRequest(encode_fields(headers))
    method = METHODS.get(request.method) or types.Method_Other(request.method)
    secure = url.scheme == "https"
    try:
        outgoing.set_method(method)
        outgoing.set_scheme(types.Scheme_Https() if secure else types.Scheme_Http())
        outgoing.set_authority(url.netloc)
        outgoing.set_path_with_query(f"{url.path or '/'}{'?' if url.query else ''}{url.query}")
    except Err as error:
        raise UpstreamError(f"{request.method} {request.url!r} is no valid request") from error
    return outgoing, outgoing.body() if request.body else None


def _options(timeouts: Timeouts) -> types.RequestOptions:
    options = types.RequestOptions()
    options.set_connect_timeout(_nanoseconds(timeouts.connect_s))
    options.set_first_byte_timeout(_nanoseconds(timeouts.first_byte_s))
    options.set_between_bytes_timeout(_nanoseconds(timeouts.between_bytes_s))
    return options


def _nanoseconds(seconds: float) -> int:
    """At least one: zero would mean at once, or never, depending on the host."""
    return max(1, int(seconds * NANOSECONDS))


def _send_body(outgoing: types.OutgoingBody, body: Body) -> None:
    """Send the body; an upstream that answers without reading it has not failed yet."""
    try:
        with outgoing.write() as stream:
            write_body(stream, body)
        types.OutgoingBody.finish(outgoing, None)
    except Err:
        return  # the future holds the answer, or the reason


def _wait(future: types.FutureIncomingResponse) -> types.IncomingResponse:
    with future.subscribe() as pollable:
        pollable.block()
    result = future.get()
    future.__exit__(None, None, None)
    if not isinstance(result, Ok):  # the outer layer: not ready, or taken twice
        raise UpstreamError("the host gave no result for the call")
    if not isinstance(result.value, Ok):
        raise _translated(result.value.value) from result.value
    return result.value.value


def _broken_off(error: object) -> Exception:
    return _translated(_stream_error_code(error))


def _stream_error_code(error: object) -> object:
    if isinstance(error, StreamError_LastOperationFailed):
        with error.value as reason:
            return types.http_error_code(reason)
    return None


def _translated(code: object) -> UpstreamError:
    """What a `wasi:http` error code means to a caller."""
    kind = UpstreamTimeoutError if isinstance(code, TIMEOUT_CODES) else UpstreamError
    return kind(_describe(code))


def _describe(code: object) -> str:
    """`ErrorCode_ConnectionRefused` as "connection refused", with its payload where it has one."""
    if code is None:
        return "the transfer broke off"
    name = type(code).__name__.removeprefix("ErrorCode_")
    words = "".join(f" {char.lower()}" if char.isupper() else char for char in name).strip()
    payload = getattr(code, "value", None)
    return words if payload is None else f"{words}: {payload}"
