"""Threads that run executions, so that the event loop goes on answering.

Leaner than a `ThreadPoolExecutor`: one queue, one wake-up of the loop per execution, no future
and no lock in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol, TypeVar, cast

from gpu_backend.execution.priority import yield_to_event_loop

__all__ = ["Executor", "Workers", "call_threadsafe"]


T = TypeVar("T")


def call_threadsafe(
    loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *arguments: object
) -> None:
    """Call on the loop; nothing when the loop has ended, for then nobody waits any more."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *arguments)


class Executor(Protocol):
    """Runs executions beside the event loop."""

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job`, which does not raise, as soon as may be."""
        ...

    def close(self) -> None:
        """Begin nothing more."""
        ...


class Workers:
    """Threads of one model: a slow model keeps only its own threads busy. Owns them.

    They are daemons: a run that hangs does not keep the process from ending.

    Args:
        name: Of the model; threads carry it.
        count: How many executions may run at once.
        niceness: Of the threads.
    """

    def __init__(self, name: str, count: int, niceness: int = 0) -> None:
        self._niceness = niceness
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"run-{name}-{index}", daemon=True)
            for index in range(count)
        ]
        self._started = False

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` on a thread; it must not raise."""
        if not self._started:  # models that run on the event loop never need their threads
            self._started = True
            for thread in self._threads:
                thread.start()
        self._jobs.put(job)

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, from a thread. A caller that leaves does not stop it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is None:
                future.set_result(cast("T", result))
            else:
                future.set_exception(error)

        def job() -> None:
            result, error = None, None
            try:
                result = work()
            except BaseException as exc:
                error = exc
            call_threadsafe(loop, settle, result, error)

        self.submit(job)
        return await future

    def close(self) -> None:
        """Let the threads end after what they have begun. Returns at once."""
        if self._started:
            for _ in self._threads:
                self._jobs.put(None)

    def _work(self) -> None:
        yield_to_event_loop(self._niceness)
        while (job := self._jobs.get()) is not None:
            job()
            del job  # an idle thread must not keep the last batch's arrays alive
