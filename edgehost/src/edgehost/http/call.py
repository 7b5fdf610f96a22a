"""One outbound call, as the guest that waits for it and the I/O thread that makes it see it.

Errors carry the case of `wasi:http/types.error-code` that Spin gives for the same failure
(crates/factor-outbound-http): whatever hyper reports is `HTTP-protocol-error`, a late head or body
is `connection-read-timeout`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgehost.http.fields import content_length, to_wire
from edgehost.http.pipes import Batch, InboundBody, OutboundBody
from edgehost.ports import (
    BodyFailedError,
    OutboundError,
    OutboundRequest,
    OutboundResponse,
    Wakeup,
)

if TYPE_CHECKING:
    from edgehost.http.loop import LoopThread

__all__ = ["DEFAULT_TIMEOUT_S", "Call", "Carrier"]

DEFAULT_TIMEOUT_S = 600.0
"""Spin's default for each of the three timeouts."""

_REPLAY_LIMIT_BYTES = 64 * 1024
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
_SENDS_CONTENT = frozenset({"POST", "PUT", "PATCH"})


class Carrier:
    """What carries a call: a connection, or another component. Methods run on the I/O thread."""

    def pump(self) -> None:
        """The guest has written some of the request body."""
        raise NotImplementedError

    def inbound_changed(self) -> None:
        """The guest has room for more of the response, or has dropped it."""
        raise NotImplementedError

    def drop(self) -> None:
        """The call is over before its time."""
        raise NotImplementedError


