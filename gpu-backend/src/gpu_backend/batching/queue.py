"""The queue of one model: priorities, and the choice of what runs next together.

Levels are strict: nothing of a level runs while a more urgent one has items. Within a level
items go in order of arrival, except that items which can share an execution with the first
may overtake others that cannot. A batch grows no further than its items' deadlines allow: who
was admitted is not made late by who came after.

There is one exception. Items whose time is nearly up allow small batches only, and a queue of
them is computed one by one, at a fraction of what batches reach, until everybody in it is late.
So they lose their turn when it would make those late who can run together without them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from gpu_backend.batching.estimator import ServiceTime
from gpu_backend.batching.item import LEVELS, Item
from gpu_backend.batching.policy import BatchPolicy

__all__ = ["ItemQueue"]

_WINDOW = 4
"""Executions' worth of items looked through for company: bounds the time a choice takes."""

_CLEARLY_FASTER = 1.2
"""By which a batch must be faster, by the row, before anybody loses its turn to it."""


@dataclass(slots=True)
class _Batch:
    """What may run together.

    Attributes:
        items: At least one.
        rows: Of all items.
        length: Of the longest.
        deadline: The soonest; None without end.
        is_held_back: A deadline keeps out what would fit.
    """

    items: list[Item]
    rows: int
    length: int
    deadline: float | None
    is_held_back: bool = False

    @property
    def units(self) -> int:
        """What it costs, in the units of `ServiceTime`."""
        return self.rows * max(1, self.length)


def _sooner(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)


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
        if head.shape_key is None or self._count == 1:
            return [head]
        window = islice(iter(self), self._policy.max_batch * _WINDOW)
        line = [item for item in window if item.shape_key == head.shape_key]
        batch = self._gather(line, now)
        if batch.is_held_back:
            batch = self._without_who_holds_back(batch, line, now)
        return self._stop_at_preferred(batch.items, batch.rows)

    def _gather(self, line: list[Item], now: float) -> _Batch:
        """The first of `line` and all that may run with it."""
        head, *company = line
        if self._policy.padding is not None:
            # The closest in length first: every row is padded to the longest.
            company.sort(key=lambda item: abs(item.length - head.length))
        base_s, unit_s = self._service.line()
        start = now + base_s + self._service.margin_s
        batch = _Batch([head], head.rows, head.length, head.deadline)
        for item in company:
            rows, length = batch.rows + item.rows, max(batch.length, item.length)
            if not self._fits(rows, length):
                continue
            deadline = _sooner(batch.deadline, item.deadline)
            if deadline is not None and start + unit_s * rows * max(1, length) > deadline:
                batch.is_held_back = True
                continue
            batch.items.append(item)
            batch.rows, batch.length, batch.deadline = rows, length, deadline
        return batch

    def _without_who_holds_back(self, batch: _Batch, line: list[Item], now: float) -> _Batch:
        """`batch`, or one that begins further down the `line` where that saves more."""
        best, best_rate = batch, self._rate(batch) * _CLEARLY_FASTER
        ends = now + self._service.predict(batch.units)
        skipped = 1
        while skipped < len(line) and line[skipped].urgency == line[0].urgency:
            other = self._gather(line[skipped:], now)
            rate = self._rate(other)
            later = ends + self._service.promise(other.units)
            if rate > best_rate and other.deadline is not None and later > other.deadline:
                best, best_rate = other, rate
            skipped *= 2
        return best

    def _rate(self, batch: _Batch) -> float:
        return batch.rows / max(self._service.predict(batch.units), 1e-9)

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
