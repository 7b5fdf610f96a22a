"""One inference from look-up to answer, every step of it explained in the answer's fields.

    look up     one batch from the key-value store: stored answer, limits, lease, tiers
    judge       may the stored answer be used (`policy.freshness`)
    admit       charge the tenant (`policy.admission`), on hits too
    collapse    wait for another instance that asks the same (`policy.lease`)
    place       which tier, and what after it fails (`policy.placement`, `policy.fallback`)
    call        ask it (`inference.tiers`)
    keep        store the answer once the client has it (`policy.cache`)

Key-value operations, records aside: three on a hit (batch, ledger, use stamp), at most six on a
miss (batch, ledger, lease, one more when a lease is used for the first time, batch of writes,
settlement). There are more only when another instance gets in between, or an upstream fails.
"""

from __future__ import annotations

import collections
from dataclasses import replace

from edgekit.errors import EdgeError, NotCachedError
from edgekit.exchange import Exchange, Placement
from edgekit.http import Headers, Response
from edgekit.inference.admitting import admission_keys, admit, charge
from edgekit.inference.contract import Answer, Arriving, Ended, Inference, restore_answer
from edgekit.inference.course import Course, Given
from edgekit.inference.recording import record_inference
from edgekit.inference.shelf import Shelf
from edgekit.inference.tiers import Tiers
from edgekit.policy.cache_control import parse_request_directives
from edgekit.policy.cache_entry import StoredAnswer
from edgekit.policy.cache_status import CacheStatus
from edgekit.policy.conditional import entity_tag, none_match
from edgekit.policy.deadline import Deadline
from edgekit.policy.freshness import Verdict
from edgekit.policy.placement import Tier, parse_residency

__all__ = ["answer_inference"]

_REFRESH_MS = 30_000
"""Budget of a refresh: nobody waits for it."""

_VARY = "Accept, Authorization, Inference-Residency"
"""What of a request's fields decides on the answer, so that no cache on the way mixes them up."""


def answer_inference(exchange: Exchange, inference: Inference) -> Response:
    """The response to one inference request.

    Raises:
        EdgeError: It is refused or malformed, or nobody can answer it.
    """
    return _Answering(exchange, inference).respond()


