"""Who may wait: what would wait too long is refused at the door, and told when to come back.

A queue that grows without bound serves nobody: every answer comes late. What is admitted is
expected to be answered in time; what is refused is told at once and has cost nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpu_backend.batching.estimator import ServiceTime
from gpu_backend.batching.item import LEVELS
from gpu_backend.batching.policy import BatchPolicy
from gpu_backend.batching.queue import ItemQueue
from gpu_backend.errors import DeadlineExceededError, OverloadedError

__all__ = ["Admission", "QueueLimits"]

_BATCH_SHARE = 0.5
"""Share of its time that who joins a queue leaves to the execution it will be part of.

Without it everybody is admitted with just the time for an execution of its own; a batch may then
not grow without making its first items late, so the batches shrink, throughput with them, and
those who were admitted for more of it come late. Half, because the other half covers the wait for
the execution before, which then lasts as long.
"""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Bounds of one model's queue.

    Attributes:
        max_items: That may wait.
        max_wait_s: Longest wait that is admitted.
    """

    max_items: int = 1024
    max_wait_s: float = 2.0


class Admission:
    """Decides on one model's requests from its queue and its measured service time."""

    def __init__(
        self, policy: BatchPolicy, limits: QueueLimits, queue: ItemQueue, service: ServiceTime
    ) -> None:
        self._policy = policy
        self._limits = limits
        self._queue = queue
        self._service = service

    def check(
        self, units: int, urgency: int, budget_s: float | None, *, is_busy: bool, busy_s: float
    ) -> None:
        """Nothing when a new item may wait.

        Args:
            units: Of the item.
            urgency: Of the item.
            budget_s: Seconds until its deadline; None without one.
            is_busy: No executor is free.
            busy_s: Seconds until an executor is expected to be free.

        Raises:
            DeadlineExceededError: The budget is too small even for an empty queue.
            OverloadedError: The queue is full, or the wait would be too long.
        """
        least_s = self._service.least_s
        if budget_s is not None and budget_s < least_s:
            raise DeadlineExceededError(
                f"{_ms(budget_s)} ms are left, the model takes {_ms(least_s)} ms at least"
            )
        queued = len(self._queue)
        if not queued and not is_busy:
            return
        own_s = self._service.promise(units)
        wait_s = self.expected_wait(urgency, busy_s)
        if queued >= self._limits.max_items:
            raise OverloadedError(
                f"{queued} requests wait for this model, the limit is {self._limits.max_items}",
                retry_after_s=wait_s / 2,
            )
        # The next execution takes what stands at an empty queue's head: no wait is shorter.
        if queued and wait_s > self._limits.max_wait_s:
            raise OverloadedError(
                f"the wait would be about {_ms(wait_s)} ms, the limit is "
                f"{_ms(self._limits.max_wait_s)} ms",
                retry_after_s=wait_s - self._limits.max_wait_s,
            )
        if budget_s is not None and queued:
            batch_s = min(self._full_batch_s(), _BATCH_SHARE * budget_s)
            own_s = max(own_s, batch_s + self._service.margin_s)
        if budget_s is not None and wait_s + own_s > budget_s:
            raise OverloadedError(
                f"the answer would take about {_ms(wait_s + own_s)} ms, "
                f"{_ms(budget_s)} ms are left",
                retry_after_s=wait_s + own_s - budget_s,
            )

    def expected_wait(self, urgency: int, busy_s: float) -> float:
        """Seconds until an item of `urgency` that arrives now would start to run."""
        rows, units = self._queue.ahead_of(urgency)
        if rows == 0:
            return busy_s
        base_s, unit_s = self._service.line()
        executions = math.ceil(rows / self._policy.max_batch)
        return busy_s + (executions * base_s + units * unit_s) / self._policy.instances

    def _full_batch_s(self) -> float:
        """Seconds of a full execution of items like those that wait."""
        rows, units = self._queue.ahead_of(LEVELS - 1)
        full = self._policy.max_batch * units / rows
        return self._service.promise(min(full, self._policy.token_budget or full))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g}" if seconds < 1 else f"{seconds * 1000:.0f}"
