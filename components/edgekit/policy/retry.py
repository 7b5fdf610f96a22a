"""Whether and when to try an upstream again.

A retry must be harmless (nothing was delivered yet, and inference has no side effects), must fit
into the deadline with the time it is expected to take, and must leave the upstream most of its
capacity: retries are held to a share of the requests, so they cannot feed an overload.

The share is counted by two parties that need no lock: `Traffic.requests` counts requests in a
window and may lose some under concurrency, which only makes the budget smaller; retries are taken
with an atomic counter, which loses none.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.policy.counters import read_counter
from edgekit.policy.deadline import Deadline
from edgekit.policy.latency import Traffic
from edgekit.ports import KeyValueStore, RandomSource, StoreUnavailableError

__all__ = ["RETRYABLE_STATUSES", "RetryBudget", "RetryRule", "retry_delay_s"]

RETRYABLE_STATUSES = frozenset({429, 502, 503, 504})
"""The upstream did not do the work and says so. A 500 is not among them: it would fail again."""


@dataclass(frozen=True, slots=True)
class RetryRule:
    """How to retry.

    Attributes:
        attempts: Calls in all, the first one included.
        base_delay_s: Ceiling of the first pause; it doubles with each further one.
        max_delay_s: Ceiling of all pauses. Who is asked to stay away for longer tells the client,
            instead of keeping it waiting.
    """

    attempts: int = 3
    base_delay_s: float = 0.025
    max_delay_s: float = 1.0


def retry_delay_s(
    rule: RetryRule,
    attempt: int,
    deadline: Deadline,
    random: RandomSource,
    *,
    predicted_ms: float,
    retry_after_s: float | None = None,
) -> float | None:
    """Pause before the next call; None when there should be none.

    Args:
        rule: How to retry.
        attempt: Calls made so far; at least 1.
        deadline: The request's budget.
        random: Source of the jitter.
        predicted_ms: Time the next call is expected to take.
        retry_after_s: What the upstream asked for, where it did.

    Source:
        Brooker, "Exponential Backoff And Jitter" (AWS, 2015): full jitter.
    """
    if attempt >= rule.attempts or (retry_after_s or 0.0) > rule.max_delay_s:
        return None
    ceiling_s = min(rule.max_delay_s, rule.base_delay_s * 2 ** (attempt - 1))
    delay_s = max(retry_after_s or 0.0, random.random() * ceiling_s)
    return delay_s if delay_s + predicted_ms / 1000 < deadline.remaining_s() else None


class RetryBudget:
    """At most `share` retries per request to one upstream, plus a few to begin with.

    Args:
        upstream: Name of the upstream.
        share: Retries per request: 0.2 is 20 %.
        reserve: Retries per window allowed without requests, so that a quiet service retries too.
    """

    def __init__(self, upstream: str, *, share: float = 0.2, reserve: int = 3) -> None:
        self._key = f"retries/{upstream}"
        self._share = share
        self._reserve = reserve

    @property
    def key(self) -> str:
        """The counter of all retries ever made; part of the request's snapshot."""
        return self._key

    def take(self, store: KeyValueStore, traffic: Traffic, seen: bytes | None) -> bool:
        """Take one retry out of the budget; False when it is spent.

        Args:
            store: Where the counter lies.
            traffic: Requests of the current window, and the counter at its beginning.
            seen: The counter in the request's snapshot: a spent budget costs no operation.
        """
        allowed = self._reserve + int(traffic.requests * self._share)
        if read_counter(seen) - traffic.retries_base >= allowed:
            return False
        try:
            return store.increment(self._key, 1) - traffic.retries_base <= allowed
        except StoreUnavailableError:
            # Without the shared count nobody knows how many retry already.
            return False
