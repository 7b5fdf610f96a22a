"""What may be stored, for how long, and what a client asks when it asks nothing."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.policy.cache_control import RequestDirectives, ResponseDirectives

__all__ = ["CacheRule", "Lifetime", "lifetime_of", "may_look_up"]


@dataclass(frozen=True, slots=True)
class CacheRule:
    """How one route caches, as its variables say.

    Attributes:
        ttl_s: Freshness lifetime; 0 switches the cache off for the route.
        stale_while_revalidate_s: Default window of RFC 5861, section 3.
        stale_if_error_s: Default window of RFC 5861, section 4.
    """

    ttl_s: int
    stale_while_revalidate_s: int = 0
    stale_if_error_s: int = 0


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long one answer may be used, in seconds; see `freshness.Freshness`."""

    ttl_s: int
    stale_while_revalidate_s: int
    stale_if_error_s: int
    must_revalidate: bool


def may_look_up(rule: CacheRule, asked: RequestDirectives, *, deterministic: bool) -> bool:
    """True when a stored answer could serve this request, and its answer could be stored.

    Sampling (temperature above 0 and no seed) gives another answer each time, and a client that
    samples wants that: it gets a stored one only when it asks for it, by ``max-age`` above 0,
    ``min-fresh``, ``max-stale`` or ``only-if-cached``.
    """
    return rule.ttl_s > 0 and (deterministic or asked.wants_stored)


def lifetime_of(
    rule: CacheRule,
    asked: RequestDirectives,
    upstream: ResponseDirectives,
    *,
    status: int,
) -> Lifetime | None:
    """How long an answer may be kept; None when it must not be stored.

    Args:
        rule: The route's rule.
        asked: The request's directives.
        upstream: Directives of the answer; those of an answer computed here are empty.
        status: HTTP status of the answer; all of it has arrived.
    """
    # RFC 9111, section 5.2.1.5: no-store in the request, "a cache MUST NOT store any part of
    # either this request or any response to it"; section 5.2.2.5 for the response.
    if asked.no_store or upstream.no_store:
        return None
    # Section 3.3: an incomplete response is not stored; errors are left out as well: they end
    # when their cause does.
    if status != 200 or rule.ttl_s <= 0:
        return None
    ttl_s = rule.ttl_s if upstream.max_age_s is None else min(rule.ttl_s, upstream.max_age_s)
    if upstream.no_cache or ttl_s == 0:
        return None
    return Lifetime(
        ttl_s=ttl_s,
        stale_while_revalidate_s=_first(
            upstream.stale_while_revalidate_s, rule.stale_while_revalidate_s
        ),
        stale_if_error_s=_first(upstream.stale_if_error_s, rule.stale_if_error_s),
        must_revalidate=upstream.must_revalidate,
    )


def _first(stated: int | None, default: int) -> int:
    return default if stated is None else stated
