"""Chat calls for the benchmark, streamed and not, over raw sockets: the client must cost little.

Connections are kept for the next call, as clients' pools do. What is not the complete answer that
was asked for counts as failed.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, cast
from urllib.parse import urlsplit

__all__ = ["Calls", "ask", "cancel", "chat_body", "identical", "leave", "streams"]

_PATH = "/v1/chat/completions"

_TEXT = re.compile(rb'"content": ?"[^"]')
"""Of an event that holds text; the first event of many servers has the role alone."""

_USAGE = re.compile(rb'"completion_tokens": ?(\d+)')

_CALL_S = 120.0
"""Longest time for one call; nothing here takes a tenth of it."""


def chat_body(model: str, prompt: str, tokens: int, *, stream: bool, **more: Any) -> bytes:
    """A request as the official client would send it."""
    document: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "temperature": 1.0,
        **more,
    }
    if stream:
        document.update(stream=True, stream_options={"include_usage": True})
    return json.dumps(document).encode()


@dataclass(slots=True)
class Calls:
    """What a round of calls gave.

    Attributes:
        first_s: Seconds to the first text of each stream.
        whole_s: Seconds to the end of each call.
        tokens: Generated in all.
        seconds: From the begin of the first call to the end of the last.
        failed: Calls without a complete answer.
    """

    first_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    failed: int = 0


def _never(_: _Connection) -> bool:
    return False


class _Connection(asyncio.Protocol):
    """One call at a time; notes when its text begins, and when all of it is there."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._until: Callable[[_Connection], bool] = _never
        self._done: asyncio.Future[None] | None = None
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.is_open = False
        self.received = bytearray()
        self.first_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready for calls."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        """No more calls; one that runs has failed."""
        self.is_open = False
        self.closed.set_result(None)
        self._wake()

    def data_received(self, data: bytes) -> None:
        """More of the answer."""
        self.received += data
        if not self.first_at and _TEXT.search(data):
            self.first_at = perf_counter()
        if self._is_complete() or self._until(self):
            self._wake()

    def send(self, head: bytes, body: bytes) -> None:
        """Begin a call."""
        self.received = bytearray()
        self.first_at = 0.0
        self._transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))

    async def wait(self, until: Callable[[_Connection], bool]) -> None:
        """Until `until` holds, the answer is complete, or the connection is lost."""
        self._done = self._loop.create_future()
        self._until = until
        if not self._is_complete() and not until(self) and self.is_open:
            async with asyncio.timeout(_CALL_S):
                await self._done
        self._done = None

    def close(self) -> None:
        """Leave, whatever is on its way."""
        self._transport.abort()

    def _wake(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _is_complete(self) -> bool:
        if self.received.endswith(b"0\r\n\r\n"):
            return True
        head, blank, _ = bytes(self.received[:2048]).partition(b"\r\n\r\n")
        found = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        if not blank or found is None:
            return False
        return len(self.received) - len(head) - 4 >= int(found[1])

    def is_good(self, *, stream: bool) -> bool:
        """A complete answer came."""
        ok = self.received.startswith(b"HTTP/1.1 200") and self._is_complete()
        return ok and b'"error"' not in self.received and (not stream or b"[DONE]" in self.received)

    def tokens(self) -> int:
        """As the answer's usage says."""
        found = _USAGE.findall(self.received)
        return int(found[-1]) if found else 0


class _Client:
    """Connections to one server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self.head = (
            f"POST {_PATH} HTTP/1.1\r\nhost: {parts.netloc}\r\n"
            "content-type: application/json\r\nauthorization: Bearer bench\r\n"
        ).encode()

    async def connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(_Connection, *self._address))[1]


async def _closed_loop(
    url: str, workers: int, each: int, call: Callable[[_Client, _Connection, int], Awaitable[None]]
) -> float:
    """`workers` connections, `each` calls on each one after the other; seconds for all."""
    client = _Client(url)

    async def work(worker: int) -> None:
        connection = await client.connect()
        for number in range(each):
            if not connection.is_open:
                connection = await client.connect()
            await call(client, connection, worker * each + number)
        connection.close()

    started = perf_counter()
    await asyncio.gather(*(work(worker) for worker in range(workers)))
    return perf_counter() - started


async def streams(url: str, make: Callable[[int], bytes], parallel: int, each: int) -> Calls:
    """`parallel` streams at a time, `each` of them one after the other."""
    found = Calls()

    async def call(client: _Client, connection: _Connection, number: int) -> None:
        started = perf_counter()
        connection.send(client.head, make(number))
        await connection.wait(_never)
        if not connection.is_good(stream=True) or not connection.first_at:
            found.failed += 1
            connection.close()
            return
        found.first_s.append(connection.first_at - started)
        found.whole_s.append(perf_counter() - started)
        found.tokens += connection.tokens()

    found.seconds = await _closed_loop(url, parallel, each, call)
    return found


async def ask(url: str, make: Callable[[int], bytes], parallel: int, each: int) -> Calls:
    """Calls that are not streamed, on `parallel` connections."""
    found = Calls()

    async def call(client: _Client, connection: _Connection, number: int) -> None:
        started = perf_counter()
        connection.send(client.head, make(number))
        await connection.wait(_never)
        if not connection.is_good(stream=False):
            found.failed += 1
            connection.close()
            return
        found.whole_s.append(perf_counter() - started)
        found.tokens += connection.tokens()

    found.seconds = await _closed_loop(url, parallel, each, call)
    return found


async def identical(url: str, body: bytes, count: int) -> Calls:
    """`count` equal calls, all on their way before the first is answered."""
    return await ask(url, lambda _: body, count, 1)


async def cancel(url: str, make: Callable[[int], bytes], parallel: int, each: int) -> Calls:
    """Streams that are left, in turn: once sent, at the head, at the first text, after more of it.

    `first_s` has those that came to their first text.
    """
    found = Calls()
    stages: tuple[Callable[[_Connection], bool], ...] = (
        lambda _: True,
        lambda c: b"\r\n\r\n" in c.received,
        lambda c: bool(c.first_at),
        lambda c: len(_TEXT.findall(c.received)) >= 4,
    )

    async def call(client: _Client, connection: _Connection, number: int) -> None:
        started = perf_counter()
        connection.send(client.head, make(number))
        await connection.wait(stages[number % len(stages)])
        if connection.first_at:
            found.first_s.append(connection.first_at - started)
        if connection.received and not connection.received.startswith(b"HTTP/1.1 200"):
            found.failed += 1
        found.whole_s.append(perf_counter() - started)
        connection.close()
        await connection.closed

    found.seconds = await _closed_loop(url, parallel, each, call)
    return found


async def leave(url: str, body: bytes) -> float:
    """Leave a stream at its first text; the time (`perf_counter`) at which that was."""
    client = _Client(url)
    connection = await client.connect()
    connection.send(client.head, body)
    await connection.wait(lambda c: bool(c.first_at))
    connection.close()
    return perf_counter()
