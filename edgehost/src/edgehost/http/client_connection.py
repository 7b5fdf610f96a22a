"""One outbound connection: HTTP/1.1 framing by h11, one call at a time.

A request head is held until the guest's first body byte or the end of the body, for a few
milliseconds at most: only then is it known whether there is a body, and head and small body leave
in one segment.
"""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING, cast

import h11

from edgehost.http.call import Call, Carrier
from edgehost.http.connector import Origin
from edgehost.http.fields import to_guest, to_wire, trailers_from_wire
from edgehost.ports import BodyFailedError, OutboundError, OutboundResponse

if TYPE_CHECKING:
    from edgehost.http.client import HttpClient

__all__ = ["ClientConnection"]

_HOLD_HEAD_S = 0.005
_HEAD_LIMIT_BYTES = 256 * 1024
_UPGRADE = 101


class ClientConnection(asyncio.Protocol, Carrier):
    """Speaks HTTP/1.1 with one upstream; lives on the I/O thread."""

    def __init__(self, client: HttpClient, origin: Origin) -> None:
        self._client = client
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # connection_made
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_LIMIT_BYTES)
        self._call: Call | None = None
        self._hold: asyncio.TimerHandle | None = None
        self._head_sent = False
        self._heard = False
        self._reused = False
        self._writable = True
        self._reading_paused = False
        self._error: Exception | None = None
        self.origin = origin
        self.holds_slot = False

    # For the client and the pool.

    def start(self, call: Call) -> None:
        """Carry `call`; the connection is idle and alive."""
        self._call = call
        call.carrier = self
        self._head_sent = self._heard = False
        if call.body.pending:
            self.pump()
        else:
            self._hold = call.later(_HOLD_HEAD_S, self._send_held_head)

    def is_alive(self) -> bool:
        """False when the socket has something to say although nothing was asked: end of file."""
        if self._transport.is_closing():
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Close; the slot is given back once the socket is gone."""
        self._transport.close()

    # `Carrier`.

    def pump(self) -> None:
        """Send what the guest has written, as far as the upstream takes it."""
        call = self._call
        if call is None or not self._writable or self._transport.is_closing():
            return
        if not self._head_sent and self._hold is not None and not call.body.pending:
            return
        try:
            self._send(call)
        except h11.LocalProtocolError as exc:
            self._end(OutboundError(f"cannot send the request: {exc}", "HTTP-protocol-error"))

    def inbound_changed(self) -> None:
        """The guest has room for more of the response, or has dropped it."""
        call = self._call
        if call is None:
            return
        if call.inbound.cancelled:
            self.drop()
        elif self._reading_paused and not call.inbound.pause_if_full():
            self._reading_paused = False
            self._transport.resume_reading()

    def drop(self) -> None:
        """The call is over before its time: the connection is in mid-message, close it."""
        call, self._call = self._call, None
        self._stop_holding()
        if call is not None:
            call.complete()
            call.body.fail(_terminated())
        self._transport.abort()

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived; an idle connection has nothing to say."""
        if self._call is None:
            self._transport.abort()
            return
        self._heard = True
        self._h11.receive_data(data)
        self._parse()

    def eof_received(self) -> None:
        """The upstream will send no more; asyncio closes the transport next."""
        if self._call is not None and self._heard:
            self._h11.receive_data(b"")
            self._parse()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the call, or try it again on a new connection where that is safe."""
        self._client.connection_closed(self)
        self._stop_holding()
        call, self._call = self._call, None
        if call is None:
            return
        reset = isinstance(exc, (ConnectionResetError, BrokenPipeError))
        unread = reset or not self._head_sent
        if self._reused and not self._heard and call.may_retry(unread=unread):
            call.carrier = None
            self._client.retry(call)
            return
        reason = f": {exc}" if exc is not None else ""
        where = "in the middle of the response" if self._heard else "before it answered"
        call.fail(_protocol_error(f"{self.origin.host} closed the connection {where}{reason}"))

    def pause_writing(self) -> None:
        """The upstream reads too slowly: stop draining the guest."""
        self._writable = False

    def resume_writing(self) -> None:
        """The upstream has caught up."""
        self._writable = True
        self.pump()

    # Sending.

    def _send_held_head(self) -> None:
        self._hold = None
        self.pump()

    def _stop_holding(self) -> None:
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None

    def _send(self, call: Call) -> None:
        out: list[bytes] = []
        starting = not self._head_sent
        if starting:
            self._stop_holding()
            request = call.request
            head = h11.Request(
                method=request.method,
                target=request.path_with_query or "/",
                headers=call.head_fields(self._client.host_field(call)),
            )
            out.extend(self._h11.send_with_data_passthrough(head) or ())
            self._head_sent = True
        batch = call.take_body(from_start=starting)
        for chunk in batch.chunks:
            out.extend(self._h11.send_with_data_passthrough(h11.Data(data=chunk)) or ())
        if batch.finished and self._h11.our_state is h11.SEND_BODY:
            chunked = batch.trailers and not call.is_sized
            fields = to_wire(batch.trailers or [], trailers=True) if chunked else []
            end = h11.EndOfMessage(headers=fields)
            out.extend(self._h11.send_with_data_passthrough(end) or ())
        if out:
            self._transport.write(b"".join(out))
        if batch.aborted:
            self._end(_protocol_error("the guest gave up the request body"))

    # Receiving.

    def _parse(self) -> None:
        while self._call is not None:
            call = self._call
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as exc:
                self._end(_protocol_error(f"{self.origin.host} broke HTTP: {exc}"))
                return
            if event is h11.NEED_DATA or event is h11.PAUSED:
                self._flow_control(call)
                return
            if isinstance(event, h11.InformationalResponse):
                if event.status_code == _UPGRADE:
                    self._end(_protocol_error("the upstream switched protocols unasked"))
            elif isinstance(event, h11.Response):
                head = OutboundResponse(event.status_code, to_guest(event.headers), call.inbound)
                call.respond(head)
            elif isinstance(event, h11.Data):
                call.receive(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                call.inbound.feed_end(trailers_from_wire(event.headers) if event.headers else None)
                self._finish(call)
            elif isinstance(event, h11.ConnectionClosed):
                return

    def _finish(self, call: Call) -> None:
        """The response is complete: give the connection back when it can carry another call."""
        self._call = None
        call.carrier = None
        call.complete()
        reusable = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        if not reusable:
            call.body.fail(_terminated())
        if not reusable or self._h11.trailing_data[0] or self._transport.is_closing():
            self._transport.close()
            return
        self._h11.start_next_cycle()
        self._reused = True
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
        self._client.connection_idle(self)

    def _flow_control(self, call: Call) -> None:
        if call.inbound.cancelled:
            self.drop()
        elif not self._reading_paused and call.inbound.pause_if_full():
            self._reading_paused = True
            self._transport.pause_reading()

    def _end(self, error: OutboundError) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.fail(error)
        self._transport.abort()


def _protocol_error(reason: str) -> OutboundError:
    return OutboundError(reason, "HTTP-protocol-error")


def _terminated() -> BodyFailedError:
    return BodyFailedError("the call is over", wasi_code="connection-terminated")
