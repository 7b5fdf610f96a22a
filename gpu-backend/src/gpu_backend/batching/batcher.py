"""Dynamic batching of one model. All of it runs on the event loop; only `Runner.run` may not.

Rules that hold here:

* Greedy: whatever waits is dispatched as soon as an executor is free. Items gather while the
  executor is busy, so batches grow with load by themselves. A delay is possible, never default.
* Every item is admitted, or refused at once; it waits in a bounded queue; it leaves the queue at
  its deadline, or when nobody waits for it any more.
* A ticket resolves exactly once and by itself: a waiter that is cancelled, late or failing
  changes nothing for the others in its batch, nor for those who share its item.
* Executions that are short run on the event loop itself: handing them to a thread costs more
  than they do. Longer ones run on this model's own threads.
* When an execution ends, the next one starts before anyone is told of the results.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Hashable, Sequence
from typing import Protocol

from gpu_backend.batching.admission import Admission, QueueLimits
from gpu_backend.batching.assembly import assemble, split
from gpu_backend.batching.clock import Clock, LoopClock, Timer
from gpu_backend.batching.estimator import ServiceTime
from gpu_backend.batching.item import Item, Outcome, Ticket
from gpu_backend.batching.policy import BatchPolicy
from gpu_backend.batching.queue import ItemQueue
from gpu_backend.batching.stats import ModelStats
from gpu_backend.batching.workers import Executor, Workers, call_threadsafe
from gpu_backend.errors import (
    BackendError,
    DeadlineExceededError,
    ExecutionFailedError,
    ModelNotReadyError,
)
from gpu_backend.execution.datatypes import Array
from gpu_backend.execution.session import Feeds

__all__ = ["Batcher", "Runner"]

_log = logging.getLogger(__name__)

Results = list[list[Array] | BackendError]
"""For each item of an execution its outputs, or why it has none."""


class Runner(Protocol):
    """What computes: a session."""

    output_names: list[str]

    def run(self, feeds: Feeds) -> list[Array]:
        """All outputs for `feeds`. Raises `BackendError`."""
        ...


class Batcher:
    """Queue and executions of one model version.

    Args:
        name: Of the model.
        runner: Computes; owned by the caller.
        policy: What may run together.
        limits: Of the queue.
        service: Knows how long executions take; seeded by the warm-up.
        stats: Counters to keep.
        inline_units: Executions of at most so many units run on the event loop; 0 none does.
        niceness: Of the threads that compute.
        executor: Runs what does not run on the event loop; owned from here on. By default threads
            of this model's own, as many as the policy has instances.
        clock: Time; the loop's by default.
    """

    def __init__(
        self,
        name: str,
        runner: Runner,
        policy: BatchPolicy,
        *,
        limits: QueueLimits | None = None,
        service: ServiceTime | None = None,
        stats: ModelStats | None = None,
        inline_units: float = 0.0,
        niceness: int = 0,
        executor: Executor | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._name = name
        self._runner = runner
        self._policy = policy
        self._limits = limits or QueueLimits()
        self._service = service or ServiceTime()
        self.stats = stats or ModelStats()
        self._inline_units = inline_units
        self._loop = asyncio.get_running_loop()
        self._clock = clock or LoopClock(self._loop)
        self._queue = ItemQueue(policy, self._service)
        self._admission = Admission(policy, self._limits, self._queue, self._service)
        self._executor = executor or Workers(name, policy.instances, niceness)
        self._running: dict[int, float] = {}
        """Executions in progress: when each is expected to end."""
        self._next_run = 0
        self._flights: dict[Hashable, Item] = {}
        self._dispatch_planned = False
        self._delay_timer: Timer | None = None
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()
        self._closed = False

    @property
    def queued(self) -> int:
        """Items that wait."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Executions in progress."""
        return len(self._running)

    def stuck_for(self) -> float:
        """Seconds that the latest execution is overdue; 0 when all are in time."""
        if not self._running:
            return 0.0
        return max(0.0, self._clock.now() - min(self._running.values()))

    def expects_thread(self, units: int) -> bool:
        """True when an item of `units` would run on a thread: long enough to watch its client."""
        return units > self._inline_units

    def knock(self, urgency: int, deadline: float | None) -> None:
        """Refuse what `submit` would refuse in any case, before a body is parsed for it.

        Raises:
            OverloadedError: As `submit`.
            DeadlineExceededError: As `submit`.
        """
        if len(self._queue) and self.expects_thread(1):
            self._admit(1, urgency, deadline, self._clock.now())

    def submit(self, item: Item, deadline: float | None = None) -> Ticket:
        """Admit `item` or refuse it.

        Args:
            item: New; or identical to one in flight, whose answer it then shares.
            deadline: Clock time (`perf_counter`) after which the answer is worthless.

        Returns:
            A ticket whose future gets the outcome. Give it to `abandon` to stop waiting.

        Raises:
            OverloadedError: The wait would be too long.
            DeadlineExceededError: The time left is too short for the model.
            ModelNotReadyError: The model is being unloaded.
        """
        if self._closed:
            raise ModelNotReadyError(f"model {self._name!r} is being unloaded")
        now = self._clock.now()
        flight = self._find_flight(item)
        if flight is not None:
            self.stats.collapsed += 1
            return self._join(flight, deadline, now)
        # What runs on the event loop waits for no executor: only the bound of the queue applies.
        if item.units > self._inline_units or len(self._queue) >= self._limits.max_items:
            self._admit(item.units, item.urgency, deadline, now)
        item.enqueued = now
        if item.flight_key is not None:
            self._flights[item.flight_key] = item
        self._queue.push(item)
        self._idle.clear()
        self._plan_dispatch()
        return self._join(item, deadline, now)

    def abandon(self, ticket: Ticket, error: BackendError | None = None) -> None:
        """Stop waiting: frees the item's place when nobody else waits for it.

        Args:
            ticket: From `submit`.
            error: For whoever still awaits the ticket's future; without it the future is
                cancelled.
        """
        self._resolve(ticket)
        if ticket.future.done():
            return
        if error is None:
            ticket.future.cancel()
        else:
            ticket.future.set_exception(error)

    async def drain(self, timeout_s: float) -> bool:
        """Admit nothing more and wait until all that was admitted is answered.

        Returns:
            True when everything was answered; False when the time ran out. What still waits
            then gets `ModelNotReadyError`; what runs is left to end by itself.
        """
        self._closed = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            error = ModelNotReadyError(f"model {self._name!r} was unloaded before its turn")
            for item in list(self._queue):
                self._queue.remove(item)
                self._fail(item, error)
            return False
        finally:
            self._executor.close()
        return True

    def _admit(self, units: int, urgency: int, deadline: float | None, now: float) -> None:
        budget_s = None if deadline is None else deadline - now
        is_busy = len(self._running) >= self._policy.instances
        busy_s = self._busy_for(now) if is_busy else 0.0
        self._admission.check(units, urgency, budget_s, is_busy=is_busy, busy_s=busy_s)

    # -- tickets -------------------------------------------------------------------------------

    def _find_flight(self, item: Item) -> Item | None:
        if item.flight_key is None:
            return None
        flight = self._flights.get(item.flight_key)
        # Joining an item that waits behind less urgent work would demote this one.
        if flight is None or (flight.queued and flight.urgency > item.urgency):
            return None
        return flight

    def _join(self, item: Item, deadline: float | None, now: float) -> Ticket:
        ticket = Ticket(item, self._loop.create_future(), deadline)
        item.add(ticket)
        if deadline is not None:
            ticket.timer = self._clock.call_later(deadline - now, lambda: self._expire(ticket))
        return ticket

    def _expire(self, ticket: Ticket) -> None:
        waited = "in the queue" if ticket.item.queued else "while it was computed"
        self._resolve(ticket)
        if not ticket.future.done():
            ticket.future.set_exception(DeadlineExceededError(f"the time ran out {waited}"))

    def _resolve(self, ticket: Ticket) -> None:
        """Take `ticket` off its item; an item that waits for nobody leaves the queue."""
        item = ticket.item
        if ticket.timer is not None:
            ticket.timer.cancel()
        if ticket in item.tickets:
            item.tickets.remove(ticket)
        if item.queued and not item.tickets:
            self._queue.remove(item)
            self._land(item)
            self.stats.dropped += 1
            self._note_idle()

    def _land(self, item: Item) -> None:
        """Nobody can join `item` any more."""
        if item.flight_key is not None and self._flights.get(item.flight_key) is item:
            del self._flights[item.flight_key]

    # -- dispatch ------------------------------------------------------------------------------

    def _plan_dispatch(self) -> None:
        """Dispatch in the loop's next round: by then all that arrived in this one is queued."""
        is_free = len(self._running) < self._policy.instances
        if is_free and not self._dispatch_planned and len(self._queue):
            self._dispatch_planned = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatch_planned = False
        while len(self._running) < self._policy.instances and len(self._queue):
            if self._policy.max_delay_us and self._should_wait():
                return
            batch = self._without_late(self._queue.take(self._clock.now()))
            if batch and self._start(batch):
                # It ran right here: let the loop breathe before the next one does.
                self._plan_dispatch()
                return

    def _should_wait(self) -> bool:
        """With a delay set: True while the first item may still wait for company."""
        first = self._queue.first()
        assert first is not None
        rows, policy = self._queue.rows, self._policy
        left = first.enqueued + policy.max_delay_us / 1e6 - self._clock.now()
        if rows >= policy.max_batch or rows in policy.preferred_rows or left <= 0:
            return False
        if self._delay_timer is None:
            self._delay_timer = self._clock.call_later(left, self._end_delay)
        return True

    def _end_delay(self) -> None:
        self._delay_timer = None
        self._dispatch()

    def _without_late(self, batch: list[Item]) -> list[Item]:
        """`batch` without the items that cannot make their deadline: they cost nothing."""
        if all(item.deadline is None for item in batch):
            return batch
        now = self._clock.now()
        in_time = _until(batch, now + self._service.predict(_units(batch)))
        # An expectation alone never empties a batch: nothing would run, and nothing be learnt.
        kept = in_time or _until(batch, now + self._service.least_s)
        for item in batch:
            if item not in kept:
                self.stats.dropped += 1
                self._fail(item, DeadlineExceededError("the time left is too short to compute it"))
        return kept

    def _start(self, batch: list[Item]) -> bool:
        """Run `batch`; True when it has run already, here on the loop."""
        now = self._clock.now()
        units = _units(batch)
        run = self._next_run
        self._next_run += 1
        self._running[run] = now + self._service.predict(units)
        if units <= self._inline_units:
            results, failed = self._execute(batch)
            self._finish(run, batch, results, now, self._clock.now() - now, failed)
            return True

        def job() -> None:
            started = self._clock.now()
            results, failed = self._execute(batch)
            ended = self._clock.now()
            call_threadsafe(
                self._loop, self._finish_job, run, batch, results, now, ended - started, failed
            )

        self._executor.submit(job)
        return False

    # -- on a worker or on the loop --------------------------------------------------------------

    def _execute(self, batch: list[Item]) -> tuple[Results, bool]:
        """Results per item, and whether the batch had to be taken apart."""
        try:
            return list(self._run(batch)), False
        except BackendError as exc:
            if len(batch) == 1:
                return [exc], False
        results: Results = []
        for item in batch:
            try:
                results += self._run([item])
            except BackendError as exc:
                results.append(exc)
        return results, True

    def _run(self, batch: Sequence[Item]) -> list[list[Array]]:
        padding = self._policy.padding
        try:
            outputs = self._runner.run(assemble(batch, padding))
            return split(outputs, self._runner.output_names, batch, padding)
        except BackendError:
            raise
        except Exception as exc:  # whatever it is, those who wait must hear of it
            _log.exception("model %s failed in a way that is not foreseen", self._name)
            raise ExecutionFailedError("the model failed; the backend's log says why") from exc

    # -- after an execution ----------------------------------------------------------------------

    def _finish_job(
        self,
        run: int,
        batch: list[Item],
        results: Results,
        started: float,
        compute_s: float,
        isolated: bool,
    ) -> None:
        """As `_finish`, with the thread put to work again first."""
        self._note(run, batch, compute_s, isolated)
        if not self._dispatch_planned:
            self._dispatch()
        self._tell(batch, results, started, compute_s)

    def _finish(
        self,
        run: int,
        batch: list[Item],
        results: Results,
        started: float,
        compute_s: float,
        isolated: bool,
    ) -> None:
        self._note(run, batch, compute_s, isolated)
        self._tell(batch, results, started, compute_s)

    def _note(self, run: int, batch: list[Item], compute_s: float, isolated: bool) -> None:
        """Account for an execution that has ended."""
        del self._running[run]
        if not isolated:
            self._service.observe(_units(batch), compute_s)
        for item in batch:
            self._land(item)
        rows = sum(item.rows for item in batch)
        stats = self.stats
        stats.executions += 1
        stats.rows += rows
        stats.isolated += isolated
        stats.compute_s.observe(compute_s)
        stats.batch_rows.observe(rows)
        stats.last_inference_ms = int(time.time() * 1000)

    def _tell(self, batch: list[Item], results: Results, started: float, compute_s: float) -> None:
        """Resolve every ticket of `batch`."""
        rows = sum(item.rows for item in batch)
        for item, result in zip(batch, results, strict=True):
            if isinstance(result, BackendError):
                self._fail(item, result)
                continue
            queue_s = max(0.0, started - item.enqueued)
            self.stats.queue_s.observe(queue_s)
            outcome = Outcome(result, queue_s, compute_s, rows)
            for ticket in item.tickets:
                if ticket.timer is not None:
                    ticket.timer.cancel()
                if not ticket.future.done():
                    ticket.future.set_result(outcome)
            item.tickets.clear()
        self._note_idle()

    def _fail(self, item: Item, error: BackendError) -> None:
        self._land(item)
        for ticket in item.tickets:
            if ticket.timer is not None:
                ticket.timer.cancel()
            if not ticket.future.done():
                ticket.future.set_exception(error)
        item.tickets.clear()
        self._note_idle()

    def _note_idle(self) -> None:
        if not self._running and not len(self._queue):
            self._idle.set()

    def _busy_for(self, now: float) -> float:
        """Seconds until one of the executors, all busy, is expected to be free."""
        return max(0.0, min(self._running.values()) - now)


def _until(batch: Sequence[Item], end: float) -> list[Item]:
    """Items that somebody still wants at `end`."""
    return [item for item in batch if item.deadline is None or item.deadline >= end]


def _units(batch: Sequence[Item]) -> int:
    """Of one execution: every row counts with the longest length."""
    rows = sum(item.rows for item in batch)
    return rows * max(1, *(item.length for item in batch)) if batch else 0
