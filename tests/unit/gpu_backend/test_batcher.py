"""The batcher: what runs together, who gets what, and what a waiter that leaves changes."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any

import numpy as np
import pytest

from fakes.backend_clock import FakeClock
from fakes.runners import DoublingRunner, ExplodingRunner, GatedRunner, item_feeds
from gpu_backend.batching.admission import QueueLimits
from gpu_backend.batching.batcher import Batcher
from gpu_backend.batching.estimator import ServiceTime
from gpu_backend.batching.item import Item, Outcome, Ticket
from gpu_backend.batching.policy import BatchPolicy
from gpu_backend.batching.workers import Workers, call_threadsafe
from gpu_backend.errors import (
    BackendError,
    DeadlineExceededError,
    ExecutionFailedError,
    ModelNotReadyError,
    OverloadedError,
    RequestCancelledError,
)

ALWAYS_INLINE = float("inf")


def item(*values: float, urgency: int = 3, flight_key: Hashable = None, **more: Any) -> Item:
    return Item(
        item_feeds(*values),
        len(values),
        shape_key="x",
        flight_key=flight_key,
        urgency=urgency,
        **more,
    )


def values_of(outcome: Outcome) -> list[float]:
    values: list[float] = outcome.outputs[0][:, 0].tolist()
    return values


async def started(runner: GatedRunner) -> None:
    """Return once a run has begun on its thread."""
    assert await asyncio.to_thread(runner.started.acquire, timeout=30)


async def finish(batcher: Batcher, runner: GatedRunner) -> None:
    """Open the gate for whatever runs and end the threads."""
    runner.open(1000)
    assert await batcher.drain(30)


def gated(
    policy: BatchPolicy | None = None, **options: Any
) -> tuple[Batcher, GatedRunner, FakeClock]:
    runner, clock = GatedRunner(**options.pop("runner", {})), FakeClock()
    return Batcher("m", runner, policy or BatchPolicy(), clock=clock, **options), runner, clock


async def test_submit_in_one_round_runs_as_one_batch() -> None:
    runner = DoublingRunner()
    batcher = Batcher("m", runner, BatchPolicy(), inline_units=ALWAYS_INLINE)
    tickets = [batcher.submit(item(value)) for value in (1, 2, 3)]
    outcomes = await asyncio.gather(*(ticket.future for ticket in tickets))
    assert runner.batches == [[1, 2, 3]]
    assert [values_of(outcome) for outcome in outcomes] == [[2], [4], [6]]
    assert {outcome.batch_rows for outcome in outcomes} == {3}


async def test_submit_beyond_max_batch_starts_another_batch() -> None:
    runner = DoublingRunner()
    batcher = Batcher("m", runner, BatchPolicy(max_batch=4), inline_units=ALWAYS_INLINE)
    tickets = [batcher.submit(item(value, value)) for value in (1, 2, 3)]
    await asyncio.gather(*(ticket.future for ticket in tickets))
    assert runner.batches == [[1, 1, 2, 2], [3, 3]]


async def test_submit_while_busy_gathers_the_next_batch() -> None:
    batcher, runner, _ = gated()
    first = batcher.submit(item(1))
    await started(runner)
    rest = [batcher.submit(item(value)) for value in (2, 3, 4)]
    runner.open(2)
    await asyncio.gather(first.future, *(ticket.future for ticket in rest))
    assert runner.batches == [[1], [2, 3, 4]]
    await finish(batcher, runner)


async def test_items_of_another_shape_run_apart() -> None:
    runner = DoublingRunner()
    batcher = Batcher("m", runner, BatchPolicy(), inline_units=ALWAYS_INLINE)
    other = Item(item_feeds(9), 1, shape_key="other")
    tickets = [batcher.submit(each) for each in (item(1), other, item(2))]
    await asyncio.gather(*(ticket.future for ticket in tickets))
    assert runner.batches == [[1, 2], [9]]


async def test_items_without_shape_key_run_alone() -> None:
    runner = DoublingRunner()
    batcher = Batcher("m", runner, BatchPolicy(), inline_units=ALWAYS_INLINE)
    tickets = [batcher.submit(Item(item_feeds(value), 1)) for value in (1, 2)]
    await asyncio.gather(*(ticket.future for ticket in tickets))
    assert runner.batches == [[1], [2]]


async def test_urgent_items_overtake() -> None:
    batcher, runner, _ = gated(BatchPolicy(max_batch=1))
    tickets = [batcher.submit(item(0))]
    await started(runner)
    tickets += [batcher.submit(item(value, urgency=u)) for value, u in ((1, 5), (2, 3), (3, 0))]
    runner.open(4)
    await asyncio.gather(*(ticket.future for ticket in tickets))
    assert runner.batches == [[0], [3], [2], [1]]
    await finish(batcher, runner)


async def test_failing_item_is_isolated_from_its_batch() -> None:
    runner = DoublingRunner(poison=frozenset({2.0}))
    batcher = Batcher("m", runner, BatchPolicy(), inline_units=ALWAYS_INLINE)
    tickets = [batcher.submit(item(value)) for value in (1, 2, 3)]
    results = await asyncio.gather(*(t.future for t in tickets), return_exceptions=True)
    assert isinstance(results[0], Outcome)
    assert values_of(results[0]) == [2]
    assert isinstance(results[1], ExecutionFailedError)
    assert isinstance(results[2], Outcome)
    assert values_of(results[2]) == [6]
    assert batcher.stats.isolated == 1
    assert runner.batches == [[1, 2, 3], [1], [2], [3]]


async def test_unforeseen_failure_reaches_every_waiter(caplog: pytest.LogCaptureFixture) -> None:
    batcher = Batcher("m", ExplodingRunner(), BatchPolicy(), inline_units=ALWAYS_INLINE)
    tickets = [batcher.submit(item(value)) for value in (1, 2)]
    results = await asyncio.gather(*(t.future for t in tickets), return_exceptions=True)
    assert all(isinstance(result, ExecutionFailedError) for result in results)
    assert "surprise" in caplog.text


async def test_model_that_loses_rows_is_run_item_by_item() -> None:
    class Collapsing(DoublingRunner):
        def run(self, feeds: Any) -> Any:
            super().run(feeds)
            return [feeds["x"][:1]]

    runner = Collapsing()
    batcher = Batcher("m", runner, BatchPolicy(), inline_units=ALWAYS_INLINE)
    tickets = [batcher.submit(item(value)) for value in (1, 2)]
    outcomes = await asyncio.gather(*(ticket.future for ticket in tickets))
    assert [values_of(outcome) for outcome in outcomes] == [[1], [2]]


async def test_waiter_that_leaves_the_queue_costs_nothing() -> None:
    batcher, runner, _ = gated()
    first = batcher.submit(item(1))
    await started(runner)
    gone, stays = batcher.submit(item(2)), batcher.submit(item(3))
    batcher.abandon(gone, RequestCancelledError("gone"))
    runner.open(2)
    await asyncio.gather(first.future, stays.future)
    with pytest.raises(RequestCancelledError):
        await gone.future
    assert runner.batches == [[1], [3]]
    assert batcher.stats.dropped == 1
    await finish(batcher, runner)


async def test_waiter_that_leaves_a_running_batch_hurts_nobody() -> None:
    batcher, runner, _ = gated()
    gone, stays = batcher.submit(item(1)), batcher.submit(item(2))
    await started(runner)
    batcher.abandon(gone)
    runner.open()
    assert values_of(await stays.future) == [4]
    assert gone.future.cancelled()
    await finish(batcher, runner)


async def test_deadline_in_the_queue_answers_at_the_deadline() -> None:
    batcher, runner, clock = gated()
    first = batcher.submit(item(1))
    await started(runner)
    late = batcher.submit(item(2), deadline=clock.now() + 0.5)
    clock.advance(0.6)
    with pytest.raises(DeadlineExceededError, match="in the queue"):
        await late.future
    assert batcher.queued == 0
    runner.open()
    await first.future
    assert runner.batches == [[1]]
    await finish(batcher, runner)


async def test_deadline_while_running_answers_at_the_deadline() -> None:
    batcher, runner, clock = gated()
    late = batcher.submit(item(1), deadline=clock.now() + 0.5)
    await started(runner)
    clock.advance(0.6)
    with pytest.raises(DeadlineExceededError, match="while it was computed"):
        await late.future
    await finish(batcher, runner)


async def test_item_that_cannot_make_its_deadline_is_not_computed() -> None:
    service = ServiceTime()
    service.observe(1, 0.1)
    batcher, runner, clock = gated(service=service)
    first = batcher.submit(item(1))
    await started(runner)
    # Enough time when it is admitted, too little when its turn comes.
    late = batcher.submit(item(2), deadline=clock.now() + 0.25)
    clock.advance(0.2)
    runner.open()
    await first.future
    with pytest.raises(DeadlineExceededError, match="too short"):
        await late.future
    assert runner.batches == [[1]]
    await finish(batcher, runner)


async def test_expectation_that_is_too_high_corrects_itself() -> None:
    service = ServiceTime()
    service.observe(1, 0.01)
    service.observe(2, 9.0)
    batcher, runner, clock = gated(service=service)
    runner.open(100)
    for _ in range(5):
        ticket = batcher.submit(item(1), deadline=clock.now() + 0.2)
        assert values_of(await ticket.future) == [2]
    await finish(batcher, runner)


async def test_budget_below_the_service_time_is_refused_at_once() -> None:
    service = ServiceTime()
    service.observe(1, 0.1)
    batcher, _, clock = gated(service=service)
    with pytest.raises(DeadlineExceededError, match="takes 100 ms at least"):
        batcher.submit(item(1), deadline=clock.now() + 0.05)
    assert batcher.queued == 0
    await batcher.drain(1)


async def test_full_queue_refuses_with_a_time_to_come_back() -> None:
    service = ServiceTime()
    service.observe(1, 0.1)
    batcher, runner, _ = gated(
        BatchPolicy(max_batch=1), limits=QueueLimits(max_items=2, max_wait_s=60), service=service
    )
    batcher.submit(item(0))
    await started(runner)
    waiting = [batcher.submit(item(value)) for value in (1, 2)]
    with pytest.raises(OverloadedError, match="2 requests wait") as caught:
        batcher.submit(item(3))
    assert caught.value.retry_after_s == pytest.approx(0.15)  # half of 0.1 busy + 2 x 0.1 queued
    runner.open(3)
    await asyncio.gather(*(ticket.future for ticket in waiting))
    assert [3.0] not in runner.batches
    await finish(batcher, runner)


async def test_wait_beyond_the_limit_is_refused_until_it_has_shrunk() -> None:
    service = ServiceTime()
    service.observe(1, 1.0)
    batcher, runner, clock = gated(
        BatchPolicy(max_batch=1), limits=QueueLimits(max_items=99, max_wait_s=2), service=service
    )
    batcher.submit(item(0))
    await started(runner)
    batcher.submit(item(1))
    batcher.submit(item(2))
    with pytest.raises(OverloadedError, match="limit is 2000 ms") as caught:
        batcher.submit(item(3))
    # What was promised is kept: after that time there is room.
    clock.advance(caught.value.retry_after_s)
    admitted = batcher.submit(item(3))
    await finish(batcher, runner)
    assert values_of(await admitted.future) == [6]


async def test_knock_refuses_what_submit_would_refuse() -> None:
    service = ServiceTime()
    service.observe(1, 1.0)
    batcher, runner, clock = gated(
        BatchPolicy(max_batch=1), limits=QueueLimits(max_wait_s=1.5), service=service
    )
    batcher.knock(3, None)
    batcher.submit(item(0))
    await started(runner)
    batcher.submit(item(1))
    with pytest.raises(OverloadedError, match="limit is 1500 ms"):
        batcher.knock(3, None)
    with pytest.raises(DeadlineExceededError):
        batcher.knock(0, clock.now() + 0.5)
    batcher.knock(0, None)
    await finish(batcher, runner)


async def test_urgent_items_are_admitted_past_a_long_queue() -> None:
    service = ServiceTime()
    service.observe(1, 1.0)
    batcher, runner, _ = gated(
        BatchPolicy(max_batch=1), limits=QueueLimits(max_wait_s=1.5), service=service
    )
    batcher.submit(item(0))
    await started(runner)
    batcher.submit(item(1))
    with pytest.raises(OverloadedError):
        batcher.submit(item(2))
    urgent = batcher.submit(item(3, urgency=0))
    await finish(batcher, runner)
    assert values_of(await urgent.future) == [6]


async def test_identical_requests_in_flight_are_computed_once() -> None:
    batcher, runner, _ = gated()
    leader = batcher.submit(item(1, flight_key="k"))
    await started(runner)
    follower = batcher.submit(item(1, flight_key="k"))
    runner.open()
    assert values_of(await leader.future) == values_of(await follower.future) == [2]
    assert runner.batches == [[1]]
    assert batcher.stats.collapsed == 1
    await finish(batcher, runner)


async def test_leader_that_leaves_does_not_fail_its_followers() -> None:
    batcher, runner, _ = gated()
    first = batcher.submit(item(0))
    await started(runner)
    leader = batcher.submit(item(1, flight_key="k"))
    follower = batcher.submit(item(1, flight_key="k"))
    batcher.abandon(leader)
    runner.open(2)
    assert values_of(await follower.future) == [2]
    await first.future
    await finish(batcher, runner)


async def test_leader_with_an_earlier_deadline_does_not_shorten_its_followers() -> None:
    batcher, runner, clock = gated()
    batcher.submit(item(0))
    await started(runner)
    leader = batcher.submit(item(1, flight_key="k"), deadline=clock.now() + 0.1)
    follower = batcher.submit(item(1, flight_key="k"), deadline=clock.now() + 10)
    clock.advance(0.2)
    with pytest.raises(DeadlineExceededError):
        await leader.future
    runner.open(2)
    assert values_of(await follower.future) == [2]
    await finish(batcher, runner)


async def test_more_urgent_twin_does_not_wait_behind_less_urgent_work() -> None:
    batcher, runner, _ = gated(BatchPolicy(max_batch=1))
    batcher.submit(item(0))
    await started(runner)
    tickets = [batcher.submit(item(5, urgency=3))]
    tickets.append(batcher.submit(item(1, urgency=6, flight_key="k")))
    tickets.append(batcher.submit(item(1, urgency=0, flight_key="k")))
    runner.open(4)
    await asyncio.gather(*(ticket.future for ticket in tickets))
    assert runner.batches == [[0], [1], [5], [1]]
    await finish(batcher, runner)


async def test_request_after_its_twin_has_finished_is_computed_anew() -> None:
    runner = DoublingRunner()
    batcher = Batcher("m", runner, BatchPolicy(), inline_units=ALWAYS_INLINE)
    await batcher.submit(item(1, flight_key="k")).future
    await batcher.submit(item(1, flight_key="k")).future
    assert runner.batches == [[1], [1]]


async def test_delay_waits_for_company_and_no_longer() -> None:
    clock, runner = FakeClock(), DoublingRunner()
    policy = BatchPolicy(max_batch=4, max_delay_us=5000)
    batcher = Batcher("m", runner, policy, inline_units=ALWAYS_INLINE, clock=clock)
    tickets = [batcher.submit(item(1))]
    await asyncio.sleep(0)
    clock.advance(0.004)
    tickets.append(batcher.submit(item(2)))
    await asyncio.sleep(0)
    assert runner.batches == []
    clock.advance(0.001)
    await asyncio.gather(*(ticket.future for ticket in tickets))
    assert runner.batches == [[1, 2]]


async def test_delay_ends_when_the_batch_is_full() -> None:
    clock, runner = FakeClock(), DoublingRunner()
    policy = BatchPolicy(max_batch=2, max_delay_us=5000)
    batcher = Batcher("m", runner, policy, inline_units=ALWAYS_INLINE, clock=clock)
    tickets = [batcher.submit(item(value)) for value in (1, 2)]
    await asyncio.gather(*(ticket.future for ticket in tickets))
    assert runner.batches == [[1, 2]]


async def test_delay_ends_at_a_preferred_size() -> None:
    clock, runner = FakeClock(), DoublingRunner()
    policy = BatchPolicy(max_batch=8, max_delay_us=5000, preferred_rows=(2, 4))
    batcher = Batcher("m", runner, policy, inline_units=ALWAYS_INLINE, clock=clock)
    tickets = [batcher.submit(item(value)) for value in (1, 2)]
    await asyncio.gather(*(ticket.future for ticket in tickets))
    assert runner.batches == [[1, 2]]


async def test_instances_run_at_the_same_time() -> None:
    batcher, runner, _ = gated(BatchPolicy(max_batch=1, instances=2))
    tickets = [batcher.submit(item(value)) for value in (1, 2, 3)]
    await started(runner)
    await started(runner)
    assert batcher.running == 2
    assert batcher.queued == 1
    runner.open(3)
    await asyncio.gather(*(ticket.future for ticket in tickets))
    await finish(batcher, runner)


async def test_drain_answers_what_was_admitted_and_refuses_the_rest() -> None:
    batcher, runner, _ = gated()
    first = batcher.submit(item(1))
    await started(runner)
    second = batcher.submit(item(2))
    draining = asyncio.create_task(batcher.drain(30))
    await asyncio.sleep(0)
    with pytest.raises(ModelNotReadyError):
        batcher.submit(item(3))
    runner.open(2)
    assert await draining
    assert values_of(first.future.result()) == [2]
    assert values_of(second.future.result()) == [4]


async def test_drain_that_takes_too_long_fails_what_still_waits() -> None:
    batcher, runner, _ = gated()
    first = batcher.submit(item(1))
    await started(runner)
    second = batcher.submit(item(2))
    assert not await batcher.drain(0)
    with pytest.raises(ModelNotReadyError):
        await second.future
    runner.open()
    assert values_of(await first.future) == [2]


async def test_slow_model_does_not_hold_up_another() -> None:
    slow, runner, _ = gated()
    quick = Batcher("quick", DoublingRunner(), BatchPolicy(), inline_units=ALWAYS_INLINE)
    stuck = slow.submit(item(1))
    await started(runner)
    assert values_of(await quick.submit(item(2)).future) == [4]
    assert not stuck.future.done()
    await finish(slow, runner)


async def test_execution_that_hangs_is_told() -> None:
    batcher, runner, clock = gated()
    batcher.submit(item(1))
    await started(runner)
    clock.advance(90)
    assert batcher.stuck_for() == pytest.approx(90)
    await finish(batcher, runner)
    assert batcher.stuck_for() == 0


async def test_random_arrivals_departures_and_failures_resolve_every_ticket() -> None:
    """Whatever happens, each ticket resolves once, with its own rows or a reason."""
    random = np.random.default_rng(7)
    runner = DoublingRunner(poison=frozenset({13.0}))
    batcher = Batcher("m", runner, BatchPolicy(max_batch=5, instances=2))
    kept: list[tuple[float, Ticket]] = []
    left = 0
    for step in range(400):
        value = float(random.integers(0, 40))
        key = ("k", value) if random.random() < 0.5 else None
        try:
            ticket = batcher.submit(item(value, urgency=int(random.integers(8)), flight_key=key))
        except BackendError:
            continue
        if random.random() < 0.2:
            batcher.abandon(ticket)
            left += 1
            assert ticket.future.cancelled()
        else:
            kept.append((value, ticket))
        if step % 7 == 0:
            await asyncio.sleep(0)
    results = await asyncio.gather(*(t.future for _, t in kept), return_exceptions=True)
    for (value, _), result in zip(kept, results, strict=True):
        if value == 13.0:
            assert isinstance(result, ExecutionFailedError)
        else:
            assert isinstance(result, Outcome)
            assert values_of(result) == [value * 2]
    assert left > 30
    assert await batcher.drain(30)
    assert batcher.queued == batcher.running == 0


async def test_run_that_ends_after_the_loop_harms_nobody() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    call_threadsafe(loop, lambda: None)


async def test_workers_run_gives_results_and_errors() -> None:
    workers = Workers("w", 2)
    assert await workers.run(lambda: 7) == 7
    with pytest.raises(ExecutionFailedError, match="boom"):
        await workers.run(lambda: _raise(ExecutionFailedError("boom")))
    workers.close()


def _raise(error: Exception) -> None:
    raise error
