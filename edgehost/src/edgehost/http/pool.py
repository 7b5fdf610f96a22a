"""Idle and open outbound connections, both bounded.

Everything here runs on the I/O thread. The pool holds a connection only while it is idle; whoever
takes it gives it back or lets it die. A slot stands for one open connection and is what
`max_connections` of the runtime config counts.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edgehost.http.connector import Origin
from edgehost.ports import OutboundError

__all__ = ["ConnectionPool", "PoolLimits", "Pooled"]


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds on outbound connections."""

    open: int = 512
    """Open at once; calls beyond it wait for a slot within their connect timeout."""
    idle: int = 128
    """Kept for reuse over all origins."""
    idle_per_origin: int = 32
    idle_timeout_s: float = 90.0
    """As hyper's; a server that closes earlier is noticed at once."""


class Pooled(Protocol):
    """A connection as the pool sees it."""

    @property
    def origin(self) -> Origin:
        """Where it leads."""
        ...

    def is_alive(self) -> bool:
        """False when the peer has closed it, even if the loop has not told yet."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class ConnectionPool:
    """Keeps idle connections, newest first, and counts open ones."""

    def __init__(
        self, limits: PoolLimits | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits or PoolLimits()
        self._clock = clock
        self._idle: OrderedDict[Pooled, float] = OrderedDict()
        self._open = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def open_count(self) -> int:
        """Connections open now, idle ones included."""
        return self._open

    @property
    def idle_count(self) -> int:
        """Connections waiting for reuse."""
        return len(self._idle)

    def take(self, origin: Origin) -> Pooled | None:
        """The most recently used idle connection to `origin` that is alive."""
        self.expire()
        for connection in [c for c in reversed(self._idle) if c.origin == origin]:
            del self._idle[connection]
            if connection.is_alive():
                return connection
            connection.close()
        return None

    def put(self, connection: Pooled) -> None:
        """Keep an idle connection, or close it where a bound is reached."""
        self.expire()
        if self.limits.idle <= 0:
            connection.close()
            return
        same = [c for c in self._idle if c.origin == connection.origin]
        if len(same) >= self.limits.idle_per_origin:
            self._evict(same[0])
        elif len(self._idle) >= self.limits.idle:
            self._evict(next(iter(self._idle)))
        self._idle[connection] = self._clock() + self.limits.idle_timeout_s
        self._wake_next()

    def remove(self, connection: Pooled) -> None:
        """Forget an idle connection that has died."""
        self._idle.pop(connection, None)

    async def acquire(self, origin: Origin, *, fresh: bool = False) -> Pooled | None:
        """An idle connection to `origin`, or None with the right to open one.

        A right not used, or a connection that closes, is given back with `release_slot`.

        Args:
            origin: Where the connection leads.
            fresh: Do not reuse an idle one.

        Raises:
            OutboundError: `connection-limit-reached` when none may ever be opened.
        """
        if self.limits.open <= 0:
            raise OutboundError("outbound connections are disabled", "connection-limit-reached")
        while True:
            connection = None if fresh else self.take(origin)
            if connection is not None:
                return connection
            if self._open < self.limits.open:
                self._open += 1
                return None
            if self._idle:
                # What idles towards another origin must not hold back a call.
                self._evict(next(iter(self._idle)))
            if self._open >= self.limits.open:
                await self._wait_for_change()

    def release_slot(self) -> None:
        """A connection was closed, or never opened."""
        self._open -= 1
        self._wake_next()

    def close(self) -> None:
        """Close all idle connections."""
        for connection in list(self._idle):
            self._evict(connection)

    async def _wait_for_change(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            else:
                self._wake_next()  # The turn was ours; pass it on.
            raise

    def _wake_next(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def expire(self) -> None:
        """Close what has idled too long."""
        now = self._clock()
        while self._idle:
            connection, deadline = next(iter(self._idle.items()))
            if deadline > now:
                return
            self._evict(connection)

    def _evict(self, connection: Pooled) -> None:
        del self._idle[connection]
        connection.close()
