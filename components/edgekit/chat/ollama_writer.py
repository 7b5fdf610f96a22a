"""Answers as clients of Ollama read them."""

from __future__ import annotations

import datetime
import json
from typing import Any

from edgekit.chat.events import Delta, Event, Finish, ToolCallDelta
from edgekit.chat.writing import AnswerFrame, Transcript
from edgekit.errors import EdgeError
from edgekit.ports import UpstreamError
from edgekit.protocols.json_text import parse_json
from edgekit.protocols.ndjson import format_line
from edgekit.protocols.ollama import failure_line

__all__ = ["OllamaWriter", "load_answer", "rfc3339"]

REASONS = frozenset({"stop", "length", "load", "unload"})


class OllamaWriter:
    """Lines of `/api/chat` or `/api/generate`, and their whole answers.

    Args:
        frame: Of the answer.
        chat: Messages, as of `/api/chat`; else the member `response`.
    """

    def __init__(self, frame: AnswerFrame, *, chat: bool) -> None:
        self._frame = frame
        self._chat = chat
        self._collected = Transcript()
        self._started_ns: int | None = None

    def begin(self) -> bytes:
        """Nothing comes before the first line."""
        return b""

    def write(self, event: Event) -> bytes:
        """One line for a delta; reason, usage and tool calls are collected for later lines."""
        if not isinstance(event, Delta):
            out = self._tool_call_line() if isinstance(event, Finish) else b""
            self._collected.add(event)
            return out
        if self._started_ns is None:
            self._started_ns = self._frame.elapsed_ns()
        # Fragments of calls make no Ollama line: its calls come whole.
        self._collected.add(Delta(tool_calls=event.tool_calls))
        if not (event.text or event.reasoning or event.logprobs):
            return b""
        line = self._line(event.text, event.reasoning)
        if event.logprobs:
            line["logprobs"] = list(event.logprobs)
        return format_line(line)

    def end(self) -> bytes:
        """The line that says `done`."""
        return format_line({**self._line("", ""), **self._last(self._collected)})

    def fail(self, error: EdgeError) -> bytes:
        """An error line."""
        return failure_line(error)

    def whole(self, transcript: Transcript) -> bytes:
        """The answer in one document."""
        document = self._line(transcript.text, transcript.reasoning)
        calls = transcript.tool_calls
        if calls:
            document["message"]["tool_calls"] = [_call(call) for call in calls]
        if transcript.logprobs:
            document["logprobs"] = transcript.logprobs
        document.update(self._last(transcript))
        return json.dumps(document, separators=(",", ":")).encode()

    def _line(self, text: str, reasoning: str) -> dict[str, Any]:
        created_s = self._frame.created_s + self._frame.elapsed_ns() / 1e9
        line: dict[str, Any] = {"model": self._frame.model, "created_at": rfc3339(created_s)}
        if self._chat:
            line["message"] = {"role": "assistant", "content": text}
            if reasoning:
                line["message"]["thinking"] = reasoning
        else:
            line["response"] = text
            if reasoning:
                line["thinking"] = reasoning
        line["done"] = False
        return line

    def _tool_call_line(self) -> bytes:
        calls = self._collected.tool_calls
        if not calls or not self._chat:
            return b""
        line = self._line("", "")
        line["message"]["tool_calls"] = [_call(call) for call in calls]
        return format_line(line)

    def _last(self, transcript: Transcript) -> dict[str, Any]:
        total_ns = self._frame.elapsed_ns()
        started_ns = total_ns if self._started_ns is None else self._started_ns
        reason = transcript.finish
        return {
            "done": True,
            "done_reason": reason if reason in REASONS else "stop",
            "total_duration": total_ns,
            "load_duration": 0,
            "prompt_eval_count": transcript.usage.prompt_tokens,
            "prompt_eval_duration": started_ns,
            "eval_count": transcript.usage.completion_tokens,
            "eval_duration": total_ns - started_ns,
        }


def load_answer(frame: AnswerFrame, *, chat: bool, unload: bool) -> bytes:
    """What a call without a prompt gets: there is nothing to load at the edge."""
    document: dict[str, Any] = {"model": frame.model, "created_at": rfc3339(frame.created_s)}
    if chat:
        document["message"] = {"role": "assistant", "content": ""}
    else:
        document["response"] = ""
    document |= {"done": True, "done_reason": "unload" if unload else "load"}
    return format_line(document)


def rfc3339(time_s: float) -> str:
    """A time in UTC with microseconds, as Go's clients parse it."""
    moment = datetime.datetime.fromtimestamp(time_s, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _call(call: ToolCallDelta) -> dict[str, Any]:
    try:
        arguments = parse_json((call.arguments or "{}").encode())
    except ValueError as exc:
        raise UpstreamError(f"the arguments of {call.name!r} are no JSON") from exc
    return {"function": {"name": call.name, "arguments": arguments}}
