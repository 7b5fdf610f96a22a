"""An OpenAI-compatible server that generates by the clock: only what stands before it counts.

    .venv/bin/python -m bench.paced_upstream --port 9000      (with tests/ on PYTHONPATH)

Every model name works. A stream sends `max_tokens` words, one every `PACE_S` from the moment the
request is complete, each in an event and a write of its own; one that is late does not move the
next.
An answer that is not streamed comes at once, or after `SLOW_S` from the model ``slow``.
`GET /calls` tells how many answers were asked for and how many streams are open.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any, cast

import uvloop

__all__ = ["PACE_S", "SLOW_S", "WORD"]

PACE_S = 0.02
"""50 tokens per second and stream, as a large model on a busy GPU."""

SLOW_S = 0.2

WORD = " word"

_HEAD = b'HTTP/1.1 200 OK\r\ncontent-type: %b\r\ninference-model: paced;version="1"\r\n'

_CREATED = 1_800_000_000


class _Tally:
    """Of the whole server."""

    calls = 0
    open = 0


class _Connection(asyncio.Protocol):
    """Requests of one connection, one after the other."""

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._timer: asyncio.TimerHandle | None = None
        self._streaming = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left: nothing is generated any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._stream_ended()

    def data_received(self, data: bytes) -> None:
        """Answer each request when it is complete."""
        self._received += data
        head, blank, rest = self._received.partition(b"\r\n\r\n")
        if not blank:
            return
        lines = head.lower().split(b"\r\n")
        sizes = [line.partition(b":")[2] for line in lines if line.startswith(b"content-length:")]
        size = int(sizes[0]) if sizes else 0
        if len(rest) < size:
            return
        self._received = rest[size:]
        self._answer(head.split(b" ", 2)[1].decode(), rest[:size])

    def _answer(self, path: str, body: bytes) -> None:
        if path == "/calls":
            self._send({"calls": self._tally.calls, "open": self._tally.open})
        elif path == "/v1/models":
            self._send({"object": "list", "data": [{"id": "paced", "object": "model"}]})
        else:
            self._tally.calls += 1
            request = json.loads(body)
            if request.get("stream"):
                self._stream(request)
            elif request["model"] == "slow":
                self._timer = self._loop.call_later(SLOW_S, self._send, _whole(request))
            else:
                self._send(_whole(request))

    def _send(self, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        head = _HEAD % b"application/json"
        self._transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))

    # -- streams ---------------------------------------------------------------------------------

    def _stream(self, request: dict[str, Any]) -> None:
        self._tally.open += 1
        self._streaming = True
        self._model = str(request["model"])
        self._left = self._words = int(request.get("max_tokens") or 16)
        self._usage = bool((request.get("stream_options") or {}).get("include_usage"))
        self._due = self._loop.time() + PACE_S
        head = _HEAD % b"text/event-stream"
        first = _chunked(self._event({"role": "assistant", "content": ""}))
        self._transport.write(b"%btransfer-encoding: chunked\r\n\r\n%b" % (head, first))
        self._timer = self._loop.call_at(self._due, self._word)

    def _word(self) -> None:
        self._left -= 1
        self._transport.write(_chunked(self._event({"content": WORD})))
        if self._left:
            self._due += PACE_S
            self._timer = self._loop.call_at(self._due, self._word)
            return
        last = self._event({}, "length")
        if self._usage:
            last += _data({**self._document(), "choices": [], "usage": _usage(self._words)})
        self._transport.write(_chunked(last + b"data: [DONE]\n\n") + b"0\r\n\r\n")
        self._stream_ended()

    def _stream_ended(self) -> None:
        self._tally.open -= self._streaming
        self._streaming = False

    def _event(self, delta: dict[str, str], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _data({**self._document(), "choices": [choice]})

    def _document(self) -> dict[str, Any]:
        kind = "chat.completion.chunk"
        return {"id": "chatcmpl-1", "object": kind, "created": _CREATED, "model": self._model}


def _whole(request: dict[str, Any]) -> dict[str, Any]:
    words = int(request.get("max_tokens") or 16)
    message = {"role": "assistant", "content": WORD * words}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": _CREATED,
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}],
        "usage": _usage(words),
    }


def _usage(words: int) -> dict[str, int]:
    return {"prompt_tokens": 8, "completion_tokens": words, "total_tokens": 8 + words}


def _data(document: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % json.dumps(document).encode()


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _serve(port: int) -> None:
    tally = _Tally()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(tally), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(_serve(parser.parse_args().port))
