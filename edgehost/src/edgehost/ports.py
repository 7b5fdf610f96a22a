"""Seams between the layers of the host: Wasm, HTTP, key-value, configuration.

    http.server ──IncomingRequest, ResponseSink──▶ wasm ──OutboundHttp──▶ http.client
                                                    │
                                      Store (keyvalue) · ComponentSpec (app)

Rules that hold on every seam:

* A guest runs on its own thread; all network I/O runs on one asyncio loop thread. Body pipes are
  the only objects both touch, and they are the only ones that lock.
* Nothing here blocks. The guest thread blocks in one place, `wasi:io/poll`, on its instance's
  `Wakeup`; whatever becomes ready calls `Wakeup.set`. Every such wait has a deadline.
* Every buffer is bounded; a full one reports no capacity, an empty one reports not ready.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgehost.errors import HostError

__all__ = [
    "BodyEndedError",
    "BodyFailedError",
    "BodyReader",
    "BodyWriter",
    "ComponentSpec",
    "Gate",
    "Headers",
    "IncomingRequest",
    "InstanceLimits",
    "OutboundError",
    "OutboundHttp",
    "OutboundPolicy",
    "OutboundRequest",
    "OutboundResponse",
    "PendingResponse",
    "ResponseSink",
    "Store",
    "StoreProvider",
    "Wakeup",
]

Headers = list[tuple[str, bytes]]
"""Field names in lower case with raw values, in wire order; repeated names stay repeated."""


class Gate(Protocol):
    """Bounds how many guests compute at once; a guest thread is inside while it runs."""

    def enter(self) -> None:
        """Return once this thread may run."""
        ...

    def leave(self) -> None:
        """This thread sleeps or has ended."""
        ...


class Wakeup:
    """One per guest instance: what `wasi:io/poll` sleeps on.

    `set` may be called from any thread, any number of times; a set that nobody waits for is kept
    until the next `wait`, so a state change between a check and the sleep is never lost.

    Attributes:
        gate: Left while asleep, so that another guest can compute meanwhile.
    """

    __slots__ = ("_event", "gate")

    def __init__(self) -> None:
        self._event = threading.Event()
        self.gate: Gate | None = None

    def set(self) -> None:
        """Wake the guest thread, or let its next `wait` return at once."""
        self._event.set()

    def wait(self, timeout_s: float) -> bool:
        """Sleep until `set` or the timeout; True when woken. Clears the flag."""
        if self.gate is None or self._event.is_set():
            woken = self._event.wait(timeout_s)
        else:
            self.gate.leave()
            try:
                woken = self._event.wait(timeout_s)
            finally:
                self.gate.enter()
        self._event.clear()
        return woken


class BodyEndedError(HostError):
    """The body was read to its end; trailers, if any, are known now."""

    code = "body_ended"


class BodyFailedError(HostError):
    """The peer left, broke the framing, or the transfer ran out of time.

    Attributes:
        wasi_code: Case name of `wasi:http/types.error-code` that `http-error-code` answers.
        wasi_payload: Payload of that case where it has one.
    """

    code = "body_failed"

    def __init__(
        self,
        message: str,
        wasi_code: str = "HTTP-protocol-error",
        wasi_payload: object = None,
    ) -> None:
        super().__init__(message)
        self.wasi_code = wasi_code
        self.wasi_payload = wasi_payload


class BodyReader(Protocol):
    """Bytes that arrive from the network, read by the guest thread."""

    def ready(self) -> bool:
        """True when `read` would return bytes or raise."""
        ...

    def read(self, max_bytes: int) -> bytes:
        """Return up to `max_bytes`; empty when nothing has arrived yet.

        Raises:
            BodyEndedError: After the last byte.
            BodyFailedError: The transfer failed.
        """
        ...

    def trailers(self) -> Headers | None:
        """Trailer fields once the body has ended; None when there were none."""
        ...

    def watch(self, wakeup: Wakeup | None) -> None:
        """Name the wakeup to set on every change of state."""
        ...

    def cancel(self) -> None:
        """The guest no longer reads: free the buffer and let the producer drop the rest."""
        ...


class BodyWriter(Protocol):
    """Bytes written by the guest thread on their way to the network."""

    def capacity(self) -> int:
        """Bytes that may be written now; 0 means wait.

        Raises:
            BodyFailedError: The peer left or the transfer failed.
        """
        ...

    def write(self, data: bytes) -> None:
        """Queue `data`, at most `capacity()` bytes. Raises `BodyFailedError` as `capacity` does."""
        ...

    def flushed(self) -> bool:
        """True once everything written is on its way. Raises `BodyFailedError`.

        As in Spin a flush does not wait for the peer: back-pressure shows in `capacity`.
        """
        ...

    def finish(self, trailers: Headers | None = None) -> None:
        """End the body. Raises `BodyFailedError` when a declared content-length was not met."""
        ...

    def abort(self) -> None:
        """End the body as broken: the peer must see an incomplete message."""
        ...

    def watch(self, wakeup: Wakeup | None) -> None:
        """Name the wakeup to set on every change of state."""
        ...


@dataclass(frozen=True, slots=True)
class IncomingRequest:
    """One request as the component sees it; Spin's own headers are already added."""

    method: str
    scheme: str
    authority: str
    path_with_query: str
    headers: Headers
    body: BodyReader


