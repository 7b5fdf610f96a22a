"""The cache as one request meets it: what lies there for it, who else asks for it, what it keeps.

Everything this request needs from the key-value store is read here in one batch, the state of
limits and tiers included; everything it writes goes out in one batch after the response.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.exchange import Exchange
from edgekit.inference.active import (
    ActiveModel,
    active_by,
    active_key,
    decode_active,
    encode_active,
)
from edgekit.inference.contract import Answer, Inference
from edgekit.policy.cache import Lookup, ResponseCache
from edgekit.policy.cache_control import RequestDirectives
from edgekit.policy.cache_entry import StoredAnswer
from edgekit.policy.cache_key import CacheKey, derive_key
from edgekit.policy.cache_rules import CacheRule, lifetime_of, may_look_up
from edgekit.policy.freshness import Freshness, Verdict, judge, may_serve_on_error
from edgekit.policy.lease import Lease, LeaseState, Role, ended_lease, lease_key, poll_times_s
from edgekit.policy.snapshot import Snapshot

__all__ = ["Shelf"]


class Shelf:
    """The place of one request in the cache.

    Args:
        exchange: The request.
        inference: What it asks.
        asked: Its cache directives.
        rule: How its route caches.
    """

    def __init__(
        self,
        exchange: Exchange,
        inference: Inference,
        asked: RequestDirectives,
        rule: CacheRule,
    ) -> None:
        policy = exchange.settings.policy
        self._exchange = exchange
        self._inference = inference
        self._asked = asked
        self._rule = rule
        self._clock = exchange.ports.clock
        self._store = exchange.ports.store
        self._cache = ResponseCache(policy.cache)
        self._leading = False
        self._active = ActiveModel()
        self.cacheable = False
        self.snapshot = Snapshot({})

    # --- looking up -----------------------------------------------------------------------------

    def read(self, more_keys: Sequence[str]) -> None:
        """Take the request's snapshot, `more_keys` included, and look the answer up in it."""
        inference, exchange = self._inference, self._exchange
        parts = inference.canonical(exchange)
        self.cacheable = may_look_up(self._rule, self._asked, deterministic=inference.deterministic)
        exchange.end_stage("receive")
        blank = derive_key(
            tenant=exchange.tenant.name, route=inference.kind, request=parts, model_digest=""
        )
        keys = [*more_keys, *inference.stored_keys(), self._active_key]
        if self.cacheable:
            keys += [*self._cache_keys(blank), lease_key(blank)]
        self.snapshot = exchange.snapshot = Snapshot.read(self._store, keys)
        if not self.snapshot.available:
            exchange.log("the key-value store does not answer: going on without it")
        self._lookup = self._find(self.snapshot, blank)
        exchange.end_stage("lookup")

    @property
    def stored(self) -> StoredAnswer | None:
        """The stored answer, of whatever age."""
        return self._lookup.answer

    @property
    def address(self) -> str:
        """Name of this place, for purges."""
        return self._lookup.key.address

    def freshness(self) -> Freshness | None:
        """Where the stored answer stands in its life now."""
        stored = self.stored
        return None if stored is None else stored.freshness(self._clock.now_s())

    def judge(self) -> tuple[Verdict, str]:
        """Whether the stored answer will do; with FORWARD, the `fwd` token."""
        verdict, fwd = judge(self.freshness(), self._asked)
        if not self.cacheable:
            return verdict, "bypass"
        if verdict in (Verdict.FORWARD, Verdict.UNSATISFIABLE) or self._is_vouched_for():
            return verdict, fwd
        # The model may have been replaced meanwhile; this request finds out.
        return Verdict.FORWARD, "stale"

    def covers_errors(self) -> bool:
        """True when the stored answer may stand in for a failed upstream."""
        return may_serve_on_error(self.freshness(), self._asked)

    def _is_vouched_for(self) -> bool:
        if self._asked.only_if_cached or self._asked.max_stale_s is not None:
            return True
        ttl_s = self._exchange.settings.metadata_ttl_s
        return self._active.known(self._clock.now_s(), ttl_s)

    # --- collapsing -----------------------------------------------------------------------------

    def join(self) -> LeaseState | None:
        """Another instance's lease, to wait for; None when this request has to ask itself."""
        collapses = self.cacheable and self._exchange.settings.policy.collapse
        if not collapses or not self.snapshot.available:
            return None
        if self._inference.streamed or self._asked.no_store or self._asked.no_cache:
            return None
        lease = Lease.acquire(
            self._store,
            self._clock,
            self._lookup.key,
            self.snapshot.get(lease_key(self._lookup.key)),
            owner=self._exchange.ports.random.token_bytes(8).hex(),
            hold_s=self._exchange.deadline.remaining_s(),
        )
        self._leading = lease.role is Role.LEADER
        return lease.state if lease.role is Role.FOLLOWER else None

    def wait(self, lease: LeaseState, predicted_ms: float | None) -> bool:
        """Wait for another instance's answer; True when it came and is `stored` now."""
        key = self._lookup.key
        keys = [lease_key(key), self._active_key, *self._cache_keys(key)]
        pauses_s = poll_times_s(
            lease,
            now_s=self._clock.now_s(),
            predicted_ms=predicted_ms,
            # Half: should the wait be in vain, this request still has to ask itself.
            budget_s=self._exchange.deadline.remaining_s() / 2,
        )
        for pause_s in pauses_s:
            self._clock.sleep(pause_s)
            snapshot = Snapshot.read(self._store, keys)
            found = self._find(snapshot, key)
            if found.answer is not None and found.answer != self.stored:
                self._lookup = found
                return True
            if snapshot.get(lease_key(key)) == ended_lease():
                break
        return False

    def release(self) -> None:
        """End this request's lease, so that nobody waits for an answer that does not come."""
        if self._leading:
            self._leading = False
            self._exchange.keep.append((lease_key(self._lookup.key), ended_lease()))

    # --- keeping --------------------------------------------------------------------------------

    def touch(self) -> None:
        """Note that the stored answer was used."""
        self._exchange.keep += self._cache.touch_items(self._lookup, self._clock.now_s())

    def learn(self, answer: Answer) -> None:
        """Note which model the cluster answered with."""
        now_s = self._clock.now_s()
        active = active_by(answer.identity, now_s)
        ttl_s = self._exchange.settings.metadata_ttl_s
        # Written again when it changes, and early enough not to run out under steady traffic.
        if active.digest == self._active.digest and self._active.known(now_s, ttl_s / 2):
            return
        model, version = self._inference.model, self._inference.version
        self._exchange.keep.append((self._active_key, encode_active(active, model, version)))

    def put(self, answer: Answer) -> StoredAnswer | None:
        """Store an upstream's answer after the response; None when it must not be, or cannot.

        An upstream that does not say which version of its model answered is not cached: nobody
        could tell when the model is replaced.
        """
        lifetime = lifetime_of(self._rule, self._asked, answer.directives, status=200)
        now_s = self._clock.now_s()
        digest = active_by(answer.identity, now_s).digest
        if lifetime is None or not (digest and self.cacheable and self.snapshot.available):
            return None
        stored = StoredAnswer(
            address=self.address,
            identity=self._lookup.key.of_model(digest).identity,
            generations=self._lookup.generations,
            stored_at_s=now_s,
            lifetime_s=lifetime.ttl_s,
            status=200,
            headers=tuple(answer.headers),
            body=answer.body,
            stale_while_revalidate_s=lifetime.stale_while_revalidate_s,
            stale_if_error_s=lifetime.stale_if_error_s,
            must_revalidate=lifetime.must_revalidate,
            frames=answer.frames,
            facts=answer.facts(),
        )
        items = self._cache.store_items(self._lookup, stored, now_s)
        self._exchange.keep += items
        return stored if items else None

    # --- keys -----------------------------------------------------------------------------------

    @property
    def _active_key(self) -> str:
        return active_key(self._inference.model, self._inference.version)

    def _cache_keys(self, key: CacheKey) -> list[str]:
        return self._cache.keys(key, tenant=self._exchange.tenant.name, model=self._inference.model)

    def _find(self, snapshot: Snapshot, key: CacheKey) -> Lookup:
        model, version = self._inference.model, self._inference.version
        self._active = decode_active(snapshot.get(self._active_key), model, version)
        return self._cache.find(
            snapshot,
            key.of_model(self._active.digest),
            tenant=self._exchange.tenant.name,
            model=model,
            now_s=self._clock.now_s(),
        )