class Call:
    """A `PendingResponse`.

    Attributes:
        request: What to send.
        body: The request body, written by the guest.
        inbound: The response body.
        carrier: Set on the I/O thread once something carries the call.
    """

    def __init__(self, loop_thread: LoopThread, request: OutboundRequest) -> None:
        self._io = loop_thread
        self._lock = threading.Lock()
        self._wakeup: Wakeup | None = None
        self._response: OutboundResponse | None = None
        self._error: OutboundError | None = None
        self._taken = False
        self._over = False
        self._retried = False
        self._replay: list[bytes] | None = []
        self._replay_bytes = 0
        self._sized = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._last_byte_s = 0.0
        self.request = request
        self.carrier: Carrier | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.inbound = InboundBody(self._inbound_changed_soon)
        expected, invalid = _declared_length(request)
        self.body = OutboundBody(self._pump_soon, expected, size_error="HTTP-request-body-size")
        if invalid is not None:
            self.fail(invalid)

    # Guest side (`PendingResponse`).

    def ready(self) -> bool:
        """True when `result` would return or raise."""
        return self._response is not None or self._error is not None

    def result(self) -> OutboundResponse:
        """The head of the answer."""
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._response is None:
                raise RuntimeError("the response has not arrived; wait for ready()")
            self._taken = True
            return self._response

    def watch(self, wakeup: Wakeup | None) -> None:
        """Name the wakeup to set on every change of state."""
        with self._lock:
            self._wakeup = wakeup

    def cancel(self) -> None:
        """Drop the call and its connection, unless the response was taken."""
        with self._lock:
            if self._taken or self._error is not None:
                return
            self._error = OutboundError("the call was cancelled", "connection-terminated")
        self._io.post(self._abandon)

    # I/O thread.

    @property
    def over(self) -> bool:
        """True when nothing is left to do for this call."""
        return self._over

    @property
    def is_sized(self) -> bool:
        """True when a content-length frames the request, which leaves no room for trailers."""
        return self._sized

    def arm(self) -> None:
        """Start the first-byte clock. Like Spin's, it also covers connecting."""
        limit = self.request.first_byte_timeout_s
        limit = DEFAULT_TIMEOUT_S if limit is None else limit
        self._head_timer = self._io.loop.call_later(limit, self._head_overdue)

    def respond(self, response: OutboundResponse) -> None:
        """The head of the answer has arrived."""
        self._stop_timers()
        self._replay = None  # it will not be sent again
        self._last_byte_s = time.monotonic()
        self._watch_idle(self._between_bytes_s)
        with self._lock:
            self._response = response
            wakeup = self._wakeup
        if wakeup is not None:
            wakeup.set()

    def receive(self, data: bytes) -> None:
        """Some of the response body has arrived."""
        self._last_byte_s = time.monotonic()
        self.inbound.feed(data)

    def complete(self) -> None:
        """The response has arrived to its end."""
        self._over = True
        self._stop_timers()

    def fail(self, error: OutboundError) -> None:
        """End the call: the guest gets `error` from `result`, or from the body it is reading."""
        with self._lock:
            self._over = True
            if self._response is None and self._error is None:
                self._error = error
            wakeup = self._wakeup
        self._stop_timers()
        broken = BodyFailedError(str(error), error.wasi_code, error.wasi_payload)
        self.inbound.fail(broken)
        self.body.fail(broken)
        if wakeup is not None:
            wakeup.set()

    def take_body(self, *, from_start: bool) -> Batch:
        """What the guest has written; with all that was taken before when starting over."""
        batch = self.body.take()
        before = list(self._replay or ()) if from_start else []
        if self._replay is not None:
            self._replay_bytes += sum(map(len, batch.chunks))
            if self._replay_bytes > _REPLAY_LIMIT_BYTES:
                self._replay = None
            else:
                self._replay.extend(batch.chunks)
        return Batch(before + batch.chunks, batch.finished, batch.trailers, batch.aborted)

    def may_retry(self, *, unread: bool) -> bool:
        """True once, when the request can be sent again without the server acting on it twice.

        Args:
            unread: The server cannot have read the request (nothing was sent, or it answered with
                a reset), so even a POST is safe.
        """
        if self._retried or self._over or self._replay is None:
            return False
        self._retried = unread or self.request.method in _IDEMPOTENT
        return self._retried

    def head_fields(self, host: str) -> list[tuple[bytes, bytes]]:
        """Header fields for the wire, framing included; call it when the head is about to leave."""
        fields = [(b"host", host.encode("ascii"))]
        fields += to_wire(self.request.headers)
        self._sized = any(name.lower() == b"content-length" for name, _ in fields)
        if self._sized:
            return fields
        if not self.body.empty_and_finished:
            fields.append((b"transfer-encoding", b"chunked"))
            return fields
        self._sized = True
        if self.request.method in _SENDS_CONTENT:
            fields.append((b"content-length", b"0"))
        return fields

    def later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Run `callback` on the I/O thread after a delay."""
        return self._io.loop.call_later(delay_s, callback)

    # Timeouts.

    @property
    def _between_bytes_s(self) -> float:
        limit = self.request.between_bytes_timeout_s
        return DEFAULT_TIMEOUT_S if limit is None else limit

    def _head_overdue(self) -> None:
        self._give_up("no response within the first-byte timeout")

    def _watch_idle(self, delay_s: float) -> None:
        self._idle_timer = self._io.loop.call_later(delay_s, self._check_idle)

    def _check_idle(self) -> None:
        waited = time.monotonic() - self._last_byte_s
        if self.inbound.producer_paused:
            # It is the guest that does not read; its own limit applies.
            self._watch_idle(self._between_bytes_s)
        elif waited < self._between_bytes_s:
            self._watch_idle(self._between_bytes_s - waited)
        else:
            self._give_up("no byte of the response within the between-bytes timeout")

    def _give_up(self, reason: str) -> None:
        self.fail(OutboundError(reason, "connection-read-timeout"))
        self._abandon()

    def _abandon(self) -> None:
        self._over = True
        self._stop_timers()
        if self.connecting is not None:
            self.connecting.cancel()
        if self.carrier is not None:
            self.carrier.drop()

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()

    # Posts from the guest thread.

    def _pump_soon(self) -> None:
        self._io.post(self._pump)

    def _pump(self) -> None:
        if self.carrier is not None:
            self.carrier.pump()

    def _inbound_changed_soon(self) -> None:
        self._io.post(self._inbound_changed)

    def _inbound_changed(self) -> None:
        if self.carrier is not None:
            self.carrier.inbound_changed()


def _declared_length(request: OutboundRequest) -> tuple[int | None, OutboundError | None]:
    try:
        return content_length(request.headers), None
    except ValueError as exc:
        return None, OutboundError(str(exc), "HTTP-protocol-error")
