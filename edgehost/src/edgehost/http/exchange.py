"""One request and its response, from the parsed head to the last byte.

An `Exchange` is the `ResponseSink` a guest answers into. The guest thread only stores what it says
(head, body bytes, failure); everything that touches the connection happens in `pump`, on the I/O
thread.

A head is held until the first body byte, the end of the body, or the connection's next tick,
whichever comes first: a small answer leaves in one segment, a slow one still shows its head.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import h11

from edgehost.http.fields import content_length, to_wire
from edgehost.http.pipes import InboundBody, OutboundBody
from edgehost.ports import BodyFailedError, Headers

__all__ = ["Exchange", "ExchangeStats", "RequestHead", "Transport"]

_log = logging.getLogger(__name__)

_BODILESS = frozenset({204, 304})
_GONE = "the client disconnected"


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The head of a request as it came off the wire, checked."""

    method: str
    path: str
    query: str | None
    authority: str
    """From the Host field or the target."""
    host: str | None
    """The Host field alone."""
    headers: Headers
    client: tuple[str, int]

    @property
    def path_with_query(self) -> str:
        """The request target in origin form."""
        return self.path if self.query is None else f"{self.path}?{self.query}"


@dataclass(slots=True)
class ExchangeStats:
    """What the access log tells about an exchange."""

    started_s: float
    status: int = 0
    sent_bytes: int = 0
    complete: bool = False


class Transport(Protocol):
    """What an exchange needs of its connection; every method runs on the I/O thread."""

    @property
    def writable(self) -> bool:
        """False while the peer does not read fast enough."""
        ...

    def post(self, callback: Callable[[], None]) -> None:
        """Run `callback` on the I/O thread; the one method callable from any thread."""
        ...

    def send_head(self, status: int, fields: list[tuple[bytes, bytes]], out: list[bytes]) -> None:
        """Frame a head into `out`.

        Raises:
            h11.LocalProtocolError: It is not valid HTTP; nothing was sent.
        """
        ...

    def send_events(self, events: list[h11.Data | h11.EndOfMessage], out: list[bytes]) -> None:
        """Frame body events into `out`."""
        ...

    def write(self, parts: list[bytes]) -> None:
        """Hand bytes to the socket."""
        ...

    def body_wanted(self) -> None:
        """The guest waits for the body, has room again, or has dropped it."""
        ...

    def response_sent(self) -> None:
        """The response is complete."""
        ...

    def break_off(self) -> None:
        """Close at once: the peer must see that the response is incomplete."""
        ...


