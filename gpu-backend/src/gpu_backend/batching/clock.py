"""Time as the queue sees it: a seam, so that tests decide what time it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

__all__ = ["Clock", "LoopClock", "Timer"]


class Timer(Protocol):
    """A call that is still to come."""

    def cancel(self) -> None:
        """The call does not happen."""
        ...


class Clock(Protocol):
    """Monotonic seconds, and calls in the future."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` after `delay_s`, on the event loop."""
        ...


class LoopClock:
    """The event loop's timers, with a clock finer than the loop's own milliseconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.now = perf_counter

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` after `delay_s`, on the event loop."""
        return self._loop.call_later(delay_s, callback)
