"""The queue of one model: priorities, and the choice of what runs next together.

Levels are strict: nothing of a level runs while a more urgent one has items. Within a level
items go in order of arrival, except that items which can share an execution with the first
may overtake others that cannot. A batch grows no further than its items' deadlines allow: who
was admitted is not made late by who came after.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice

from gpu_backend.batching.estimator import ServiceTime
from gpu_backend.batching.item import LEVELS, Item
from gpu_backend.batching.policy import BatchPolicy

__all__ = ["ItemQueue"]

_WINDOW = 4
"""Executions' worth of items looked through for company: bounds the time a choice takes."""


class ItemQueue:
    """Items by level. Every operation but `take` is O(1); `take` looks at a bounded window."""

    def __init__(self, policy: BatchPolicy, service: ServiceTime) -> None:
        self._policy = policy
        self._service = service
        # Ordered dicts, because a waiter that leaves takes its item out of the middle at once.
        self._levels: list[OrderedDict[Item, None]] = [OrderedDict() for _ in range(LEVELS)]
        self._rows = [0] * LEVELS
        self._units = [0] * LEVELS
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Item]:
        for level in self._levels:
            yield from level

    @property
    def rows(self) -> int:
        """Rows of all items."""
        return sum(self._rows)

    def ahead_of(self, urgency: int) -> tuple[int, int]:
        """Rows and units that run before a new item of `urgency`."""
        return sum(self._rows[: urgency + 1]), sum(self._units[: urgency + 1])

    def push(self, item: Item) -> None:
        """Add `item` behind the others of its level."""
        self._levels[item.urgency][item] = None
        self._rows[item.urgency] += item.rows
        self._units[item.urgency] += item.units
        self._count += 1
        item.queued = True

    def remove(self, item: Item) -> None:
        """Take `item` out, wherever it stands."""
        del self._levels[item.urgency][item]
        self._rows[item.urgency] -= item.rows
        self._units[item.urgency] -= item.units
        self._count -= 1
        item.queued = False

    def first(self) -> Item | None:
        """The item that runs next."""
        for level in self._levels:
            if level:
                return next(iter(level))
        return None

    def take(self, now: float) -> list[Item]:
        """The next items to run together, removed from the queue; none when it is empty."""
        head = self.first()
        if head is None:
            return []
        batch = self._choose(head, now)
        for item in batch:
            self.remove(item)
        return batch

    def _choose(self, head: Item, now: float) -> list[Item]:
        policy = self._policy
        if head.shape_key is None or self._count == 1:
            return [head]
        window = islice(iter(self), policy.max_batch * _WINDOW)
        company = [item for item in window if item is not head and item.shape_key == head.shape_key]
        if policy.padding is not None:
            # The closest in length first: every row is padded to the longest.
            company.sort(key=lambda item: abs(item.length - head.length))
        batch, rows, length, deadline = [head], head.rows, head.length, head.deadline
        for item in company:
            longest = max(length, item.length)
            if not self._fits(rows + item.rows, longest):
                continue
            if deadline is not None or item.deadline is not None:
                units = (rows + item.rows) * max(1, longest)
                soonest = min(d for d in (deadline, item.deadline) if d is not None)
                if now + self._service.promise(units) > soonest:
                    continue
                deadline = soonest
            batch.append(item)
            rows += item.rows
            length = longest
        return self._stop_at_preferred(batch, rows)

    def _fits(self, rows: int, length: int) -> bool:
        policy = self._policy
        if rows > policy.max_batch:
            return False
        return not policy.token_budget or rows * length <= policy.token_budget

    def _stop_at_preferred(self, batch: list[Item], rows: int) -> list[Item]:
        reached = [size for size in self._policy.preferred_rows if size <= rows]
        if not reached:
            return batch
        while rows > reached[-1] and len(batch) > 1:
            rows -= batch.pop().rows
        return batch
