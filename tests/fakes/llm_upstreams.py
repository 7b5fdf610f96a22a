"""Scripted servers: what Ollama and OpenAI-compatible servers send, byte by byte, over httpx.

The texts are those of the servers' documentation. A script may be cut into pieces of any size, may
break off, and may wait for a gate, so that tests decide when the next piece comes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

__all__ = [
    "OLLAMA_CHAT",
    "OLLAMA_TAGS",
    "OPENAI_CHAT",
    "ScriptedServer",
    "ndjson",
    "server_sent_events",
]

OLLAMA_TAGS = {
    "models": [
        {
            "name": "llama3.2:latest",
            "model": "llama3.2:latest",
            "modified_at": "2025-05-10T08:06:48.639712648-07:00",
            "size": 2019393189,
            "digest": "a80c4f17acd55265feec403c7aef86be0c25983ab279d83f3bcd3abbcb5b8b72",
            "details": {
                "parent_model": "",
                "format": "gguf",
                "family": "llama",
                "families": ["llama"],
                "parameter_size": "3.2B",
                "quantization_level": "Q4_K_M",
            },
        }
    ]
}

OLLAMA_CHAT: tuple[dict[str, Any], ...] = (
    {
        "model": "llama3.2",
        "created_at": "2023-08-04T08:52:19.385406455-07:00",
        "message": {"role": "assistant", "content": "Größe 日"},
        "done": False,
    },
    {
        "model": "llama3.2",
        "created_at": "2023-08-04T08:52:19.385406455-07:00",
        "message": {"role": "assistant", "content": "本 🦊\u2028\u0085 end"},
        "done": False,
    },
    {
        "model": "llama3.2",
        "created_at": "2023-08-04T19:22:45.499127Z",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "total_duration": 4883583458,
        "load_duration": 1334875,
        "prompt_eval_count": 26,
        "prompt_eval_duration": 342546000,
        "eval_count": 282,
        "eval_duration": 4535599000,
    },
)


def _event(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-123",
        "object": "chat.completion.chunk",
        "created": 1694268190,
        "model": "served",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}],
    }


OPENAI_CHAT: tuple[dict[str, Any], ...] = (
    _event({"role": "assistant", "content": ""}),
    _event({"content": "Größe 日"}),
    _event({"content": "本 🦊\u2028\u0085 end"}),
    _event({}, "stop"),
    {
        "id": "chatcmpl-123",
        "object": "chat.completion.chunk",
        "created": 1694268190,
        "model": "served",
        "choices": [],
        "usage": {"prompt_tokens": 26, "completion_tokens": 282, "total_tokens": 308},
    },
)


def ndjson(lines: Iterable[object], end: str = "\n") -> bytes:
    """One JSON text per line, characters written as they are."""
    return "".join(json.dumps(line, ensure_ascii=False) + end for line in lines).encode()


def server_sent_events(events: Iterable[object], end: str = "\n", *, done: bool = True) -> bytes:
    """Events with comments between them, as proxies add, and the end."""
    blocks = [f": keep-alive{end}{end}"]
    blocks += [f"data: {json.dumps(event, ensure_ascii=False)}{end}{end}" for event in events]
    if done:
        blocks.append(f"data: [DONE]{end}{end}")
    return "".join(blocks).encode()


@dataclass
class ScriptedServer:
    """Answers every request alike, and remembers what it was asked.

    Attributes:
        body: Of the answer to a POST.
        status: Of that answer.
        headers: Of that answer.
        piece_bytes: Length of each piece the body is sent in; 0 sends it at once.
        fails_after: The connection breaks after so many pieces; None lets it end well.
        gate: Awaited before every piece after the first.
        documents: Answers to GET, by path.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    piece_bytes: int = 0
    fails_after: int | None = None
    gate: asyncio.Event | None = None
    documents: dict[str, Any] = field(default_factory=dict)
    requests: list[httpx.Request] = field(default_factory=list)
    closed: int = 0

    def transport(self) -> httpx.AsyncBaseTransport:
        """For the engine under test."""
        return httpx.MockTransport(self._answer)

    def sent(self, number: int = -1) -> dict[str, Any]:
        """Body of a request."""
        document: dict[str, Any] = json.loads(self.requests[number].content)
        return document

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.method == "GET":
            return httpx.Response(200, json=self.documents[request.url.path])
        stream = _Pieces(self, self._pieces())
        return httpx.Response(self.status, headers=self.headers, stream=stream)

    def _pieces(self) -> Sequence[bytes]:
        size = self.piece_bytes or max(1, len(self.body))
        return [self.body[at : at + size] for at in range(0, len(self.body), size)]


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, server: ScriptedServer, pieces: Sequence[bytes]) -> None:
        self._server = server
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        server = self._server
        for number, piece in enumerate(self._pieces):
            if server.fails_after is not None and number >= server.fails_after:
                raise httpx.RemoteProtocolError("peer closed connection")
            if number and server.gate is not None:
                await server.gate.wait()
            yield piece
        if server.fails_after is not None:
            raise httpx.RemoteProtocolError("peer closed connection")

    async def aclose(self) -> None:
        self._server.closed += 1
