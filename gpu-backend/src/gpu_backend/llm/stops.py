"""Stop sequences in a stream: text is held back while it may still become one."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopFilter"]


class StopFilter:
    """Passes text on until one of `stops` begins; what might be its beginning waits.

    Args:
        stops: Each at least one character long.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.matched: str | None = None
        """The sequence that ended the text; None while none has."""

    def push(self, text: str) -> str:
        """What of the text so far is certain to stay. After a match, nothing more does."""
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        self._held += text
        first = self._first_match()
        if first is not None:
            at, self.matched = first
            passed, self._held = self._held[:at], ""
            return passed
        keep = self._partial_length()
        passed = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return passed

    def flush(self) -> str:
        """What was held back, when the text ends without a match."""
        passed, self._held = self._held, ""
        return passed

    def _first_match(self) -> tuple[int, str] | None:
        """Where the earliest sequence begins; of two at one place, the longer."""
        found = [(self._held.find(stop), -len(stop), stop) for stop in self._stops]
        present = [entry for entry in found if entry[0] >= 0]
        if not present:
            return None
        at, _, stop = min(present)
        return at, stop

    def _partial_length(self) -> int:
        """Length of the longest end of the text that a sequence begins with."""
        longest = max(len(stop) for stop in self._stops) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
