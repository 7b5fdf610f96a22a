"""Newline-delimited JSON, cut from bytes that arrive in any pieces."""

from __future__ import annotations

import json
from collections.abc import Mapping

from edgekit.ports import UpstreamError

__all__ = ["MAX_LINE_BYTES", "NDJSON_MEDIA_TYPE", "LineSplitter", "format_line"]

NDJSON_MEDIA_TYPE = "application/x-ndjson"

MAX_LINE_BYTES = 1 << 20
"""Most that is held back while a line is incomplete; a token takes some 120 bytes."""


class LineSplitter:
    """Gives back the lines that each chunk completes; holds at most that and `MAX_LINE_BYTES`."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """Whole lines without their ends, blank ones left out.

        Raises:
            UpstreamError: One line exceeds `MAX_LINE_BYTES`.
        """
        held = self._held
        searched_from = len(held)
        held += chunk
        end = held.rfind(b"\n", searched_from) + 1
        if not end:
            if len(held) > MAX_LINE_BYTES:
                raise UpstreamError(f"a line of more than {MAX_LINE_BYTES} bytes")
            return []
        whole = bytes(held[:end])
        del held[:end]
        return [line for line in map(bytes.strip, whole.split(b"\n")) if line]

    def finish(self) -> list[bytes]:
        """What is left at the end of the stream: a last line needs no newline."""
        line = bytes(self._held).strip()
        self._held.clear()
        return [line] if line else []


def format_line(document: Mapping[str, object]) -> bytes:
    """One line. Pure ASCII: clients that split text would also split at U+2028 and U+0085."""
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"
