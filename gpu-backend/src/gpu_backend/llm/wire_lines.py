"""Streams of other servers, cut into lines and events wherever their bytes were split. No I/O.

`str.splitlines`, and with it most clients' line readers, also breaks at U+2028, U+0085 and others,
which are legal inside JSON strings: these readers know the two protocols' own line ends only.
"""

from __future__ import annotations

from gpu_backend.errors import UpstreamUnavailableError

__all__ = ["EventReader", "LineReader"]

MAX_LINE_BYTES = 8 << 20
"""Of one line: tool calls and embeddings are far smaller; one without end must not fill memory."""


class LineReader:
    """NDJSON: lines end with LF; a CR before it does not count."""

    def __init__(self) -> None:
        self._open = b""

    def push(self, data: bytes) -> list[bytes]:
        """Lines that `data` completes, without those that are blank.

        Raises:
            UpstreamUnavailableError: A line does not end.
        """
        *lines, self._open = (self._open + data).split(b"\n")
        if len(self._open) > MAX_LINE_BYTES:
            raise UpstreamUnavailableError(f"a line exceeds {MAX_LINE_BYTES} bytes")
        return [line for line in (line.strip(b"\r ") for line in lines) if line]

    def flush(self) -> list[bytes]:
        """The last line, when the stream ends without LF after it."""
        line, self._open = self._open.strip(b"\r "), b""
        return [line] if line else []


class EventReader:
    """Server-sent events (WHATWG HTML, 9.2.6): the data of each.

    Lines end with CR LF, LF or CR; lines that begin with a colon are comments; several data lines
    make one event, and a blank line ends it. What stands open at the end of the stream is dropped,
    as the standard says: it may be cut off.
    """

    def __init__(self) -> None:
        self._open = b""
        self._data: list[bytes] = []
        self._after_cr = False
        self._at_start = True

    def push(self, data: bytes) -> list[bytes]:
        """Data of the events that `data` completes.

        Raises:
            UpstreamUnavailableError: A line does not end.
        """
        if not data:
            return []
        if self._after_cr:
            data = data.removeprefix(b"\n")
        self._after_cr = data.endswith(b"\r")
        text = self._open + data
        lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._open = lines.pop()
        if len(self._open) > MAX_LINE_BYTES:
            raise UpstreamUnavailableError(f"a line exceeds {MAX_LINE_BYTES} bytes")
        events = []
        for line in lines:
            if self._at_start:
                line = line.removeprefix(b"\xef\xbb\xbf")
                self._at_start = False
            if not line:
                if self._data:
                    events.append(b"\n".join(self._data))
                    self._data = []
                continue
            field, _, value = line.partition(b":")
            if field == b"data":
                self._data.append(value.removeprefix(b" "))
        return events
