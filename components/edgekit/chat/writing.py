"""What every writer of answers knows, and the codec that joins a reader to one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from edgekit.chat.events import Delta, Event, Finish, ToolCallDelta, Usage
from edgekit.errors import EdgeError
from edgekit.ports import UpstreamError

__all__ = ["AnswerFrame", "Reader", "Transcript", "Translator", "Writer", "compact"]

MAX_ARGUMENTS_BYTES = 1 << 20
"""Of all tool calls of one answer, where they have to be collected."""


@dataclass(frozen=True, slots=True)
class AnswerFrame:
    """What an answer says besides what the model wrote.

    Attributes:
        model: As the client named it.
        identifier: Unique; writers put their prefix before it.
        created_s: Wall time of the answer's begin.
        elapsed_ns: Nanoseconds since the request was accepted.
    """

    model: str
    identifier: str
    created_s: float
    elapsed_ns: Callable[[], int]


class Reader(Protocol):
    """Makes events from an upstream's bytes."""

    ended: bool

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Events that `chunk` completes. Raises `UpstreamError`."""
        ...

    def finish(self) -> Iterator[Event]:
        """Events of what is left at the end of the stream. Raises `UpstreamError`."""
        ...

    def whole(self, body: bytes) -> list[Event]:
        """Events of an answer that was not streamed. Raises `UpstreamError`."""
        ...


class Writer(Protocol):
    """Makes the client's bytes from events; one answer each."""

    def begin(self) -> bytes:
        """What comes before anything has been generated."""
        ...

    def write(self, event: Event) -> bytes:
        """What the client gets for `event`; may be empty."""
        ...

    def end(self) -> bytes:
        """What comes after the last event: the terminal one."""
        ...

    def fail(self, error: EdgeError) -> bytes:
        """What the client gets instead of the rest."""
        ...

    def whole(self, transcript: Transcript) -> bytes:
        """The answer in one piece."""
        ...


class Translator:
    """`StreamCodec` that reads one protocol and writes another."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self.usage: Usage | None = None
        self.pieces = 0
        self.ended = False
        self.complete = False
        self.fault: UpstreamError | None = None
        self._reader = reader
        self._writer = writer
        self._begun = False

    def feed(self, chunk: bytes) -> bytes:
        """What the client gets for `chunk`."""
        return self._write(self._reader.feed(chunk))

    def finish(self) -> bytes:
        """What is left when the upstream has ended its stream."""
        return self._write(self._reader.finish())

    def fail(self, error: EdgeError) -> bytes:
        """The client's form of an error in mid-stream."""
        return self._begin() + self._writer.fail(error)

    def _begin(self) -> bytes:
        begun, self._begun = self._begun, True
        return b"" if begun else self._writer.begin()

    def _write(self, events: Iterator[Event]) -> bytes:
        written: list[bytes] = []
        try:
            for event in events:
                if isinstance(event, Usage):
                    self.usage = event
                elif isinstance(event, Delta):
                    self.pieces += 1
                written += (self._begin(), self._writer.write(event))
        except UpstreamError as error:
            self.fault = error
            return b"".join(written)
        if self._reader.ended and not self.ended:
            self.ended = self.complete = True
            written += (self._begin(), self._writer.end())
        return b"".join(written)


class Transcript:
    """A whole answer, put together from its events."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.finish = ""
        self.usage = Usage()
        self.logprobs: list[object] = []
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, list[ToolCallDelta]] = {}
        self._arguments_bytes = 0
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Append `event`. Raises `UpstreamError` for tool calls without measure."""
        if isinstance(event, Finish):
            self.finish = event.reason
        elif isinstance(event, Usage):
            self.usage = event
        else:
            self._texts.append(event.text)
            self._reasoning.append(event.reasoning)
            self.logprobs += event.logprobs
            for call in event.tool_calls:
                self._add_call(call)

    @property
    def text(self) -> str:
        """All that was generated."""
        return "".join(self._texts)

    @property
    def reasoning(self) -> str:
        """All that was thought."""
        return "".join(self._reasoning)

    @property
    def tool_calls(self) -> list[ToolCallDelta]:
        """The calls in order, each in one piece."""
        return [
            ToolCallDelta(
                index,
                next((part.id for part in parts if part.id), ""),
                next((part.name for part in parts if part.name), ""),
                "".join(part.arguments for part in parts),
            )
            for index, parts in sorted(self._calls.items())
        ]

    def _add_call(self, call: ToolCallDelta) -> None:
        self._arguments_bytes += len(call.arguments) + 1
        if self._arguments_bytes > MAX_ARGUMENTS_BYTES:
            raise UpstreamError(f"tool calls of more than {MAX_ARGUMENTS_BYTES} bytes")
        self._calls.setdefault(call.index, []).append(call)


def compact(document: object) -> bytes:
    """JSON on one line, characters as they are."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "replace"
    )
