"""A streamed answer on its way through the edge: as it comes, and never cut without saying so.

A codec sees the upstream's bytes and gives the client's. Only whole events leave, so whatever
happens upstream, what the client has read so far is well-formed and the last thing it reads is
either the terminal event or an error. Nothing is buffered beyond the event that is arriving: the
client's pace is the upstream's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Protocol

from edgekit.chat.events import Usage
from edgekit.errors import DeadlineExceededError, EdgeError, UpstreamUnavailableError
from edgekit.ports import UpstreamError, UpstreamResponse, UpstreamTimeoutError

__all__ = ["StreamCodec", "stream_answer"]

DRAIN_BYTES = 65_536
"""Read after the terminal event, so that the connection can be used again; it is a few bytes."""


class StreamCodec(Protocol):
    """Turns an upstream's stream into the client's.

    Attributes:
        usage: Model tokens, once the upstream has told.
        pieces: Deltas so far; close to the number of tokens, where no usage is told.
        ended: Nothing more will come: the terminal event or the upstream's own error has passed.
        complete: It was the terminal event.
        fault: Why what came last is no answer; what came before it has been given.
    """

    usage: Usage | None
    pieces: int
    ended: bool
    complete: bool
    fault: UpstreamError | None

    def feed(self, chunk: bytes) -> bytes:
        """What the client gets for `chunk`; may be empty."""
        ...

    def finish(self) -> bytes:
        """What is left when the upstream has ended its stream."""
        ...

    def fail(self, error: EdgeError) -> bytes:
        """What the client gets instead of the rest."""
        ...


def stream_answer(
    upstream: UpstreamResponse,
    codec: StreamCodec,
    *,
    log: Callable[[str], None],
    check: Callable[[], None],
) -> Generator[bytes, None, None]:
    """The client's body.

    Args:
        upstream: A successful answer, its body still arriving.
        codec: For this answer alone.
        log: Where the operator reads what broke.
        check: Raises `DeadlineExceededError` when the request's budget has run out.
    """
    try:
        yield from _forward(upstream, codec, check)
    except UpstreamTimeoutError as error:
        log(f"the streamed answer stalled: {error}")
        yield codec.fail(DeadlineExceededError("the model stopped answering in time"))
    except UpstreamError as error:
        log(f"the streamed answer broke off: {error}")
        yield codec.fail(UpstreamUnavailableError(f"the answer broke off ({error})"))
    except EdgeError as error:
        yield codec.fail(error)
    finally:
        upstream.close()


def _forward(
    upstream: UpstreamResponse, codec: StreamCodec, check: Callable[[], None]
) -> Iterator[bytes]:
    for chunk in upstream.chunks:
        check()
        data = codec.feed(chunk)
        if data:
            yield data
        if codec.ended or codec.fault is not None:
            break
    else:
        data = codec.finish()
        if data:
            yield data
    if codec.fault is not None:
        raise codec.fault
    if not codec.ended:
        raise UpstreamError("the stream ended without its terminal event")
    if codec.complete:
        _drain(upstream)


def _drain(upstream: UpstreamResponse) -> None:
    """Read the few bytes that end the transfer; what fails now matters to nobody."""
    left = DRAIN_BYTES
    try:
        for chunk in upstream.chunks:
            left -= len(chunk)
            if left < 0:
                return
    except UpstreamError:
        return
