"""Requests and responses of `wasi:http/types`, both ways."""

from __future__ import annotations

from typing import Final

from edgehost.abi.guest import Guest
from edgehost.abi.resources import Resource
from edgehost.abi.values import Err, ErrorResult, Ok
from edgehost.errors import GuestError
from edgehost.ports import (
    IncomingRequest,
    OutboundError,
    OutboundResponse,
    PendingResponse,
    ResponseSink,
)
from edgehost.wasi.http import syntax
from edgehost.wasi.http.bodies import IncomingBody, OutgoingBody
from edgehost.wasi.http.errors import ErrorCode, describe, from_outbound_error
from edgehost.wasi.http.fields import Fields

__all__ = [
    "FutureIncomingResponse",
    "IncomingRequestResource",
    "IncomingResponseResource",
    "Method",
    "OutgoingRequest",
    "OutgoingResponse",
    "RequestOptions",
    "ResponseOutparam",
    "Scheme",
]

Method = str | tuple[str, str]
"""``get`` … ``patch`` or ``("other", name)``."""
Scheme = str | tuple[str, str]
"""``HTTP``, ``HTTPS`` or ``("other", name)``."""

_KNOWN_METHODS: Final = {
    name.upper(): name
    for name in ("get", "head", "post", "put", "delete", "connect", "options", "trace", "patch")
}
_BODILESS: Final = frozenset({204, 304})
_KNOWN_SCHEMES: Final = {"http": "HTTP", "https": "HTTPS"}


def _length_of(fields: Fields) -> int | None:
    """The content-length of a message. Raises `ErrorResult` when it is not a number."""
    values = fields.values("content-length")
    if not values:
        return None
    try:
        return syntax.content_length(values[0])
    except ValueError:
        raise ErrorResult from None


class IncomingRequestResource(Resource):
    """The request an instance was made for."""

    __slots__ = ("_body_taken", "request")

    def __init__(self, request: IncomingRequest) -> None:
        super().__init__()
        self.request = request
        self._body_taken = False

    @property
    def method(self) -> Method:
        """The method as WIT spells it."""
        name = self.request.method
        return _KNOWN_METHODS.get(name) or ("other", name)

    @property
    def scheme(self) -> Scheme:
        """The scheme as WIT spells it."""
        name = self.request.scheme
        return _KNOWN_SCHEMES.get(name.lower()) or ("other", name)

    def consume(self, guest: Guest) -> IncomingBody:
        """Return the body. Raises `ErrorResult` the second time."""
        if self._body_taken:
            raise ErrorResult
        self._body_taken = True
        return IncomingBody(guest, self.request.body)

    def drop(self) -> None:
        """Discard the body if the guest never asked for it."""
        if not self._body_taken:
            self._body_taken = True
            self.request.body.cancel()


class OutgoingResponse(Resource):
    """The answer a guest builds."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, headers: Fields) -> None:
        super().__init__()
        self.headers = headers
        self.status = 200
        self.body: OutgoingBody | None = None

    def set_status(self, status: int) -> None:
        """Set a status code from 100 to 999. Raises `ErrorResult` for another."""
        if not 100 <= status <= 999:
            raise ErrorResult
        self.status = status

    def take_body(self) -> OutgoingBody:
        """Return the body. Raises `ErrorResult` the second time."""
        if self.body is not None:
            raise ErrorResult
        self.body = OutgoingBody("HTTP-response-body-size", _length_of(self.headers))
        return self.body

    def drop(self) -> None:
        """Close the body's stream if the message was never sent."""
        if self.body is not None:
            self.body.discard()


class ResponseOutparam(Resource):
    """The one chance of a guest to answer.

    Args:
        method: Of the request; an answer to HEAD may state the length of a body it does not have.
    """

    __slots__ = ("_method", "_sink")

    def __init__(self, sink: ResponseSink, method: str) -> None:
        super().__init__()
        self._sink: ResponseSink | None = sink
        self._method = method

    def send(self, guest: Guest, response: OutgoingResponse) -> None:
        """Start the answer."""
        sink, self._sink = self._sink, None
        assert sink is not None, "set consumes its handle"
        writer = sink.start(response.status, response.headers.entries)
        body = response.body
        if body is None:
            writer.finish(None)
            return
        if self._method == "HEAD" or response.status in _BODILESS:
            body.waive_length()
        body.attach(guest, writer)

    def fail(self, error: BaseException) -> bool:
        """Give up the answer; False when it was given before."""
        sink, self._sink = self._sink, None
        if sink is None:
            return False
        sink.fail(error)
        return True

    def refuse(self, code: ErrorCode) -> None:
        """The guest answered with an error code instead of a response."""
        self.fail(GuestError(f"guest failed to produce a response: {describe(code)}"))

    def drop(self) -> None:
        """Tell the client at once that no answer will come."""
        self.fail(GuestError("guest failed to produce a response prior to returning"))


