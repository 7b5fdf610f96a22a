"""Threads for decoding and encoding that would hold up the event loop.

What they cannot take in time is refused at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TypeVar

from gpu_backend.errors import OverloadedError

__all__ = ["CodecPool"]

T = TypeVar("T")

_FADE = 0.9


class CodecPool:
    """Runs functions on a few threads and knows how long they take. Owns the threads.

    Args:
        workers: Threads.
        max_wait_s: Longest wait that is admitted.
    """

    def __init__(self, workers: int, max_wait_s: float) -> None:
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="codec")
        self._workers = workers
        self._max_wait_s = max_wait_s
        self._pending = 0
        self._mean_s = 0.0

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`.

        Raises:
            OverloadedError: It would have to wait too long.
        """
        wait_s = self._mean_s * (self._pending // self._workers)
        if self._pending >= self._workers and wait_s > self._max_wait_s:
            raise OverloadedError(
                f"{self._pending} bodies wait to be decoded or encoded",
                retry_after_s=wait_s - self._max_wait_s,
            )
        self._pending += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, _timed, work)
        # Counted until the thread is done with it, not until its caller has left.
        future.add_done_callback(self._note)
        result, _ = await asyncio.shield(future)
        return result

    def close(self) -> None:
        """End the threads after what they have begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _note(self, future: asyncio.Future[tuple[T, float]]) -> None:
        self._pending -= 1
        if not future.cancelled() and future.exception() is None:
            seconds = future.result()[1]
            self._mean_s = self._mean_s * _FADE + seconds * (1 - _FADE) if self._mean_s else seconds


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    started = perf_counter()
    result = work()
    return result, perf_counter() - started
