"""Bounded body pipes between the I/O thread and guest threads.

`InboundBody` carries bytes from the network to a guest, `OutboundBody` from a guest to the
network. They are the only objects both threads touch, and the only ones that lock. Neither side
ever blocks: a full pipe reports no capacity, an empty one reports not ready, and each side is told
when that changes (the guest through its `Wakeup`, the network side through `notify`).

Waking the I/O thread costs some 30 µs, so an `OutboundBody` does it at once only when it matters:
the message is complete, much has piled up, or nothing was sent for 5 ms. Otherwise it is
left `dirty` and the connection's tick picks it up.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edgehost.ports import BodyEndedError, BodyFailedError, Headers, Wakeup

__all__ = ["BODY_LIMIT_BYTES", "Batch", "InboundBody", "OutboundBody"]

BODY_LIMIT_BYTES = 256 * 1024
"""What one pipe holds: takes a 150 KB body in one go, and 1,000 of them are 256 MB at worst."""

_URGENT_BYTES = 64 * 1024
_QUIET_S = 0.005


def _nothing() -> None:
    """No one to notify."""


class InboundBody:
    """A `BodyReader` fed by the I/O thread.

    Args:
        notify: Called on the guest thread when the network side has something to do: resume
            reading, send ``100 Continue``, or drop the rest of the body.
        limit_bytes: `full` turns true at this many unread bytes.
        announce_first_read: Notify when the guest first waits for bytes (``Expect``).
    """

    def __init__(
        self,
        notify: Callable[[], None] = _nothing,
        limit_bytes: int = BODY_LIMIT_BYTES,
        *,
        announce_first_read: bool = False,
    ) -> None:
        self._lock = threading.Lock()
        self._notify = notify
        self._limit = limit_bytes
        self._chunks: deque[memoryview] = deque()
        self._size = 0
        self._ended = False
        self._trailers: Headers | None = None
        self._error: BodyFailedError | None = None
        self._cancelled = False
        self._producer_paused = False
        self._announce = announce_first_read
        self._wanted = False
        self._wakeup: Wakeup | None = None

    # Network side.

    def feed(self, data: bytes) -> None:
        """Append bytes from the network; dropped when the guest no longer reads."""
        with self._lock:
            if self._cancelled or self._error is not None or not data:
                return
            self._chunks.append(memoryview(data))
            self._size += len(data)
            wakeup = self._wakeup
        if wakeup is not None:
            wakeup.set()

    def feed_end(self, trailers: Headers | None = None) -> None:
        """The body is complete."""
        with self._lock:
            self._ended = True
            self._trailers = trailers or None
            wakeup = self._wakeup
        if wakeup is not None:
            wakeup.set()

    def fail(self, error: BodyFailedError) -> None:
        """The rest will not come: what is buffered stays readable, then reads raise `error`."""
        with self._lock:
            if self._ended or self._error is not None:
                return
            self._error = error
            wakeup = self._wakeup
        if wakeup is not None:
            wakeup.set()

    def pause_if_full(self) -> bool:
        """True when the producer must stop; `notify` is called once there is room again."""
        with self._lock:
            self._producer_paused = not self._cancelled and self._size >= self._limit
            return self._producer_paused

    @property
    def wanted(self) -> bool:
        """True once the guest has asked for bytes that had not arrived."""
        return self._wanted

    @property
    def cancelled(self) -> bool:
        """True once the guest has dropped the body."""
        return self._cancelled

    @property
    def producer_paused(self) -> bool:
        """True while the producer waits for the guest to read."""
        return self._producer_paused

    @property
    def ended(self) -> bool:
        """True once the last byte has arrived."""
        return self._ended

    # Guest side (`BodyReader`).

    def ready(self) -> bool:
        """True when `read` would return bytes or raise."""
        if self._size or self._ended or self._error is not None:
            return True
        self._want()
        return False

    def read(self, max_bytes: int) -> bytes:
        """Return up to `max_bytes`; empty when nothing has arrived yet."""
        notify = False
        with self._lock:
            if self._size:
                data = self._take(max_bytes)
                if self._producer_paused and self._size <= self._limit // 2:
                    self._producer_paused = False
                    notify = True
            elif self._error is not None:
                raise self._error
            elif self._ended:
                raise BodyEndedError("the body has ended")
            else:
                data = b""
        if notify:
            self._notify()
        elif not data:
            self._want()
        return data

    def trailers(self) -> Headers | None:
        """Trailer fields once the body has ended; None when there were none."""
        return self._trailers

    def watch(self, wakeup: Wakeup | None) -> None:
        """Name the wakeup to set on every change of state."""
        with self._lock:
            self._wakeup = wakeup

    def cancel(self) -> None:
        """Free the buffer; the producer drops the rest."""
        with self._lock:
            if self._cancelled:
                return
            self._cancelled = True
            self._chunks.clear()
            self._size = 0
            self._producer_paused = False
            open_ended = not self._ended and self._error is None
        if open_ended:
            self._notify()

    def _want(self) -> None:
        self._wanted = True
        if self._announce:
            self._announce = False
            self._notify()

    def _take(self, max_bytes: int) -> bytes:
        first = self._chunks[0]
        if len(first) > max_bytes:
            self._chunks[0] = first[max_bytes:]
            self._size -= max_bytes
            return bytes(first[:max_bytes])
        parts: list[memoryview] = []
        room = max_bytes
        while self._chunks and len(self._chunks[0]) <= room:
            part = self._chunks.popleft()
            room -= len(part)
            parts.append(part)
        self._size -= max_bytes - room
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)


@dataclass(frozen=True, slots=True)
class Batch:
    """What a guest has written since the last `OutboundBody.take`."""

    chunks: list[bytes]
    finished: bool
    trailers: Headers | None
    aborted: bool


class OutboundBody:
    """A `BodyWriter` drained by the I/O thread.

    Args:
        notify: Called on the guest thread when the network side should drain now.
        expected_bytes: The declared content-length; None when there is none.
        limit_bytes: What may be queued.
        discard: The message has no body on the wire (HEAD, 204, 304): count nothing, keep nothing.
        size_error: Case of `wasi:http/types.error-code` for a body of the wrong length.
    """

    def __init__(
        self,
        notify: Callable[[], None] = _nothing,
        expected_bytes: int | None = None,
        limit_bytes: int = BODY_LIMIT_BYTES,
        *,
        discard: bool = False,
        size_error: str = "HTTP-response-body-size",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = threading.Lock()
        self._notify = notify
        self._expected = expected_bytes
        self._limit = limit_bytes
        self._discard = discard
        self._size_error = size_error
        self._clock = clock
        self._chunks: list[bytes] = []
        self._size = 0
        self._written = 0
        self._finished = False
        self._aborted = False
        self._trailers: Headers | None = None
        self._error: BodyFailedError | None = None
        self._wakeup: Wakeup | None = None
        self._notified = False
        self._last_take = 0.0
        self.dirty = False
        """Something waits that nobody was notified of; read by the tick without the lock."""

    # Guest side (`BodyWriter`).

    def capacity(self) -> int:
        """Bytes that may be written now; 0 means wait."""
        with self._lock:
            if self._error is not None:
                raise self._error
            return self._limit - self._size if self._size < self._limit else 0

    def write(self, data: bytes) -> None:
        """Queue `data`, at most `capacity()` bytes."""
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._discard or not data:
                return
            self._written += len(data)
            error: BodyFailedError | None = None
            if self._expected is not None and self._written > self._expected:
                self._aborted = not self._finished
                error = self._break(self._wrong_length())
            else:
                self._chunks.append(data)
                self._size += len(data)
                # The peer has the whole message now, whether or not the guest goes on to say so.
                self._finished = self._written == self._expected
            notify = self._should_notify()
        if notify:
            self._notify()
        if error is not None:
            raise error

    def flushed(self) -> bool:
        """True: as in Spin, a flush means "on its way", and does not wait for the peer."""
        if self._error is not None:
            raise self._error
        return True

    def finish(self, trailers: Headers | None = None) -> None:
        """End the body."""
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._finished or self._aborted:
                return
            short = self._expected is not None and self._written < self._expected
            error: BodyFailedError | None = None
            if short and not self._discard:
                self._aborted = True
                error = self._break(self._wrong_length())
            else:
                self._finished = True
                self._trailers = trailers or None
            notify = self._should_notify()
        if notify:
            self._notify()
        if error is not None:
            raise error

    def abort(self) -> None:
        """End the body as broken: the peer sees an incomplete message."""
        with self._lock:
            if self._finished or self._aborted:
                return
            self._aborted = True
            notify = self._should_notify()
        if notify:
            self._notify()

    def watch(self, wakeup: Wakeup | None) -> None:
        """Name the wakeup to set on every change of state."""
        with self._lock:
            self._wakeup = wakeup

    # Network side.

    def take(self) -> Batch:
        """All that is queued; frees the capacity and wakes a waiting guest."""
        with self._lock:
            batch = Batch(self._chunks, self._finished, self._trailers, self._aborted)
            was_full = self._size >= self._limit
            self._chunks = []
            self._size = 0
            self._notified = False
            self.dirty = False
            self._last_take = self._clock()
            wakeup = self._wakeup if was_full else None
        if wakeup is not None:
            wakeup.set()
        return batch

    def fail(self, error: BodyFailedError) -> None:
        """The peer left: drop what is queued, and let every later call raise `error`."""
        with self._lock:
            self._chunks = []
            self._size = 0
            if not self._finished:
                self._break(error)
            wakeup = self._wakeup
        if wakeup is not None:
            wakeup.set()

    @property
    def pending(self) -> bool:
        """True when `take` would return something new."""
        return bool(self._size) or self._finished or self._aborted

    @property
    def empty_and_finished(self) -> bool:
        """True when the body ended without a byte or a trailer."""
        with self._lock:
            return self._finished and not self._written and self._trailers is None

    def _break(self, error: BodyFailedError) -> BodyFailedError:
        if self._error is None:
            self._error = error
        return self._error

    def _wrong_length(self) -> BodyFailedError:
        return BodyFailedError(
            f"content-length promised {self._expected} bytes, but {self._written} were written",
            wasi_code=self._size_error,
            wasi_payload=self._written,
        )

    def _should_notify(self) -> bool:
        if self._notified:
            return False
        urgent = (
            self._finished
            or self._aborted
            or self._size >= _URGENT_BYTES
            or self._clock() - self._last_take >= _QUIET_S
        )
        self._notified = urgent
        self.dirty = not urgent
        return urgent
