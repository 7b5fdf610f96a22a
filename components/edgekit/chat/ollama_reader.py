"""Answers of Ollama, read as events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgekit.chat.events import Delta, Event, Finish, ToolCallDelta
from edgekit.chat.usage import ollama_usage
from edgekit.ports import UpstreamError
from edgekit.protocols.json_text import parse_json
from edgekit.protocols.ndjson import LineSplitter

__all__ = ["OllamaReader"]

FAULTS = (AttributeError, KeyError, TypeError)
"""What reading a document of the wrong shape raises."""


class OllamaReader:
    """Events of one answer, from chat or generate.

    Attributes:
        ended: The line that says `done` has been read.
    """

    def __init__(self) -> None:
        self.ended = False
        self._lines = LineSplitter()
        self._calls = 0

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Events that `chunk` completes. Raises `UpstreamError` for what is no answer."""
        return self._read(self._lines.feed(chunk))

    def finish(self) -> Iterator[Event]:
        """Events of the last line, which needs no newline."""
        return self._read(self._lines.finish())

    def whole(self, body: bytes) -> list[Event]:
        """Events of an answer that was not streamed. Raises as `feed`."""
        events = list(self._read([body]))
        if not self.ended:
            raise UpstreamError("the engine's answer is not done")
        return events

    def _read(self, lines: Sequence[bytes]) -> Iterator[Event]:
        for line in lines:
            if self.ended:
                return
            try:
                document = parse_json(line)
            except ValueError as exc:
                raise UpstreamError("the engine's answer is no JSON") from exc
            try:
                yield from self._events(document)
            except FAULTS as exc:
                raise UpstreamError("the engine's answer has an unknown shape") from exc

    def _events(self, document: Mapping[str, Any]) -> Iterator[Event]:
        if document.get("error"):
            raise UpstreamError(f"the engine says: {str(document['error'])[:300]}")
        message = document.get("message") or {}
        calls = tuple(self._tool_call(call) for call in message.get("tool_calls") or ())
        delta = Delta(
            text=message.get("content") or document.get("response") or "",
            reasoning=message.get("thinking") or document.get("thinking") or "",
            tool_calls=calls,
            logprobs=tuple(_logprob(entry) for entry in document.get("logprobs") or ()),
        )
        if delta != Delta():
            yield delta
        if document.get("done") is True:
            self.ended = True
            reason = document.get("done_reason") or "stop"
            yield Finish("tool_calls" if self._calls and reason == "stop" else reason)
            yield ollama_usage(document)

    def _tool_call(self, call: Mapping[str, Any]) -> ToolCallDelta:
        function = call["function"]
        index = self._calls
        self._calls += 1
        arguments = json.dumps(function.get("arguments") or {}, ensure_ascii=False)
        return ToolCallDelta(index, call.get("id") or "", function["name"], arguments)


def _logprob(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "token": entry["token"],
        "logprob": entry["logprob"],
        "bytes": entry.get("bytes"),
        "top_logprobs": [
            {"token": top["token"], "logprob": top["logprob"], "bytes": top.get("bytes")}
            for top in entry.get("top_logprobs") or ()
        ],
    }
