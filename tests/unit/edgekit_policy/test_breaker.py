import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.policy.breaker import (
    Breaker,
    BreakerRule,
    BreakerState,
    Passage,
    breaker_key,
    decode_breaker,
    encode_breaker,
)
from fakes.edge_faults import FaultyStore
from fakes.edge_ports import MemoryStore

NOW_S = 1_800_000_000.0
RULE = BreakerRule(consecutive_failures=3, base_ejection_s=2, max_ejection_s=5, probe_s=10)
BREAKER = Breaker(RULE)


def _failed(state: BreakerState, times: int, now_s: float = NOW_S) -> BreakerState:
    for _ in range(times):
        state = BREAKER.after_failure(state, now_s)
    return state


def test_breaker_closed_lets_everything_through() -> None:
    assert BREAKER.passage(BreakerState(), NOW_S) is Passage.CLOSED


def test_breaker_opens_with_the_configured_failure_in_a_row() -> None:
    assert BREAKER.passage(_failed(BreakerState(), 2), NOW_S) is Passage.CLOSED
    opened = _failed(BreakerState(), 3)
    assert BREAKER.passage(opened, NOW_S) is Passage.OPEN
    assert BREAKER.retry_after_s(opened, NOW_S) == 2


def test_breaker_success_ends_the_row() -> None:
    state = BREAKER.after_success(_failed(BreakerState(), 2), NOW_S)
    assert BREAKER.passage(_failed(state, 2), NOW_S) is Passage.CLOSED


def test_breaker_success_on_a_healthy_upstream_changes_nothing() -> None:
    state = BreakerState()
    assert BREAKER.after_success(state, NOW_S) is state


def test_breaker_half_opens_when_the_ejection_is_over() -> None:
    opened = _failed(BreakerState(), 3)
    assert BREAKER.passage(opened, NOW_S + 1.99) is Passage.OPEN
    assert BREAKER.passage(opened, NOW_S + 2) is Passage.PROBE


def test_breaker_ejection_time_grows_with_the_count_up_to_the_maximum() -> None:
    state, now_s, times_s = BreakerState(), NOW_S, []
    state = _failed(state, 3, now_s)
    for _ in range(4):
        times_s.append(state.ejected_until_s - now_s)
        now_s = state.ejected_until_s
        state = BREAKER.after_failure(state, now_s)
    assert times_s == [2, 4, 5, 5]


def test_breaker_probe_that_succeeds_closes_and_remembers_the_count() -> None:
    opened = _failed(BreakerState(), 3)
    closed = BREAKER.after_success(opened, NOW_S + 3)
    assert BREAKER.passage(closed, NOW_S + 3) is Passage.CLOSED
    assert closed.ejections == 1
    again = _failed(closed, 3, NOW_S + 3.5)
    assert again.ejected_until_s == NOW_S + 3.5 + 4


def test_breaker_count_wears_off_by_one_for_each_base_time_of_health() -> None:
    state = BreakerState(ejections=3, healthy_since_s=NOW_S)
    assert BREAKER.after_success(state, NOW_S + 1.9) is state
    assert BREAKER.after_success(state, NOW_S + 4.5).ejections == 1
    assert BREAKER.after_success(state, NOW_S + 60).ejections == 0
    assert BREAKER.after_success(state, NOW_S - 60) is state


def test_breaker_straggler_that_fails_while_open_counts_for_nothing() -> None:
    opened = _failed(BreakerState(), 3)
    assert BREAKER.after_failure(opened, NOW_S + 1) is opened


def test_breaker_one_probe_at_a_time() -> None:
    store = MemoryStore()
    raw = encode_breaker(_failed(BreakerState(), 3))
    store.set(breaker_key("cluster"), raw)
    now_s = NOW_S + 2.5
    assert BREAKER.claim_probe(store, "cluster", raw, now_s)
    assert not BREAKER.claim_probe(store, "cluster", raw, now_s)
    claimed = decode_breaker(store.get(breaker_key("cluster")))
    assert BREAKER.passage(claimed, now_s + 5) is Passage.OPEN
    assert BREAKER.retry_after_s(claimed, now_s + 5) == pytest.approx(5)


def test_breaker_probe_that_died_is_followed_by_another() -> None:
    claimed = BreakerState(3, 1, NOW_S, NOW_S + 10)
    assert BREAKER.passage(claimed, NOW_S + 10) is Passage.PROBE


def test_breaker_probe_that_fails_opens_again_for_longer() -> None:
    claimed = BreakerState(3, 1, NOW_S, NOW_S + 10)
    state = BREAKER.after_failure(claimed, NOW_S + 1)
    assert state.ejections == 2
    assert BREAKER.passage(state, NOW_S + 1) is Passage.OPEN


def test_breaker_clock_that_went_back_does_not_lock_the_upstream_out() -> None:
    opened = _failed(BreakerState(), 3)
    assert BREAKER.passage(opened, NOW_S - 3600) is Passage.PROBE
    assert BREAKER.retry_after_s(opened, NOW_S - 3600) == RULE.max_ejection_s


def test_claim_probe_without_store_tries_anyway() -> None:
    assert BREAKER.claim_probe(FaultyStore("compare_and_swap"), "cluster", None, NOW_S)


def test_report_success_of_a_healthy_upstream_costs_no_operation() -> None:
    store = MemoryStore()
    BREAKER.report(store, "cluster", None, NOW_S, ok=True)
    assert store.calls == []


def test_report_failures_of_many_requests_with_one_snapshot_all_count() -> None:
    store = MemoryStore()
    for _ in range(3):
        state = BREAKER.report(store, "cluster", None, NOW_S, ok=False)
    assert BREAKER.passage(state, NOW_S) is Passage.OPEN
    assert decode_breaker(store.get(breaker_key("cluster"))) == state


def test_report_without_store_returns_quietly() -> None:
    store = FaultyStore("compare_and_swap")
    assert BREAKER.report(store, "cluster", None, NOW_S, ok=False) == BreakerState()


def test_report_against_endless_rivals_gives_up() -> None:
    class Rivals(MemoryStore):
        def compare_and_swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
            self._enter("compare_and_swap")
            return False

    store = Rivals()
    assert BREAKER.report(store, "cluster", None, NOW_S, ok=False) == BreakerState()
    assert store.calls.count("compare_and_swap") == 4


@pytest.mark.parametrize(
    "raw", [None, b"", b"junk", b"[1]", b"{}", b"5", b'["a",1,1,1,1]', b"\xff"]
)
def test_breaker_unreadable_state_is_closed(raw: bytes | None) -> None:
    assert decode_breaker(raw) == BreakerState()


def test_breaker_state_round_trip_keeps_everything() -> None:
    state = BreakerState(1, 2, 3.5, 4.5, 5.5)
    assert decode_breaker(encode_breaker(state)) == state


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 8)), max_size=60))
def test_breaker_any_history_reopens_within_the_longest_ejection(
    history: list[tuple[bool, float]],
) -> None:
    state, now_s = BreakerState(), NOW_S
    for ok, gap_s in history:
        now_s += gap_s
        if BREAKER.passage(state, now_s) is Passage.OPEN:
            assert now_s < state.ejected_until_s <= now_s + RULE.max_ejection_s
            continue
        state = (BREAKER.after_success if ok else BREAKER.after_failure)(state, now_s)
        assert 0 <= state.failures <= RULE.consecutive_failures + len(history)
        if ok:
            assert BREAKER.passage(state, now_s) is Passage.CLOSED
    assert BREAKER.passage(state, now_s + RULE.max_ejection_s) is not Passage.OPEN
