"""What waits in the queue, who waits for it, and what comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass

from gpu_backend.batching.clock import Timer
from gpu_backend.execution.datatypes import Array
from gpu_backend.execution.session import Feeds

__all__ = ["DEFAULT_URGENCY", "LEVELS", "Item", "Outcome", "Ticket"]

LEVELS = 8
"""Priorities, 0 the most urgent: the urgencies of RFC 9218, section 4.1."""

DEFAULT_URGENCY = 3
"""RFC 9218, section 4.1."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one item got.

    Attributes:
        outputs: In the order of the model's outputs.
        queue_s: Seconds from admission to execution.
        compute_s: Seconds of the execution it was part of.
        batch_rows: Rows of that execution.
    """

    outputs: list[Array]
    queue_s: float
    compute_s: float
    batch_rows: int


class Item:
    """Rows that are computed together, for one waiter or several.

    Attributes:
        feeds: One array per input.
        rows: Along axis 0; 1 for a model that knows no batches.
        length: Along the padded axis; 0 where nothing is padded.
        shape_key: Items with equal keys may share an execution; None shares with none.
        flight_key: Identical items have equal keys; None where that is not looked for.
        urgency: 0 to `LEVELS` - 1.
        enqueued: Clock time of admission.
        tickets: Whoever waits; empty once nobody does.
        deadline: Clock time until which somebody wants it; None without end.
        queued: Waits in the queue; False while it runs and after.
    """

    __slots__ = (
        "deadline",
        "enqueued",
        "feeds",
        "flight_key",
        "length",
        "queued",
        "rows",
        "shape_key",
        "tickets",
        "urgency",
    )

    def __init__(
        self,
        feeds: Feeds,
        rows: int,
        *,
        length: int = 0,
        shape_key: Hashable = None,
        flight_key: Hashable = None,
        urgency: int = DEFAULT_URGENCY,
    ) -> None:
        self.feeds = feeds
        self.rows = rows
        self.length = length
        self.shape_key = shape_key
        self.flight_key = flight_key
        self.urgency = urgency
        self.enqueued = 0.0
        self.deadline: float | None = 0.0
        self.tickets: list[Ticket] = []
        self.queued = False

    @property
    def units(self) -> int:
        """What it costs, in the units of `ServiceTime`."""
        return self.rows * self.length if self.length else self.rows

    def add(self, ticket: Ticket) -> None:
        """One more waiter."""
        self.tickets.append(ticket)
        if ticket.deadline is None:
            self.deadline = None
        elif self.deadline is not None:
            self.deadline = max(self.deadline, ticket.deadline)


class Ticket:
    """One waiter's claim on an item. Each resolves by itself; none harms another.

    Attributes:
        item: What is waited for.
        future: Gets the `Outcome` or a `BackendError`.
        deadline: Clock time after which the answer is worthless; None without end.
        timer: Fires at the deadline.
    """

    __slots__ = ("deadline", "future", "item", "timer")

    def __init__(self, item: Item, future: asyncio.Future[Outcome], deadline: float | None) -> None:
        self.item = item
        self.future = future
        self.deadline = deadline
        self.timer: Timer | None = None
