"""A streamed answer under way: passed on as it comes, counted, and kept when it is complete."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from edgekit.chat.events import Usage
from edgekit.chat.streaming import StreamCodec, stream_answer
from edgekit.exchange import Exchange
from edgekit.inference.contract import Answer, Ended
from edgekit.ports import UpstreamResponse

__all__ = ["ArrivingAnswer", "Capture"]

BROKE_OFF = 502
"""Recorded of a stream that ended with an error after its head had said 200."""

CLIENT_LEFT = 499
"""Recorded of a stream that nobody read to its end; nginx's code, for want of a standard one."""


class Capture:
    """A copy of what a client gets, up to a size; beyond it there is none.

    Args:
        limit_bytes: Most that is held.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._chunks: list[bytes] = []
        self._size = 0
        self.usable = True

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self._chunks)

    @property
    def frames(self) -> tuple[int, ...]:
        """Sizes of the chunks."""
        return tuple(map(len, self._chunks))

    def add(self, chunk: bytes) -> None:
        """Note one chunk."""
        self._size += len(chunk)
        if self._size > self._limit_bytes:
            self.usable = False
            self._chunks.clear()
        if self.usable:
            self._chunks.append(chunk)


class ArrivingAnswer:
    """The body of one streamed answer. Implements `edgekit.inference.contract.Arriving`.

    Args:
        exchange: The request.
        upstream: The engine's answer, its body still arriving.
        codec: Makes the client's stream of it.
        head: What is known of the answer already.
        input_tokens: Estimate, for a stream that ends before its usage is told.
    """

    def __init__(
        self,
        exchange: Exchange,
        upstream: UpstreamResponse,
        codec: StreamCodec,
        head: Answer,
        *,
        input_tokens: int,
    ) -> None:
        self._exchange = exchange
        self._upstream = upstream
        self._codec = codec
        self._head = head
        self._input_tokens = input_tokens
        self._capture = Capture(exchange.settings.policy.cache.max_entry_bytes)
        self._read_to_the_end = False

    def chunks(self) -> Iterator[bytes]:
        """The client's body, as it comes."""
        exchange = self._exchange
        stream = stream_answer(
            self._upstream,
            self._codec,
            log=exchange.log,
            check=partial(exchange.deadline.check, "receiving the answer"),
        )
        with contextlib.closing(stream):
            for chunk in stream:
                self._capture.add(chunk)
                yield chunk
        self._read_to_the_end = True

    def ended(self) -> Ended:
        """What became of it; of a stream cut short, as far as it came."""
        codec, usage = self._codec, self._codec.usage or self._estimate()
        status = None
        if not codec.complete:
            status = BROKE_OFF if self._read_to_the_end else CLIENT_LEFT
        return Ended(usage.total_tokens, usage.completion_tokens, status, self._whole())

    def _estimate(self) -> Usage:
        return Usage(self._input_tokens, self._codec.pieces)

    def _whole(self) -> Answer | None:
        if not (self._codec.complete and self._capture.usable):
            return None
        return replace(self._head, body=self._capture.body, frames=self._capture.frames)
