import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.policy.latency import (
    LatencyStats,
    Traffic,
    decode_traffic,
    encode_traffic,
    traffic_key,
)


def _observed(*samples_ms: float) -> LatencyStats:
    stats = LatencyStats()
    for sample_ms in samples_ms:
        stats = stats.observe(sample_ms)
    return stats


def test_stats_without_samples_predict_nothing() -> None:
    assert LatencyStats().p95_ms is None
    assert LatencyStats().samples == 0


def test_stats_first_sample_is_the_mean() -> None:
    assert _observed(12.0).ewma_ms == 12.0


def test_stats_mean_follows_a_change() -> None:
    stats = _observed(*[10.0] * 5, *[100.0] * 20)
    assert stats.ewma_ms == pytest.approx(100, rel=0.02)


@pytest.mark.parametrize("sample_ms", [math.nan, math.inf, -1.0])
def test_stats_senseless_sample_is_dropped(sample_ms: float) -> None:
    assert LatencyStats().observe(sample_ms) == LatencyStats()


@given(st.lists(st.floats(0.1, 1e5), min_size=1, max_size=250))
def test_stats_quantile_is_at_most_half_above_the_exact_one(samples_ms: list[float]) -> None:
    stats = _observed(*samples_ms)
    exact_ms = sorted(samples_ms)[math.ceil(0.95 * len(samples_ms)) - 1]
    assert stats.p95_ms is not None
    assert exact_ms * (1 - 1e-9) <= stats.p95_ms <= exact_ms * 1.5 * (1 + 1e-9)


def test_stats_past_fades() -> None:
    stats = _observed(*[1000.0] * 300, *[1.0] * 1500)
    assert stats.samples < 256
    assert stats.p95_ms is not None
    assert stats.p95_ms < 2


def test_stats_huge_sample_falls_into_the_last_bucket() -> None:
    assert _observed(1e300).samples == 1
    assert _observed(0.0).p95_ms == pytest.approx(0.1)


def test_traffic_counts_requests_per_window() -> None:
    traffic = Traffic("x").request(1000.0, 5).request(1009.9, 6)
    assert (traffic.requests, traffic.retries_base) == (2, 5)
    later = traffic.request(1010.0, 6)
    assert (later.requests, later.retries_base) == (1, 6)


def test_traffic_clock_back_begins_a_new_window() -> None:
    assert Traffic("x", window_s=1000.0, requests=9).request(500.0, 1).requests == 1


def test_traffic_old_samples_are_forgotten_so_that_a_slow_tier_is_tried_again() -> None:
    traffic = Traffic("x").observe(9000.0, 1000.0)
    assert traffic.known(1060.0).p95_ms is not None
    assert traffic.known(1061.0).p95_ms is None


def test_traffic_round_trip_keeps_everything() -> None:
    traffic = Traffic("cluster/digits").request(1000.0, 3).observe(12.5, 1000.0)
    assert decode_traffic(encode_traffic(traffic), "cluster/digits") == traffic


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"",
        b"junk",
        b"[]",
        b'{"l":"x"}',
        b'{"l":"x","h":[[99,1]],"m":1,"w":1,"n":1,"b":1,"o":1}',
        b'{"l":"x","h":"no","m":1}',
        b"\xff\xfe",
    ],
)
def test_traffic_unreadable_counts_as_unknown(raw: bytes | None) -> None:
    assert decode_traffic(raw, "x") == Traffic("x")


def test_traffic_of_another_label_under_the_same_key_is_not_taken() -> None:
    raw = encode_traffic(Traffic("cluster/other").observe(5.0, 1.0))
    assert decode_traffic(raw, "cluster/digits") == Traffic("cluster/digits")


def test_traffic_value_stays_small_whatever_was_observed() -> None:
    traffic = Traffic("cluster/digits")
    for exponent in range(2000):
        traffic = traffic.observe(1.01**exponent, 1.0)
    assert len(encode_traffic(traffic)) < 1000
    assert json.loads(encode_traffic(traffic))["l"] == "cluster/digits"


def test_traffic_keys_are_bounded_in_number() -> None:
    keys = {traffic_key(f"cluster/model-{number}") for number in range(5000)}
    assert len(keys) <= 512
