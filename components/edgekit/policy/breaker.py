"""A circuit breaker per upstream, with the outlier rules of Envoy.

    closed ──5 failures in a row──▶ open ──ejection time over──▶ half-open
       ▲                             ▲                               │
       │                             └────────the probe fails────────┤
       └──────────────────────the probe succeeds─────────────────────┘

* A failure is a 5xx answer or an error on the way (refused, reset, timed out); any success ends
  the row ("consecutive 5xx", with locally originated errors counted alike).
* The ejection time is the base time multiplied by the number of times the upstream was ejected,
  up to a maximum; the number goes down by one for every base time spent healthy.
* Envoy lets a whole host back in when its time is over. With a single upstream behind it, an edge
  is better served by one probe at a time: half-open.

State is one value per upstream, changed by compare-and-swap, and only when something changes: a
healthy upstream costs no operation.

Source:
    Envoy, architecture overview, "Outlier detection": ejection algorithm, consecutive 5xx.
"""

from __future__ import annotations

import enum
import json
from dataclasses import astuple, dataclass, replace

from edgekit.ports import KeyValueStore, StoreUnavailableError

__all__ = [
    "Breaker",
    "BreakerRule",
    "BreakerState",
    "Passage",
    "breaker_key",
    "decode_breaker",
    "encode_breaker",
]

_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """When to eject and for how long; Envoy's defaults, with times for a single upstream.

    Attributes:
        consecutive_failures: Failures in a row that eject: Envoy's 5.
        base_ejection_s: 2 s instead of 30: there is no other host to wait with.
        max_ejection_s: 60 s instead of 300, for the same reason.
        probe_s: How long a probe may take before another one is let through.
    """

    consecutive_failures: int = 5
    base_ejection_s: float = 2.0
    max_ejection_s: float = 60.0
    probe_s: float = 10.0


@dataclass(frozen=True, slots=True)
class BreakerState:
    """Times are wall time in seconds.

    Attributes:
        failures: Failures since the last success.
        ejections: Times the upstream was ejected, worn off by healthy time.
        ejected_until_s: End of the ejection in force; 0 when closed.
        probe_until_s: Until when a probe is under way; 0 when none is.
        healthy_since_s: When it was last closed.
    """

    failures: int = 0
    ejections: int = 0
    ejected_until_s: float = 0.0
    probe_until_s: float = 0.0
    healthy_since_s: float = 0.0


class Passage(enum.Enum):
    """What the breaker says to a request."""

    CLOSED = "closed"
    PROBE = "half_open"
    OPEN = "open"


class Breaker:
    """Decisions over states; nothing here touches a store but `report` and `claim_probe`."""

    def __init__(self, rule: BreakerRule) -> None:
        self._rule = rule

    def passage(self, state: BreakerState, now_s: float) -> Passage:
        """What a request that comes now is told."""
        if state.ejected_until_s == 0:
            return Passage.CLOSED
        if self._pending(state.ejected_until_s, now_s, self._rule.max_ejection_s):
            return Passage.OPEN
        if self._pending(state.probe_until_s, now_s, self._rule.probe_s):
            return Passage.OPEN
        return Passage.PROBE

    def retry_after_s(self, state: BreakerState, now_s: float) -> float:
        """Seconds until an open breaker may let a probe through; at least 0.1."""
        until_s = max(state.ejected_until_s, state.probe_until_s)
        return min(max(0.1, until_s - now_s), self._rule.max_ejection_s)

    def after_success(self, state: BreakerState, now_s: float) -> BreakerState:
        """The state after an answer; the same object when nothing changed."""
        if state.ejected_until_s:
            return BreakerState(ejections=state.ejections, healthy_since_s=now_s)
        if state.failures == 0 and state.ejections == 0:
            return state
        worn = self._worn(state, now_s)
        if worn is state and state.failures == 0:
            return state
        return replace(worn, failures=0)

    def after_failure(self, state: BreakerState, now_s: float) -> BreakerState:
        """The state after a failure."""
        if self.passage(state, now_s) is Passage.OPEN and not state.probe_until_s:
            # A straggler that was under way when the upstream was ejected proves nothing new.
            return state
        failures = state.failures + 1
        if not state.ejected_until_s and failures < self._rule.consecutive_failures:
            return replace(state, failures=failures)
        ejections = self._worn(state, now_s).ejections + 1
        ejection_s = min(self._rule.base_ejection_s * ejections, self._rule.max_ejection_s)
        return BreakerState(
            failures=failures, ejections=ejections, ejected_until_s=now_s + ejection_s
        )

    def claim_probe(
        self, store: KeyValueStore, upstream: str, seen: bytes | None, now_s: float
    ) -> bool:
        """Become the one request that tries a half-open upstream; False when another one did."""
        state = replace(decode_breaker(seen), probe_until_s=now_s + self._rule.probe_s)
        try:
            return store.compare_and_swap(breaker_key(upstream), seen, encode_breaker(state))
        except StoreUnavailableError:
            # Nobody can claim anything: try, rather than shut the upstream out for good.
            return True

    def report(
        self, store: KeyValueStore, upstream: str, seen: bytes | None, now_s: float, *, ok: bool
    ) -> BreakerState:
        """Put the outcome of one call into the shared state; no operation when nothing changes.

        Args:
            store: Where states lie.
            upstream: Its name.
            seen: The stored state as the request last saw it.
            now_s: Wall time.
            ok: The upstream answered, and not with a 5xx.
        """
        after = self.after_success if ok else self.after_failure
        raw = seen
        state = decode_breaker(raw)
        try:
            for _ in range(_ATTEMPTS):
                state = decode_breaker(raw)
                new = after(state, now_s)
                if new is state or store.compare_and_swap(
                    breaker_key(upstream), raw, encode_breaker(new)
                ):
                    return new
                raw = store.get(breaker_key(upstream))
        except StoreUnavailableError:
            pass
        # Lost to others, who report the same upstream: their word stands.
        return state

    def _worn(self, state: BreakerState, now_s: float) -> BreakerState:
        """The state with ejections worn off by the healthy time since."""
        healthy_s = now_s - state.healthy_since_s
        steps = min(state.ejections, int(healthy_s // self._rule.base_ejection_s))
        if steps <= 0 or state.ejected_until_s:
            return state
        since_s = state.healthy_since_s + steps * self._rule.base_ejection_s
        return replace(state, ejections=state.ejections - steps, healthy_since_s=since_s)

    @staticmethod
    def _pending(until_s: float, now_s: float, longest_s: float) -> bool:
        """True while `until_s` lies ahead; not when so far that only a clock jump explains it."""
        return now_s < until_s <= now_s + longest_s


def breaker_key(upstream: str) -> str:
    """Where the state of `upstream` lies."""
    return f"breaker/{upstream}"


def encode_breaker(state: BreakerState) -> bytes:
    """The stored form."""
    return json.dumps(astuple(state), separators=(",", ":")).encode()


def decode_breaker(raw: bytes | None) -> BreakerState:
    """The state in `raw`; a closed breaker when it is absent or unreadable."""
    try:
        failures, ejections, *times = json.loads(raw or b"[0,0,0,0,0]")
        ejected_until_s, probe_until_s, healthy_since_s = (float(time) for time in times)
        return BreakerState(
            int(failures), int(ejections), ejected_until_s, probe_until_s, healthy_since_s
        )
    except (ValueError, TypeError):
        return BreakerState()
