"""Prints for people: aligned tables, and progress that stays on one line where a terminal can."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TextIO

__all__ = ["Console"]

_GREEN, _YELLOW, _RED, _RESET = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[0m"
_CLEAR_LINE = "\r\x1b[K"


class Console:
    """One output stream."""

    def __init__(self, stream: TextIO, *, color: bool | None = None) -> None:
        self._stream = stream
        self._live = stream.isatty() if color is None else color
        self._shown: dict[str, str] = {}

    def say(self, text: str = "") -> None:
        """Print a line."""
        self._stream.write(f"{_CLEAR_LINE if self._live else ''}{text}\n")
        self._stream.flush()

    def good(self, text: str) -> None:
        """Print a line that says something is as it should be."""
        self.say(self._paint(_GREEN, text))

    def warn(self, text: str) -> None:
        """Print a line that deserves a look."""
        self.say(self._paint(_YELLOW, text))

    def bad(self, text: str) -> None:
        """Print a line that says something is wrong."""
        self.say(self._paint(_RED, text))

    def progress(self, subject: str, state: str) -> None:
        """Show how far a subject is: once per change, or in place on a terminal."""
        if self._shown.get(subject) == state:
            return
        self._shown[subject] = state
        if self._live:
            self._stream.write(f"{_CLEAR_LINE}  {subject}: {state}"[:160])
            self._stream.flush()
        else:
            self.say(f"  {subject}: {state}")

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print rows under a header, in columns as wide as they must be."""
        cells = [list(header), *(list(row) for row in rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
        for row in cells:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.say(line.rstrip())

    def _paint(self, color: str, text: str) -> str:
        return f"{color}{text}{_RESET}" if self._live else text
