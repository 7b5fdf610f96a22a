"""Bodies in both directions.

An outgoing body exists before its message is sent: a guest may write first and call
`response-outparam.set` or `outgoing-handler.handle` later. Until then up to `MAX_HELD_BYTES` are
held here; then the body is attached to a writer of the network layer and passes everything on.

A body is *finished* or *aborted*, never both and once. Dropping it unfinished aborts it, so that
the peer sees an incomplete message instead of a short one.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from edgehost.abi.guest import Guest
from edgehost.abi.resources import Resource
from edgehost.abi.values import Err, ErrorResult, Ok
from edgehost.errors import GuestTrapError
from edgehost.ports import (
    BodyEndedError,
    BodyFailedError,
    BodyReader,
    BodyWriter,
    Headers,
    Wakeup,
)
from edgehost.wasi.http.errors import ErrorCode, error_code, from_body_failure
from edgehost.wasi.http.fields import Fields
from edgehost.wasi.io import CLOSED, MAX_CHUNK_BYTES, InputStream, OutputStream, stream_failed

__all__ = ["FutureTrailers", "IncomingBody", "OutgoingBody"]

MAX_HELD_BYTES: Final = 256 * 1024


class _State(Enum):
    OPEN = "open"
    FINISHED = "finished"
    ABORTED = "aborted"


class OutgoingBody(Resource):
    """The body of a response, or of an outbound request, as the guest writes it.

    Args:
        size_error_case: The `error-code` case for a body that breaks its content-length.
        expected_bytes: Content-length of the message; None when it has none.
    """

    __slots__ = (
        "_expected_bytes",
        "_held",
        "_size_error_case",
        "_state",
        "_stream_taken",
        "_trailers",
        "_writer",
        "_written_bytes",
    )

    def __init__(self, size_error_case: str, expected_bytes: int | None) -> None:
        super().__init__()
        self._size_error_case = size_error_case
        self._expected_bytes = expected_bytes
        self._written_bytes = 0
        self._held = bytearray()
        self._writer: BodyWriter | None = None
        self._state = _State.OPEN
        self._trailers: Headers | None = None
        self._stream_taken = False

    def take_stream(self) -> OutputStream:
        """Return the one stream of this body. Raises `ErrorResult` the second time."""
        if self._stream_taken:
            raise ErrorResult
        self._stream_taken = True
        return _OutgoingStream(self)

    def waive_length(self) -> None:
        """The message has no body on the wire, whatever length it states (RFC 9110, 8.6)."""
        self._expected_bytes = None

    def attach(self, guest: Guest, writer: BodyWriter) -> None:
        """Pass on what was written so far, and from now on everything.

        Waits while the transport does not take what is held here.
        """
        self._writer = writer
        writer.watch(guest.wakeup)
        try:
            while self._held:
                room = writer.capacity()
                if room:
                    writer.write(bytes(self._held[:room]))
                    del self._held[:room]
                else:
                    guest.wait(lambda: _has_capacity(writer))
        except BodyFailedError:
            self._held.clear()  # the guest learns of it from its next call on the stream
        if self._state is _State.FINISHED:
            self._finish_writer(writer)
        elif self._state is _State.ABORTED:
            writer.abort()

    def discard(self) -> None:
        """The message will never be sent: its stream is closed, and finishing it has no effect."""
        if self._writer is None:
            self._writer = _Nobody()
            self._held.clear()

    def capacity(self) -> int:
        """Bytes that may be written now."""
        if self._state is not _State.OPEN:
            raise ErrorResult(CLOSED)
        writer = self._writer
        if writer is None:
            return min(MAX_HELD_BYTES - len(self._held), MAX_CHUNK_BYTES)
        try:
            return min(writer.capacity(), MAX_CHUNK_BYTES)
        except BodyFailedError:
            raise ErrorResult(CLOSED) from None

    def ready(self) -> bool:
        """True when `capacity` would return more than 0 or raise."""
        try:
            return self.capacity() > 0
        except ErrorResult:
            return True

    def write(self, data: bytes) -> None:
        """Pass `data` on or hold it. Raises as `OutputStream.write` does."""
        if len(data) > self.capacity():
            raise GuestTrapError("write exceeded budget")
        self._written_bytes += len(data)
        if self._expected_bytes is not None and self._written_bytes > self._expected_bytes:
            code = self._size_error()
            raise stream_failed(f"body is longer than its content-length: {code}", code)
        writer = self._writer
        if writer is None:
            self._held += data
        elif data:
            try:
                writer.write(data)
            except BodyFailedError:
                raise ErrorResult(CLOSED) from None

    def finish(self, trailers: Headers | None) -> None:
        """End the body.

        Raises:
            ErrorResult: Its length is not its content-length; the peer sees a broken message.
        """
        if self._expected_bytes is not None and self._written_bytes != self._expected_bytes:
            self.drop()
            raise ErrorResult(self._size_error())
        self._state = _State.FINISHED
        self._trailers = trailers
        if self._writer is not None:
            self._finish_writer(self._writer)

    def drop(self) -> None:
        """Abort the body unless it was finished."""
        if self._state is _State.OPEN:
            self._state = _State.ABORTED
            if self._writer is not None:
                self._writer.abort()

    def _finish_writer(self, writer: BodyWriter) -> None:
        try:
            writer.finish(self._trailers)
        except BodyFailedError:
            writer.abort()  # the peer is gone or the message broke; nobody is left to tell

    def _size_error(self) -> ErrorCode:
        return error_code(self._size_error_case, self._written_bytes)


def _has_capacity(writer: BodyWriter) -> bool:
    try:
        return writer.capacity() > 0
    except BodyFailedError:
        return True


class _Nobody:
    """The reader of a message that was not sent."""

    def capacity(self) -> int:
        raise BodyFailedError("the message was not sent")

    def write(self, data: bytes) -> None:
        del data
        raise BodyFailedError("the message was not sent")

    def flushed(self) -> bool:
        return True

    def finish(self, trailers: Headers | None = None) -> None:
        pass

    def abort(self) -> None:
        pass

    def watch(self, wakeup: Wakeup | None) -> None:
        pass


class _OutgoingStream(OutputStream):
    __slots__ = ("_body",)

    def __init__(self, body: OutgoingBody) -> None:
        super().__init__(parent=body)
        self._body = body

    def ready(self) -> bool:
        return self._body.ready()

    def check_write(self) -> int:
        return self._body.capacity()

    def write(self, data: bytes) -> None:
        self._body.write(data)

    def flush(self) -> None:
        self._body.capacity()  # raises when the peer is gone; bytes never wait here


class IncomingBody(Resource):
    """The body of a request, or of an outbound call's response, as the guest reads it."""

    __slots__ = ("_reader", "_stream_taken")

    def __init__(self, guest: Guest, reader: BodyReader) -> None:
        super().__init__()
        self._reader: BodyReader | None = reader
        self._stream_taken = False
        reader.watch(guest.wakeup)

    def take_stream(self) -> InputStream:
        """Return the one stream of this body. Raises `ErrorResult` the second time."""
        if self._stream_taken or self._reader is None:
            raise ErrorResult
        self._stream_taken = True
        return _IncomingStream(self, self._reader)

    def into_trailers(self) -> FutureTrailers:
        """Give the body up for its trailers; what is left of it will be read and discarded."""
        reader, self._reader = self._reader, None
        if reader is None:
            raise GuestTrapError("the body was finished before")
        return FutureTrailers(reader)

    def drop(self) -> None:
        """Stop reading."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()


class _IncomingStream(InputStream):
    __slots__ = ("_ended", "_reader")

    def __init__(self, body: IncomingBody, reader: BodyReader) -> None:
        super().__init__(parent=body)
        self._reader = reader
        self._ended = False

    def ready(self) -> bool:
        return self._ended or self._reader.ready()

    def read(self, max_bytes: int) -> bytes:
        if self._ended:
            raise ErrorResult(CLOSED)
        if max_bytes == 0:
            return b""
        try:
            return self._reader.read(max_bytes)
        except BodyEndedError:
            self._ended = True
            raise ErrorResult(CLOSED) from None
        except BodyFailedError as error:
            self._ended = True
            raise stream_failed(str(error), from_body_failure(error)) from error


class FutureTrailers(Resource):
    """The trailers of an incoming body, once it has been read to its end."""

    __slots__ = ("_consumed", "_outcome", "_reader")

    def __init__(self, reader: BodyReader) -> None:
        super().__init__()
        self._reader: BodyReader | None = reader
        self._outcome: Ok | Err | None = None
        self._consumed = False

    def ready(self) -> bool:
        """Discard what has arrived; True once the end was seen."""
        reader = self._reader
        if reader is None or self._outcome is not None:
            return True
        try:
            while reader.read(MAX_CHUNK_BYTES):
                pass
        except BodyEndedError:
            trailers = reader.trailers()
            self._outcome = Ok(Fields.received(trailers) if trailers else None)
        except BodyFailedError as error:
            self._outcome = Err(from_body_failure(error))
        return self._outcome is not None

    def get(self) -> Ok | Err | None:
        """`None` while pending, then the outcome once, then an error."""
        if self._consumed:
            return Err()
        if not self.ready():
            return None
        self._consumed = True
        return Ok(self._outcome)

    def drop(self) -> None:
        """Stop reading."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
