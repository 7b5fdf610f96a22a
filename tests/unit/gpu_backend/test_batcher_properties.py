"""Whatever comes, in whatever order: the promises of the batcher hold for everybody."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
from hypothesis import event, given
from hypothesis import strategies as st

from fakes.backend_clock import FakeClock
from fakes.virtual_execution import LoopExecutor, VirtualRunner, settle
from gpu_backend.batching.admission import QueueLimits
from gpu_backend.batching.batcher import Batcher
from gpu_backend.batching.estimator import ServiceTime
from gpu_backend.batching.item import LEVELS, Item, Outcome, Ticket
from gpu_backend.batching.policy import BatchPolicy, Padding
from gpu_backend.errors import (
    DeadlineExceededError,
    ExecutionFailedError,
    OverloadedError,
    RequestCancelledError,
)
from gpu_backend.execution.datatypes import Array

MAX_BATCH = 6
TOKEN_BUDGET = 40
BASE_S, ROW_S = 0.02, 0.01
POISON = 5.0
MOST_ROUNDS = 1000
"""Each has an arrival, a deadline or an execution: every script is over long before."""


@dataclass(frozen=True)
class Call:
    """One request: when it comes, what it asks, how long it waits.

    Attributes:
        gap_s: After the request before it.
        value: First of every row; identical requests have the same, and `POISON` fails.
        leaves_after_s: The client goes away; None: it stays.
    """

    gap_s: float
    value: int
    rows: int
    length: int
    urgency: int
    budget_s: float | None
    leaves_after_s: float | None
    shares: bool

    def array(self) -> Array:
        array = np.zeros((self.rows, self.length), np.float32)
        array[:, 0] = self.value
        array[:, -1] = self.value  # at the end too, so that a wrong cut shows
        return array


def scripts(values: st.SearchStrategy[int]) -> st.SearchStrategy[list[Call]]:
    calls = st.builds(
        Call,
        gap_s=st.sampled_from([0.0, 0.0, 0.001, 0.02, 0.1]),
        value=values,
        rows=st.integers(1, 3),
        length=st.integers(1, 12),
        urgency=st.integers(0, LEVELS - 1),
        budget_s=st.one_of(st.none(), st.floats(0.01, 0.5)),
        leaves_after_s=st.one_of(st.none(), st.none(), st.floats(0, 0.3)),
        shares=st.booleans(),
    )
    return st.lists(calls, max_size=40)


policies = st.builds(
    BatchPolicy,
    max_batch=st.just(MAX_BATCH),
    max_delay_us=st.sampled_from([0, 0, 5000]),
    preferred_rows=st.sampled_from([(), (2, 4)]),
    token_budget=st.sampled_from([0, TOKEN_BUDGET]),
    padding=st.sampled_from([None, Padding(axis=1, values=(("x", -1.0),), outputs=("y",))]),
    instances=st.just(1),
)


@dataclass
class Waiter:
    """What became of one call."""

    call: Call
    ticket: Ticket
    deadline: float | None
    left_at: float | None = None
    outcomes: list[Outcome | BaseException] = field(default_factory=list)

    def settle(self, future: asyncio.Future[Outcome]) -> None:
        """Called when the ticket is resolved."""
        self.outcomes.append(future.exception() or future.result())


class Scenario:
    """All `calls` against one batcher, in virtual time."""

    def __init__(self, policy: BatchPolicy) -> None:
        self.clock = FakeClock()
        self.runner = VirtualRunner(self.clock, BASE_S, ROW_S, 0.7, frozenset({POISON}))
        service = ServiceTime()
        service.observe(1, self.runner.seconds(1))
        self.policy = policy
        self.batcher = Batcher(
            "m",
            self.runner,
            policy,
            limits=QueueLimits(max_items=8, max_wait_s=0.5),
            service=service,
            executor=LoopExecutor(),
            clock=self.clock,
        )
        self.waiters: list[Waiter] = []
        self.most_queued = 0

    async def play(self, script: list[Call]) -> None:
        at = 0.0
        for call in script:
            at += call.gap_s
            self.clock.call_later(at, lambda call=call: self._submit(call))  # type: ignore[misc]
        rounds = 0
        while not self.clock.is_idle or self.batcher.queued or self.batcher.running:
            rounds += 1
            assert rounds < MOST_ROUNDS, "somebody waits for ever"
            await settle()
            if not self.batcher.running:
                self.clock.advance_to_next()
        assert await self.batcher.drain(1)

    def _submit(self, call: Call) -> None:
        now = self.clock.now()
        deadline = None if call.budget_s is None else now + call.budget_s
        padded = self.policy.padding is not None
        item = Item(
            {"x": call.array()},
            call.rows,
            length=call.length if padded else 0,
            shape_key="padded" if padded else call.length,
            # As the repository makes it: of all that the request says.
            flight_key=(call.value, call.rows, call.length) if call.shares else None,
            urgency=call.urgency,
        )
        try:
            ticket = self.batcher.submit(item, deadline)
        except (OverloadedError, DeadlineExceededError) as exc:
            event(f"refused: {exc.code}")
            return
        waiter = Waiter(call, ticket, deadline)
        self.waiters.append(waiter)
        ticket.future.add_done_callback(waiter.settle)
        self.most_queued = max(self.most_queued, self.batcher.queued)
        if call.leaves_after_s is not None:
            self.clock.call_later(call.leaves_after_s, lambda: self._leave(waiter))

    def _leave(self, waiter: Waiter) -> None:
        if not waiter.ticket.future.done():
            waiter.left_at = self.clock.now()
            self.batcher.abandon(waiter.ticket, RequestCancelledError("gone"))


async def played(policy: BatchPolicy, script: list[Call]) -> Scenario:
    scenario = Scenario(policy)
    await scenario.play(script)
    return scenario


@given(policies, scripts(st.integers(1, 9)))
def test_every_waiter_gets_his_own_answer_or_his_own_reason(
    policy: BatchPolicy, script: list[Call]
) -> None:
    scenario = asyncio.run(played(policy, script))
    for waiter in scenario.waiters:
        (outcome,) = waiter.outcomes
        event(type(outcome).__name__)
        if isinstance(outcome, Outcome):
            assert waiter.call.value != POISON
            assert waiter.left_at is None
            np.testing.assert_array_equal(outcome.outputs[0], waiter.call.array())
        elif isinstance(outcome, ExecutionFailedError):
            assert waiter.call.value == POISON
        elif isinstance(outcome, RequestCancelledError):
            assert waiter.left_at is not None
        else:
            assert isinstance(outcome, DeadlineExceededError)
            assert waiter.deadline is not None


@given(policies, scripts(st.integers(1, 4)))
def test_nothing_runs_that_nobody_waits_for_any_more(
    policy: BatchPolicy, script: list[Call]
) -> None:
    scenario = asyncio.run(played(policy, script))
    for began, x in scenario.runner.executions:
        for value in set(x[:, 0].tolist()):
            assert any(
                waiter.call.value == value
                and (waiter.deadline is None or waiter.deadline > began)
                and (waiter.left_at is None or waiter.left_at >= began)
                for waiter in scenario.waiters
            ), f"{value} was computed at {began} for nobody"


@given(policies, scripts(st.integers(1, 9)))
def test_every_bound_holds(policy: BatchPolicy, script: list[Call]) -> None:
    scenario = asyncio.run(played(policy, script))
    assert scenario.most_queued <= 8
    for _, x in scenario.runner.executions:
        rows, length = x.shape
        assert rows <= MAX_BATCH
        if policy.token_budget and policy.padding is not None:
            one_item = len({*x[:, 0].tolist()}) == 1
            assert rows * length <= TOKEN_BUDGET or one_item
    assert scenario.batcher.queued == scenario.batcher.running == scenario.clock.pending == 0
