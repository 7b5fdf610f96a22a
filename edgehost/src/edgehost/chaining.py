"""Service chaining: a call to `http://<id>.spin.internal` goes to that component in this process.

No socket is involved. The call of one guest and the exchange of the other are joined on the I/O
thread, with the same bounded pipes and back-pressure as over the network.
"""

from __future__ import annotations

from collections.abc import Callable

import h11

from edgehost.http.call import Call, Carrier
from edgehost.http.exchange import Exchange, RequestHead
from edgehost.http.fields import to_guest, trailers_from_wire
from edgehost.http.server import HttpServer
from edgehost.ports import BodyFailedError, OutboundError, OutboundResponse

__all__ = ["ChainedCall"]

_CLIENT = ("0.0.0.0", 0)


class ChainedCall(Carrier):
    """Joins `call` to a new exchange, `exchange`; everything runs on the I/O thread."""

    def __init__(self, call: Call, server: HttpServer, over: Callable[[Exchange], None]) -> None:
        self._call = call
        self._server = server
        self._over = over
        self._status = 0
        request = call.request
        path, mark, query = request.path_with_query.partition("?")
        head = RequestHead(
            method=request.method,
            path=path or "/",
            query=query if mark else None,
            authority=request.authority,
            host=None,
            headers=to_guest((name.encode("ascii"), value) for name, value in request.headers),
            client=_CLIENT,
        )
        self.exchange = Exchange(self, head)
        call.carrier = self

    # `Carrier`, for the calling guest.

    def pump(self) -> None:
        """Move the request body on, as far as the called guest takes it."""
        body = self.exchange.body
        if body.pause_if_full():
            return
        batch = self._call.take_body(from_start=False)
        for chunk in batch.chunks:
            body.feed(chunk)
        if batch.aborted:
            body.fail(BodyFailedError("the caller gave up its request"))
        elif batch.finished:
            body.feed_end(batch.trailers)

    def inbound_changed(self) -> None:
        """The caller has room for more of the response, or has dropped it."""
        if self._call.inbound.cancelled:
            self.drop()
        else:
            self.exchange.pump()

    def drop(self) -> None:
        """The caller does not wait any longer."""
        self._call.carrier = None
        self._call.complete()
        self.exchange.connection_lost()
        self._over(self.exchange)

    # `exchange.Transport`, for the called guest.

    @property
    def writable(self) -> bool:
        """False while the caller does not read fast enough."""
        return self._call.carrier is self and not self._call.inbound.pause_if_full()

    def post(self, callback: Callable[[], None]) -> None:
        """Run `callback` on the I/O thread."""
        self._server.post(callback)

    def send_head(self, status: int, fields: list[tuple[bytes, bytes]], out: list[bytes]) -> None:
        """Give the caller the head of its response."""
        del out  # nothing goes to a wire
        head = OutboundResponse(status, to_guest(fields), self._call.inbound)
        self._call.respond(head)

    def send_events(self, events: list[h11.Data | h11.EndOfMessage], out: list[bytes]) -> None:
        """Give the caller some of the response body."""
        del out
        for event in events:
            if isinstance(event, h11.Data):
                self._call.receive(bytes(event.data))
            else:
                trailers = trailers_from_wire(event.headers) if event.headers else None
                self._call.inbound.feed_end(trailers)

    def write(self, parts: list[bytes]) -> None:
        """Nothing goes to a wire."""

    def body_wanted(self) -> None:
        """The called guest waits for the request body, has room again, or has dropped it."""
        if self.exchange.body.cancelled:
            self._call.body.fail(BodyFailedError("the request body is not read any more"))
        else:
            self.pump()

    def response_sent(self) -> None:
        """The response is complete."""
        self._call.carrier = None
        self._call.complete()
        self._over(self.exchange)

    def break_off(self) -> None:
        """The called guest broke off its response."""
        self._call.carrier = None
        self._call.fail(OutboundError("the component broke off its answer", "HTTP-protocol-error"))
        self._over(self.exchange)
