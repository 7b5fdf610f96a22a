"""Streams whose client and upstream speak one protocol: passed on as they are.

Events are cut out, looked at by patterns that cost microseconds, and parsed only where a pattern
says that there is something to learn. The patterns match outside of JSON strings only, because
inside of them a quotation mark has a backslash before it.
"""

from __future__ import annotations

import re
from typing import Any

from edgekit.chat.events import Usage
from edgekit.chat.usage import ollama_usage, openai_usage
from edgekit.errors import EdgeError
from edgekit.ports import UpstreamError
from edgekit.protocols.json_text import parse_json
from edgekit.protocols.ndjson import LineSplitter
from edgekit.protocols.ollama import failure_line
from edgekit.protocols.openai import failure_event
from edgekit.protocols.sse import EventSplitter, event_data

__all__ = ["OllamaRelay", "OpenAIRelay"]

_DONE = re.compile(rb"^data: ?\[DONE\][^\n]*\n\n", re.MULTILINE)
_ERROR_EVENT = re.compile(rb'^data: ?\{\s*"error"\s*:\s*[{"]', re.MULTILINE)
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_ERROR_LINE = re.compile(rb'\{\s*"error"\s*:\s*"')
_DONE_LINE = re.compile(rb'"done"\s*:\s*true')


class OpenAIRelay:
    """`StreamCodec` from server-sent events to the same.

    Args:
        hide_usage: Leave out the event with the usage, which the edge asked for and the client
            did not.
    """

    def __init__(self, *, hide_usage: bool) -> None:
        self.usage: Usage | None = None
        self.pieces = 0
        self.ended = False
        self.complete = False
        self.fault: UpstreamError | None = None
        self._hide_usage = hide_usage
        self._events = EventSplitter()

    def feed(self, chunk: bytes) -> bytes:
        """The events that `chunk` completes."""
        try:
            whole = self._events.feed(chunk)
        except UpstreamError as error:
            self.fault = error
            return b""
        if not whole:
            return b""
        if b"[DONE]" in whole:
            whole = self._up_to_done(whole)
        if b'"error"' in whole:
            whole = self._up_to_error(whole)
        self.pieces += whole.count(b"\n\n")
        return self._note_usage(whole) if _USAGE.search(whole) else whole

    def finish(self) -> bytes:
        """An event without its blank line is none (WHATWG HTML, section 9.2.6)."""
        return b""

    def fail(self, error: EdgeError) -> bytes:
        """An error event."""
        return failure_event(error)

    def _up_to_done(self, whole: bytes) -> bytes:
        found = _DONE.search(whole)
        if found is None:  # the model wrote the word
            return whole
        self.ended = self.complete = True
        return whole[: found.end()]

    def _up_to_error(self, whole: bytes) -> bytes:
        found = _ERROR_EVENT.search(whole)
        if found is None:
            return whole
        self.ended, self.complete = True, False
        return whole[: whole.index(b"\n\n", found.start()) + 2]

    def _note_usage(self, whole: bytes) -> bytes:
        return b"".join(
            event + b"\n\n"
            for event in whole.split(b"\n\n")[:-1]
            if not (_USAGE.search(event) and self._is_only_usage(event))
        )

    def _is_only_usage(self, event: bytes) -> bool:
        """True when the event is to be left out."""
        for data in event_data(event):
            document = _parsed(data)
            usage = openai_usage(document.get("usage"))
            if usage is not None:
                self.usage = usage
                return self._hide_usage and document.get("choices") == []
        return False


class OllamaRelay:
    """`StreamCodec` from newline-delimited JSON to the same."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.pieces = 0
        self.ended = False
        self.complete = False
        self.fault: UpstreamError | None = None
        self._lines = LineSplitter()

    def feed(self, chunk: bytes) -> bytes:
        """The lines that `chunk` completes."""
        try:
            lines = self._lines.feed(chunk)
        except UpstreamError as error:
            self.fault = error
            return b""
        return self._pass(lines)

    def finish(self) -> bytes:
        """The last line, which needs no newline; half a line is none."""
        return self._pass([line for line in self._lines.finish() if _parsed(line)])

    def fail(self, error: EdgeError) -> bytes:
        """An error line."""
        return failure_line(error)

    def _pass(self, lines: list[bytes]) -> bytes:
        passed: list[bytes] = []
        for line in lines:
            if self.ended:
                break
            if not (line.startswith(b"{") and line.endswith(b"}")):
                self.fault = UpstreamError("the engine's answer is no JSON")
                break
            passed += (line, b"\n")
            self.pieces += 1
            if _ERROR_LINE.match(line):
                self.ended = True
            elif _DONE_LINE.search(line):  # at the top, or among a tool call's arguments
                document = _parsed(line)
                if document.get("done") is True:
                    self.usage = ollama_usage(document)
                    self.ended = self.complete = True
        return b"".join(passed)


def _parsed(data: bytes) -> dict[str, Any]:
    """The object in `data`; empty where there is none, for the client has to judge that."""
    try:
        document = parse_json(data)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
