"""Keeps the number of guests that compute at the same time near the number of cores.

Threads beyond the cores only fight: for Python's lock in host calls, for caches, and for the
kernel's lock on the address space. On two cores, 32 threads serve half of what three do. So a
guest passes this gate before it runs, and leaves it while it sleeps in `wasi:io/poll`.

A guest that computes for long does not hold the gate shut: after `patience_s` it counts no more,
and the next one is let in beside it, as an operating system would share the cores.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable

__all__ = ["RunGate", "usable_cores"]

_PATIENCE_S = 0.05


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


class RunGate:
    """Lets `limit` threads run at once, in the order they came. Each enters at most once.

    Args:
        limit: Threads that run at once, those that run for long not counted.
        patience_s: When a running thread stops to count.
    """

    def __init__(
        self,
        limit: int,
        patience_s: float = _PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._patience_s = patience_s
        self._clock = clock
        self._lock = threading.Lock()
        self._running: dict[int, float] = {}  # thread → since when; oldest first
        self._waiting: deque[tuple[int, threading.Event]] = deque()

    @property
    def running(self) -> int:
        """Threads inside."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Threads outside that want in."""
        return len(self._waiting)

    def enter(self) -> None:
        """Return once this thread may run."""
        thread = threading.get_ident()
        with self._lock:
            if not self._waiting and self._has_room():
                self._running[thread] = self._clock()
                return
            admitted = threading.Event()
            self._waiting.append((thread, admitted))
            patience_s = self._next_change_s()
        while not admitted.wait(patience_s):
            with self._lock:
                self._admit()
                patience_s = self._next_change_s()

    def leave(self) -> None:
        """This thread sleeps or has ended."""
        with self._lock:
            self._running.pop(threading.get_ident(), None)
            self._admit()

    def _admit(self) -> None:
        while self._waiting and self._has_room():
            thread, admitted = self._waiting.popleft()
            self._running[thread] = self._clock()
            admitted.set()

    def _has_room(self) -> bool:
        if len(self._running) < self._limit:
            return True
        young_since = self._clock() - self._patience_s
        return sum(since > young_since for since in self._running.values()) < self._limit

    def _next_change_s(self) -> float:
        """Until the oldest thread that counts stops to count."""
        now = self._clock()
        ages = (now - since for since in self._running.values())
        left = [self._patience_s - age for age in ages if age < self._patience_s]
        return max(min(left, default=0.0), 0.001)
