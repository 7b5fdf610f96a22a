"""In-memory ends of the HTTP layer: request bodies, response sinks, an outbound client."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from edgehost.ports import (
    BodyEndedError,
    BodyFailedError,
    BodyReader,
    BodyWriter,
    Headers,
    IncomingRequest,
    OutboundError,
    OutboundRequest,
    OutboundResponse,
    PendingResponse,
    Wakeup,
)

__all__ = [
    "MemoryBody",
    "MemorySink",
    "MemoryWriter",
    "NoOutbound",
    "ScriptedCall",
    "ScriptedOutbound",
    "request",
]


class MemoryBody:
    """A body whose chunks a test feeds, before the guest runs or while it does.

    Args:
        chunks: What has arrived already.
        ended: False keeps the body open until `end` or `break_off`.
    """

    def __init__(self, *chunks: bytes, ended: bool = True, trailers: Headers | None = None) -> None:
        self._lock = threading.Lock()
        self._buffer = bytearray(b"".join(chunks))
        self._ended = ended
        self._failure: BodyFailedError | None = None
        self._trailers = trailers
        self._wakeup: Wakeup | None = None
        self.cancelled = False
        self.reads = 0

    def feed(self, data: bytes) -> None:
        with self._lock:
            self._buffer += data
        self._notify()

    def end(self, trailers: Headers | None = None) -> None:
        with self._lock:
            self._ended = True
            self._trailers = trailers
        self._notify()

    def break_off(self, error: BodyFailedError) -> None:
        with self._lock:
            self._failure = error
        self._notify()

    def ready(self) -> bool:
        with self._lock:
            return bool(self._buffer) or self._ended or self._failure is not None

    def read(self, max_bytes: int) -> bytes:
        with self._lock:
            self.reads += 1
            if self._buffer:
                data = bytes(self._buffer[:max_bytes])
                del self._buffer[:max_bytes]
                return data
            if self._failure is not None:
                raise self._failure
            if self._ended:
                raise BodyEndedError("the body has ended")
            return b""

    def trailers(self) -> Headers | None:
        return self._trailers

    def watch(self, wakeup: Wakeup | None) -> None:
        self._wakeup = wakeup

    def cancel(self) -> None:
        self.cancelled = True
        self._buffer.clear()

    def _notify(self) -> None:
        if self._wakeup is not None:
            self._wakeup.set()


class MemoryWriter:
    """A body writer that keeps what it gets; `room` bounds what it takes until `drain`."""

    def __init__(self, room: int = 1 << 30) -> None:
        self._lock = threading.Lock()
        self._room = room
        self._failure: BodyFailedError | None = None
        self._wakeup: Wakeup | None = None
        self.chunks: list[bytes] = []
        self.finished = False
        self.aborted = False
        self.trailers: Headers | None = None
        self.changed = threading.Event()

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)

    def drain(self, room: int) -> None:
        with self._lock:
            self._room += room
        if self._wakeup is not None:
            self._wakeup.set()

    def break_off(self, error: BodyFailedError) -> None:
        self._failure = error
        if self._wakeup is not None:
            self._wakeup.set()

    def capacity(self) -> int:
        if self._failure is not None:
            raise self._failure
        return self._room

    def write(self, data: bytes) -> None:
        if self._failure is not None:
            raise self._failure
        with self._lock:
            assert len(data) <= self._room, "more than capacity()"
            self._room -= len(data)
            self.chunks.append(data)
        self.changed.set()

    def flushed(self) -> bool:
        return True

    def finish(self, trailers: Headers | None = None) -> None:
        assert not self.finished
        assert not self.aborted
        self.finished = True
        self.trailers = trailers
        self.changed.set()

    def abort(self) -> None:
        assert not self.finished
        self.aborted = True
        self.changed.set()

    def watch(self, wakeup: Wakeup | None) -> None:
        self._wakeup = wakeup


@dataclass
class MemorySink:
    """Records the one answer a guest gives."""

    writer: MemoryWriter = field(default_factory=MemoryWriter)
    status: int | None = None
    headers: Headers = field(default_factory=list)
    error: BaseException | None = None
    gone: bool = False
    started: threading.Event = field(default_factory=threading.Event)

    def start(self, status: int, headers: Headers) -> BodyWriter:
        assert self.status is None, "started twice"
        assert self.error is None, "started after fail"
        self.status = status
        self.headers = list(headers)
        self.started.set()
        return self.writer

    def fail(self, error: BaseException) -> None:
        assert self.status is None, "failed after start"
        assert self.error is None, "failed twice"
        self.error = error

    def client_gone(self) -> bool:
        return self.gone

    @property
    def body(self) -> bytes:
        return self.writer.data


class ScriptedCall:
    """An outbound call that a test answers."""

    def __init__(self, sent: OutboundRequest) -> None:
        self.request = sent
        self.writer = MemoryWriter()
        self.body: BodyWriter = self.writer
        self.cancelled = False
        self._outcome: OutboundResponse | OutboundError | None = None
        self._wakeup: Wakeup | None = None

    def respond(
        self, status: int = 200, headers: Headers | None = None, body: BodyReader | None = None
    ) -> None:
        self._outcome = OutboundResponse(status, headers or [], body or MemoryBody())
        self._notify()

    def refuse(self, error: OutboundError) -> None:
        self._outcome = error
        self._notify()

    def ready(self) -> bool:
        return self._outcome is not None

    def result(self) -> OutboundResponse:
        assert self._outcome is not None, "result() before ready()"
        if isinstance(self._outcome, OutboundError):
            raise self._outcome
        return self._outcome

    def watch(self, wakeup: Wakeup | None) -> None:
        self._wakeup = wakeup

    def cancel(self) -> None:
        self.cancelled = True

    def _notify(self) -> None:
        if self._wakeup is not None:
            self._wakeup.set()


class ScriptedOutbound:
    """An outbound client that calls `answer` for each call as it starts."""

    def __init__(self, answer: Callable[[ScriptedCall], None]) -> None:
        self._answer = answer
        self.calls: list[ScriptedCall] = []

    def send(self, sent: OutboundRequest) -> PendingResponse:
        call = ScriptedCall(sent)
        self.calls.append(call)
        self._answer(call)
        return call


class NoOutbound:
    """An outbound client for components that must not call out."""

    def send(self, sent: OutboundRequest) -> PendingResponse:
        raise AssertionError(f"unexpected outbound call: {sent}")


def request(
    path: str = "/",
    *,
    method: str = "GET",
    headers: Headers | None = None,
    body: BodyReader | None = None,
) -> IncomingRequest:
    """Return a request as the HTTP layer would pass it."""
    return IncomingRequest(
        method=method,
        scheme="http",
        authority="localhost:3000",
        path_with_query=path,
        headers=[] if headers is None else headers,
        body=body if body is not None else MemoryBody(),
    )
