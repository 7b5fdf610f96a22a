"""The HTTP/1.1 server: listens, keeps its connections within bounds, hands exchanges to an app.

The server knows nothing of guests. Its application is a callable that gets each `Exchange` on the
I/O thread, must not block, and sees to it that the exchange is answered, from whatever thread.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from edgehost.http.connection import ServerConnection
from edgehost.http.exchange import Exchange
from edgehost.http.fields import DateField
from edgehost.http.loop import LoopThread

__all__ = ["HttpServer", "ServerLimits"]

_log = logging.getLogger(__name__)

_TICK_S = 0.005
_SWEEP_S = 0.5
_BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one server grants its clients."""

    connections: int = 1000
    """Below the usual limit of 1,024 open files, with room for outbound connections."""
    head_bytes: int = 64 * 1024
    """Request line and header fields together; more is 431."""
    head_fields: int = 100
    """As hyper's; more is 431."""
    head_timeout_s: float = 15.0
    """From the first byte of a head to its end: a slow-loris client gets 408."""
    idle_timeout_s: float = 75.0
    """Between requests; longer than the 60 s most load balancers keep theirs."""
    write_timeout_s: float = 60.0
    """A client that takes no byte of its response for this long is cut off."""
    drain_timeout_s: float = 10.0
    """For the rest of a request body after an early answer."""
    drain_bytes: int = 16 * 1024 * 1024
    """How much of such a body is read before the connection is cut."""
    first_request_s: float = 0.5
    """For the first request of a connection made just before the server shut down."""


class HttpServer:
    """Accepts connections on the I/O thread and passes each exchange to `application`.

    Args:
        loop_thread: Where all sockets live.
        application: Called on the I/O thread for each request; must not block or raise.
        on_over: Called on the I/O thread when an exchange has ended, complete or not.
    """

    def __init__(
        self,
        loop_thread: LoopThread,
        application: Callable[[Exchange], None],
        *,
        limits: ServerLimits | None = None,
        on_over: Callable[[Exchange], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._io = loop_thread
        self._application = application
        self._on_over = on_over
        self._date = DateField()
        self._connections: set[ServerConnection] = set()
        self._active: set[Exchange] = set()
        self._listener: asyncio.Server | None = None
        self._ticking = False
        self._sweeper: asyncio.TimerHandle | None = None
        self._drained: asyncio.Event | None = None
        self.limits = limits or ServerLimits()
        self.now = clock

    # From other threads.

    def listen(self, host: str, port: int) -> tuple[str, int]:
        """Bind and accept; the address really bound (port 0 asks for a free one).

        Raises:
            OSError: The address cannot be bound.
        """
        return self._io.call(self._listen(host, port))

    def shut_down(self, grace_s: float) -> bool:
        """Stop accepting, let exchanges finish for `grace_s`, then cut; True when all finished."""
        return self._io.call(self._shut_down(grace_s))

    def post(self, callback: Callable[[], None]) -> None:
        """Run `callback` on the I/O thread."""
        self._io.post(callback)

    # I/O thread.

    async def _listen(self, host: str, port: int) -> tuple[str, int]:
        sock = _bind(host, port)
        self._listener = await self._io.loop.create_server(
            lambda: ServerConnection(self), sock=sock, backlog=_BACKLOG
        )
        self._sweeper = self._io.loop.call_later(_SWEEP_S, self._sweep_periodically)
        address = sock.getsockname()
        return address[0], address[1]

    async def _shut_down(self, grace_s: float) -> bool:
        if self._listener is not None:
            # Once round the loop: connections that wait to be accepted are reset with the listener.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self._listener.close()
        self._drained = asyncio.Event()
        for connection in list(self._connections):
            connection.shut_down()
        if not self._connections:
            self._drained.set()
        try:
            await asyncio.wait_for(self._drained.wait(), grace_s)
            finished = True
        except TimeoutError:
            finished = all(connection.untouched for connection in self._connections)
        for connection in list(self._connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
        return finished

    def date(self) -> bytes:
        """The value of the `Date` field."""
        return self._date.value()

    def connection_opened(self, connection: ServerConnection) -> bool:
        """Count the connection; False when there are too many."""
        self._connections.add(connection)
        return len(self._connections) <= self.limits.connections

    def connection_closed(self, connection: ServerConnection) -> None:
        """Forget the connection."""
        self._connections.discard(connection)
        if self._drained is not None and not self._connections:
            self._drained.set()

    def track(self, exchange: Exchange) -> None:
        """Send what the exchange's guest writes, until `exchange_over`."""
        self._active.add(exchange)
        if not self._ticking:
            self._ticking = True
            self._io.loop.call_later(_TICK_S, self._tick)

    def exchange_begun(self, exchange: Exchange) -> None:
        """Hand a request to the application."""
        self.track(exchange)
        try:
            self._application(exchange)
        except Exception:
            _log.exception("the application failed on %s", exchange.request.path)
            if not exchange.answered:
                exchange.respond(500)

    def exchange_over(self, exchange: Exchange) -> None:
        """The exchange has ended."""
        if exchange in self._active:
            self._active.discard(exchange)
            if self._on_over is not None:
                self._on_over(exchange)

    def refused(self, client: tuple[str, int], status: int, reason: str) -> None:
        """A request was turned away before it reached the application."""
        _log.debug("%s:%d refused with %d: %s", client[0], client[1], status, reason)

    def sweep(self) -> None:
        """Close connections whose deadline has passed."""
        now = self.now()
        for connection in [c for c in self._connections if c.deadline <= now]:
            connection.overdue()

    def _sweep_periodically(self) -> None:
        self._sweeper = self._io.loop.call_later(_SWEEP_S, self._sweep_periodically)
        self.sweep()

    def _tick(self) -> None:
        """Send what guests wrote without posting for it (see `pipes`)."""
        for exchange in [e for e in self._active if e.dirty]:
            exchange.pump()
        self._ticking = bool(self._active)
        if self._ticking:
            self._io.loop.call_later(_TICK_S, self._tick)


def _bind(host: str, port: int) -> socket.socket:
    """A bound TCP socket; 127.0.0.1 is preferred over ::1 where a name means both, as in Spin."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as exc:
        raise _cannot_listen(host, port, exc) from exc
    found.sort(key=lambda info: info[4][0] != "127.0.0.1")
    family, kind, proto, _, address = found[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it; answers are whole segments, waiting for more only adds delay.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(address)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        raise _cannot_listen(host, port, exc) from exc
    return sock


def _cannot_listen(host: str, port: int, error: OSError) -> OSError:
    if error.errno == errno.EADDRINUSE:
        return OSError(errno.EADDRINUSE, f"{host}:{port} is already in use")
    return OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}")
