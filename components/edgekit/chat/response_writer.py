"""Answers as clients of the Responses API read them.

A response is a list of items (thoughts, messages, calls of functions), one open at a time. In a
stream each is announced, filled by deltas, and told whole when it is closed, so an answer is held
here up to `MAX_TEXT_BYTES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekit.chat.events import Delta, Event, Finish, ToolCallDelta, Usage
from edgekit.chat.writing import AnswerFrame, Transcript, compact
from edgekit.errors import EdgeError
from edgekit.ports import UpstreamError
from edgekit.protocols.problems import error_object
from edgekit.protocols.sse import format_event

__all__ = ["ResponseWriter"]

MAX_TEXT_BYTES = 4 << 20

ECHOED: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
}
"""Members of the request that the response repeats, with what holds where they are not given."""


@dataclass(slots=True)
class _Item:
    """One item of the output.

    Attributes:
        kind: reasoning, message or function_call.
        call: Which call of the answer it is; -1 for none.
        content: Text, or the arguments of a call.
    """

    kind: str
    identifier: str
    call: int = -1
    call_id: str = ""
    name: str = ""
    content: list[str] = field(default_factory=list)
    logprobs: list[object] = field(default_factory=list)

    def document(self, status: str) -> dict[str, Any]:
        text = "".join(self.content)
        head = {"id": self.identifier, "type": self.kind, "status": status}
        if self.kind == "function_call":
            return {**head, "call_id": self.call_id, "name": self.name, "arguments": text}
        started = status != "in_progress"
        if self.kind == "reasoning":
            thoughts = [{"type": "reasoning_text", "text": text}] if started else []
            return {**head, "summary": [], "content": thoughts}
        return {**head, "role": "assistant", "content": [self.part()] if started else []}

    def part(self) -> dict[str, Any]:
        return {
            "type": "output_text",
            "text": "".join(self.content),
            "annotations": [],
            "logprobs": self.logprobs,
        }


class ResponseWriter:
    """`response`, whole and as events.

    Args:
        frame: Of the answer.
        document: The request, parts of which the response repeats.
    """

    def __init__(self, frame: AnswerFrame, document: Mapping[str, Any]) -> None:
        self._frame = frame
        self._document = document
        self._items: list[_Item] = []
        self._open: _Item | None = None
        self._finish = ""
        self._usage: Usage | None = None
        self._sequence = 0
        self._bytes = 0

    def begin(self) -> bytes:
        """The response is announced."""
        response = self._response("in_progress")
        created = self._event("response.created", response=response)
        return created + self._event("response.in_progress", response=response)

    def write(self, event: Event) -> bytes:
        """Events for one delta; reason and usage go with the last event."""
        if isinstance(event, Finish):
            self._finish = event.reason
            return self._close()
        if isinstance(event, Usage):
            self._usage = event
            return b""
        return self._delta(event)

    def end(self) -> bytes:
        """The whole response."""
        closed = self._close()
        status = self._status()
        return closed + self._event(f"response.{status}", response=self._response(status))

    def fail(self, error: EdgeError) -> bytes:
        """An error event: its members as the reference has them, and as clients look for them."""
        told = error_object(error)
        return self._event(
            "error",
            code=told["code"],
            message=told["message"],
            param=told["param"],
            error=told,
        )

    def whole(self, transcript: Transcript) -> bytes:
        """The response in one piece."""
        if transcript.reasoning:
            self._items.append(self._item("reasoning", "rs", content=transcript.reasoning))
        if transcript.text or not transcript.tool_calls:
            item = self._item("message", "msg", content=transcript.text)
            item.logprobs = transcript.logprobs
            self._items.append(item)
        for call in transcript.tool_calls:
            self._items.append(self._call_item(call))
        self._finish = transcript.finish
        self._usage = transcript.usage
        return compact(self._response(self._status()))

    # --- streaming ------------------------------------------------------------------------------

    def _delta(self, delta: Delta) -> bytes:
        out = b""
        if delta.reasoning:
            out += self._ensure("reasoning", "rs")
            out += self._append(delta.reasoning, "response.reasoning_text.delta", content_index=0)
        if delta.text:
            out += self._ensure("message", "msg")
            if delta.logprobs:
                self._current().logprobs += delta.logprobs
            out += self._append(
                delta.text,
                "response.output_text.delta",
                content_index=0,
                logprobs=list(delta.logprobs),
            )
        for call in delta.tool_calls:
            out += self._call_delta(call)
        return out

    def _call_delta(self, call: ToolCallDelta) -> bytes:
        out = b""
        if self._open is None or self._open.call != call.index:
            out += self._close()
            out += self._announce(self._call_item(ToolCallDelta(call.index, call.id, call.name)))
        if call.arguments:
            out += self._append(call.arguments, "response.function_call_arguments.delta")
        return out

    def _ensure(self, kind: str, prefix: str) -> bytes:
        """The open item is of `kind`."""
        if self._open is not None and self._open.kind == kind:
            return b""
        return self._close() + self._announce(self._item(kind, prefix))

    def _announce(self, item: _Item) -> bytes:
        self._open = item
        self._items.append(item)
        out = self._event(
            "response.output_item.added", item=item.document("in_progress"), **self._place()
        )
        if item.kind == "message":
            out += self._item_event(
                "response.content_part.added", content_index=0, part=item.part()
            )
        return out

    def _append(self, text: str, name: str, **members: Any) -> bytes:
        self._bytes += len(text)
        if self._bytes > MAX_TEXT_BYTES:
            raise UpstreamError(f"an answer of more than {MAX_TEXT_BYTES} bytes")
        self._current().content.append(text)
        return self._item_event(name, delta=text, **members)

    def _close(self) -> bytes:
        """No item is open any more."""
        item = self._open
        if item is None:
            return b""
        text = "".join(item.content)
        out = b""
        if item.kind == "message":
            out += self._item_event(
                "response.output_text.done", content_index=0, text=text, logprobs=item.logprobs
            )
            out += self._item_event("response.content_part.done", content_index=0, part=item.part())
        elif item.kind == "reasoning":
            out += self._item_event("response.reasoning_text.done", content_index=0, text=text)
        else:
            out += self._item_event(
                "response.function_call_arguments.done", name=item.name, arguments=text
            )
        out += self._event(
            "response.output_item.done", item=item.document("completed"), **self._place()
        )
        self._open = None
        return out

    def _current(self) -> _Item:
        assert self._open is not None
        return self._open

    def _place(self) -> dict[str, int]:
        return {"output_index": len(self._items) - 1}

    def _item_event(self, kind: str, /, **members: Any) -> bytes:
        return self._event(kind, item_id=self._current().identifier, **self._place(), **members)

    def _event(self, kind: str, /, **members: Any) -> bytes:
        document = {"type": kind, "sequence_number": self._sequence, **members}
        self._sequence += 1
        return format_event(compact(document), kind)

    # --- documents ------------------------------------------------------------------------------

    def _item(self, kind: str, prefix: str, content: str = "") -> _Item:
        identifier = f"{prefix}_{self._frame.identifier}_{len(self._items)}"
        return _Item(kind, identifier, content=[content] if content else [])

    def _call_item(self, call: ToolCallDelta) -> _Item:
        item = self._item("function_call", "fc", call.arguments)
        item.call = call.index
        item.call_id = call.id or f"call_{self._frame.identifier}_{call.index}"
        item.name = call.name
        return item

    def _status(self) -> str:
        return "incomplete" if self._finish in ("length", "content_filter") else "completed"

    def _response(self, status: str) -> dict[str, Any]:
        document = {
            "id": f"resp_{self._frame.identifier}",
            "object": "response",
            "created_at": int(self._frame.created_s),
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": self._incomplete(status),
            "model": self._frame.model,
            "output": [item.document("completed") for item in self._items],
            "previous_response_id": None,
            "reasoning": {
                "effort": None,
                "summary": None,
                **(self._document.get("reasoning") or {}),
            },
            # Nothing is kept here, whatever was asked.
            "store": False,
            "usage": None if self._usage is None else _usage(self._usage),
        }
        for name, default in ECHOED.items():
            value = self._document.get(name)
            document[name] = default if value is None else value
        return document

    def _incomplete(self, status: str) -> dict[str, str] | None:
        if status != "incomplete":
            return None
        return {"reason": "max_output_tokens" if self._finish == "length" else "content_filter"}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }
