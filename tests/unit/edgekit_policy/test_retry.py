import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.policy.deadline import Deadline
from edgekit.policy.latency import Traffic
from edgekit.policy.retry import RetryBudget, RetryRule, retry_delay_s
from fakes.edge_faults import FaultyStore
from fakes.edge_ports import FakeClock, MemoryStore


class FixedRandom:
    """Always the same draw."""

    def __init__(self, draw: float) -> None:
        self._draw = draw

    def random(self) -> float:
        return self._draw

    def token_bytes(self, count: int) -> bytes:
        return bytes(count)


RULE = RetryRule(attempts=4, base_delay_s=0.1, max_delay_s=0.3)


def _delay(
    attempt: int, budget_ms: int = 10_000, draw: float = 1.0, **more: float | None
) -> float | None:
    deadline = Deadline(FakeClock(), budget_ms)
    predicted_ms = more.get("predicted_ms") or 0.0
    return retry_delay_s(
        RULE,
        attempt,
        deadline,
        FixedRandom(draw),
        predicted_ms=predicted_ms,
        retry_after_s=more.get("retry_after_s"),
    )


@pytest.mark.parametrize(("attempt", "ceiling_s"), [(1, 0.1), (2, 0.2), (3, 0.3)])
def test_retry_pause_doubles_up_to_its_ceiling(attempt: int, ceiling_s: float) -> None:
    assert _delay(attempt) == pytest.approx(ceiling_s)
    assert _delay(attempt, draw=0.0) == 0.0


def test_retry_ends_with_the_attempts() -> None:
    assert _delay(4) is None


def test_retry_waits_at_least_as_long_as_the_upstream_asks() -> None:
    assert _delay(1, retry_after_s=0.25) == 0.25


def test_retry_is_the_clients_where_the_upstream_asks_for_longer_than_a_pause() -> None:
    assert _delay(1, retry_after_s=0.31) is None


def test_retry_that_does_not_fit_the_deadline_is_left_out() -> None:
    assert _delay(1, budget_ms=500, predicted_ms=399.0) is not None
    assert _delay(1, budget_ms=500, predicted_ms=400.0) is None
    assert _delay(1, budget_ms=500, retry_after_s=0.3, predicted_ms=250.0) is None


@given(st.integers(1, 5), st.integers(1, 2000), st.floats(0, 0.999), st.floats(0, 3000))
def test_retry_never_outlives_the_budget(
    attempt: int, budget_ms: int, draw: float, predicted_ms: float
) -> None:
    delay = _delay(attempt, budget_ms, draw, predicted_ms=predicted_ms)
    rounding_s = 1e-9  # the deadline is a difference of clock readings
    assert delay is None or delay + predicted_ms / 1000 < budget_ms / 1000 + rounding_s


def test_budget_allows_a_fifth_of_the_requests_and_the_reserve() -> None:
    store = MemoryStore()
    budget = RetryBudget("cluster", share=0.2, reserve=3)
    traffic = Traffic("cluster/digits", requests=50)
    taken = [budget.take(store, traffic, store.get(budget.key)) for _ in range(20)]
    assert taken.count(True) == 13
    assert taken == [True] * 13 + [False] * 7


def test_budget_spent_costs_no_operation() -> None:
    store = MemoryStore()
    budget = RetryBudget("cluster", reserve=0)
    assert not budget.take(store, Traffic("x"), None)
    assert store.calls == []


def test_budget_counts_what_others_took_since_the_snapshot() -> None:
    store = MemoryStore()
    budget = RetryBudget("cluster", reserve=2)
    for _ in range(2):
        store.increment(budget.key, 1)
    assert not budget.take(store, Traffic("x"), None)


def test_budget_begins_anew_with_each_window() -> None:
    store = MemoryStore()
    budget = RetryBudget("cluster", reserve=1)
    traffic = Traffic("x").request(100.0, 0)
    assert budget.take(store, traffic, store.get(budget.key))
    assert not budget.take(store, traffic, store.get(budget.key))
    later = traffic.request(200.0, 1)
    assert budget.take(store, later, store.get(budget.key))


def test_budget_without_store_allows_no_retry() -> None:
    assert not RetryBudget("cluster").take(FaultyStore("increment"), Traffic("x"), None)
