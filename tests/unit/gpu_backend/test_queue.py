"""What the queue takes out together, how batches are assembled, and how time is estimated."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pytest

from gpu_backend.batching.admission import Admission, QueueLimits
from gpu_backend.batching.assembly import assemble, split
from gpu_backend.batching.estimator import ServiceTime
from gpu_backend.batching.item import Item
from gpu_backend.batching.policy import BatchPolicy, Padding
from gpu_backend.batching.queue import ItemQueue
from gpu_backend.batching.stats import Histogram
from gpu_backend.errors import DeadlineExceededError, ExecutionFailedError, OverloadedError


def item(
    rows: int = 1, length: int = 0, key: Hashable = "k", urgency: int = 3, fill: float = 1
) -> Item:
    width = length or 2
    feeds = {"x": np.full((rows, width), fill, np.float32)}
    return Item(feeds, rows, length=length, shape_key=key, urgency=urgency)


def queue_of(policy: BatchPolicy, *items: Item) -> ItemQueue:
    queue = ItemQueue(policy, ServiceTime())
    for each in items:
        queue.push(each)
    return queue


def test_take_respects_max_batch_and_lets_smaller_items_fill_up() -> None:
    first, big, small = item(3), item(3), item(1)
    queue = queue_of(BatchPolicy(max_batch=4), first, big, small)
    assert queue.take(0.0) == [first, small]
    assert queue.take(0.0) == [big]
    assert queue.take(0.0) == []
    assert len(queue) == queue.rows == 0


def test_take_prefers_items_of_like_length_when_padding() -> None:
    head, long, near, nearer = item(length=10), item(length=90), item(length=14), item(length=9)
    queue = queue_of(BatchPolicy(max_batch=3, padding=Padding()), head, long, near, nearer)
    assert queue.take(0.0) == [head, nearer, near]


def test_take_stays_within_the_token_budget() -> None:
    policy = BatchPolicy(max_batch=8, padding=Padding(), token_budget=40)
    items = [item(length=length) for length in (10, 10, 10, 20, 10)]
    queue = queue_of(policy, *items)
    # 4 x 10 fits; with the item of 20 it would be 2 x 20, but only instead of the others.
    assert queue.take(0.0) == [items[0], items[1], items[2], items[4]]
    assert queue.take(0.0) == [items[3]]


def test_take_gives_an_item_beyond_the_budget_alone() -> None:
    policy = BatchPolicy(padding=Padding(), token_budget=40)
    huge, small = item(length=500), item(length=5)
    queue = queue_of(policy, huge, small)
    assert queue.take(0.0) == [huge]


def test_take_stops_at_the_largest_preferred_size_reached() -> None:
    items = [item() for _ in range(13)]
    queue = queue_of(BatchPolicy(max_batch=16, preferred_rows=(4, 8)), *items)
    assert queue.take(0.0) == items[:8]
    assert queue.take(0.0) == items[8:12]
    assert queue.take(0.0) == items[12:]


def test_take_serves_urgent_levels_first_and_fills_up_from_others() -> None:
    low, high = item(urgency=6), item(urgency=1)
    queue = queue_of(BatchPolicy(), low, high)
    assert queue.take(0.0) == [high, low]


def test_take_grows_a_batch_no_further_than_its_deadlines_allow() -> None:
    service = ServiceTime()
    service.observe(1, 0.1)  # and so 0.1 s for each row
    queue = ItemQueue(BatchPolicy(), service)
    items = [item() for _ in range(6)]
    for each, deadline in zip(items, (None, 10.35, None, 10.25, None, 10.9), strict=True):
        each.deadline = deadline
        queue.push(each)
    # Three rows end at 10.3: in time for the second, too late for the fourth.
    assert queue.take(10.0) == items[:3]
    assert queue.take(10.0) == [items[3], items[4]]


def queue_with_deadlines(*deadlines: float | None, urgencies: str = "") -> ItemQueue:
    """A row each, of a model that takes 0.1 s for an execution and 0.01 s for a row."""
    service = ServiceTime()
    for rows in (1, 8, 16):
        for _ in range(200):  # so often that nothing is left of the first surprise
            service.observe(rows, 0.1 + rows * 0.01)
    queue = ItemQueue(BatchPolicy(), service)
    for index, deadline in enumerate(deadlines):
        each = item(urgency=int(urgencies[index]) if urgencies else 3)
        each.deadline = deadline
        queue.push(each)
    return queue


def test_items_that_hold_back_a_batch_lose_their_turn_when_it_would_be_late_after_them() -> None:
    queue = queue_with_deadlines(10.12, 10.121, *[10.2] * 7)
    # One by one until 10.22, or seven together until 10.17.
    assert [each.deadline for each in queue.take(10.0)] == [10.2] * 7
    assert len(queue) == 2


def test_items_that_are_pressed_go_first_when_the_others_can_wait() -> None:
    queue = queue_with_deadlines(10.12, *[10.4] * 7)
    assert [each.deadline for each in queue.take(10.0)] == [10.12]
    assert [each.deadline for each in queue.take(10.11)] == [10.4] * 7


def test_items_that_are_pressed_go_first_when_the_others_have_no_deadline() -> None:
    queue = queue_with_deadlines(10.12, *[None] * 7)
    assert [each.deadline for each in queue.take(10.0)] == [10.12]


def test_items_that_are_pressed_lose_no_turn_to_less_urgent_ones() -> None:
    queue = queue_with_deadlines(10.12, *[10.2] * 7, urgencies="13333333")
    assert [each.deadline for each in queue.take(10.0)] == [10.12]


def test_ahead_counts_only_what_is_as_urgent() -> None:
    queue = queue_of(BatchPolicy(), item(2, 10, urgency=1), item(1, 5, urgency=5))
    assert queue.ahead_of(0) == (0, 0)
    assert queue.ahead_of(1) == (2, 20)
    assert queue.ahead_of(7) == (3, 25)


def test_remove_takes_an_item_out_of_the_middle() -> None:
    items = [item() for _ in range(3)]
    queue = queue_of(BatchPolicy(), *items)
    queue.remove(items[1])
    assert list(queue) == [items[0], items[2]]
    assert not items[1].queued


def test_assemble_pads_and_split_cuts_back() -> None:
    padding = Padding(axis=1, values=(("x", -1.0),), outputs=("states",))
    items = [item(2, 3, fill=1), item(1, 1, fill=2)]
    feeds = assemble(items, padding)
    assert feeds["x"].tolist() == [[1, 1, 1], [1, 1, 1], [2, -1, -1]]
    pooled, states = np.arange(3).reshape(3, 1), feeds["x"] * 10
    shares = split([pooled, states], ["pooled", "states"], items, padding)
    assert shares[0][0].tolist() == [[0], [1]]
    assert shares[0][1].shape == (2, 3)
    assert shares[1][0].tolist() == [[2]]
    assert shares[1][1].tolist() == [[20]]


def test_split_copies_nothing() -> None:
    items = [item(), item()]
    output = np.zeros((2, 4))
    shares = split([output], ["y"], items, None)
    assert all(np.shares_memory(share[0], output) for share in shares)


@pytest.mark.parametrize("output", [np.zeros((3, 1)), np.float32(1)])
def test_split_refuses_an_output_without_a_row_per_item(output: np.ndarray) -> None:
    with pytest.raises(ExecutionFailedError, match="set max_batch = 1"):
        split([np.asarray(output)], ["y"], [item(), item()], None)


def test_service_time_learns_a_line() -> None:
    service = ServiceTime()
    assert service.predict(10) == 0
    for units in (1, 8, 4, 16):
        service.observe(units, 0.01 + 0.002 * units)
    assert service.predict(32) == pytest.approx(0.074)


def test_service_time_of_one_size_is_taken_in_proportion() -> None:
    service = ServiceTime()
    for _ in range(5):
        service.observe(4, 0.02)
    assert service.predict(4) == pytest.approx(0.02)
    assert service.predict(8) == pytest.approx(0.04)


def test_service_time_follows_a_machine_that_slows_down() -> None:
    service = ServiceTime()
    for _ in range(50):
        service.observe(1, 0.01)
    for _ in range(60):
        service.observe(1, 0.05)
    assert service.predict(1) == pytest.approx(0.05, rel=0.1)


def test_service_time_never_predicts_less_for_more() -> None:
    service = ServiceTime()
    service.observe(1, 0.09)
    service.observe(8, 0.01)
    assert service.predict(100) >= service.predict(1) > 0


def admission(queue: ItemQueue, policy: BatchPolicy, **limits: float) -> Admission:
    service = ServiceTime()
    service.observe(1, 0.1)
    values = {"max_items": 100, "max_wait_s": 1.0} | limits
    return Admission(
        policy, QueueLimits(int(values["max_items"]), values["max_wait_s"]), queue, service
    )


def test_admission_counts_instances() -> None:
    policy = BatchPolicy(max_batch=1, instances=2)
    queue = queue_of(policy, *(item() for _ in range(10)))
    assert admission(queue, policy).expected_wait(3, busy_s=0.05) == pytest.approx(0.55)


def test_admission_refuses_when_only_the_queue_breaks_the_deadline() -> None:
    policy = BatchPolicy(max_batch=1)
    queue = queue_of(policy, *(item() for _ in range(5)))
    door = admission(queue, policy)
    with pytest.raises(OverloadedError) as caught:
        door.check(1, 3, budget_s=0.4, is_busy=True, busy_s=0)
    assert caught.value.retry_after_s == pytest.approx(0.2)
    with pytest.raises(DeadlineExceededError):
        door.check(1, 3, budget_s=0.05, is_busy=True, busy_s=0)
    door.check(1, 3, budget_s=0.7, is_busy=True, busy_s=0)


def test_admission_of_an_idle_model_never_waits() -> None:
    policy = BatchPolicy()
    admission(ItemQueue(policy, ServiceTime()), policy, max_wait_s=0.001).check(
        1, 3, None, is_busy=False, busy_s=0
    )


def test_admission_of_an_idle_model_trusts_what_was_seen_not_what_is_feared() -> None:
    """An estimate that has gone wrong must not refuse everything for ever."""
    policy, service = BatchPolicy(), ServiceTime()
    service.observe(1, 0.01)
    service.observe(2, 9.0)
    door = Admission(policy, QueueLimits(), ItemQueue(policy, service), service)
    assert service.predict(1) > 1
    door.check(1, 3, budget_s=0.1, is_busy=False, busy_s=0)


def test_promise_adds_what_expectations_miss() -> None:
    service = ServiceTime()
    for _ in range(50):
        service.observe(1, 0.1)
    assert service.promise(1) == pytest.approx(0.1)
    for seconds in (0.05, 0.15) * 40:
        service.observe(1, seconds)
    assert 0.15 < service.promise(1) < 0.3


def test_least_duration_is_forgotten_slowly() -> None:
    service = ServiceTime()
    service.observe(1, 0.01)
    for _ in range(69):
        service.observe(1, 1.0)
    assert service.least_s == pytest.approx(0.02, rel=0.02)


def test_histogram_counts_into_the_first_bucket_that_holds() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert histogram.counts == [2, 1, 1]
    assert histogram.count == 4
    assert histogram.total == 12.0
