"""Overload for the backend's benchmarks: requests leave by the clock, whatever comes back.

The client shares the machine with the server it measures, so it is lean: a protocol on uvloop, no
stream and no task per request. Needs uvloop (`overload` runs its own loop).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvloop

from bench.report import Latency

__all__ = ["FACTOR", "Overload", "Tally", "overload"]

FACTOR = 5
"""Times the peak that is offered."""

_PEAK_CONNECTIONS = (8, 16, 32)
"""Closed loops that look for the peak: more connections mean larger batches, and later answers."""

_GIVE_UP_S = 10.0
"""For the last answers after the last request."""


@dataclass(slots=True)
class Tally:
    """What became of the requests that were sent.

    Attributes:
        good: Answered 200 within the deadline, by the client's clock.
        late: Answered 200 after it.
        expired: Admitted, and told at the deadline that there is no answer (504).
        broken: Anything else: no answer, another status.
        refusals_s: Seconds to each refusal (429).
        computed: Rows that the server computed.
    """

    good: int = 0
    late: int = 0
    expired: int = 0
    broken: int = 0
    refusals_s: list[float] = field(default_factory=list)
    computed: int = 0

    def describe(self, seconds: float, offered_per_second: float | None) -> dict[str, Any]:
        """For a report; numbers per second where the name says so."""
        latency = Latency.of(self.refusals_s) if self.refusals_s else None
        return {
            "offered_per_second": offered_per_second,
            "goodput_per_second": self.good / seconds,
            "late": self.late,
            "expired": self.expired,
            "refused": len(self.refusals_s),
            "broken": self.broken,
            "computed_in_vain": self.computed - self.good - self.late,
            "refusal_p50_ms": latency and latency.p50_ms,
            "refusal_p99_ms": latency and latency.p99_ms,
            "refusal_max_ms": latency and max(self.refusals_s) * 1e3,
        }


@dataclass(frozen=True, slots=True)
class Overload:
    """One server under five times its peak.

    Attributes:
        url: Of the route for inference; requests of its model alone are counted.
        model: Name of the model.
        bodies: Unlike each other, taken in turn.
        fields: Header fields of every request.
        deadline_ms: That every request carries.
        seconds: Of each measurement.
    """

    url: str
    model: str
    bodies: Sequence[bytes]
    fields: Mapping[str, str]
    deadline_ms: int
    seconds: float

    def peak(self) -> dict[str, Any]:
        """The best goodput of a few closed loops."""
        runs = [
            self._run(connections=count).describe(self.seconds, None) | {"connections": count}
            for count in _PEAK_CONNECTIONS
        ]
        return max(runs, key=lambda run: run["goodput_per_second"])

    def flood(self, rate: float) -> dict[str, Any]:
        """`rate` requests per second, by the clock."""
        return self._run(rate=rate).describe(self.seconds, rate)

    def _run(self, *, rate: float = 0.0, connections: int = 0) -> Tally:
        before = self._computed()
        client = _Client(self)
        uvloop.run(client.by_clock(rate) if rate else client.in_turn(connections))
        client.tally.computed = self._computed() - before
        return client.tally

    def _computed(self) -> int:
        target = urlsplit(self.url)
        with urllib.request.urlopen(f"http://{target.netloc}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        name = f'backend_rows_total{{model="{self.model}"}} '
        return int(float(next(line for line in lines if line.startswith(name)).split()[-1]))


def overload(
    subject: Overload, said: Callable[[str, dict[str, Any]], None]
) -> dict[str, dict[str, Any]]:
    """Find the peak, then offer `FACTOR` times as much; `said` hears of each as it is measured."""
    peak = subject.peak()
    said("peak", peak)
    flood = subject.flood(FACTOR * peak["goodput_per_second"])
    said("overload", flood)
    return {"peak": peak, "overload": flood}


class _Client:
    """Keeps connections for the next request, and opens one whenever none is idle."""

    def __init__(self, subject: Overload) -> None:
        self.tally = Tally()
        self.deadline_s = subject.deadline_ms / 1e3
        self.idle: list[_Connection] = []
        self.under_way = 0
        self.then: Callable[[], None] | None = None
        """Called with every answer: the next request of a closed loop."""
        target = urlsplit(subject.url)
        self._host, self._port = target.hostname or "", target.port or 80
        self._seconds = subject.seconds
        self._asked = 0
        fields = {"host": "bench", "inference-deadline-ms": subject.deadline_ms, **subject.fields}
        head = f"POST {target.path} HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._messages = [
            f"{head}content-length: {len(body)}\r\n\r\n".encode() + body for body in subject.bodies
        ]
        self._opening: set[asyncio.Task[None]] = set()
        self._answered = asyncio.Event()

    async def by_clock(self, rate: float) -> None:
        """Requests at `rate` per second, evenly spaced."""
        due = time.perf_counter()
        end = due + self._seconds
        while due < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            self.ask()
            due += 1 / rate
        await self._finish()

    async def in_turn(self, connections: int) -> None:
        """So many requests at a time, each after the answer to another."""
        end = time.perf_counter() + self._seconds
        self.then = lambda: self.ask() if time.perf_counter() < end else None
        for _ in range(connections):
            self.ask()
        await asyncio.sleep(self._seconds)
        await self._finish()

    def ask(self) -> None:
        """Send one request. Its time counts from here, opening a connection included."""
        message = self._messages[self._asked % len(self._messages)]
        self._asked += 1
        self.under_way += 1
        self._answered.clear()
        started = time.perf_counter()
        if self.idle:
            self.idle.pop().send(message, started)
            return
        task = asyncio.create_task(self._open_and_send(message, started))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def settle(self, status: bytes, took_s: float) -> None:
        """Count one answer; an empty status means that none came."""
        self.under_way -= 1
        tally = self.tally
        if status == b"200":
            tally.good += took_s <= self.deadline_s
            tally.late += took_s > self.deadline_s
        elif status == b"429":
            tally.refusals_s.append(took_s)
        elif status == b"504":
            tally.expired += 1
        else:
            tally.broken += 1
        if self.then is not None:
            self.then()
        if not self.under_way:
            self._answered.set()

    async def _open_and_send(self, message: bytes, started: float) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self), self._host, self._port
            )
        except OSError:
            self.settle(b"", 0.0)
            return
        connection.send(message, started)

    async def _finish(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GIVE_UP_S):
                await self._answered.wait()
        self.tally.broken += self.under_way
        self.then = None
        for connection in self.idle:
            connection.close()


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        self._started = 0.0
        self._answer = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, message: bytes, started: float) -> None:
        self._started = started
        self._transport.write(message)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, blank, body = self._answer.partition(b"\r\n\r\n")
        if not blank:
            return
        length = head.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]
        if len(body) < int(length):
            return
        self._answer = b""
        took_s, self._started = time.perf_counter() - self._started, 0.0
        self._client.idle.append(self)
        self._client.settle(head[9:12], took_s)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._client.idle:
            self._client.idle.remove(self)
        if self._started:
            self._client.settle(b"", 0.0)

    def close(self) -> None:
        self._transport.close()
