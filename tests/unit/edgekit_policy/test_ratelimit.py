import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.http import Headers
from edgekit.policy.ledger import QuotaUse
from edgekit.policy.ratelimit import TokenBucket
from edgekit.policy.ratelimit_fields import set_rate_limit_fields

NOW_NS = 1_800_000_000 * 10**9


def test_bucket_full_allows_its_burst_and_no_more() -> None:
    bucket = TokenBucket(rate_per_s=10, burst=3)
    state = 0
    remaining = []
    for _ in range(3):
        taken = bucket.take(state, NOW_NS)
        assert taken.allowed
        remaining.append(taken.remaining)
        state = taken.full_at_ns
    refused = bucket.take(state, NOW_NS)
    assert remaining == [2, 1, 0]
    assert not refused.allowed
    assert refused.full_at_ns == state
    assert refused.retry_after_s == pytest.approx(0.1)
    assert refused.full_in_s == pytest.approx(0.3)


def test_bucket_refuses_until_exactly_retry_after() -> None:
    bucket = TokenBucket(rate_per_s=4, burst=1)
    state = bucket.take(0, NOW_NS).full_at_ns
    wait_ns = round(bucket.take(state, NOW_NS).retry_after_s * 1e9)
    assert not bucket.take(state, NOW_NS + wait_ns - 1).allowed
    assert bucket.take(state, NOW_NS + wait_ns).allowed


def test_bucket_after_the_clock_went_back_costs_one_refill_at_most() -> None:
    bucket = TokenBucket(rate_per_s=1, burst=5)
    state = bucket.take(0, NOW_NS).full_at_ns
    refused = bucket.take(state, NOW_NS - 3600 * 10**9)
    assert not refused.allowed
    assert refused.retry_after_s == pytest.approx(1.0)


def test_bucket_taking_nothing_reads_its_state() -> None:
    read = TokenBucket(rate_per_s=1, burst=5).take(0, NOW_NS, tokens=0)
    assert (read.allowed, read.remaining, read.full_in_s) == (True, 5, 0.0)


@given(
    rate=st.sampled_from([0.5, 1.0, 4.0, 100.0]),
    burst=st.integers(1, 20),
    gaps_ms=st.lists(st.integers(0, 4000), max_size=80),
)
def test_bucket_agrees_with_a_bucket_that_counts_tokens(
    rate: float, burst: int, gaps_ms: list[int]
) -> None:
    bucket = TokenBucket(rate, burst)
    tokens, state, now_ns = float(burst), 0, NOW_NS
    for gap_ms in gaps_ms:
        now_ns += gap_ms * 10**6
        tokens = min(burst, tokens + gap_ms / 1000 * rate)
        taken = bucket.take(state, now_ns)
        if abs(tokens - round(tokens)) > 1e-6 or tokens >= 1 + 1e-6:
            assert taken.allowed == (tokens >= 1)
        if taken.allowed:
            tokens -= 1
        state = taken.full_at_ns


@given(
    rate=st.floats(0.01, 1000),
    burst=st.integers(1, 50),
    gaps_ns=st.lists(st.integers(0, 10**9), max_size=100),
)
def test_bucket_never_admits_more_than_burst_plus_rate_times_time(
    rate: float, burst: int, gaps_ns: list[int]
) -> None:
    bucket = TokenBucket(rate, burst)
    state, now_ns, admitted = 0, NOW_NS, 0
    for gap_ns in gaps_ns:
        now_ns += gap_ns
        taken = bucket.take(state, now_ns)
        state = taken.full_at_ns
        admitted += taken.allowed
        assert 0 <= taken.remaining <= burst
    assert admitted <= burst + rate * (now_ns - NOW_NS) / 1e9 + 1e-3


def test_rate_limit_fields_follow_the_draft() -> None:
    headers = Headers()
    uses = [
        QuotaUse("rate", "", 100, 2, 50, 1),
        QuotaUse("concurrency", "concurrent-requests", 4, None, 3, None),
        QuotaUse("daily-tokens", "tokens", 1000, 86400, 10, 3600),
    ]
    set_rate_limit_fields(headers, uses)
    assert headers.get("RateLimit-Policy") == (
        '"rate";q=100;w=2, "concurrency";q=4;qu="concurrent-requests", '
        '"daily-tokens";q=1000;qu="tokens";w=86400'
    )
    assert headers.get("RateLimit") == (
        '"rate";r=50;t=1, "concurrency";r=3, "daily-tokens";r=10;t=3600'
    )


def test_rate_limit_fields_without_limits_say_nothing() -> None:
    headers = Headers()
    set_rate_limit_fields(headers, [])
    assert list(headers) == []
