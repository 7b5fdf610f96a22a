"""Answers as clients of OpenAI's chat and completions read them."""

from __future__ import annotations

import json
from typing import Any

from edgekit.chat.events import Delta, Event, Finish, ToolCallDelta, Usage
from edgekit.chat.usage import format_openai_usage
from edgekit.chat.writing import AnswerFrame, Transcript, compact
from edgekit.errors import EdgeError
from edgekit.protocols.openai import DONE, failure_event
from edgekit.protocols.sse import format_event

__all__ = ["ChatWriter", "CompletionWriter"]

REASONS = frozenset({"stop", "length", "tool_calls", "content_filter"})


class ChatWriter:
    """`chat.completion` and its chunks.

    Args:
        frame: Of the answer.
        include_usage: The client wants a last chunk with the usage.
    """

    def __init__(self, frame: AnswerFrame, *, include_usage: bool) -> None:
        self._frame = frame
        self._include_usage = include_usage
        self._usage = Usage()
        self._started = False
        self._finished = False
        head = json.dumps(self._head("chat.completion.chunk"), separators=(",", ":"))
        # Whatever does not change from token to token is written once.
        self._before = f'data: {head[:-1]},"choices":[{{"index":0,"delta":'
        self._after = ',"logprobs":null,"finish_reason":null}]}\n\n'

    def begin(self) -> bytes:
        """Nothing: the role goes with the first delta."""
        return b""

    def write(self, event: Event) -> bytes:
        """One chunk, but for the usage, which comes last."""
        if isinstance(event, Usage):
            self._usage = event
            return b""
        if isinstance(event, Finish):
            self._finished = True
            return self._chunk({}, finish=_reason(event.reason))
        delta = _delta(event)
        if not self._started:
            self._started = True
            delta = {"role": "assistant", "content": "", **delta}
        if event.logprobs:
            return self._chunk(delta, logprobs={"content": list(event.logprobs)})
        text = json.dumps(delta, ensure_ascii=False, separators=(",", ":"))
        return f"{self._before}{text}{self._after}".encode("utf-8", "replace")

    def end(self) -> bytes:
        """The reason where none was told, the usage where it is wanted, and the end."""
        out = b"" if self._finished else self._chunk({}, finish="stop")
        if self._include_usage:
            document = {
                **self._head("chat.completion.chunk"),
                "choices": [],
                "usage": format_openai_usage(self._usage),
            }
            out += format_event(compact(document))
        return out + DONE

    def fail(self, error: EdgeError) -> bytes:
        """An error event."""
        return failure_event(error)

    def whole(self, transcript: Transcript) -> bytes:
        """`chat.completion`."""
        message: dict[str, Any] = {"role": "assistant", "content": transcript.text}
        if transcript.reasoning:
            message["reasoning"] = transcript.reasoning
        calls = transcript.tool_calls
        if calls:
            message["tool_calls"] = [_call(call) for call in calls]
            message["content"] = transcript.text or None
        logprobs = {"content": transcript.logprobs} if transcript.logprobs else None
        choice = {
            "index": 0,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": _reason(transcript.finish),
        }
        return compact(
            {
                **self._head("chat.completion"),
                "choices": [choice],
                "usage": format_openai_usage(transcript.usage),
            }
        )

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self._frame.identifier}",
            "object": kind,
            "created": int(self._frame.created_s),
            "model": self._frame.model,
        }

    def _chunk(
        self, delta: dict[str, Any], *, finish: str | None = None, logprobs: object = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return format_event(compact({**self._head("chat.completion.chunk"), "choices": [choice]}))


class CompletionWriter:
    """`text_completion`, whole and in chunks.

    Args:
        frame: Of the answer.
        include_usage: The client wants a last chunk with the usage.
    """

    def __init__(self, frame: AnswerFrame, *, include_usage: bool) -> None:
        self._frame = frame
        self._include_usage = include_usage
        self._usage = Usage()
        self._finished = False

    def begin(self) -> bytes:
        """Nothing comes before the text."""
        return b""

    def write(self, event: Event) -> bytes:
        """One chunk, but for the usage, which comes last."""
        if isinstance(event, Usage):
            self._usage = event
            return b""
        if isinstance(event, Finish):
            self._finished = True
            return self._chunk("", finish=_reason(event.reason))
        return self._chunk(event.text, logprobs=list(event.logprobs))

    def end(self) -> bytes:
        """The reason where none was told, the usage where it is wanted, and the end."""
        out = b"" if self._finished else self._chunk("", finish="stop")
        if self._include_usage:
            usage = format_openai_usage(self._usage)
            out += format_event(compact({**self._head(), "choices": [], "usage": usage}))
        return out + DONE

    def fail(self, error: EdgeError) -> bytes:
        """An error event."""
        return failure_event(error)

    def whole(self, transcript: Transcript) -> bytes:
        """`text_completion`."""
        choice = {
            "index": 0,
            "text": transcript.text,
            "logprobs": _parallel_logprobs(transcript.logprobs),
            "finish_reason": _reason(transcript.finish),
        }
        usage = format_openai_usage(transcript.usage)
        return compact({**self._head(), "choices": [choice], "usage": usage})

    def _head(self) -> dict[str, Any]:
        return {
            "id": f"cmpl-{self._frame.identifier}",
            "object": "text_completion",
            "created": int(self._frame.created_s),
            "model": self._frame.model,
        }

    def _chunk(
        self, text: str, *, finish: str | None = None, logprobs: list[Any] | None = None
    ) -> bytes:
        choice = {
            "index": 0,
            "text": text,
            "logprobs": _parallel_logprobs(logprobs or []),
            "finish_reason": finish,
        }
        return format_event(compact({**self._head(), "choices": [choice]}))


def _delta(event: Delta) -> dict[str, Any]:
    delta: dict[str, Any] = {}
    if event.text:
        delta["content"] = event.text
    if event.reasoning:
        delta["reasoning"] = event.reasoning
    if event.tool_calls:
        delta["tool_calls"] = [{"index": call.index, **_call(call)} for call in event.tool_calls]
    return delta


def _call(call: ToolCallDelta) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": call.arguments}
    if call.name:
        function["name"] = call.name
        return {"id": call.id or f"call_{call.index}", "type": "function", "function": function}
    return {"function": function}


def _reason(reason: str) -> str:
    return reason if reason in REASONS else "stop"


def _parallel_logprobs(entries: list[Any]) -> dict[str, Any] | None:
    """The older form, of completions: parallel lists."""
    if not entries:
        return None
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [
            {top["token"]: top["logprob"] for top in entry.get("top_logprobs") or ()}
            for entry in entries
        ],
    }
