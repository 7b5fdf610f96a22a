"""A guest's stdout and stderr, cut into lines."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Final

__all__ = ["GuestOutput"]

MAX_LINE_BYTES: Final = 8 * 1024
"""Longer lines are cut: a guest that never ends its line must not fill the host's memory."""


class GuestOutput:
    """Collects one stream's bytes and emits whole lines; used on the guest's thread only."""

    __slots__ = ("_buffer", "_emit")

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._buffer = bytearray()

    def write(self, data: bytes) -> None:
        """Emit every line that `data` completes and keep the rest."""
        buffer = self._buffer
        buffer += data
        while True:
            end = buffer.find(b"\n", 0, MAX_LINE_BYTES + 1)
            if end >= 0:
                line, skip = bytes(buffer[:end]), end + 1
            elif len(buffer) > MAX_LINE_BYTES:
                cut = _character_boundary(buffer, MAX_LINE_BYTES)
                line, skip = bytes(buffer[:cut]), cut
            else:
                return
            del buffer[:skip]
            self._emit_line(line)

    def close(self) -> None:
        """Emit a last line that has no line end."""
        if self._buffer:
            line = bytes(self._buffer)
            self._buffer.clear()
            self._emit_line(line)

    def _emit_line(self, line: bytes) -> None:
        self._emit(codecs.decode(line.removesuffix(b"\r"), "utf-8", "replace"))


def _character_boundary(data: bytearray, position: int) -> int:
    """The last start of a UTF-8 character at or before `position`, at most 3 bytes back."""
    for back in range(4):
        if data[position - back] & 0xC0 != 0x80:
            return position - back
    return position
