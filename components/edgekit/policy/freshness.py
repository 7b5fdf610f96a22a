"""May a stored answer be used? The rules of RFC 9111, section 4.2, and RFC 5861, as one function.

verdict                  meaning for the request
FRESH                    answer from the store
STALE                    answer from the store: the client takes stale answers (max-stale)
STALE_THEN_REFRESH       answer from the store, then fetch a new one (stale-while-revalidate)
FORWARD                  ask the upstream; `fwd` says why (RFC 9211, section 2.2)
UNSATISFIABLE            only-if-cached, and nothing stored will do: 504
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from edgekit.policy.cache_control import RequestDirectives

__all__ = ["Freshness", "Verdict", "judge", "may_serve_on_error"]


class Verdict(enum.Enum):
    """What to do with a stored answer."""

    FRESH = "fresh"
    STALE = "stale"
    STALE_THEN_REFRESH = "stale_then_refresh"
    FORWARD = "forward"
    UNSATISFIABLE = "unsatisfiable"


@dataclass(frozen=True, slots=True)
class Freshness:
    """Where a stored answer stands in its life, in whole seconds.

    Attributes:
        age_s: Time since it was generated; at least 0.
        lifetime_s: How long it counts as fresh.
        stale_while_revalidate_s: How long past that it may be served while a new one is fetched.
        stale_if_error_s: How long past that it may be served when the upstream fails.
        must_revalidate: The upstream forbids any stale use.
    """

    age_s: int
    lifetime_s: int
    stale_while_revalidate_s: int = 0
    stale_if_error_s: int = 0
    must_revalidate: bool = False

    @property
    def ttl_s(self) -> int:
        """Remaining freshness; negative once stale."""
        return self.lifetime_s - self.age_s

    @property
    def usable_for_s(self) -> int:
        """How long it can still be of any use by the server's own rules; at most 0 means dead."""
        if self.must_revalidate:
            return self.ttl_s
        return self.ttl_s + max(self.stale_while_revalidate_s, self.stale_if_error_s)


def judge(stored: Freshness | None, asked: RequestDirectives) -> tuple[Verdict, str]:
    """Decide on a stored answer (None: there is none).

    Returns:
        The verdict, and for FORWARD the `fwd` token of `Cache-Status`, else an empty string.
    """
    verdict, fwd = _judge(stored, asked)
    if verdict is Verdict.FORWARD and asked.only_if_cached:
        # Section 5.2.1.7: "a cache SHOULD either respond using a stored response consistent with
        # the other constraints of the request or respond with a 504".
        return Verdict.UNSATISFIABLE, ""
    return verdict, fwd


def _judge(stored: Freshness | None, asked: RequestDirectives) -> tuple[Verdict, str]:
    if stored is None:
        return Verdict.FORWARD, "miss"
    # Section 4.2: "response_is_fresh = (freshness_lifetime > current_age)".
    fresh = stored.lifetime_s > stored.age_s
    if asked.no_cache or _too_old(stored, asked):
        # RFC 9211, section 2.2: "request" when a fresh response was there but the request's
        # semantics did not allow its use, "stale" when it was stale anyway.
        return Verdict.FORWARD, "request" if fresh else "stale"
    if fresh:
        if asked.min_fresh_s is not None and stored.ttl_s < asked.min_fresh_s:
            return Verdict.FORWARD, "request"
        return Verdict.FRESH, ""
    # Section 5.2.2.2: with must-revalidate the cache "MUST NOT reuse that response" once stale.
    # A client that asks for freshness (min-fresh) does not take a stale answer either.
    if not stored.must_revalidate and asked.min_fresh_s is None:
        staleness_s = -stored.ttl_s
        if asked.max_stale_s is not None and staleness_s <= asked.max_stale_s:
            return Verdict.STALE, ""
        window_s = _revalidate_window_s(stored, asked)
        if window_s and staleness_s <= window_s:
            return Verdict.STALE_THEN_REFRESH, ""
    return Verdict.FORWARD, "stale"


def may_serve_on_error(stored: Freshness | None, asked: RequestDirectives) -> bool:
    """True when a failed upstream may be covered by the stored answer (RFC 5861, section 4).

    The client's own `stale-if-error` decides; without it the route's default applies, unless the
    client set a bound on age, which a default must not loosen.
    """
    if stored is None or stored.must_revalidate or asked.no_store:
        return False
    if asked.stale_if_error_s is not None:
        window_s = asked.stale_if_error_s
    elif asked.restricts_freshness:
        return False
    else:
        window_s = stored.stale_if_error_s
    return -stored.ttl_s <= window_s


def _too_old(stored: Freshness, asked: RequestDirectives) -> bool:
    """Section 5.2.1.1: "unwilling to accept a response whose age is greater than" max-age."""
    return asked.max_age_s is not None and stored.age_s > asked.max_age_s


def _revalidate_window_s(stored: Freshness, asked: RequestDirectives) -> int:
    if asked.stale_while_revalidate_s is not None:
        return asked.stale_while_revalidate_s
    # Section 5.2.1.1: "Unless the max-stale request directive is also present, the client does
    # not wish to receive a stale response": a max-age switches the default window off.
    return 0 if asked.max_age_s is not None else stored.stale_while_revalidate_s
