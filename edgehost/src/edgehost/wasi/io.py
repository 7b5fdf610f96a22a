"""wasi:io — streams, pollables and errors.

Streams never block by themselves; the `blocking-` calls and `poll` wait in `Guest.wait`, whose
deadline ends them. One call moves at most `MAX_CHUNK_BYTES`: a `list<u8>` costs the host some 70
bytes per byte while it is converted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edgehost.abi.guest import Guest
from edgehost.abi.interfaces import HostInterface
from edgehost.abi.resources import Resource
from edgehost.abi.values import ErrorResult
from edgehost.errors import GuestTrapError

__all__ = [
    "CLOSED",
    "INTERFACES",
    "InputStream",
    "IoError",
    "OutputStream",
    "Pollable",
    "stream_failed",
]

MAX_CHUNK_BYTES: Final = 64 * 1024
MAX_BLOCKING_WRITE_BYTES: Final = 4096
CLOSED: Final = "closed"
"""The `stream-error` case for a stream that has ended."""


class IoError(Resource):
    """`wasi:io/error`: why a stream operation failed.

    Attributes:
        http_code: `wasi:http/types.error-code` value, where the stream is an HTTP body.
    """

    __slots__ = ("http_code", "message")

    def __init__(self, message: str, http_code: object = None) -> None:
        super().__init__()
        self.message = message
        self.http_code = http_code


def stream_failed(message: str, http_code: object = None) -> ErrorResult:
    """Return the exception for `stream-error.last-operation-failed`."""
    return ErrorResult(("last-operation-failed", IoError(message, http_code)))


class Pollable(Resource):
    """Something a guest can wait for: a condition or a time.

    Args:
        ready: True once the wait is over.
        at: Moment on the guest's clock, for timers; infinity for everything else.
        parent: What the pollable watches; it must outlive it.
    """

    __slots__ = ("at", "ready")

    def __init__(
        self,
        ready: Callable[[], bool],
        at: float = float("inf"),
        parent: Resource | None = None,
    ) -> None:
        super().__init__(parent)
        self.ready = ready
        self.at = at


class InputStream(Resource):
    """A source of bytes that is always at its end; subclasses have more to give."""

    __slots__ = ()

    def ready(self) -> bool:
        """True when `read` would return bytes or raise."""
        return True

    def read(self, max_bytes: int) -> bytes:
        """Return up to `max_bytes`, empty when nothing is there yet.

        Raises:
            ErrorResult: ``closed`` at the end, ``last-operation-failed`` when the source broke.
        """
        del max_bytes
        raise ErrorResult(CLOSED)


class OutputStream(Resource):
    """A sink that takes and forgets everything; subclasses pass it on."""

    __slots__ = ()

    def ready(self) -> bool:
        """True when `check_write` would return more than 0 or raise."""
        return True

    def check_write(self) -> int:
        """Bytes that `write` takes now. Raises `ErrorResult` as `write` does."""
        return MAX_CHUNK_BYTES

    def write(self, data: bytes) -> None:
        """Take `data`, no more than `check_write` allowed.

        Raises:
            ErrorResult: ``closed``, or ``last-operation-failed`` when the sink broke.
            GuestTrapError: More than was allowed.
        """

    def flush(self) -> None:
        """Pass on what was written. Raises `ErrorResult` as `write` does."""


# --- wasi:io/error --------------------------------------------------------------------------------

error = HostInterface("wasi:io/error@0.2")


@error.function("[method]error.to-debug-string")
def to_debug_string(_guest: Guest, io_error: IoError) -> str:
    """The text for developers."""
    return io_error.message


# --- wasi:io/poll ---------------------------------------------------------------------------------

poll = HostInterface("wasi:io/poll@0.2")


@poll.function("[method]pollable.ready")
def pollable_ready(guest: Guest, pollable: Pollable) -> bool:
    """True when the wait is over; returns at once."""
    guest.check_limits()  # a guest that spins on this never comes back to Wasm's epoch check
    return pollable.ready()


@poll.function("[method]pollable.block")
def pollable_block(guest: Guest, pollable: Pollable) -> None:
    """Wait for one pollable."""
    guest.wait(pollable.ready, pollable.at)


@poll.function("poll")
def poll_many(guest: Guest, pollables: list[Pollable]) -> list[int]:
    """Wait until at least one is ready; the indices of all that are."""
    if not pollables:
        raise GuestTrapError("empty poll list")
    ready: list[int] = []

    def any_ready() -> bool:
        ready[:] = [index for index, pollable in enumerate(pollables) if pollable.ready()]
        return bool(ready)

    while not ready:
        guest.wait(any_ready, min(pollable.at for pollable in pollables))
        if not ready:  # a timer woke us; its own clock decides
            any_ready()
    return ready


# --- wasi:io/streams: input -----------------------------------------------------------------------

streams = HostInterface("wasi:io/streams@0.2")


def _blocking_read(guest: Guest, stream: InputStream, length: int) -> bytes:
    while True:
        data = stream.read(min(length, MAX_CHUNK_BYTES))
        if data or length == 0:
            return data
        guest.wait(stream.ready)


@streams.function("[method]input-stream.read")
def input_read(_guest: Guest, stream: InputStream, length: int) -> bytes:
    """Up to `length` bytes that are there now."""
    return stream.read(min(length, MAX_CHUNK_BYTES))


@streams.function("[method]input-stream.blocking-read")
def input_blocking_read(guest: Guest, stream: InputStream, length: int) -> bytes:
    """Up to `length` bytes, at least one."""
    return _blocking_read(guest, stream, length)


@streams.function("[method]input-stream.skip")
def input_skip(_guest: Guest, stream: InputStream, length: int) -> int:
    """Discard up to `length` bytes that are there now."""
    return len(stream.read(min(length, MAX_CHUNK_BYTES)))


@streams.function("[method]input-stream.blocking-skip")
def input_blocking_skip(guest: Guest, stream: InputStream, length: int) -> int:
    """Discard up to `length` bytes, at least one."""
    return len(_blocking_read(guest, stream, length))


@streams.function("[method]input-stream.subscribe")
def input_subscribe(_guest: Guest, stream: InputStream) -> Pollable:
    """Ready when `read` would return bytes or an error."""
    return Pollable(stream.ready, parent=stream)


# --- wasi:io/streams: output ----------------------------------------------------------------------


def _blocking_write(guest: Guest, stream: OutputStream, data: bytes) -> None:
    view = memoryview(data)
    while view:
        allowed = stream.check_write()
        if allowed:
            stream.write(bytes(view[:allowed]))
            view = view[allowed:]
        else:
            guest.wait(stream.ready)
    _blocking_flush(guest, stream)


def _blocking_flush(guest: Guest, stream: OutputStream) -> None:
    stream.flush()
    while not stream.check_write():
        guest.wait(stream.ready)


def _check_blocking_size(function: str, size: int) -> None:
    if size > MAX_BLOCKING_WRITE_BYTES:
        raise GuestTrapError(
            f"Buffer too large for {function} (expected at most {MAX_BLOCKING_WRITE_BYTES})"
        )


@streams.function("[method]output-stream.check-write")
def output_check_write(_guest: Guest, stream: OutputStream) -> int:
    """Bytes that may be written now."""
    return stream.check_write()


@streams.function("[method]output-stream.write")
def output_write(_guest: Guest, stream: OutputStream, contents: bytes) -> None:
    """Write what `check-write` allowed."""
    stream.write(contents)


@streams.function("[method]output-stream.blocking-write-and-flush")
def output_blocking_write_and_flush(guest: Guest, stream: OutputStream, contents: bytes) -> None:
    """Write up to 4096 bytes and wait until the stream takes more."""
    _check_blocking_size("blocking-write-and-flush", len(contents))
    _blocking_write(guest, stream, contents)


@streams.function("[method]output-stream.flush")
def output_flush(_guest: Guest, stream: OutputStream) -> None:
    """Start passing on what was written."""
    stream.flush()


@streams.function("[method]output-stream.blocking-flush")
def output_blocking_flush(guest: Guest, stream: OutputStream) -> None:
    """Pass on what was written and wait until the stream takes more."""
    _blocking_flush(guest, stream)


@streams.function("[method]output-stream.subscribe")
def output_subscribe(_guest: Guest, stream: OutputStream) -> Pollable:
    """Ready when `check-write` would allow a write or return an error."""
    return Pollable(stream.ready, parent=stream)


@streams.function("[method]output-stream.write-zeroes")
def output_write_zeroes(_guest: Guest, stream: OutputStream, length: int) -> None:
    """Write `length` zero bytes that `check-write` allowed."""
    if length > stream.check_write():
        raise GuestTrapError("write exceeded budget")
    stream.write(bytes(length))


@streams.function("[method]output-stream.blocking-write-zeroes-and-flush")
def output_blocking_write_zeroes(guest: Guest, stream: OutputStream, length: int) -> None:
    """Write up to 4096 zero bytes and wait until the stream takes more."""
    _check_blocking_size("blocking-write-zeroes-and-flush", length)
    _blocking_write(guest, stream, bytes(length))


@streams.function("[method]output-stream.splice")
def output_splice(_guest: Guest, stream: OutputStream, source: InputStream, length: int) -> int:
    """Move up to `length` bytes that are there now; how many were moved."""
    allowed = min(length, stream.check_write())
    data = source.read(min(allowed, MAX_CHUNK_BYTES)) if allowed else b""
    if data:
        stream.write(data)
    return len(data)


@streams.function("[method]output-stream.blocking-splice")
def output_blocking_splice(
    guest: Guest, stream: OutputStream, source: InputStream, length: int
) -> int:
    """Move up to `length` bytes, at least one; how many were moved."""
    while not (allowed := stream.check_write()):
        guest.wait(stream.ready)
    allowed = min(length, allowed)
    data = _blocking_read(guest, source, allowed) if allowed else b""
    if data:
        _blocking_write(guest, stream, data)
    return len(data)


INTERFACES = (error, poll, streams)
