"""Five times the capacity, in virtual time: goodput stays, and whoever is admitted is answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest

from fakes.backend_clock import FakeClock
from fakes.runners import item_feeds
from fakes.virtual_execution import LoopExecutor, VirtualRunner, settle
from gpu_backend.batching.batcher import Batcher
from gpu_backend.batching.estimator import ServiceTime
from gpu_backend.batching.item import Item, Outcome
from gpu_backend.batching.policy import BatchPolicy
from gpu_backend.errors import BackendError

DEADLINE_S = 0.25
SECONDS = 5.0
MAX_BATCH = 64


@dataclass
class Load:
    """Requests of one row each, with a deadline, to a model that takes virtual time."""

    base_s: float
    row_s: float
    noise: float
    outcomes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.runner = VirtualRunner(self.clock, self.base_s, self.row_s, self.noise)
        service = ServiceTime()
        for rows in (1, 2, 4, 8, 16, 32, MAX_BATCH) * 3:
            service.observe(rows, self.runner.seconds(rows))
        self.batcher = Batcher(
            "m",
            self.runner,
            BatchPolicy(max_batch=MAX_BATCH),
            service=service,
            executor=LoopExecutor(),
            clock=self.clock,
        )

    def ask(self) -> None:
        """One request, now."""
        deadline = self.clock.now() + DEADLINE_S
        try:
            ticket = self.batcher.submit(Item(item_feeds(1.0), 1, shape_key="x"), deadline)
        except BackendError as exc:
            self.outcomes[exc.code] += 1
            return
        ticket.future.add_done_callback(self._note)

    def _note(self, future: asyncio.Future[Outcome]) -> None:
        error = future.exception()
        if error is None:
            self.outcomes["ok"] += 1
        else:
            assert isinstance(error, BackendError)
            self.outcomes[f"admitted, then {error.code}"] += 1

    async def offer(self, per_second: float) -> None:
        """Requests as they come from many clients that know nothing of each other."""
        random, at = Random(3), 0.0
        while at < SECONDS:
            at += random.expovariate(per_second)
            self.clock.call_later(at, self.ask)
        while not self.clock.is_idle or self.batcher.queued or self.batcher.running:
            await settle()
            if not self.batcher.running:
                self.clock.advance_to_next()
        assert await self.batcher.drain(1)

    @property
    def capacity(self) -> float:
        """Answers per second when every execution takes half of the deadline.

        The other half covers the wait for the execution before: more can be computed, but not in
        time for everyone who comes at a moment of his own.
        """
        rows = min(MAX_BATCH, (DEADLINE_S / 2 - self.base_s) / self.row_s)
        return rows / self.runner.seconds(int(rows))


MODELS = {
    "cheap by the row": (0.002, 0.001),
    "an encoder": (0.0025, 0.0025),
    "no cheaper in batches": (0.0001, 0.003),
    "slow to begin": (0.05, 0.002),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("noise", "share"), [(0.02, 0.9), (0.15, 0.8)])
async def test_goodput_under_five_times_the_capacity_is_the_capacity(
    model: str, noise: float, share: float
) -> None:
    load = Load(*MODELS[model], noise)
    await load.offer(5 * load.capacity)
    assert load.outcomes["ok"] / SECONDS > share * load.capacity, load.outcomes


@pytest.mark.parametrize("model", MODELS)
async def test_who_is_admitted_under_overload_is_answered(model: str) -> None:
    load = Load(*MODELS[model], noise=0.15)
    await load.offer(5 * load.capacity)
    given_up = load.outcomes["admitted, then deadline_exceeded"]
    assert given_up < 0.01 * load.outcomes["ok"], load.outcomes
    assert load.outcomes["overloaded"] > load.outcomes["ok"]


async def test_goodput_survives_a_machine_whose_speed_is_anybodys_guess() -> None:
    load = Load(0.0025, 0.0025, noise=0.4)
    await load.offer(5 * load.capacity)
    assert load.outcomes["ok"] / SECONDS > 0.7 * load.capacity, load.outcomes


async def test_load_below_the_capacity_is_served_whole() -> None:
    load = Load(0.0025, 0.0025, noise=0.02)
    await load.offer(0.7 * load.capacity)
    assert set(load.outcomes) == {"ok"}, load.outcomes
