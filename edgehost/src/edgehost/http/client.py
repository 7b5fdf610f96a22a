"""The outbound HTTP client: pooled connections on the I/O thread, shared by all instances."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from edgehost.http.call import DEFAULT_TIMEOUT_S, Call
from edgehost.http.client_connection import ClientConnection
from edgehost.http.connector import Connector, Origin, split_authority
from edgehost.http.loop import LoopThread
from edgehost.http.pool import ConnectionPool, PoolLimits
from edgehost.ports import OutboundError, OutboundRequest

__all__ = ["HttpClient"]

_log = logging.getLogger(__name__)

_SELF_HOST = "self.alt"
_CHAINING_DOMAIN = "spin.internal"


class HttpClient:
    """An `OutboundHttp`.

    Args:
        loop_thread: Where all sockets live.
        limits: Bounds on connections.
        connector: Opens connections.
        self_authority: Where relative and ``self.alt`` requests go: this host's own address.
        chain: Carries a call to the component of that id (`http://<id>.spin.internal`); called on
            the I/O thread. None refuses such calls.
    """

    def __init__(
        self,
        loop_thread: LoopThread,
        *,
        limits: PoolLimits | None = None,
        connector: Connector | None = None,
        self_authority: Callable[[], str | None] = lambda: None,
        chain: Callable[[str, Call], None] | None = None,
    ) -> None:
        self._io = loop_thread
        self._connector = connector or Connector()
        self._self_authority = self_authority
        self._chain = chain
        self._expiry: asyncio.TimerHandle | None = None
        self.pool = ConnectionPool(limits)

    def send(self, request: OutboundRequest) -> Call:
        """Start a call whose permission has been checked; callable from any thread."""
        call = Call(self._io, request)
        self._io.post(self._begin, call)
        return call

    def close(self) -> None:
        """Close idle connections. On the I/O thread."""
        if self._expiry is not None:
            self._expiry.cancel()
        self.pool.close()

    # For connections, on the I/O thread.

    def host_field(self, call: Call) -> str:
        """The Host field of a call."""
        return call.request.authority.rpartition("@")[2]

    def connection_idle(self, connection: ClientConnection) -> None:
        """The connection can carry another call."""
        self.pool.put(connection)
        if self._expiry is None:
            self._expire_later()

    def connection_closed(self, connection: ClientConnection) -> None:
        """The connection is gone."""
        self.pool.remove(connection)
        if connection.holds_slot:
            connection.holds_slot = False
            self.pool.release_slot()

    def retry(self, call: Call) -> None:
        """Send the call again on a new connection."""
        origin = split_authority(call.request.scheme, call.request.authority)
        call.connecting = self._io.loop.create_task(self._connect(call, origin, fresh=True))

    # Internals.

    def _begin(self, call: Call) -> None:
        if call.over or call.ready():
            return
        call.arm()
        try:
            self._route(call)
        except OutboundError as exc:
            call.fail(exc)

    def _route(self, call: Call) -> None:
        request = call.request
        if request.scheme not in ("http", "https"):
            raise OutboundError(f"unsupported scheme: {request.scheme}", "HTTP-protocol-error")
        if request.method == "CONNECT":
            raise OutboundError("CONNECT is not supported", "HTTP-request-method-invalid")
        host = _host(request.authority)
        if host in ("", _SELF_HOST):
            self._send_to_self(call)
            return
        component, _, domain = host.partition(".")
        if domain == _CHAINING_DOMAIN:
            if self._chain is None:
                raise OutboundError("service chaining is not available", "HTTP-request-denied")
            self._chain(component, call)
            return
        self._dispatch(call)

    def _send_to_self(self, call: Call) -> None:
        authority = self._self_authority()
        if authority is None:
            raise OutboundError("this host has no address of its own", "HTTP-request-URI-invalid")
        call.request = replace(call.request, scheme="http", authority=authority)
        self._dispatch(call)

    def _dispatch(self, call: Call) -> None:
        origin = split_authority(call.request.scheme, call.request.authority)
        connection = self.pool.take(origin)
        if isinstance(connection, ClientConnection):
            connection.start(call)
        else:
            call.connecting = self._io.loop.create_task(self._connect(call, origin))

    async def _connect(self, call: Call, origin: Origin, *, fresh: bool = False) -> None:
        limit = call.request.connect_timeout_s
        try:
            async with asyncio.timeout(DEFAULT_TIMEOUT_S if limit is None else limit):
                connection = await self._obtain(origin, fresh=fresh)
        except TimeoutError:
            call.fail(OutboundError(f"connecting to {origin.host} timed out", "connection-timeout"))
        except OutboundError as exc:
            _log.debug("outbound call failed: %s", exc)
            call.fail(exc)
        except Exception as exc:
            _log.exception("outbound call to %s failed in the host", origin.host)
            call.fail(OutboundError(str(exc), "internal-error", str(exc)))
        else:
            call.connecting = None
            if call.over:
                self.connection_idle(connection)
            else:
                connection.start(call)

    async def _obtain(self, origin: Origin, *, fresh: bool) -> ClientConnection:
        connection = await self.pool.acquire(origin, fresh=fresh)
        if isinstance(connection, ClientConnection):
            return connection
        try:
            opened = await self._connector.connect(origin, lambda: ClientConnection(self, origin))
        except BaseException:
            self.pool.release_slot()
            raise
        opened.holds_slot = True
        return opened

    def _expire_later(self) -> None:
        self._expiry = self._io.loop.call_later(self.pool.limits.idle_timeout_s, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        self.pool.expire()
        if self.pool.idle_count:
            self._expire_later()


def _host(authority: str) -> str:
    host = authority.rpartition("@")[2].strip()
    if host.startswith("["):
        return host
    return host.partition(":")[0].lower()
