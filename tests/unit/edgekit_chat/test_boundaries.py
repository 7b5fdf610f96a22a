"""Streams cut at every byte: what the client gets does not depend on how the bytes fall."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgekit.chat.events import Usage
from edgekit.chat.streaming import StreamCodec, stream_answer
from edgekit.errors import EdgeError
from edgekit.http import Headers
from edgekit.ports import UpstreamError, UpstreamResponse
from fakes.chat_edge import MESSAGES, NativeChatEdge, events_of, lines_of
from fakes.llm_upstream import FakeEngine

Make = Callable[[], FakeEngine]

CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": MESSAGES, "stream": True}),
    "response": ("/v1/responses", {"input": "hi", "stream": True}),
    "ollama": ("/api/chat", {"messages": MESSAGES}),
}
WAYS = [(call, upstream) for call in CALLS for upstream in ("openai", "ollama")]
PIECES = ("Hé", "🌍")
"""Two and four bytes long in UTF-8; short, because every byte is tried."""


def ask(call: str, upstream: str, **changes: Any) -> bytes:
    edge = NativeChatEdge(FakeEngine(pieces=PIECES, **changes), chat_upstream=upstream)
    # Time stands still: times in the answers would differ with the number of chunks.
    edge.clock.tick_s = 0
    path, members = CALLS[call]
    answer = edge.post(path, {"model": "tiny", **members})
    assert (answer.status, answer.complete) == (200, True)
    return answer.body


def reply_size(call: str, upstream: str, **changes: Any) -> int:
    edge = NativeChatEdge(FakeEngine(pieces=PIECES, **changes), chat_upstream=upstream)
    path, members = CALLS[call]
    edge.post(path, {"model": "tiny", **members})
    received = edge.engine.received[-1]
    return len(edge.engine.answer("POST", received.target, [], received.body).body)


@pytest.mark.parametrize(("call", "upstream"), WAYS)
@pytest.mark.parametrize("crlf", [False, True])
@pytest.mark.parametrize("comments", [False, True])
def test_stream_in_chunks_of_any_size_gives_the_same_answer(
    call: str, upstream: str, crlf: bool, comments: bool
) -> None:
    framing = {"crlf": crlf, "comments": comments and upstream == "openai"}
    expected = ask(call, upstream, **framing)
    for size in (*range(1, 40), 1000):
        assert ask(call, upstream, split=size, **framing) == expected, size


@pytest.mark.parametrize(("call", "upstream"), WAYS)
@pytest.mark.parametrize("ending", ["cut", "end"])
def test_stream_broken_at_any_byte_ends_with_an_error(
    call: str, upstream: str, ending: str
) -> None:
    # The last blank line, or line end, may be missing from an answer that says it is complete.
    needless = 1 if upstream == "ollama" and ending == "end" else 0
    for position in range(reply_size(call, upstream) - needless):
        body = ask(call, upstream, **{ending: position})
        if call == "ollama":
            *lines, last = lines_of(body)
            assert "error" in last, position
            assert not any(line["done"] for line in lines), position
        else:
            *events, last = events_of(body)
            assert "error" in last, position
            assert "[DONE]" not in events, position
            assert not any(event.get("type") == "response.completed" for event in events)


class Recorder:
    """A codec that passes everything on and ends with `!`."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.pieces = 0
        self.ended = False
        self.complete = False
        self.fault: UpstreamError | None = None

    def feed(self, chunk: bytes) -> bytes:
        self.ended = self.complete = chunk.endswith(b"!")
        return chunk

    def finish(self) -> bytes:
        return b""

    def fail(self, error: EdgeError) -> bytes:
        return b"<failed>"


class Source:
    """Chunks that tell how many were taken, and whether they were closed."""

    def __init__(self, *chunks: bytes, broken: bool = False) -> None:
        self.chunks = list(chunks)
        self.broken = broken
        self.taken = 0
        self.closed = False

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> bytes:
        if self.taken < len(self.chunks):
            self.taken += 1
            return self.chunks[self.taken - 1]
        if self.broken:
            raise UpstreamError("reset")
        raise StopIteration

    def close(self) -> None:
        self.closed = True


def run(source: Source, codec: StreamCodec) -> Any:
    return stream_answer(
        UpstreamResponse(200, Headers(), source),
        codec,
        log=lambda _text: None,
        check=lambda: None,
    )


def test_stream_takes_a_chunk_only_when_the_client_has_taken_the_one_before() -> None:
    source = Source(b"a", b"b", b"c!")
    body = run(source, Recorder())
    for number in (1, 2, 3):
        next(body)
        assert source.taken == number


def test_stream_closed_by_a_client_that_left_frees_the_upstream() -> None:
    source = Source(b"a", b"b", b"c!")
    body = run(source, Recorder())
    assert next(body) == b"a"
    body.close()
    assert source.closed
    assert source.taken == 1


def test_stream_after_its_terminal_event_is_read_to_its_end() -> None:
    source = Source(b"a!", b"trailing")
    assert list(run(source, Recorder())) == [b"a!"]
    assert source.taken == 2
    assert source.closed


def test_stream_that_goes_on_after_its_terminal_event_is_given_up() -> None:
    source = Source(b"a!", *([b"x" * 1000] * 1000))
    assert list(run(source, Recorder())) == [b"a!"]
    assert source.taken < 70
    assert source.closed


def test_stream_that_breaks_after_its_terminal_event_is_complete() -> None:
    assert list(run(Source(b"a!", broken=True), Recorder())) == [b"a!"]


def test_stream_past_its_deadline_ends_with_an_error() -> None:
    edge = NativeChatEdge()
    edge.clock.tick_s = 0.5
    answer = edge.post(
        "/v1/chat/completions",
        {"model": "tiny", "messages": MESSAGES, "stream": True},
        {"inference-deadline-ms": "12000"},
    )
    *_events, last = events_of(answer.body)
    assert last["error"]["code"] == "deadline_exceeded"
    assert edge.client.closed == 1