class _Answering:
    """State of one inference on its way."""

    def __init__(self, exchange: Exchange, inference: Inference) -> None:
        self._exchange = exchange
        self._inference = inference
        self._rule = exchange.settings.policy.routes[inference.kind]
        self._asked = parse_request_directives(exchange.request.headers)
        self._residency = parse_residency(exchange.request.headers)
        self._shelf = Shelf(exchange, inference, self._asked, self._rule.cache)
        self._tiers = Tiers(exchange, inference)
        self._arriving: Arriving | None = None

    def respond(self) -> Response:
        """Go through the steps."""
        self._shelf.read([*admission_keys(self._exchange), *self._tiers.keys()])
        self._tiers.load(self._shelf.snapshot)
        verdict, fwd = self._shelf.judge()
        stored = self._shelf.stored
        hit = stored is not None and verdict not in (Verdict.FORWARD, Verdict.UNSATISFIABLE)
        admit(self._exchange, self._shelf.snapshot, hold=not hit)
        self._exchange.record = self._record
        if verdict is Verdict.UNSATISFIABLE:
            self._note(CacheStatus(detail="only-if-cached"), "miss")
            raise NotCachedError("nothing stored meets the request, and it wants nothing else")
        if hit and stored is not None:
            return self._hit(stored, verdict)
        return self._forward(fwd)

    def _record(self, response: Response) -> None:
        kind, model, late = self._inference.kind, self._inference.model, self._arriving is not None
        record_inference(self._exchange, kind, model, response, late=late)

    # --- from the store -------------------------------------------------------------------------

    def _hit(self, stored: StoredAnswer, verdict: Verdict) -> Response:
        self._shelf.touch()
        ttl_s = stored.freshness(self._exchange.ports.clock.now_s()).ttl_s
        self._note(
            CacheStatus(hit=True, ttl_s=ttl_s, key=self._shelf.address),
            "hit" if verdict is Verdict.FRESH else "stale",
        )
        if verdict is Verdict.STALE_THEN_REFRESH:
            # Before the settlement, which charges what this costs.
            self._exchange.after.insert(0, self._refresh)
        reason = "cache-hit" if verdict is Verdict.FRESH else "cache-stale"
        return self._stored_response(stored, reason)

    def _stored_response(self, stored: StoredAnswer, reason: str) -> Response:
        freshness = stored.freshness(self._exchange.ports.clock.now_s())
        given = Given(Tier.EDGE, reason, restore_answer(stored))
        response = self._response(given, stored)
        # RFC 9111, section 5.1: Age "implies that the response was not generated or validated by
        # the origin server for this request".
        response.headers.set("age", str(freshness.age_s))
        return response

    def _refresh(self) -> None:
        """Ask the upstream anew, now that the client has its stale answer."""
        exchange = self._exchange
        exchange.deadline = Deadline(exchange.ports.clock, _REFRESH_MS)
        self._inference.understand(exchange)
        if self._shelf.join() is not None:
            return
        try:
            self._take(Tier.CLUSTER, self._tiers.call(Tier.CLUSTER, reserve_s=0.0))
            if self._arriving is not None:
                collections.deque(self._arriving.chunks(), maxlen=0)
                self._close()
        except EdgeError as error:
            exchange.log(f"the stored answer was not refreshed: {error.message}")
        self._shelf.release()
        exchange.keep += self._tiers.items()

    # --- from a tier ----------------------------------------------------------------------------

    def _forward(self, fwd: str) -> Response:
        exchange = self._exchange
        self._inference.understand(exchange)
        exchange.end_stage("decode")
        lease = self._shelf.join()
        if lease is not None:
            predicted_ms = self._tiers.ewma_ms(Tier.CLUSTER)
            came = self._shelf.wait(lease, predicted_ms)
            exchange.end_stage("collapse")
            if came and self._shelf.stored is not None:
                return self._collapsed(self._shelf.stored, fwd)
        try:
            given = self._course().run()
        finally:
            self._shelf.release()
            exchange.keep += self._tiers.items()
        if given.answer is None and self._shelf.stored is not None:
            return self._stand_in(self._shelf.stored, given)
        return self._computed(given, fwd, waited=lease is not None)

    def _course(self) -> Course:
        return Course(
            self._exchange,
            self._inference,
            self._tiers,
            residency=self._residency,
            cascade=self._rule.cascade,
            stale=self._shelf.covers_errors(),
        )

    def _collapsed(self, stored: StoredAnswer, fwd: str) -> Response:
        ttl_s = stored.freshness(self._exchange.ports.clock.now_s()).ttl_s
        self._note(
            CacheStatus(fwd=fwd, ttl_s=ttl_s, collapsed=True, key=self._shelf.address),
            "collapsed",
        )
        return self._stored_response(stored, "cache-collapsed")

    def _stand_in(self, stored: StoredAnswer, given: Given) -> Response:
        self._shelf.touch()
        ttl_s = stored.freshness(self._exchange.ports.clock.now_s()).ttl_s
        status = CacheStatus(
            fwd="stale" if ttl_s <= 0 else "request",
            ttl_s=ttl_s,
            key=self._shelf.address,
            detail="stale-if-error",
        )
        self._note(status, "stale")
        return self._stored_response(stored, given.reason)

    def _computed(self, given: Given, fwd: str, *, waited: bool) -> Response:
        upstream = given.tier is not Tier.EDGE
        stored = self._take(given.tier, given.answer) if upstream and given.answer else None
        if self._arriving is not None:
            # The first thing to be done after the response: it tells what there is to settle.
            self._exchange.after.insert(0, self._close)
        self._note(
            CacheStatus(
                fwd=fwd,
                fwd_status=200 if upstream else None,
                ttl_s=stored.lifetime_s if stored else None,
                stored=stored is not None,
                collapsed=False if waited else None,
                key=self._shelf.address if stored else None,
            ),
            fwd if fwd == "bypass" else "miss",
        )
        return self._response(given, stored)

    def _take(self, tier: Tier, answer: Answer) -> StoredAnswer | None:
        """Account for an upstream's answer, and store it; for a streamed one `_close` does it."""
        if tier is Tier.CLUSTER:
            self._shelf.learn(answer)
        if answer.arriving is None:
            self._charge(answer)
            return self._shelf.put(answer)
        self._arriving = answer.arriving
        return None

    def _close(self) -> None:
        assert self._arriving is not None
        ended = self._arriving.ended()
        self._charge(ended)
        self._exchange.facts = replace(self._exchange.facts, status=ended.status)
        if ended.answer is not None:
            self._shelf.put(ended.answer)

    def _charge(self, cost: Answer | Ended) -> None:
        model = self._inference.model
        charge(self._exchange, model, tokens=cost.tokens, output_tokens=cost.output_tokens)

    # --- the response ---------------------------------------------------------------------------

    def _note(self, status: CacheStatus, state: str) -> None:
        self._exchange.cache_status = status.serialize()
        self._exchange.facts = replace(self._exchange.facts, cache=state)

    def _response(self, given: Given, stored: StoredAnswer | None) -> Response:
        exchange, answer = self._exchange, given.answer
        assert answer is not None
        exchange.placement = Placement(
            given.tier.value, given.reason, given.actual_ms, given.predicted_ms
        )
        identity = answer.identity
        exchange.facts = replace(
            exchange.facts,
            model_version=identity.version,
            model_digest=identity.digest,
            confidence=answer.confidence,
            class_id=answer.class_id,
        )
        response = self._inference.respond(exchange, answer)
        headers = response.headers
        headers.set("inference-model", identity.serialize())
        headers.set("vary", _VARY)
        if stored is None:
            headers.set("cache-control", "no-store")
            return response
        headers.set("cache-control", f"private, max-age={stored.lifetime_s}")
        tag = entity_tag(stored.body, response.headers.get("content-type") or "")
        # Weak: the same answer tells each request its own latency.
        headers.set("etag", f"W/{tag}")
        if none_match(exchange.request.headers.get("if-none-match"), tag):
            return response
        return Response(304, _not_modified(headers), b"")


def _not_modified(headers: Headers) -> Headers:
    """RFC 9110, section 15.4.5: no representation, so none of its fields but these."""
    return Headers(
        (name, value)
        for name, value in headers
        if not name.startswith("content-") or name == "content-location"
    )