class RequestOptions(Resource):
    """Timeouts of an outbound call in nanoseconds, each by its WIT name."""

    __slots__ = ("timeouts",)

    def __init__(self) -> None:
        super().__init__()
        self.timeouts: dict[str, int | None] = {}

    def seconds(self, name: str) -> float | None:
        """One timeout in seconds, None for the host's default."""
        nanoseconds = self.timeouts.get(name)
        return None if nanoseconds is None else nanoseconds / 1e9


class OutgoingRequest(Resource):
    """An outbound request a guest builds."""

    __slots__ = ("authority", "body", "headers", "method", "path_with_query", "scheme")

    def __init__(self, headers: Fields) -> None:
        super().__init__()
        self.headers = headers
        self.method: Method = "get"
        self.scheme: Scheme | None = None
        self.authority: str | None = None
        self.path_with_query: str | None = None
        self.body: OutgoingBody | None = None

    def take_body(self) -> OutgoingBody:
        """Return the body. Raises `ErrorResult` the second time."""
        if self.body is not None:
            raise ErrorResult
        self.body = OutgoingBody("HTTP-request-body-size", _length_of(self.headers))
        return self.body

    def set_method(self, method: Method) -> None:
        """Set the method. Raises `ErrorResult` for one that is not a token."""
        if isinstance(method, tuple) and not syntax.is_method(method[1]):
            raise ErrorResult
        self.method = method

    def set_scheme(self, scheme: Scheme | None) -> None:
        """Set the scheme. Raises `ErrorResult` when its syntax is wrong."""
        if isinstance(scheme, tuple) and not syntax.is_scheme(scheme[1]):
            raise ErrorResult
        self.scheme = scheme

    def set_authority(self, authority: str | None) -> None:
        """Set host and port. Raises `ErrorResult` when the syntax is wrong."""
        if authority is not None and not syntax.is_authority(authority):
            raise ErrorResult
        self.authority = authority

    def set_path_with_query(self, path_with_query: str | None) -> None:
        """Set path and query. Raises `ErrorResult` when the syntax is wrong."""
        if path_with_query is not None and not syntax.is_path_with_query(path_with_query):
            raise ErrorResult
        self.path_with_query = path_with_query

    def drop(self) -> None:
        """Close the body's stream if the message was never sent."""
        if self.body is not None:
            self.body.discard()


class IncomingResponseResource(Resource):
    """The head of an upstream's answer."""

    __slots__ = ("_body_taken", "response")

    def __init__(self, response: OutboundResponse) -> None:
        super().__init__()
        self.response = response
        self._body_taken = False

    def consume(self, guest: Guest) -> IncomingBody:
        """Return the body. Raises `ErrorResult` the second time."""
        if self._body_taken:
            raise ErrorResult
        self._body_taken = True
        return IncomingBody(guest, self.response.body)

    def drop(self) -> None:
        """Discard the body if the guest never asked for it."""
        if not self._body_taken:
            self._body_taken = True
            self.response.body.cancel()


class FutureIncomingResponse(Resource):
    """An outbound call under way, or refused before it started.

    Args:
        call: The call, or the error code it is refused with.
    """

    __slots__ = ("_call", "_refused")

    def __init__(self, call: PendingResponse | ErrorCode) -> None:
        super().__init__()
        self._refused: ErrorCode | None = None
        self._call: PendingResponse | None = None
        if isinstance(call, str | tuple):
            self._refused = call
        else:
            self._call = call

    def ready(self) -> bool:
        """True when `get` has something to say."""
        return self._call is None or self._call.ready()

    def get(self) -> Ok | Err | None:
        """`None` while pending, then the outcome once, then an error."""
        if self._refused is not None:
            refused, self._refused = self._refused, None
            return Ok(Err(refused))
        if self._call is None:
            return Err()
        if not self._call.ready():
            return None
        call, self._call = self._call, None
        try:
            return Ok(Ok(IncomingResponseResource(call.result())))
        except OutboundError as error:
            return Ok(Err(from_outbound_error(error)))

    def drop(self) -> None:
        """Cancel the call if nobody has taken its outcome."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
