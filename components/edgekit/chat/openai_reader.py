"""Answers of OpenAI-compatible servers, read as events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgekit.chat.events import Delta, Event, Finish, ToolCallDelta
from edgekit.chat.usage import openai_usage
from edgekit.ports import UpstreamError
from edgekit.protocols.json_text import parse_json
from edgekit.protocols.sse import EventSplitter, event_data

__all__ = ["OpenAIReader"]

FAULTS = (AttributeError, IndexError, KeyError, TypeError)
"""What reading a document of the wrong shape raises."""


class OpenAIReader:
    """Events of one answer with one choice, from chat or completions.

    Attributes:
        ended: The terminal event has been read.
    """

    def __init__(self) -> None:
        self.ended = False
        self._events = EventSplitter()

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Events that `chunk` completes. Raises `UpstreamError` for what is no answer."""
        for data in event_data(self._events.feed(chunk)):
            if self.ended:
                return
            if data.startswith(b"[DONE]"):
                self.ended = True
                return
            yield from self._document(data, streamed=True)

    def finish(self) -> Iterator[Event]:
        """Nothing: an event without its blank line is none."""
        return iter(())

    def whole(self, body: bytes) -> list[Event]:
        """Events of an answer that was not streamed. Raises as `feed`."""
        return list(self._document(body, streamed=False))

    def _document(self, data: bytes, *, streamed: bool) -> Iterator[Event]:
        try:
            document = parse_json(data)
        except ValueError as exc:
            raise UpstreamError("the engine's answer is no JSON") from exc
        try:
            if document.get("error"):
                raise UpstreamError(f"the engine says: {_error_text(document['error'])}")
            if not streamed:
                _ = document["choices"][0]  # an answer without any is none
            yield from _events(document, "delta" if streamed else "message")
        except FAULTS as exc:
            raise UpstreamError("the engine's answer has an unknown shape") from exc


def _events(document: Mapping[str, Any], member: str) -> Iterator[Event]:
    for choice in document.get("choices") or ():
        delta = _delta(choice, choice.get(member) or {})
        if delta != Delta():
            yield delta
        if choice.get("finish_reason"):
            yield Finish(choice["finish_reason"])
    usage = openai_usage(document.get("usage"))
    if usage is not None:
        yield usage


def _delta(choice: Mapping[str, Any], message: Mapping[str, Any]) -> Delta:
    return Delta(
        text=message.get("content") or message.get("refusal") or choice.get("text") or "",
        reasoning=message.get("reasoning") or message.get("reasoning_content") or "",
        tool_calls=tuple(
            _tool_call(place, call) for place, call in enumerate(message.get("tool_calls") or ())
        ),
        logprobs=_logprobs(choice.get("logprobs")),
    )


def _tool_call(place: int, call: Mapping[str, Any]) -> ToolCallDelta:
    function = call.get("function") or {}
    return ToolCallDelta(
        index=call.get("index", place),
        id=call.get("id") or "",
        name=function.get("name") or "",
        arguments=function.get("arguments") or "",
    )


def _logprobs(value: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    if not value:
        return ()
    if value.get("content"):
        return tuple(value["content"])
    if not value.get("tokens"):
        return ()
    # The older form, of completions: parallel lists, and the likeliest tokens as an object.
    tops = value.get("top_logprobs") or [None] * len(value["tokens"])
    return tuple(
        {
            "token": token,
            "logprob": logprob,
            "bytes": None,
            "top_logprobs": [{"token": t, "logprob": p} for t, p in (top or {}).items()],
        }
        for token, logprob, top in zip(value["tokens"], value["token_logprobs"], tops, strict=False)
    )


def _error_text(error: Any) -> str:
    text = error.get("message") if isinstance(error, Mapping) else error
    return str(text)[:300]
