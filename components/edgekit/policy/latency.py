"""How long an upstream takes: EWMA and p95, kept in one small value per tier and model.

The value is read with the request's snapshot and written with its batch. Two instances that do so
at once lose a sample, which a statistic can bear; so nothing here locks or swaps.

The histogram has geometric buckets (each 1.5 times the one before, 0.1 ms to 28 min), so a
quantile is off by at most a quarter of its value at any scale. Counts are halved when they reach
a total of 256: the past fades, and a slow hour does not count for ever.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from dataclasses import dataclass, field, replace

__all__ = ["LatencyStats", "Traffic", "decode_traffic", "encode_traffic", "traffic_key"]

_BUCKETS = 42
_FIRST_MS = 0.1
_RATIO = 1.5
_FADE_AT = 256
_EWMA_WEIGHT = 0.2
_SLOTS = 512
_WINDOW_S = 10.0
_MEMORY_S = 60.0


@dataclass(frozen=True, slots=True)
class LatencyStats:
    """Distribution of observed times.

    Attributes:
        ewma_ms: Exponentially weighted mean, weight 0.2; 0 before the first sample.
        counts: Samples per bucket, faded.
    """

    ewma_ms: float = 0.0
    counts: tuple[int, ...] = (0,) * _BUCKETS

    @property
    def samples(self) -> int:
        """Samples that still count; at most 255."""
        return sum(self.counts)

    def observe(self, elapsed_ms: float) -> LatencyStats:
        """The statistics with one more sample; a negative or non-finite one is dropped."""
        if not (math.isfinite(elapsed_ms) and elapsed_ms >= 0):
            return self
        mean = elapsed_ms if self.samples == 0 else self.ewma_ms
        mean += _EWMA_WEIGHT * (elapsed_ms - mean)
        counts = list(self.counts)
        counts[_bucket_of(elapsed_ms)] += 1
        if sum(counts) >= _FADE_AT:
            counts = [count // 2 for count in counts]
        return LatencyStats(mean, tuple(counts))

    def quantile_ms(self, share: float) -> float | None:
        """Upper end of the bucket below which `share` of the samples lie; None without samples."""
        if self.samples == 0:
            return None
        wanted = share * self.samples
        filled = [bucket for bucket, count in enumerate(self.counts) if count]
        sums = itertools.accumulate(self.counts[bucket] for bucket in filled)
        bucket = next(bucket for bucket, seen in zip(filled, sums, strict=True) if seen >= wanted)
        return _FIRST_MS * _RATIO**bucket

    @property
    def p95_ms(self) -> float | None:
        """The 95th percentile, rounded up to its bucket; None without samples."""
        return self.quantile_ms(0.95)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was observed of one model on one tier.

    Attributes:
        label: Tier and model, as a check: several share a key when their hashes meet.
        latency: Times of successful calls.
        window_s: Wall time at which the window of `requests` began.
        requests: Requests in the window.
        retries_base: The retry counter when the window began.
        observed_s: Wall time of the last sample.
    """

    label: str
    latency: LatencyStats = field(default_factory=LatencyStats)
    window_s: float = 0.0
    requests: int = 0
    retries_base: int = 0
    observed_s: float = 0.0

    def known(self, now_s: float) -> LatencyStats:
        """The statistics while they mean something; empty ones when the last sample is old.

        A tier that was too slow gets no requests and so no samples: without an end to its bad
        name it would never be tried again.
        """
        recent = abs(now_s - self.observed_s) <= _MEMORY_S
        return self.latency if recent else LatencyStats()

    def request(self, now_s: float, retries: int) -> Traffic:
        """Count a request; `retries` is the retry counter as the snapshot shows it."""
        # abs: a clock that went back begins a new window as well.
        if abs(now_s - self.window_s) >= _WINDOW_S:
            return replace(self, window_s=now_s, requests=1, retries_base=retries)
        return replace(self, requests=self.requests + 1)

    def observe(self, elapsed_ms: float, now_s: float) -> Traffic:
        """Count the time of a successful call."""
        return replace(self, latency=self.latency.observe(elapsed_ms), observed_s=now_s)


def traffic_key(label: str) -> str:
    """Where the statistics of `label` lie: one of 512 keys, however many models there are."""
    slot = int(hashlib.sha256(label.encode()).hexdigest()[:8], 16) % _SLOTS
    return f"traffic/{slot}"


def encode_traffic(traffic: Traffic) -> bytes:
    """The stored form; the histogram as pairs of bucket and count."""
    latency = traffic.latency
    return json.dumps(
        {
            "l": traffic.label,
            "m": round(latency.ewma_ms, 4),
            "h": [[bucket, count] for bucket, count in enumerate(latency.counts) if count],
            "w": round(traffic.window_s, 3),
            "n": traffic.requests,
            "b": traffic.retries_base,
            "o": round(traffic.observed_s, 3),
        },
        separators=(",", ":"),
    ).encode()


def decode_traffic(raw: bytes | None, label: str) -> Traffic:
    """The statistics of `label`; empty when absent, unreadable, or of another label."""
    try:
        value = json.loads(raw or b"{}")
        if value.get("l") != label:
            return Traffic(label)
        counts = [0] * _BUCKETS
        for bucket, count in value["h"]:
            counts[int(bucket)] = max(0, int(count))
        latency = LatencyStats(float(value["m"]), tuple(counts))
        return Traffic(
            label,
            latency,
            window_s=float(value["w"]),
            requests=int(value["n"]),
            retries_base=int(value["b"]),
            observed_s=float(value["o"]),
        )
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return Traffic(label)


def _bucket_of(elapsed_ms: float) -> int:
    if elapsed_ms <= _FIRST_MS:
        return 0
    return min(_BUCKETS - 1, math.ceil(math.log(elapsed_ms / _FIRST_MS, _RATIO) - 1e-9))
