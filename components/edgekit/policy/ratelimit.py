"""A token bucket as one number: the time at which it would be full again (GCRA).

With interval *T* between tokens and a bucket of *B* of them, a bucket that will be full at time
*f* holds ``B - (f - now) / T`` tokens. Taking *n* of them moves *f* by ``n * T`` and is allowed
while *f* stays within ``B * T`` of now. One integer in nanoseconds, no drift, no refill task.

Source:
    ITU-T I.371, the generic cell rate algorithm in its virtual scheduling form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["TokenBucket", "Withdrawal"]

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Outcome of taking tokens.

    Attributes:
        full_at_ns: The bucket's state afterwards; unchanged time base when refused.
        allowed: The tokens were taken.
        remaining: Whole tokens left.
        retry_after_s: Seconds until the same withdrawal can succeed; 0 when allowed.
        full_in_s: Seconds until the bucket is full.
    """

    full_at_ns: int
    allowed: bool
    remaining: int
    retry_after_s: float
    full_in_s: float


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A bucket of `burst` tokens, refilled at `rate_per_s`."""

    rate_per_s: float
    burst: int

    def take(self, full_at_ns: int, now_ns: int, tokens: int = 1) -> Withdrawal:
        """Take `tokens` from a bucket in state `full_at_ns` (0: full).

        A state further ahead than an empty bucket can be means that the clock went back; it
        counts as empty, so a jump costs at most one refill.
        """
        interval_ns = _NS / self.rate_per_s
        capacity_ns = round(interval_ns * self.burst)
        full_at_ns = min(max(full_at_ns, now_ns), now_ns + capacity_ns)
        after_ns = full_at_ns + round(interval_ns * tokens)
        allowed = after_ns - now_ns <= capacity_ns
        state_ns = after_ns if allowed else full_at_ns
        return Withdrawal(
            full_at_ns=state_ns,
            allowed=allowed,
            remaining=math.floor((capacity_ns - (state_ns - now_ns)) / interval_ns + 1e-9),
            retry_after_s=0.0 if allowed else (after_ns - now_ns - capacity_ns) / _NS,
            full_in_s=(state_ns - now_ns) / _NS,
        )
