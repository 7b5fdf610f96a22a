"""Connections with limits that uvicorn's HTTP protocol lacks: heads, time and number.

* A request's line and fields may have so many bytes (431).
* A request has to arrive within a time, however slowly its bytes drip (408).
* A client that reads nothing of its answer for the same time loses its connection.
* Beyond a number of connections, new ones are refused at once (503).
* When a client goes away, the request in progress hears of it (`ON_DISCONNECT` in its scope).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string
from uvicorn.server import ServerState

from gpu_backend.api.http import ON_DISCONNECT, RESPOND, Part

__all__ = ["BoundedProtocol", "ConnectionLimits", "make_protocol", "sweep"]

_JOIN_MAX_BYTES = 32 << 10
"""Up to here copying head and body into one buffer is cheaper than handing over several."""

_PER_FIELD = 32
"""Counted for each field beside its text, so that a flood of empty ones is bounded too."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds on what a client may hold."""

    max_header_bytes: int = 32 << 10
    max_connections: int = 4096
    request_timeout_s: float = 30.0


class _HeadTooLargeError(Exception):
    """Stops the parser in the middle of a head."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    limits = ConnectionLimits()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_bytes = 0
        self._refusal: bytes | None = None
        self._awaiting_since = 0.0
        """When the request that is still arriving began; 0 while none is."""
        self._unread_since = 0.0
        """Since when the client has read nothing of what waits for it; 0 while nothing does."""
        self._unread_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse at once what is one connection too many."""
        super().connection_made(transport)
        self._awaiting_since = monotonic()
        if len(self.connections) > self.limits.max_connections:
            transport.write(_refusal(503, "Service Unavailable", "too many connections"))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request in progress that nobody reads its answer."""
        super().connection_lost(exc)
        if self.cycle is not None and not self.cycle.response_complete:
            leave: Callable[[], None] | None = cast("dict[str, Any]", self.cycle.scope).get(
                ON_DISCONNECT
            )
            if leave is not None:
                leave()

    def on_message_begin(self) -> None:
        """Start to count the head and the time."""
        super().on_message_begin()
        self._head_bytes = 0
        self._awaiting_since = monotonic()

    def on_url(self, url: bytes) -> None:
        """Count the target towards the head."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the field towards the head."""
        self._count_head(len(name) + len(value) + _PER_FIELD)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Let the application answer with one write."""
        super().on_headers_complete()
        scope = cast("dict[str, Any]", self.scope)
        scope[RESPOND] = partial(_respond, self.cycle)

    def on_message_complete(self) -> None:
        """The request has arrived: its time no longer counts."""
        self._awaiting_since = 0.0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or too much of it, in the shape of every other error."""
        self.transport.write(self._refusal or _refusal(400, "Bad Request", msg))
        self.transport.close()

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.limits.max_header_bytes:
            limit = self.limits.max_header_bytes
            text = f"the request's head exceeds the limit of {limit} bytes"
            self._refusal = _refusal(431, "Request Header Fields Too Large", text)
            raise _HeadTooLargeError

    def cut_off_if_late(self, now: float) -> None:
        """Close when the client takes too long to send its request or to read its answer."""
        if self.transport.is_closing():
            return
        oldest = now - self.limits.request_timeout_s
        unread = self.transport.get_write_buffer_size()
        if not unread or unread < self._unread_bytes or not self._unread_since:
            self._unread_since = now if unread else 0.0
        elif self._unread_since < oldest:
            self.transport.abort()
            return
        self._unread_bytes = unread
        if self.pipeline:
            self._awaiting_since = now  # it waits for us, not we for it
        elif self._awaiting_since and self._awaiting_since < oldest:
            if not self._is_answered():
                text = "the request did not arrive in time"
                self.transport.write(_refusal(408, "Request Timeout", text))
            self.transport.close()

    def _is_answered(self) -> bool:
        """True when the request that is still arriving has its answer already, a refusal."""
        cycle = self.cycle
        return cycle is not None and cycle.response_started and cycle.more_body


def _respond(
    cycle: RequestResponseCycle,
    status: int,
    headers: list[tuple[bytes, bytes]],
    body: Sequence[Part],
) -> None:
    """As two calls of `cycle.send`, in one write.

    Nothing here waits for a client that reads slowly: the response is whole in memory already,
    and `cut_off_if_late` ends what is never read.
    """
    if cycle.disconnected or cycle.response_started:
        return
    if cycle.access_log:
        scope = cycle.scope
        cycle.access_logger.info(
            '%s - "%s %s HTTP/%s" %d',
            get_client_addr(scope),
            scope["method"],
            get_path_with_query_string(scope),
            scope["http_version"],
            status,
        )
    parts: list[Part] = [STATUS_LINE[status]]
    for name, value in (*cycle.default_headers, *headers):
        parts += (name, b": ", value, b"\r\n")
    if (b"connection", b"close") in headers:
        cycle.keep_alive = False
    elif not cycle.keep_alive:
        parts.append(b"connection: close\r\n")
    parts.append(b"\r\n")
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    if sum(map(len, body)) <= _JOIN_MAX_BYTES:
        cycle.transport.write(b"".join((*parts, *body)))
    else:
        cycle.transport.writelines((b"".join(parts), *body))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()


def make_protocol(limits: ConnectionLimits) -> type[BoundedProtocol]:
    """The protocol class for one server."""
    return type("LimitedProtocol", (BoundedProtocol,), {"limits": limits})


async def sweep(state: ServerState, interval_s: float) -> None:
    """Cut off late clients until cancelled. One pass over all costs less than timers for each."""
    while True:
        await asyncio.sleep(interval_s)
        now = monotonic()
        for connection in list(state.connections):
            if isinstance(connection, BoundedProtocol):
                connection.cut_off_if_late(now)


def _refusal(status: int, title: str, detail: str) -> bytes:
    """A whole response for requests that never reach the application."""
    safe = detail.replace('"', "'")
    body = (
        f'{{"type":"about:blank","title":"{title}","status":{status},'
        f'"detail":"{safe}","code":"invalid_input","error":"{safe}"}}'
    ).encode()
    head = (
        f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    ).encode()
    return head + body
