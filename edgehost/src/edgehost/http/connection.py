"""One client connection: HTTP/1.1 framing by h11, one exchange at a time.

Rules this module keeps:

* Requests on a connection are answered in order, one at a time. What a client pipelines meanwhile
  stays in h11's buffer, up to `PIPELINE_LIMIT_BYTES`; then reading stops.
* Reading goes on while a guest runs, because end of file is how a client's leaving shows. A client
  that shuts down its sending side has left, as in Spin (hyper without `half_close`).
* A request whose framing two parsers could read differently is refused and the connection closed
  (RFC 9112, section 6.3 and 11.2).
* After an early answer the rest of the body is read and dropped, within bounds, so that the client
  gets to read the answer instead of a reset.
* Every state has a deadline; the server's sweep enforces it (`overdue`).
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import h11

from edgehost.http.exchange import Exchange, RequestHead
from edgehost.http.fields import is_authority, to_guest, trailers_from_wire
from edgehost.ports import BodyFailedError

if TYPE_CHECKING:
    from edgehost.http.server import HttpServer, ServerLimits

__all__ = ["ServerConnection"]

PIPELINE_LIMIT_BYTES = 64 * 1024
_NEVER = float("inf")
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE)
_REASONS = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}


class _BadRequestError(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class ServerConnection(asyncio.Protocol):
    """Speaks HTTP/1.1 with one client; lives on the I/O thread, save for `post`."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._limits = server.limits
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # connection_made
        self._client: tuple[str, int] = ("", 0)
        self._h11 = self._new_h11()
        self._exchange: Exchange | None = None
        self._writable = True
        self._reading_paused = False
        self._receiving = False
        self._deaf = False
        self._continue_owed = False
        self._dropped_bytes = 0
        self._shutting_down = False
        self._untouched = True
        self.deadline = _NEVER

    def _new_h11(self) -> h11.Connection:
        return h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head_bytes)

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept, or turn the client away when the house is full."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self._client = (peer[0], peer[1])
        self.deadline = self._server.now() + self._limits.head_timeout_s
        if not self._server.connection_opened(self):
            # No lingering: what is turned away must not hold its socket.
            self._refuse(503, "too many connections")
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse what arrived."""
        self._untouched = False
        if self._deaf:
            self._drop(len(data))
            return
        if self._exchange is None and not self._receiving:
            self._receiving = True
            self.deadline = self._server.now() + self._limits.head_timeout_s
        self._h11.receive_data(data)
        self._parse()

    def eof_received(self) -> None:
        """The client will send no more: asyncio closes the transport next."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """Free everything, whatever the reason."""
        self.deadline = _NEVER
        self._server.connection_closed(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.connection_lost()
            self._server.exchange_over(exchange)

    def pause_writing(self) -> None:
        """The client reads too slowly: stop draining the guest."""
        self._writable = False
        self.deadline = self._server.now() + self._limits.write_timeout_s

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._writable = True
        if self._exchange is not None and not self._exchange.over:
            self.deadline = _NEVER
            self._exchange.pump()

    # `exchange.Transport`.

    @property
    def writable(self) -> bool:
        """False while the client does not read fast enough."""
        return self._writable and not self._transport.is_closing()

    def post(self, callback: Callable[[], None]) -> None:
        """Run `callback` on the I/O thread."""
        self._server.post(callback)

    def send_head(self, status: int, fields: list[tuple[bytes, bytes]], out: list[bytes]) -> None:
        """Frame a response head into `out`."""
        if not any(name == b"date" for name, _ in fields):
            fields = [*fields, (b"date", self._server.date())]
        if self._shutting_down or self._continue_owed:
            # A client still waiting for 100 may or may not send its body: framing is lost.
            fields = [*fields, (b"connection", b"close")]
        response = h11.Response(
            status_code=status, headers=fields, reason=_REASONS.get(status, b"")
        )
        out.extend(self._h11.send_with_data_passthrough(response) or ())

    def send_events(self, events: list[h11.Data | h11.EndOfMessage], out: list[bytes]) -> None:
        """Frame body events into `out`."""
        for event in events:
            if isinstance(event, h11.EndOfMessage) and self._h11.their_http_version != b"1.1":
                event = h11.EndOfMessage()  # RFC 9112, section 7.1.2: trailers need chunked
            out.extend(self._h11.send_with_data_passthrough(event) or ())

    def write(self, parts: list[bytes]) -> None:
        """Hand bytes to the socket, as one segment where they fit."""
        self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def body_wanted(self) -> None:
        """The guest waits for the body, has room again, or has dropped it."""
        exchange = self._exchange
        if exchange is None:
            return
        if self._continue_owed and exchange.body.wanted and not exchange.head_sent:
            self._continue_owed = False
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            self._transport.write(self._h11.send(go_on))
        self._flow_control(exchange)

    def response_sent(self) -> None:
        """The response is complete: drop what is left of the request, then take the next one."""
        exchange = self._exchange
        assert exchange is not None  # the exchange that calls this
        self._server.exchange_over(exchange)
        if not exchange.body.ended:
            exchange.body.fail(BodyFailedError("the response was complete before the request"))
            exchange.body.cancel()
            self.deadline = self._server.now() + self._limits.drain_timeout_s
            if self._continue_owed or self._deaf:
                self._linger()
                return
            self._resume_reading()
        self._next_cycle()

    def break_off(self) -> None:
        """Close so that the client sees an incomplete response."""
        if self._h11.their_http_version != b"1.1":
            # Without chunked framing end of file would look like success: reset instead.
            self._reset()
        self._transport.close()

    # The server's sweep and shutdown.

    def overdue(self) -> None:
        """The deadline of the current state has passed."""
        self.deadline = _NEVER
        if self._exchange is None and self._receiving and not self._deaf:
            self._refuse(408, "the request head did not arrive in time")
        else:
            self._transport.abort()

    def shut_down(self) -> None:
        """Close when idle; otherwise say so in the response and close after it.

        A client that has just connected sends its first request at this moment, as a rule.
        """
        self._shutting_down = True
        if self._exchange is not None or self._receiving:
            return
        if self._untouched:
            self.deadline = self._server.now() + self._limits.first_request_s
        else:
            self._transport.close()

    @property
    def untouched(self) -> bool:
        """True while the client has not sent a byte."""
        return self._untouched

    def abort(self) -> None:
        """Close now, whatever is in flight."""
        self._transport.abort()

    # Parsing.

    def _parse(self) -> None:
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as exc:
                self._protocol_error(exc)
                return
            if event is h11.NEED_DATA or event is h11.PAUSED:
                break
            if isinstance(event, h11.Request):
                self._begin(event)
            elif isinstance(event, h11.Data):
                self._feed(event)
            elif isinstance(event, h11.EndOfMessage):
                self._feed_end(event)
            elif isinstance(event, h11.ConnectionClosed):
                self._transport.close()
                return
            if self._deaf:
                return
        if self._exchange is not None:
            self._flow_control(self._exchange)

    def _begin(self, event: h11.Request) -> None:
        self._receiving = True
        try:
            head = _checked_head(event, self._client, self._limits)
        except _BadRequestError as exc:
            self._refuse(exc.status, str(exc))
            return
        self.deadline = _NEVER
        self._continue_owed = self._h11.they_are_waiting_for_100_continue
        exchange = Exchange(self, head, expects_continue=self._continue_owed)
        self._exchange = exchange
        self._server.exchange_begun(exchange)

    def _feed(self, event: h11.Data) -> None:
        self._continue_owed = False
        exchange = self._exchange
        if exchange is None:
            return
        if exchange.over:
            self._drop(len(event.data))
        else:
            # A guest that has dropped the body may still be answering: the pipe discards, and the
            # guest's own time limit bounds for how long.
            exchange.body.feed(bytes(event.data))

    def _feed_end(self, event: h11.EndOfMessage) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        exchange.body.feed_end(trailers_from_wire(event.headers) if event.headers else None)
        if exchange.over:
            self._next_cycle()

    def _next_cycle(self) -> None:
        """Both directions may be done: reuse the connection, or close it."""
        ours, theirs = self._h11.our_state, self._h11.their_state
        reusable = ours is h11.DONE and theirs is not h11.ERROR
        if not reusable or self._deaf or self._shutting_down:
            if theirs is h11.SEND_BODY:
                self._linger()
            else:
                self._exchange = None
                self._transport.close()
            return
        if theirs is not h11.DONE:
            return
        self._exchange = None
        self._receiving = False
        self._dropped_bytes = 0
        self._h11.start_next_cycle()
        self.deadline = self._server.now() + self._limits.idle_timeout_s
        self._resume_reading()
        # A pipelined request may be waiting; parse it from a fresh stack, not from this one.
        self._server.post(self._parse_pipelined)

    def _parse_pipelined(self) -> None:
        if self._exchange is None and not self._deaf and not self._transport.is_closing():
            self._parse()

    def _protocol_error(self, error: h11.RemoteProtocolError) -> None:
        exchange = self._exchange
        if exchange is None:
            self._refuse(error.error_status_hint, str(error))
            return
        if exchange.body.ended or exchange.over:
            # Garbage behind a whole request: answer the request, then close.
            self._deaf = True
            if exchange.over:
                self._transport.close()
            return
        exchange.body.fail(BodyFailedError(f"the request body is malformed: {error}"))
        self._deaf = True

    def _refuse(self, status: int, reason: str) -> None:
        """Answer without asking the application, and close."""
        self._server.refused(self._client, status, reason)
        self._deaf = True
        if self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self._transport.close()
            return
        fields = [(b"content-length", b"0"), (b"connection", b"close")]
        out: list[bytes] = []
        self.send_head(status, fields, out)
        self.send_events([h11.EndOfMessage()], out)
        self.write(out)
        self._linger()

    # Flow control and closing.

    def _flow_control(self, exchange: Exchange) -> None:
        full = exchange.body.pause_if_full() or (
            exchange.body.ended and len(self._h11.trailing_data[0]) > PIPELINE_LIMIT_BYTES
        )
        if full and not self._reading_paused and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()
        elif not full:
            self._resume_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()

    def _linger(self) -> None:
        """Say no more, and read on for a while.

        Closing with unread bytes in the socket makes the kernel send a reset, which can destroy
        the response before the client has read it (RFC 9112, section 9.6).
        """
        self._deaf = True
        self._exchange = None
        self.deadline = self._server.now() + self._limits.drain_timeout_s
        self._resume_reading()
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def _drop(self, count: int) -> None:
        self._dropped_bytes += count
        if self._dropped_bytes > self._limits.drain_bytes:
            self._transport.abort()

    def _reset(self) -> None:
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _checked_head(event: h11.Request, client: tuple[str, int], limits: ServerLimits) -> RequestHead:
    """The head as the application sees it.

    Raises:
        _BadRequestError: What RFC 9112 or this server's limits do not allow.
    """
    names = [name for name, _ in event.headers]
    size = sum(len(name) + len(value) + 4 for name, value in event.headers)
    if size > limits.head_bytes:
        raise _BadRequestError(431, f"the header section is larger than {limits.head_bytes} bytes")
    if len(names) > limits.head_fields:
        raise _BadRequestError(431, f"there are more than {limits.head_fields} header fields")
    if b"transfer-encoding" in names:
        # RFC 9112, section 6.1: both fields, or chunked in HTTP/1.0, smell of smuggling.
        if b"content-length" in names:
            raise _BadRequestError(400, "both content-length and transfer-encoding")
        if event.http_version < b"1.1":
            raise _BadRequestError(400, "transfer-encoding in an HTTP/1.0 request")
    host = next((value for name, value in event.headers if name == b"host"), None)
    if host is not None and not is_authority(host):
        raise _BadRequestError(400, f"the Host field is not an authority: {host!r}")
    authority, target = _split_target(event, host)
    path, mark, query = target.partition("?")
    return RequestHead(
        method=event.method.decode("ascii"),
        path=path,
        query=query if mark else None,
        authority=authority,
        host=host.decode("ascii") if host is not None else None,
        headers=to_guest(event.headers),
        client=client,
    )


def _split_target(event: h11.Request, host: bytes | None) -> tuple[str, str]:
    """Authority and origin-form target (RFC 9112, section 3.2)."""
    target: bytes = event.target
    if target.startswith(b"/"):
        if host is None:
            raise _BadRequestError(400, "no Host field")
        return host.decode("ascii"), _text(target)
    absolute = _ABSOLUTE_FORM.fullmatch(target)
    if absolute is None:
        raise _BadRequestError(400, f"the request target is not a path: {target[:64]!r}")
    authority, rest = absolute.groups()
    if not is_authority(authority):
        raise _BadRequestError(400, "the request target has no valid authority")
    if host is not None and host.lower() != authority.lower():
        raise _BadRequestError(400, "authority in 'Host' does not match authority in URI")
    return authority.decode("ascii"), _text(rest if rest.startswith(b"/") else b"/" + rest)


def _text(target: bytes) -> str:
    try:
        return target.decode("ascii")
    except UnicodeDecodeError:
        raise _BadRequestError(400, "the request target is not ASCII") from None
