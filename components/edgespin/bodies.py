"""Bodies between host and guest: read, written, or spliced past the guest.

A byte that enters the guest and leaves it again costs tens of nanoseconds, 10 ms for 200 KB; a
spliced one costs the host alone. So a relayed body is only read where somebody looks at it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from spin_sdk.wit.imports.streams import InputStream, OutputStream, StreamError_Closed
from spin_sdk.wit.imports.types import IncomingBody, IncomingRequest, IncomingResponse
from spin_sdk.wit.types import Err

from edgekit.http import Body
from edgekit.ports import UpstreamTimeoutError

__all__ = ["HostBody", "write_all", "write_body"]

READ_SIZE = 256 * 1024
SPLICE_SIZE = 1 << 20

MAX_BLOCKING_WRITE = 4096
"""Most bytes that `blocking-write-and-flush` takes; more traps."""


class HostBody(Iterator[bytes]):
    """A body that arrives at the host; the transfer starts with the first use.

    Args:
        message: The request or response it belongs to.
        failure: Makes the exception from the stream error of a transfer that broke off.
        total_s: Seconds from now in which all of it has to arrive.
    """

    def __init__(
        self,
        message: IncomingRequest | IncomingResponse,
        failure: Callable[[object], Exception],
        total_s: float = math.inf,
    ) -> None:
        self._message = message
        self._failure = failure
        self._body: IncomingBody | None = None
        self._stream: InputStream | None = None
        self._closed = False
        # Asking the clock is a call to the host: not for a body that may take any time.
        self._ends_s = math.inf if total_s == math.inf else time.monotonic() + total_s

    def __next__(self) -> bytes:
        while not self._closed:
            self._check_time()
            try:
                chunk = self._open().blocking_read(READ_SIZE)
            except Err as error:
                self._end(error)
                break
            if chunk:
                return chunk
        raise StopIteration

    def splice_into(self, sink: OutputStream) -> None:
        """Move the rest of the body into `sink`, as it arrives.

        Raises:
            Err: The receiver behind `sink` has gone.
            UpstreamTimeoutError: Its time is over.
            Exception: What `failure` makes, when the sender broke off.
        """
        while not self._closed:
            self._check_time()
            try:
                sink.blocking_splice(self._open(), SPLICE_SIZE)
            except Err as error:
                sink.check_write()  # raises when it was the sink that ended
                self._end(error)

    def close(self) -> None:
        """Give connection and buffers back; what has not arrived is dropped."""
        if self._closed:
            return
        self._closed = True
        # Children before parents: the reverse traps.
        for resource in (self._stream, self._body, self._message):
            if resource is not None:
                resource.__exit__(None, None, None)

    def __del__(self) -> None:
        # Finalizers of the resources themselves would run in any order, and the wrong one traps.
        self.close()

    def _check_time(self) -> None:
        if self._ends_s < math.inf and time.monotonic() >= self._ends_s:
            self.close()
            raise UpstreamTimeoutError("the body took too long as a whole")

    def _open(self) -> InputStream:
        if self._stream is None:
            self._body = self._message.consume()
            self._stream = self._body.stream()
        return self._stream

    def _end(self, error: Err[object]) -> None:
        try:
            if not isinstance(error.value, StreamError_Closed):
                raise self._failure(error.value) from error
        finally:
            self.close()


def write_body(sink: OutputStream, body: Body) -> None:
    """All of `body` has been handed to the transport, each chunk as it came.

    Raises:
        Err: The receiver has gone.
        Exception: What the body itself raises.
    """
    if isinstance(body, bytes):
        write_all(sink, body)
    elif isinstance(body, HostBody):
        body.splice_into(sink)
    else:
        for chunk in body:
            write_all(sink, chunk)


def write_all(sink: OutputStream, data: bytes) -> None:
    """All of `data` has been handed to the transport.

    Raises:
        Err: The receiver has gone (`StreamError_Closed` or `StreamError_LastOperationFailed`).
    """
    if not data:
        return
    if len(data) <= MAX_BLOCKING_WRITE:
        sink.blocking_write_and_flush(data)
        return
    view = memoryview(data)
    offset = 0
    with sink.subscribe() as writable:
        while offset < len(data):
            room = sink.check_write()
            if room == 0:
                writable.block()
                continue
            sink.write(bytes(view[offset : offset + room]))
            offset += room
    sink.blocking_flush()
