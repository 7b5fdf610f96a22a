"""The tiers as one request meets them: what is known of each, and how each is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgekit.backend import Upstream
from edgekit.errors import (
    DeadlineExceededError,
    EdgeError,
    ModelNotReadyError,
    OverloadedError,
    UpstreamUnavailableError,
)
from edgekit.exchange import Exchange
from edgekit.inference.contract import Answer, Inference
from edgekit.policy.breaker import (
    Breaker,
    Passage,
    breaker_key,
    decode_breaker,
    encode_breaker,
)
from edgekit.policy.counters import read_counter
from edgekit.policy.latency import Traffic, decode_traffic, encode_traffic, traffic_key
from edgekit.policy.placement import Tier, TierFacts
from edgekit.policy.retry import RETRYABLE_STATUSES, RetryBudget, retry_delay_s
from edgekit.policy.snapshot import Snapshot
from edgekit.ports import UpstreamError, UpstreamTimeoutError

__all__ = ["TIER_FAILURES", "Tiers"]

TIER_FAILURES = (
    UpstreamUnavailableError,
    DeadlineExceededError,
    OverloadedError,
    ModelNotReadyError,
)
"""What another tier may make up for; anything else is about the request, and would recur there."""

_FAIR_MS = 1000.0
"""An upstream nobody knows yet may take this long before its silence counts against it."""


class Tiers:
    """Facts from the request's snapshot, calls, and what is to be written down of them."""

    def __init__(self, exchange: Exchange, inference: Inference) -> None:
        policy = exchange.settings.policy
        self._exchange = exchange
        self._inference = inference
        self._upstreams = inference.upstreams(exchange)
        self._breaker = Breaker(policy.breaker)
        self._retries = {
            tier: RetryBudget(upstream.name, share=policy.retry_share)
            for tier, upstream in self._upstreams.items()
        }
        self._seen: dict[Tier, bytes | None] = {}
        self._traffic: dict[Tier, Traffic] = {}
        self._changed: set[Tier] = set()
        self._allowed_ms = 0.0
        self._snapshot = Snapshot({})

    @property
    def reachable(self) -> bool:
        """True when there is any upstream that may have the model."""
        return bool(self._upstreams)

    def keys(self) -> list[str]:
        """What `load` needs in its snapshot."""
        keys = [traffic_key(self._label(tier)) for tier in self._known()]
        for tier, upstream in self._upstreams.items():
            keys += [breaker_key(upstream.name), self._retries[tier].key]
        return keys

    def load(self, snapshot: Snapshot) -> None:
        """Take the state in."""
        self._snapshot = snapshot
        for tier in self._known():
            label = self._label(tier)
            self._traffic[tier] = decode_traffic(snapshot.get(traffic_key(label)), label)
        for tier, upstream in self._upstreams.items():
            self._seen[tier] = snapshot.get(breaker_key(upstream.name))

    def facts(self) -> dict[Tier, TierFacts]:
        """What placement needs to know."""
        now_s = self._exchange.ports.clock.now_s()
        facts = {}
        for tier in self._known():
            known = self._traffic[tier].known(now_s)
            facts[tier] = TierFacts(
                available=True,
                passage=self._passage(tier),
                ewma_ms=known.ewma_ms if known.samples else None,
                p95_ms=known.p95_ms,
            )
        return facts

    def retry_after_s(self) -> float | None:
        """When an upstream that is shut out may be tried again; None when none is."""
        now_s = self._exchange.ports.clock.now_s()
        waits = [
            self._breaker.retry_after_s(decode_breaker(self._seen[tier]), now_s)
            for tier in self._upstreams
            if self._passage(tier) is Passage.OPEN
        ]
        return min(waits, default=None)

    def call(self, tier: Tier, *, reserve_s: float) -> Answer:
        """The answer of `tier`, tried again where that is harmless and fits.

        Args:
            tier: Whom to ask.
            reserve_s: Time to keep for what comes after a failure.

        Raises:
            EdgeError: One of `TIER_FAILURES` when the tier failed; others are the client's.
        """
        if tier is Tier.EDGE:
            return self._observed(tier, self._inference.answer_at_edge)
        upstream = self._upstreams[tier]
        self._enter(tier, upstream)
        self._exchange.use_upstream(upstream, reserve_s)
        self._count(tier)
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = self._observed(tier, self._inference.ask)
            except EdgeError as error:
                self._report(tier, ok=not self._blames(tier, error))
                delay_s = self._delay_s(tier, attempt, error)
                if delay_s is None:
                    raise
                self._exchange.log(f"{tier.value}: attempt {attempt} failed: {error.message}")
                self._exchange.ports.clock.sleep(delay_s)
            else:
                self._report(tier, ok=True)
                return answer

    def items(self) -> list[tuple[str, bytes]]:
        """What is to be stored of this request's calls."""
        return [
            (traffic_key(self._label(tier)), encode_traffic(self._traffic[tier]))
            for tier in sorted(self._changed, key=lambda tier: tier.value)
        ]

    def p95_ms(self, tiers: Sequence[Tier]) -> float | None:
        """Time within which the first of `tiers` answers as a rule; None when nothing is known."""
        now_s = self._exchange.ports.clock.now_s()
        return self._traffic[tiers[0]].known(now_s).p95_ms if tiers else None

    def ewma_ms(self, tier: Tier) -> float | None:
        """Mean time of `tier` of late; None when nothing is known."""
        known = self._traffic[tier].known(self._exchange.ports.clock.now_s())
        return known.ewma_ms if known.samples else None

    def _known(self) -> list[Tier]:
        edge = [Tier.EDGE] if self._inference.edge_model is not None else []
        return [*edge, *self._upstreams]

    def _label(self, tier: Tier) -> str:
        form = "-stream" if self._inference.streamed else ""
        return f"{tier.value}/{self._inference.kind}{form}/{self._inference.model}"

    def _passage(self, tier: Tier) -> Passage:
        if tier is Tier.EDGE:
            return Passage.CLOSED
        now_s = self._exchange.ports.clock.now_s()
        return self._breaker.passage(decode_breaker(self._seen[tier]), now_s)

    def _enter(self, tier: Tier, upstream: Upstream) -> None:
        if self._passage(tier) is not Passage.PROBE:
            return
        ports = self._exchange.ports
        if not self._breaker.claim_probe(
            ports.store, upstream.name, self._seen[tier], ports.clock.now_s()
        ):
            raise UpstreamUnavailableError(
                f"the {tier.value} is being probed by another request", retry_after_s=1.0
            )

    def _count(self, tier: Tier) -> None:
        retries = read_counter(self._snapshot.get(self._retries[tier].key))
        now_s = self._exchange.ports.clock.now_s()
        self._traffic[tier] = self._traffic[tier].request(now_s, retries)
        self._changed.add(tier)

    def _observed(self, tier: Tier, ask: Callable[[Exchange], Answer]) -> Answer:
        started_ms = self._exchange.elapsed_ms()
        self._allowed_ms = self._exchange.deadline.remaining_ms()
        answer = ask(self._exchange)
        now_s = self._exchange.ports.clock.now_s()
        elapsed_ms = self._exchange.elapsed_ms() - started_ms
        self._traffic[tier] = self._traffic[tier].observe(elapsed_ms, now_s)
        self._changed.add(tier)
        return answer

    def _report(self, tier: Tier, *, ok: bool) -> None:
        ports = self._exchange.ports
        state = self._breaker.report(
            ports.store,
            self._upstreams[tier].name,
            self._seen[tier],
            ports.clock.now_s(),
            ok=ok,
        )
        if state != decode_breaker(self._seen[tier]):
            self._seen[tier] = encode_breaker(state)

    def _blames(self, tier: Tier, error: EdgeError) -> bool:
        """True when `error` speaks against the upstream itself.

        A client with a budget of one millisecond proves nothing, and must not shut an upstream
        out for others: a timeout counts only when the call had a fair amount of time.
        """
        if isinstance(error.__cause__, UpstreamTimeoutError):
            p95_ms = self._traffic[tier].known(self._exchange.ports.clock.now_s()).p95_ms
            fair_ms = _FAIR_MS if p95_ms is None else max(100.0, 2 * p95_ms)
            return self._allowed_ms >= fair_ms
        return isinstance(error, UpstreamUnavailableError)

    def _delay_s(self, tier: Tier, attempt: int, error: EdgeError) -> float | None:
        if not _is_retryable(error) or self._passage(tier) is not Passage.CLOSED:
            return None
        ports = self._exchange.ports
        delay_s = retry_delay_s(
            self._exchange.settings.policy.retry,
            attempt,
            self._exchange.deadline,
            ports.random,
            predicted_ms=self.ewma_ms(tier) or 0.0,
            retry_after_s=error.retry_after_s,
        )
        budget = self._retries[tier]
        seen = self._snapshot.get(budget.key)
        if delay_s is None or not budget.take(ports.store, self._traffic[tier], seen):
            return None
        return delay_s


def _is_retryable(error: EdgeError) -> bool:
    """True when the upstream did not do the work, and may do it a moment later."""
    if error.upstream_status is not None:
        return error.upstream_status in RETRYABLE_STATUSES
    cause = error.__cause__
    return isinstance(cause, UpstreamError) and not isinstance(cause, UpstreamTimeoutError)
