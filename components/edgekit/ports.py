"""What the edge logic needs from the world, as protocols; `edgespin` and tests implement them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgekit.http import Body, Headers

__all__ = [
    "Clock",
    "HttpClient",
    "KeyValueStore",
    "Log",
    "RandomSource",
    "StoreUnavailableError",
    "Timeouts",
    "UpstreamError",
    "UpstreamRequest",
    "UpstreamResponse",
    "UpstreamTimeoutError",
    "Variables",
]


class StoreUnavailableError(Exception):
    """The key-value store cannot serve now; callers go on without it."""


class KeyValueStore(Protocol):
    """The default key-value store. Keys at most 255 bytes of UTF-8, values at most 1 MB.

    Every method may raise `StoreUnavailableError`. Each call costs one round trip, so the request
    path counts them. There is no listing of keys on purpose: its cost grows with the store.
    """

    def get(self, key: str) -> bytes | None:
        """The value, or None when absent."""
        ...

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Values in the order of `keys`, in one round trip."""
        ...

    def set(self, key: str, value: bytes) -> None:
        """Store `value`, replacing what was there."""
        ...

    def set_many(self, items: Sequence[tuple[str, bytes]]) -> None:
        """Store all items in one round trip; not atomic."""
        ...

    def delete(self, key: str) -> None:
        """Remove `key`; absent is fine."""
        ...

    def delete_many(self, keys: Sequence[str]) -> None:
        """Remove all keys in one round trip."""
        ...

    def increment(self, key: str, delta: int) -> int:
        """Add `delta` to the integer at `key` (absent counts as 0), atomically; the new value."""
        ...

    def compare_and_swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        """Set `key` when it still holds `expected` (None: absent); True when set."""
        ...


class Clock(Protocol):
    """Time. Wall time may jump; monotonic time is good within one request only."""

    def now_s(self) -> float:
        """Seconds since the Unix epoch."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start; never goes back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait, at most as long as the deadline in force allows."""
        ...


class RandomSource(Protocol):
    """Randomness for jitter, sampling and identifiers."""

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def token_bytes(self, count: int) -> bytes:
        """Cryptographically strong bytes."""
        ...


class Variables(Protocol):
    """Application variables as spin.toml declares them."""

    def get(self, name: str) -> str:
        """The value; empty when it is undefined."""
        ...


class Log(Protocol):
    """Diagnostics for the operator (standard error of the component)."""

    def __call__(self, message: str, /) -> None:
        """Write one line."""
        ...


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of one outbound call, in seconds.

    Attributes:
        total_s: Until the last byte: an upstream that drips keeps to all the others for ever.
    """

    connect_s: float
    first_byte_s: float
    between_bytes_s: float
    total_s: float = math.inf


@dataclass(slots=True)
class UpstreamRequest:
    """One outbound call.

    Attributes:
        url: Absolute URL.
        timeouts: Always given: no call waits without a deadline.
        body: Whole, or relayed as it arrives. A relayed one needs its Content-Length among the
            headers, and the call cannot be repeated.
    """

    method: str
    url: str
    timeouts: Timeouts
    headers: Headers = field(default_factory=Headers)
    body: Body = b""


@dataclass(slots=True)
class UpstreamResponse:
    """Head of an upstream's answer.

    Attributes:
        chunks: The body as it arrives; may raise `UpstreamError` between chunks. Closing the
            iterator cancels the transfer.
    """

    status: int
    headers: Headers
    chunks: Iterator[bytes]

    def read(self, limit_bytes: int) -> bytes:
        """The whole body.

        Raises:
            UpstreamError: The transfer broke, or the body exceeds `limit_bytes`.
        """
        parts: list[bytes] = []
        size = 0
        for chunk in self.chunks:
            size += len(chunk)
            if size > limit_bytes:
                self.close()
                raise UpstreamError(f"upstream body exceeds {limit_bytes} bytes")
            parts.append(chunk)
        return b"".join(parts)

    def close(self) -> None:
        """Cancel the transfer of what has not arrived."""
        close = getattr(self.chunks, "close", None)  # plain iterators hold nothing
        if close is not None:
            close()


class UpstreamError(Exception):
    """An outbound call failed: refused, reset, unresolvable, not allowed, malformed."""


class UpstreamTimeoutError(UpstreamError):
    """An outbound call ran past one of its timeouts."""


class HttpClient(Protocol):
    """Outbound HTTP."""

    def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """Send and wait for the head of the answer. Raises `UpstreamError`."""
        ...