class Exchange:
    """A request being answered.

    Attributes:
        request: The head.
        body: The request body, as it arrives.
        stats: Filled in as the response leaves.
        on_gone: Set by the application; called once on the I/O thread when the client leaves
            before the response is complete.
    """

    def __init__(
        self, transport: Transport, request: RequestHead, *, expects_continue: bool = False
    ) -> None:
        self._transport = transport
        self._lock = threading.Lock()
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._head_sent = False
        self._carries_trailers = False
        self._writer: OutboundBody | None = None
        self._gone = False
        self._answered = False
        self._over = False
        self.request = request
        self.body = InboundBody(self._body_wanted, announce_first_read=expects_continue)
        self.stats = ExchangeStats(started_s=time.monotonic())
        self.on_gone: Callable[[], None] | None = None

    # Any thread (`ResponseSink`).

    def start(self, status: int, headers: Headers) -> OutboundBody:
        """Send the head and open the body.

        A head that is no HTTP response (status below 200, contradictory content-length) becomes a
        500, and what is written to its body goes nowhere.

        Raises:
            RuntimeError: An answer was given before.
        """
        self._claim()
        fault, expected = _head_fault(status, headers)
        discard = fault is not None or self.request.method == "HEAD" or status in _BODILESS
        if fault is not None:
            _log.error("%s %s: %s", self.request.method, self.request.path, fault)
            status, headers = 500, [("content-length", b"0")]
        writer = OutboundBody(self._pump_soon, expected, discard=discard)
        writer.dirty = True
        with self._lock:
            self._head = (status, to_wire(headers))
            self._writer = writer
            gone = self._gone
        if gone:
            writer.fail(BodyFailedError(_GONE, wasi_code="connection-terminated"))
        return writer

    def fail(self, error: BaseException | None = None) -> None:  # noqa: ARG002 - logged by the app
        """Answer 500 with an empty body, as Spin does when a guest gave no answer."""
        self.respond(500)

    def client_gone(self) -> bool:
        """True once the client has disconnected."""
        return self._gone

    def respond(self, status: int, headers: Headers | None = None, body: bytes = b"") -> None:
        """Send a whole response at once."""
        fields = [("content-length", b"%d" % len(body)), *(headers or [])]
        writer = self.start(status, fields)
        try:
            writer.write(body)
            writer.finish()
        except BodyFailedError:
            return  # The client left; nobody is there to tell.

    # I/O thread.

    @property
    def dirty(self) -> bool:
        """True when something waits to be sent that nobody posted for."""
        writer = self._writer
        return writer is not None and writer.dirty

    @property
    def answered(self) -> bool:
        """True once `start`, `fail` or `respond` was called."""
        return self._answered

    @property
    def head_sent(self) -> bool:
        """True once the status line has left."""
        return self._head_sent

    @property
    def over(self) -> bool:
        """True once the response was sent or given up."""
        return self._over

    def pump(self) -> None:
        """Send what the guest has written, as far as the peer takes it."""
        writer = self._writer
        if self._over or writer is None or not self._transport.writable:
            return
        empty = writer.empty_and_finished
        batch = writer.take()
        if batch.aborted and not self._head_sent and not batch.chunks:
            self._answer_500()
            return
        out: list[bytes] = []
        if not self._head_sent and not self._frame_head(out, empty=empty):
            self._answer_500()
            return
        events: list[h11.Data | h11.EndOfMessage] = [h11.Data(data=c) for c in batch.chunks]
        if batch.finished:
            events.append(self._end_of_message(batch.trailers))
        self._transport.send_events(events, out)
        self.stats.sent_bytes += sum(map(len, batch.chunks))
        self._over = batch.finished or batch.aborted
        if out:
            self._transport.write(out)
        if batch.aborted:
            self._transport.break_off()
        elif batch.finished:
            self.stats.complete = True
            self._transport.response_sent()

    def connection_lost(self) -> None:
        """The connection is gone: free what the guest holds, and tell the application."""
        with self._lock:
            if self._gone:
                return
            self._gone = True
            writer = self._writer
        over = self._over
        self._over = True
        error = BodyFailedError(_GONE, wasi_code="connection-terminated")
        self.body.fail(error)
        if writer is not None:
            writer.fail(error)
        if not over and self.on_gone is not None:
            self.on_gone()

    def _end_of_message(self, trailers: Headers | None) -> h11.EndOfMessage:
        if not trailers or not self._carries_trailers:
            return h11.EndOfMessage()
        try:
            return h11.EndOfMessage(headers=to_wire(trailers, trailers=True))
        except h11.LocalProtocolError as exc:
            _log.error("the trailers are not valid HTTP and were dropped: %s", exc)
            return h11.EndOfMessage()

    def _frame_head(self, out: list[bytes], *, empty: bool) -> bool:
        head = self._head
        assert head is not None  # set before the writer that led here
        status, fields = head
        bodiless = self.request.method == "HEAD" or status in _BODILESS
        sized = any(name == b"content-length" for name, _ in fields)
        if empty and not bodiless and not sized:
            fields, sized = [*fields, (b"content-length", b"0")], True
        self._carries_trailers = not sized and not bodiless
        try:
            self._transport.send_head(status, fields, out)
        except h11.LocalProtocolError as exc:
            _log.error("the response head is not valid HTTP, answering 500: %s", exc)
            return False
        self._head_sent = True
        self.stats.status = status
        return True

    def _answer_500(self) -> None:
        """The guest's answer cannot be sent and nothing has left yet."""
        writer, self._over = self._writer, True
        if writer is not None:
            writer.fail(BodyFailedError("the response was given up"))
        out: list[bytes] = []
        self._transport.send_head(500, [(b"content-length", b"0")], out)
        self._transport.send_events([h11.EndOfMessage()], out)
        self._head_sent = True
        self.stats.status = 500
        self._transport.write(out)
        self._transport.response_sent()

    def _claim(self) -> None:
        with self._lock:
            if self._answered:
                raise RuntimeError("the request was answered before")
            self._answered = True

    def _pump_soon(self) -> None:
        self._transport.post(self.pump)

    def _body_wanted(self) -> None:
        self._transport.post(self._transport.body_wanted)


def _head_fault(status: int, headers: Headers) -> tuple[str | None, int | None]:
    """Why this cannot be the head of a response, if so; and the declared length of its body."""
    if not 200 <= status <= 999:
        return f"a guest cannot answer with status {status}", None
    try:
        return None, content_length(headers)
    except ValueError as exc:
        return str(exc), None
