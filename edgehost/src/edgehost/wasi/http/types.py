"""The functions of `wasi:http/types`, one line of WIT each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edgehost.abi.guest import Guest
from edgehost.abi.interfaces import HostInterface
from edgehost.abi.values import Err, Ok
from edgehost.wasi.http import fields as field_functions
from edgehost.wasi.http.bodies import FutureTrailers, IncomingBody, OutgoingBody
from edgehost.wasi.http.errors import ErrorCode
from edgehost.wasi.http.fields import Fields
from edgehost.wasi.http.messages import (
    FutureIncomingResponse,
    IncomingRequestResource,
    IncomingResponseResource,
    Method,
    OutgoingRequest,
    OutgoingResponse,
    RequestOptions,
    ResponseOutparam,
    Scheme,
)
from edgehost.wasi.io import InputStream, IoError, OutputStream, Pollable

__all__ = ["types"]

types: Final = HostInterface("wasi:http/types@0.2")
field_functions.add_functions(types)


@types.function("http-error-code")
def http_error_code(_guest: Guest, error: IoError) -> object:
    """The HTTP reason behind a stream error, if there is one."""
    return error.http_code


# --- incoming-request -----------------------------------------------------------------------------


@types.function("[method]incoming-request.method")
def request_method(_guest: Guest, request: IncomingRequestResource) -> Method:
    """The method."""
    return request.method


@types.function("[method]incoming-request.path-with-query")
def request_path_with_query(_guest: Guest, request: IncomingRequestResource) -> str | None:
    """Path and query."""
    return request.request.path_with_query


@types.function("[method]incoming-request.scheme")
def request_scheme(_guest: Guest, request: IncomingRequestResource) -> Scheme | None:
    """The scheme."""
    return request.scheme


@types.function("[method]incoming-request.authority")
def request_authority(_guest: Guest, request: IncomingRequestResource) -> str | None:
    """Host and port the client named."""
    return request.request.authority


@types.function("[method]incoming-request.headers")
def request_headers(_guest: Guest, request: IncomingRequestResource) -> Fields:
    """The headers, immutable."""
    return Fields.received(request.request.headers)


@types.function("[method]incoming-request.consume")
def request_consume(guest: Guest, request: IncomingRequestResource) -> IncomingBody:
    """The body, once."""
    return request.consume(guest)


# --- incoming-body, future-trailers ---------------------------------------------------------------


@types.function("[method]incoming-body.stream")
def incoming_body_stream(_guest: Guest, body: IncomingBody) -> InputStream:
    """The stream, once."""
    return body.take_stream()


@types.function("[static]incoming-body.finish")
def incoming_body_finish(_guest: Guest, body: IncomingBody) -> FutureTrailers:
    """Give up the body for its trailers."""
    return body.into_trailers()


@types.function("[method]future-trailers.subscribe")
def trailers_subscribe(_guest: Guest, trailers: FutureTrailers) -> Pollable:
    """Ready when `get` has something to say."""
    return Pollable(trailers.ready, parent=trailers)


@types.function("[method]future-trailers.get")
def trailers_get(_guest: Guest, trailers: FutureTrailers) -> Ok | Err | None:
    """The trailers, once."""
    return trailers.get()


# --- outgoing-response, response-outparam ---------------------------------------------------------


@types.function("[constructor]outgoing-response")
def new_response(_guest: Guest, headers: Fields) -> OutgoingResponse:
    """A response with status 200."""
    headers.mutable = False
    return OutgoingResponse(headers)


@types.function("[method]outgoing-response.status-code")
def response_status(_guest: Guest, response: OutgoingResponse) -> int:
    """The status code."""
    return response.status


@types.function("[method]outgoing-response.set-status-code")
def response_set_status(_guest: Guest, response: OutgoingResponse, status: int) -> None:
    """Set the status code."""
    response.set_status(status)


@types.function("[method]outgoing-response.body")
def response_body(_guest: Guest, response: OutgoingResponse) -> OutgoingBody:
    """The body, once."""
    return response.take_body()


@types.function("[static]response-outparam.set")
def response_set(guest: Guest, param: ResponseOutparam, response: Ok | Err) -> None:
    """Answer the request."""
    if type(response) is Ok and isinstance(response.value, OutgoingResponse):
        param.send(guest, response.value)
    else:
        code: ErrorCode = response.value  # type: ignore[assignment]
        param.refuse(code)


# --- outgoing-body --------------------------------------------------------------------------------


@types.function("[method]outgoing-body.write")
def outgoing_body_write(_guest: Guest, body: OutgoingBody) -> OutputStream:
    """The stream, once."""
    return body.take_stream()


@types.function("[static]outgoing-body.finish")
def outgoing_body_finish(_guest: Guest, body: OutgoingBody, trailers: Fields | None) -> None:
    """End the body."""
    body.finish(trailers.entries if trailers is not None and trailers.entries else None)


# --- outgoing-request -----------------------------------------------------------------------------


@types.function("[constructor]outgoing-request")
def new_request(_guest: Guest, headers: Fields) -> OutgoingRequest:
    """A GET request with the given headers."""
    headers.mutable = False
    return OutgoingRequest(headers)


@types.function("[method]outgoing-request.body")
def outgoing_request_body(_guest: Guest, request: OutgoingRequest) -> OutgoingBody:
    """The body, once."""
    return request.take_body()


@types.function("[method]outgoing-request.method")
def outgoing_request_method(_guest: Guest, request: OutgoingRequest) -> Method:
    """The method."""
    return request.method


@types.function("[method]outgoing-request.set-method")
def outgoing_request_set_method(_guest: Guest, request: OutgoingRequest, method: Method) -> None:
    """Set the method."""
    request.set_method(method)


@types.function("[method]outgoing-request.path-with-query")
def outgoing_request_path(_guest: Guest, request: OutgoingRequest) -> str | None:
    """Path and query."""
    return request.path_with_query


@types.function("[method]outgoing-request.set-path-with-query")
def outgoing_request_set_path(_guest: Guest, request: OutgoingRequest, path: str | None) -> None:
    """Set path and query."""
    request.set_path_with_query(path)


@types.function("[method]outgoing-request.scheme")
def outgoing_request_scheme(_guest: Guest, request: OutgoingRequest) -> Scheme | None:
    """The scheme."""
    return request.scheme


@types.function("[method]outgoing-request.set-scheme")
def outgoing_request_set_scheme(
    _guest: Guest, request: OutgoingRequest, scheme: Scheme | None
) -> None:
    """Set the scheme."""
    request.set_scheme(scheme)


@types.function("[method]outgoing-request.authority")
def outgoing_request_authority(_guest: Guest, request: OutgoingRequest) -> str | None:
    """Host and port."""
    return request.authority


@types.function("[method]outgoing-request.set-authority")
def outgoing_request_set_authority(
    _guest: Guest, request: OutgoingRequest, authority: str | None
) -> None:
    """Set host and port."""
    request.set_authority(authority)


@types.function("[method]outgoing-response.headers")
@types.function("[method]outgoing-request.headers")
def outgoing_headers(_guest: Guest, message: OutgoingRequest | OutgoingResponse) -> Fields:
    """The headers, immutable."""
    return Fields(list(message.headers.entries), mutable=False)


# --- request-options ------------------------------------------------------------------------------


@types.function("[constructor]request-options")
def new_request_options(_guest: Guest) -> RequestOptions:
    """Options that leave everything to the host."""
    return RequestOptions()


def _add_timeout(name: str) -> None:
    def get(_guest: Guest, options: RequestOptions) -> int | None:
        return options.timeouts.get(name)

    def set_(_guest: Guest, options: RequestOptions, duration: int | None) -> None:
        options.timeouts[name] = duration

    getter: Callable[[Guest, RequestOptions], int | None] = get
    types.function(f"[method]request-options.{name}")(getter)
    types.function(f"[method]request-options.set-{name}")(set_)


for _name in ("connect-timeout", "first-byte-timeout", "between-bytes-timeout"):
    _add_timeout(_name)


# --- incoming-response, future-incoming-response --------------------------------------------------


@types.function("[method]incoming-response.status")
def incoming_response_status(_guest: Guest, response: IncomingResponseResource) -> int:
    """The status code."""
    return response.response.status


@types.function("[method]incoming-response.headers")
def incoming_response_headers(_guest: Guest, response: IncomingResponseResource) -> Fields:
    """The headers, immutable."""
    return Fields.received(response.response.headers)


@types.function("[method]incoming-response.consume")
def incoming_response_consume(guest: Guest, response: IncomingResponseResource) -> IncomingBody:
    """The body, once."""
    return response.consume(guest)


@types.function("[method]future-incoming-response.subscribe")
def future_response_subscribe(_guest: Guest, future: FutureIncomingResponse) -> Pollable:
    """Ready when `get` has something to say."""
    return Pollable(future.ready, parent=future)


@types.function("[method]future-incoming-response.get")
def future_response_get(_guest: Guest, future: FutureIncomingResponse) -> Ok | Err | None:
    """The response, once."""
    return future.get()
