"""Threads that run guests: bounded, made on demand, fed by a bounded queue.

A guest holds its thread until it returns, also while it waits for an upstream, so there are more
threads than cores. What finds no free thread waits in order, for a bounded time and in a bounded
queue; beyond that it is turned away at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from edgehost.ports import Gate

__all__ = ["Job", "WorkerPool"]

_log = logging.getLogger(__name__)


class Job(Protocol):
    """Work for a thread. Exactly one of `run` and `expire` is called, once."""

    def run(self) -> None:
        """Do the work; must not raise."""
        ...

    def expire(self) -> None:
        """The job waited too long, or the pool closed, before a thread was free."""
        ...

    def cancel(self) -> None:
        """End `run` soon; called from another thread while it runs."""
        ...


class WorkerPool:
    """Runs jobs on at most `threads` daemon threads.

    A thread enters the gate before it takes a job, and one thread at most stands there without a
    job: a burst of short requests is served by as many threads as the gate lets run, whose stacks
    and caches are warm, not by one thread each.

    Args:
        threads: Most jobs run at once, those that sleep included.
        queue_size: Most jobs waiting.
        queue_timeout_s: A job that has waited for this long expires.
        gate: Bounds how many jobs compute at once.
        name: Prefix of the threads' names.
    """

    def __init__(
        self,
        threads: int,
        queue_size: int,
        queue_timeout_s: float,
        gate: Gate,
        *,
        name: str = "edgehost-guest",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = threads
        self._queue_size = queue_size
        self._queue_timeout_s = queue_timeout_s
        self._gate = gate
        self._name = name
        self._clock = clock
        self._condition = threading.Condition()
        self._waiting: deque[tuple[float, Job]] = deque()
        self._running: set[Job] = set()
        self._threads = 0
        self._idle = 0  # asleep, and not called
        self._called = 0
        self._next_is_coming = False  # a thread is on its way through the gate to the next job
        self._closed = False

    def submit(self, job: Job) -> bool:
        """Run `job` as soon as a thread is free; False when too many wait or the pool is closed."""
        with self._condition:
            if self._closed or len(self._waiting) >= self._queue_size:
                return False
            self._waiting.append((self._clock() + self._queue_timeout_s, job))
            self._send_next()
        return True

    @property
    def waiting(self) -> int:
        """Jobs without a thread."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Jobs on a thread."""
        return len(self._running)

    def expire(self) -> None:
        """Drop jobs that have waited too long; call it now and then."""
        now = self._clock()
        expired: list[Job] = []
        with self._condition:
            while self._waiting and self._waiting[0][0] <= now:
                expired.append(self._waiting.popleft()[1])
        for job in expired:
            job.expire()

    def cancel_running(self) -> None:
        """Ask every running job to end soon."""
        with self._condition:
            running = list(self._running)
        for job in running:
            job.cancel()

    def close(self, timeout_s: float) -> bool:
        """Expire what waits, let threads end after their job; False if some still run."""
        with self._condition:
            self._closed = True
            waiting = [job for _, job in self._waiting]
            self._waiting.clear()
            self._condition.notify_all()
        for job in waiting:
            job.expire()
        with self._condition:
            return self._condition.wait_for(lambda: self._threads == 0, timeout_s)

    def _send_next(self) -> None:
        """See to it that a thread comes for the first waiting job; the lock is held."""
        if self._next_is_coming or not self._waiting:
            return
        if self._idle:
            self._next_is_coming = True
            self._idle -= 1
            self._called += 1
            self._condition.notify()
        elif self._threads < self._limit:
            self._next_is_coming = True
            self._threads += 1
            name = f"{self._name}-{self._threads}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while True:
            self._gate.enter()
            try:
                self._run_next()
            finally:
                self._gate.leave()
            if not self._await_turn():
                return

    def _run_next(self) -> None:
        with self._condition:
            self._next_is_coming = False
            if not self._waiting:
                return  # it expired while this thread was on its way
            _, job = self._waiting.popleft()
            self._running.add(job)
            self._send_next()
        try:
            job.run()
        except BaseException:
            _log.exception("a job failed")
        with self._condition:
            self._running.discard(job)

    def _await_turn(self) -> bool:
        """Sleep until there is a job to fetch; False when the thread is to end."""
        with self._condition:
            if self._waiting and not self._next_is_coming and not self._closed:
                self._next_is_coming = True
                return True
            self._idle += 1
            while not self._called and not self._closed:
                self._condition.wait()
            if self._called:
                self._called -= 1
                return True
            self._threads -= 1
            self._condition.notify_all()
            return False
