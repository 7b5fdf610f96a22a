import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.policy.cache_control import FOREVER_S, RequestDirectives
from edgekit.policy.freshness import Freshness, Verdict, judge, may_serve_on_error

FRESH = Freshness(age_s=10, lifetime_s=60)
STALE = Freshness(age_s=70, lifetime_s=60)
WITH_WINDOWS = Freshness(age_s=70, lifetime_s=60, stale_while_revalidate_s=15, stale_if_error_s=300)
MUST = Freshness(
    age_s=70,
    lifetime_s=60,
    stale_while_revalidate_s=15,
    stale_if_error_s=300,
    must_revalidate=True,
)
D = RequestDirectives
FORWARD, UNSATISFIABLE = Verdict.FORWARD, Verdict.UNSATISFIABLE


@pytest.mark.parametrize(
    ("stored", "asked", "verdict", "fwd"),
    [
        (None, D(), FORWARD, "miss"),
        (None, D(only_if_cached=True), UNSATISFIABLE, ""),
        (FRESH, D(), Verdict.FRESH, ""),
        (FRESH, D(only_if_cached=True), Verdict.FRESH, ""),
        (FRESH, D(no_cache=True), FORWARD, "request"),
        (FRESH, D(no_cache=True, only_if_cached=True), UNSATISFIABLE, ""),
        (FRESH, D(max_age_s=10), Verdict.FRESH, ""),
        (FRESH, D(max_age_s=9), FORWARD, "request"),
        (FRESH, D(max_age_s=0), FORWARD, "request"),
        (FRESH, D(min_fresh_s=50), Verdict.FRESH, ""),
        (FRESH, D(min_fresh_s=51), FORWARD, "request"),
        (STALE, D(), FORWARD, "stale"),
        (STALE, D(no_cache=True), FORWARD, "stale"),
        (STALE, D(only_if_cached=True), UNSATISFIABLE, ""),
        (STALE, D(max_stale_s=9), FORWARD, "stale"),
        (STALE, D(max_stale_s=10), Verdict.STALE, ""),
        (STALE, D(max_stale_s=FOREVER_S, only_if_cached=True), Verdict.STALE, ""),
        (STALE, D(max_stale_s=FOREVER_S, max_age_s=69), FORWARD, "stale"),
        (STALE, D(max_stale_s=FOREVER_S, max_age_s=70), Verdict.STALE, ""),
        (STALE, D(max_stale_s=FOREVER_S, min_fresh_s=0), FORWARD, "stale"),
        (STALE, D(stale_while_revalidate_s=10), Verdict.STALE_THEN_REFRESH, ""),
        (STALE, D(stale_while_revalidate_s=9), FORWARD, "stale"),
        (WITH_WINDOWS, D(), Verdict.STALE_THEN_REFRESH, ""),
        (WITH_WINDOWS, D(stale_while_revalidate_s=0), FORWARD, "stale"),
        (WITH_WINDOWS, D(max_age_s=100), FORWARD, "stale"),
        (MUST, D(), FORWARD, "stale"),
        (MUST, D(max_stale_s=FOREVER_S), FORWARD, "stale"),
        (MUST, D(stale_while_revalidate_s=FOREVER_S), FORWARD, "stale"),
        # The moment the lifetime ends is stale already: "freshness_lifetime > current_age".
        (Freshness(age_s=60, lifetime_s=60), D(), FORWARD, "stale"),
        (Freshness(age_s=59, lifetime_s=60), D(), Verdict.FRESH, ""),
    ],
)
def test_judge_follows_the_rules(
    stored: Freshness | None, asked: D, verdict: Verdict, fwd: str
) -> None:
    assert judge(stored, asked) == (verdict, fwd)


@pytest.mark.parametrize(
    ("stored", "asked", "allowed"),
    [
        (None, D(stale_if_error_s=FOREVER_S), False),
        (STALE, D(), False),
        (STALE, D(stale_if_error_s=9), False),
        (STALE, D(stale_if_error_s=10), True),
        (WITH_WINDOWS, D(), True),
        (WITH_WINDOWS, D(no_store=True), False),
        (WITH_WINDOWS, D(max_age_s=60), False),
        (WITH_WINDOWS, D(no_cache=True), False),
        (WITH_WINDOWS, D(no_cache=True, stale_if_error_s=10), True),
        (MUST, D(stale_if_error_s=FOREVER_S), False),
        (FRESH, D(), True),
        (FRESH, D(no_cache=True), False),
    ],
)
def test_may_serve_on_error_follows_the_clients_words_first(
    stored: Freshness | None, asked: D, allowed: bool
) -> None:
    assert may_serve_on_error(stored, asked) is allowed


def test_freshness_usable_for_includes_the_longest_window() -> None:
    assert WITH_WINDOWS.usable_for_s == 290
    assert MUST.usable_for_s == -10


seconds = st.none() | st.integers(0, 1000)
directives = st.builds(
    RequestDirectives,
    no_cache=st.booleans(),
    only_if_cached=st.booleans(),
    max_age_s=seconds,
    min_fresh_s=seconds,
    max_stale_s=seconds,
    stale_if_error_s=seconds,
    stale_while_revalidate_s=seconds,
)
stored_answers = st.none() | st.builds(
    Freshness,
    age_s=st.integers(0, 1000),
    lifetime_s=st.integers(0, 1000),
    stale_while_revalidate_s=st.integers(0, 100),
    stale_if_error_s=st.integers(0, 100),
    must_revalidate=st.booleans(),
)
SERVED = {Verdict.FRESH, Verdict.STALE, Verdict.STALE_THEN_REFRESH}


@given(stored_answers, directives)
def test_judge_never_breaks_the_clients_bounds(stored: Freshness | None, asked: D) -> None:
    verdict, fwd = judge(stored, asked)
    assert (verdict is FORWARD) == bool(fwd)
    if asked.only_if_cached:
        assert verdict is not FORWARD
    if verdict in SERVED:
        assert stored is not None
        assert not asked.no_cache
        assert asked.max_age_s is None or stored.age_s <= asked.max_age_s
        assert asked.min_fresh_s is None or stored.ttl_s >= asked.min_fresh_s
        assert (verdict is Verdict.FRESH) == (stored.ttl_s > 0)
        assert verdict is Verdict.FRESH or not stored.must_revalidate
