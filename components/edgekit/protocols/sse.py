"""Server-sent events, cut from bytes that arrive in any pieces.

Source:
    WHATWG HTML, section 9.2 (server-sent events). Lines end with LF, CRLF or CR; a blank line ends
    an event; a line that begins with a colon is a comment. An event without its blank line is
    not dispatched, so what is incomplete when a stream ends never counts.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.ports import UpstreamError

__all__ = ["MAX_EVENT_BYTES", "SSE_MEDIA_TYPE", "EventSplitter", "event_data", "format_event"]

SSE_MEDIA_TYPE = "text/event-stream"

MAX_EVENT_BYTES = 1 << 20
"""Most that is held back while an event is incomplete; a token takes some 200 bytes."""

_BOM = b"\xef\xbb\xbf"


class EventSplitter:
    """Gives back the events that each chunk completes; holds at most that and `MAX_EVENT_BYTES`."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._after_cr = False
        self._started = False

    def feed(self, chunk: bytes) -> bytes:
        """Whole events with LF line ends, empty while none is complete.

        Raises:
            UpstreamError: One event exceeds `MAX_EVENT_BYTES`.
        """
        if self._after_cr or b"\r" in chunk:
            chunk = self._with_lf(chunk)
        held = self._held
        # A blank line may begin with the last byte that is held; further back there is none.
        searched_from = max(0, len(held) - 1)
        held += chunk
        end = held.rfind(b"\n\n", searched_from) + 2
        if end < 2:
            if len(held) > MAX_EVENT_BYTES:
                raise UpstreamError(f"an event of more than {MAX_EVENT_BYTES} bytes")
            return b""
        whole = bytes(held[:end])
        del held[:end]
        if not self._started:
            self._started = True
            whole = whole.removeprefix(_BOM)  # "strip one leading BOM" (section 9.2.5)
        return whole

    @property
    def incomplete(self) -> bool:
        """True while part of an event is held back."""
        return bool(self._held)

    def _with_lf(self, chunk: bytes) -> bytes:
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")  # second half of a CRLF cut in two
        self._after_cr = chunk.endswith(b"\r") or (self._after_cr and not chunk)
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def event_data(events: bytes) -> Iterator[bytes]:
    """The data of each event in `events` (whole ones, LF line ends); those without are left out."""
    for event in events.split(b"\n\n"):
        if event.startswith(b"data:") and b"\n" not in event:
            yield _value(event)
        elif event:
            lines = [_value(line) for line in event.split(b"\n") if _is_data(line)]
            if lines:
                yield b"\n".join(lines)


def _is_data(line: bytes) -> bool:
    return line.startswith(b"data:") or line == b"data"


def _value(line: bytes) -> bytes:
    return line[5:].removeprefix(b" ")


def format_event(data: bytes, name: str | None = None) -> bytes:
    """One event. `data` is a single line, as JSON text without indentation is."""
    if name is None:
        return b"data: %s\n\n" % data
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)
