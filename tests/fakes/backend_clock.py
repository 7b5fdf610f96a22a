"""A clock for the backend's queue that moves when the test says so."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

__all__ = ["FakeClock"]


@dataclass(order=True)
class FakeTimer:
    due: float
    order: int
    callback: Callable[[], None] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.cancelled = True


class FakeClock:
    """Starts at 100 seconds; `advance` fires what comes due, in order. What fires may advance."""

    def __init__(self) -> None:
        self._now = 100.0
        self._timers: list[FakeTimer] = []
        self._order = count()

    def now(self) -> float:
        return self._now

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(self._now + delay_s, next(self._order), callback)
        heapq.heappush(self._timers, timer)
        return timer

    def advance(self, seconds: float) -> None:
        end = self._now + seconds
        while self._timers and self._timers[0].due <= end:
            timer = heapq.heappop(self._timers)
            self._now = max(self._now, timer.due)
            if not timer.cancelled:
                timer.callback()
        self._now = max(self._now, end)

    @property
    def pending(self) -> int:
        return sum(not timer.cancelled for timer in self._timers)

    @property
    def is_idle(self) -> bool:
        return all(timer.cancelled for timer in self._timers)

    def advance_to_next(self) -> None:
        """Fire what comes due next, and nothing after it."""
        while self._timers and self._timers[0].cancelled:
            heapq.heappop(self._timers)
        if self._timers:
            self.advance(max(0.0, self._timers[0].due - self._now))
