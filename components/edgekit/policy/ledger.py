"""What a tenant has used: rate, requests at work, and the day's budgets, in one stored value.

One value per tenant, so that one compare-and-swap admits a request under all of its limits at
once: no limit is charged for a request that another one refuses. The value is

    {"f": bucket full at (ns), "d": UTC day, "n": requests, "k": tokens, "c": cost (millionths),
     "s": {slot: expiry (ms)}, "w": random name of the write}

The name makes equal states differ, so a swap that looks for its own value afterwards (which is
how it is done over Redis) never takes another's for it.

A slot is held while a request is at an upstream. It expires with the request's deadline, so an
instance that dies holds its slot no longer than it could have worked.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace

from edgekit.policy.ratelimit import TokenBucket
from edgekit.policy.tenants import Limits

__all__ = ["Ledger", "QuotaUse", "Refusal", "admit", "decode_ledger", "encode_ledger", "settle"]

_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Ledger:
    """State of one tenant; see the module."""

    full_at_ns: int = 0
    day: int = 0
    requests: int = 0
    tokens: int = 0
    cost_micro: int = 0
    slots: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """One limit and where the tenant stands with it, for the `RateLimit` fields.

    Attributes:
        name: ``rate``, ``concurrency``, ``daily-requests``, ``daily-tokens`` or ``daily-cost``.
        unit: Quota unit; empty for requests.
        quota: Units per window.
        window_s: Length of the window; None for concurrency.
        remaining: Units left.
        reset_s: Seconds until the whole quota is there again; None when that is not known.
    """

    name: str
    unit: str
    quota: int
    window_s: int | None
    remaining: int
    reset_s: int | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that one of the limits does not admit."""

    limit: str
    retry_after_s: float


def encode_ledger(ledger: Ledger, writer: str) -> bytes:
    """The stored form; `writer` is a random name of this write."""
    return json.dumps(
        {
            "f": ledger.full_at_ns,
            "d": ledger.day,
            "n": ledger.requests,
            "k": ledger.tokens,
            "c": ledger.cost_micro,
            "s": ledger.slots,
            "w": writer,
        },
        separators=(",", ":"),
    ).encode()


def decode_ledger(raw: bytes | None) -> Ledger:
    """The ledger in `raw`; a new one when it is absent or unreadable."""
    try:
        value = json.loads(raw or b"{}")
        return Ledger(
            full_at_ns=int(value.get("f", 0)),
            day=int(value.get("d", 0)),
            requests=int(value.get("n", 0)),
            tokens=int(value.get("k", 0)),
            cost_micro=int(value.get("c", 0)),
            slots={str(slot): int(expiry) for slot, expiry in value.get("s", {}).items()},
        )
    except (ValueError, TypeError, AttributeError):
        return Ledger()


def admit(
    ledger: Ledger, limits: Limits, now_s: float, slot: tuple[str, int] | None
) -> tuple[Ledger, Refusal | None, list[QuotaUse]]:
    """Charge one request, or say which limit refuses it.

    Args:
        ledger: State so far.
        limits: The tenant's limits.
        now_s: Wall time.
        slot: Name and expiry (ms) of the slot to hold; None for a request that goes to no
            upstream, such as a cache hit.

    Returns:
        The state afterwards (charged only when admitted), the refusal or None, and the quotas.
    """
    ledger = _at(ledger, now_s)
    uses = _daily_uses(ledger, limits, now_s)
    refusal = next((Refusal(u.name, u.reset_s or 0) for u in uses if u.remaining <= 0), None)
    slots = dict(ledger.slots)
    if limits.concurrency is not None and slot is not None:
        if len(slots) >= limits.concurrency:
            soonest_ms = min(slots.values()) - int(now_s * 1000)
            # A slot is free when some request ends, at the latest when the first one expires.
            refusal = refusal or Refusal("concurrency", min(1.0, soonest_ms / 1000))
        else:
            slots[slot[0]] = slot[1]
    if limits.concurrency is not None:
        uses.insert(0, _concurrency_use(limits.concurrency, len(slots)))
    full_at_ns = ledger.full_at_ns
    if limits.rate_per_s is not None:
        bucket = TokenBucket(limits.rate_per_s, limits.burst)
        taken = bucket.take(full_at_ns, int(now_s * 1e9), 1 if refusal is None else 0)
        if not taken.allowed:
            refusal = Refusal("rate", taken.retry_after_s)
        full_at_ns = taken.full_at_ns
        window_s = math.ceil(limits.burst / limits.rate_per_s)
        reset_s = math.ceil(taken.full_in_s)
        uses.insert(0, QuotaUse("rate", "", limits.burst, window_s, taken.remaining, reset_s))
    if refusal is not None:
        return ledger, refusal, uses
    admitted = replace(ledger, full_at_ns=full_at_ns, requests=ledger.requests + 1, slots=slots)
    return admitted, None, [_after_request(use) for use in uses]


def settle(ledger: Ledger, now_s: float, *, slot: str, tokens: int, cost_micro: int) -> Ledger:
    """Give the slot back and charge what the answer cost."""
    ledger = _at(ledger, now_s)
    slots = {name: expiry for name, expiry in ledger.slots.items() if name != slot}
    return replace(
        ledger,
        slots=slots,
        tokens=ledger.tokens + tokens,
        cost_micro=ledger.cost_micro + cost_micro,
    )


def _at(ledger: Ledger, now_s: float) -> Ledger:
    """The ledger as it stands now: expired slots gone, counters of another day cleared.

    When the clock went back over midnight the counters are kept: better to count some requests
    into the wrong day than to hand out a day's budget twice.
    """
    today = int(now_s // _DAY_S)
    now_ms = int(now_s * 1000)
    slots = {name: expiry for name, expiry in ledger.slots.items() if expiry > now_ms}
    if today > ledger.day:
        return replace(ledger, day=today, requests=0, tokens=0, cost_micro=0, slots=slots)
    return replace(ledger, day=today, slots=slots)


def _daily_uses(ledger: Ledger, limits: Limits, now_s: float) -> list[QuotaUse]:
    reset_s = math.ceil((ledger.day + 1) * _DAY_S - now_s)
    daily = (
        ("daily-requests", "", limits.daily_requests, ledger.requests),
        ("daily-tokens", "tokens", limits.daily_tokens, ledger.tokens),
        ("daily-cost", "cost-micro", limits.daily_cost_micro, ledger.cost_micro),
    )
    return [
        QuotaUse(name, unit, quota, _DAY_S, max(0, quota - used), reset_s)
        for name, unit, quota, used in daily
        if quota is not None
    ]


def _concurrency_use(quota: int, held: int) -> QuotaUse:
    return QuotaUse("concurrency", "concurrent-requests", quota, None, max(0, quota - held), None)


def _after_request(use: QuotaUse) -> QuotaUse:
    return replace(use, remaining=use.remaining - 1) if use.name == "daily-requests" else use
