"""Streams through Wasm, on real sockets: when bytes leave, who waits, what a leaver costs."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

from build_components import Component
from fakes.chat_edge import MESSAGES, events_of
from fakes.http_peers import WAIT_S, wait_until
from fakes.llm_server import EngineServer, serve_engine
from fakes.llm_upstream import EngineReply, FakeEngine
from wasm import hosts
from wasm.hosts import HttpEdge

pytestmark = [
    pytest.mark.wasm,
    pytest.mark.skipif(
        not (Component("chat").wasm.exists() and Component("predict").wasm.exists()),
        reason="no build/chat.wasm: run `make build`",
    ),
]

CANCEL_LIMIT_S = 0.1
"""Time in which a generation that nobody waits for has to end."""

STILL_S = 1.0
"""An engine that has written nothing for so long is held back."""

STREAMS: dict[str, tuple[str, dict[str, Any], str]] = {
    "chat": ("/v1/chat/completions", {"messages": MESSAGES, "stream": True}, "openai"),
    "response": ("/v1/responses", {"input": "hi", "stream": True}, "openai"),
    "ollama": ("/api/chat", {"messages": MESSAGES}, "ollama"),
    "chat, translated": ("/v1/chat/completions", {"messages": MESSAGES, "stream": True}, "ollama"),
    "ollama, translated": ("/api/chat", {"messages": MESSAGES}, "openai"),
}


@pytest.fixture(scope="module")
def _server() -> Iterator[EngineServer]:
    with serve_engine(FakeEngine()) as server:
        yield server


@pytest.fixture(scope="module")
def edges(
    _server: EngineServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, HttpEdge]]:
    with contextlib.ExitStack() as stack:
        found = {}
        for upstream in ("openai", "ollama"):
            variables = {
                "chat_upstream": upstream,
                "chat_upstream_url": _server.url,
                "chat_cache_ttl_s": "0",
            }
            state = tmp_path_factory.mktemp("state")
            running = hosts.embedded(state, variables, threads=80)
            found[upstream] = stack.enter_context(running)
        yield found


@pytest.fixture
def server(_server: EngineServer) -> EngineServer:
    _server.reset()
    return _server


class RawStream:
    """A request whose answer is read byte by byte, as it comes."""

    def __init__(self, edge: HttpEdge, path: str, document: dict[str, Any]) -> None:
        address = urlsplit(edge.url)
        assert address.hostname is not None
        assert address.port is not None
        self.socket = socket.create_connection((address.hostname, address.port), WAIT_S)
        body = json.dumps({"model": "tiny", **document}).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: edge\r\ncontent-length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body)
        self.received = b""

    def read_until(self, text: bytes) -> None:
        while text not in self.received:
            data = self.socket.recv(65536)
            assert data, f"closed before {text!r}: {self.received[-300:]!r}"
            self.received += data

    def close(self) -> None:
        self.socket.close()


@pytest.fixture(params=STREAMS)
def stream(
    request: pytest.FixtureRequest, edges: dict[str, HttpEdge], server: EngineServer
) -> Iterator[RawStream]:
    """One of the ways a stream can take; the engine waits for permits between its tokens."""
    path, document, upstream = STREAMS[request.param]
    server.gate = threading.Semaphore(0)
    server.engine.pieces = tuple(f"<{number}>" for number in range(50))
    raw = RawStream(edges[upstream], path, document)
    yield raw
    raw.close()


def test_stream_each_token_is_out_before_the_engine_makes_the_next(
    stream: RawStream, server: EngineServer
) -> None:
    assert server.gate is not None
    server.gate.release(2)  # the event with the role, where there is one
    for number in range(10):
        stream.read_until(f"<{number}>".encode())
        # The engine has not written all: it waits for permits.
        assert server.streaming == 1
        server.gate.release()
    server.gate.release(1000)
    stream.read_until(b"0\r\n\r\n")


def test_stream_client_that_leaves_ends_the_generation(
    stream: RawStream, server: EngineServer
) -> None:
    assert server.gate is not None
    server.gate.release(3)
    stream.read_until(b"<0>")
    stream.close()
    server.left.get(timeout=WAIT_S)
    wait_until(lambda: server.streaming == 0, "the stream's end")


def test_stream_client_that_leaves_before_the_first_token_ends_the_call(
    edges: dict[str, HttpEdge], server: EngineServer
) -> None:
    asked = threading.Event()

    def silent(_call: object) -> EngineReply:
        asked.set()
        return EngineReply(silent=True)

    server.engine.override = silent
    raw = RawStream(edges["openai"], "/v1/chat/completions", {"messages": MESSAGES})
    assert asked.wait(WAIT_S)
    raw.close()
    wait_until(lambda: edges["openai"].running_requests() == 0, "the guest's end")


def test_stream_generation_ends_promptly_after_its_client_left(
    edges: dict[str, HttpEdge], server: EngineServer
) -> None:
    server.engine.pieces = ("x",) * 50

    def seconds() -> float:
        """From the client's leaving to the engine's knowing it."""
        server.gate = threading.Semaphore(3)
        document = {"messages": MESSAGES, "stream": True}
        raw = RawStream(edges["openai"], "/v1/chat/completions", document)
        raw.read_until(b'"x"')
        left_s = time.monotonic()
        raw.close()
        return server.left.get(timeout=WAIT_S) - left_s

    # A machine that does other things may delay one, not every one: nothing polls in between.
    assert any(seconds() < CANCEL_LIMIT_S for _ in range(20))


def test_stream_slow_client_holds_the_engine_back(
    edges: dict[str, HttpEdge], server: EngineServer
) -> None:
    piece = "x" * 10_000
    server.engine.pieces = (piece,) * 3000  # 30 MB, more than sockets and pipes hold
    raw = RawStream(edges["openai"], "/v1/chat/completions", {"messages": MESSAGES, "stream": True})
    raw.read_until(piece.encode())
    written, still_since_s = server.written, time.monotonic()
    while time.monotonic() - still_since_s < STILL_S:  # everybody's buffers are full
        assert server.streaming == 1, "somebody buffers all of it"
        if server.written != written:
            written, still_since_s = server.written, time.monotonic()
        time.sleep(0.01)
    received = len(raw.received)
    tail = raw.received[-20:]
    while b"[DONE]" not in tail:
        data = raw.socket.recv(1 << 20)
        assert data
        received += len(data)
        tail = tail[-20:] + data[-20:]
    assert received > 30_000_000
    raw.close()


def test_stream_64_at_once_each_get_their_own_tokens(
    edges: dict[str, HttpEdge], server: EngineServer
) -> None:
    def reply(call: Any) -> EngineReply:
        name = call.json()["user"]
        choices = [{"index": 0, "delta": {"content": f"{name}."}, "finish_reason": None}] * 20
        chunks = [
            b"data: " + json.dumps({"id": name, "choices": [choice]}).encode() + b"\n\n"
            for choice in choices
        ]
        return EngineReply(200, [], [*chunks, b"data: [DONE]\n\n"])

    together = threading.Barrier(64)

    def ask(number: int) -> None:
        document = {"messages": MESSAGES, "stream": True, "user": f"user-{number}"}
        together.wait(WAIT_S)
        raw = RawStream(edges["openai"], "/v1/chat/completions", document)
        raw.read_until(b"0\r\n\r\n")
        raw.close()
        body = dechunked(raw.received.partition(b"\r\n\r\n")[2])
        *chunks, done = events_of(body)
        assert done == "[DONE]"
        texts = [chunk["choices"][0]["delta"]["content"] for chunk in chunks]
        assert texts == [f"user-{number}."] * 20

    server.engine.override = reply
    server.pause_s = 0.005
    with ThreadPoolExecutor(64) as pool:
        list(pool.map(ask, range(64)))


def dechunked(data: bytes) -> bytes:
    """The content of a chunked body."""
    parts = []
    while data:
        size, _, rest = data.partition(b"\r\n")
        length = int(size, 16)
        parts.append(rest[:length])
        data = rest[length + 2 :]
    return b"".join(parts)


def test_stream_that_breaks_at_any_byte_ends_with_an_error(
    edges: dict[str, HttpEdge], server: EngineServer
) -> None:
    document = {"model": "tiny", "messages": MESSAGES, "stream": True}
    whole = server.engine.answer(
        "POST", "/v1/chat/completions", [], json.dumps(document).encode()
    ).body
    for cut in range(0, len(whole) - 16, 53):  # every byte natively, a sample through sockets
        server.engine.cut = cut
        raw = RawStream(edges["openai"], "/v1/chat/completions", document)
        raw.read_until(b"0\r\n\r\n")
        raw.close()
        *_chunks, last = events_of(dechunked(raw.received.partition(b"\r\n\r\n")[2]))
        assert last["error"]["code"] == "upstream_unavailable", cut