class ResponseSink(Protocol):
    """Where the guest's answer goes. Exactly one of `start` and `fail` is called, once."""

    def start(self, status: int, headers: Headers) -> BodyWriter:
        """Send the head (the transport may hold it until the first byte) and open the body."""
        ...

    def fail(self, error: BaseException) -> None:
        """The guest gave no answer (trap, limit, error code): the client gets Spin's 500."""
        ...

    def client_gone(self) -> bool:
        """True once the client has disconnected."""
        ...


@dataclass(frozen=True, slots=True)
class OutboundRequest:
    """One outbound call. Timeouts in seconds; None means the host's default (600 s)."""

    method: str
    scheme: str
    authority: str
    path_with_query: str
    headers: Headers
    connect_timeout_s: float | None = None
    first_byte_timeout_s: float | None = None
    between_bytes_timeout_s: float | None = None


class OutboundError(HostError):
    """An outbound call failed.

    Attributes:
        wasi_code: Case name of `wasi:http/types.error-code`, e.g. ``connection-refused``.
        wasi_payload: Payload of that case where it has one (for ``internal-error`` a string).
    """

    code = "outbound_failed"

    def __init__(self, message: str, wasi_code: str, wasi_payload: object = None) -> None:
        super().__init__(message)
        self.wasi_code = wasi_code
        self.wasi_payload = wasi_payload


@dataclass(frozen=True, slots=True)
class OutboundResponse:
    """Head of an upstream's answer, with its body still arriving."""

    status: int
    headers: Headers
    body: BodyReader


class PendingResponse(Protocol):
    """An outbound call under way. The request body is written while this is pending."""

    @property
    def body(self) -> BodyWriter:
        """The request body; `finish` it, even when there is none."""
        ...

    def ready(self) -> bool:
        """True when `result` would return or raise."""
        ...

    def result(self) -> OutboundResponse:
        """The head of the answer. Raises `OutboundError`."""
        ...

    def watch(self, wakeup: Wakeup | None) -> None:
        """Name the wakeup to set on every change of state."""
        ...

    def cancel(self) -> None:
        """Drop the call and its connection."""
        ...


class OutboundHttp(Protocol):
    """The outbound HTTP client, shared by all instances. Callable from any thread."""

    def send(self, request: OutboundRequest) -> PendingResponse:
        """Start a call whose permission has been checked. Never raises; failures go to `result`."""
        ...


class OutboundPolicy(Protocol):
    """`allowed_outbound_hosts` of one component, resolved when the app was configured."""

    def check(self, scheme: str, authority: str) -> str | None:
        """None when allowed, else Spin's own error text."""
        ...


class Store(Protocol):
    """One key-value store. Safe to call from any thread; every call has a deadline.

    Raises:
        StoreError: From every method, when the store cannot serve (`edgehost.keyvalue`).
    """

    def get(self, key: str) -> bytes | None:
        """The value, or None when absent."""
        ...

    def set(self, key: str, value: bytes) -> None:
        """Store `value`, replacing what was there."""
        ...

    def delete(self, key: str) -> None:
        """Remove `key`; absent is fine."""
        ...

    def exists(self, key: str) -> bool:
        """True when `key` holds a value."""
        ...

    def get_keys(self) -> list[str]:
        """Every key; cost grows with the store."""
        ...

    def get_many(self, keys: Sequence[str]) -> list[tuple[str, bytes | None]]:
        """Values in the order of `keys`."""
        ...

    def set_many(self, items: Sequence[tuple[str, bytes]]) -> None:
        """Store all items."""
        ...

    def delete_many(self, keys: Sequence[str]) -> None:
        """Remove all keys; absent ones are fine."""
        ...

    def increment(self, key: str, delta: int) -> int:
        """Add `delta` to the integer at `key` (absent counts as 0) atomically; the new value."""
        ...

    def compare_and_swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        """Set `key` when it still holds `expected` (None: absent); True when set."""
        ...


class StoreProvider(Protocol):
    """Opens stores by label; one per app."""

    def open(self, label: str) -> Store:
        """The store behind `label`. Raises `StoreError` for a label the app does not define."""
        ...


@dataclass(frozen=True, slots=True)
class InstanceLimits:
    """What one instance may use."""

    memory_bytes: int | None = None
    """Linear memory; None leaves Wasm's own 4 GiB."""
    request_timeout_s: float = 30.0
    """Wall clock from the call of the handler to its return."""


@dataclass(frozen=True, slots=True)
class ComponentSpec:
    """All that an instance of one component needs, resolved and checked when the app starts."""

    id: str
    source: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    key_value_stores: frozenset[str] = frozenset()
    stores: StoreProvider | None = None
    outbound: OutboundPolicy | None = None
    limits: InstanceLimits = field(default_factory=InstanceLimits)
