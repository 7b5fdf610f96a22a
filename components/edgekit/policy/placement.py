"""Which tier answers: in the component (edge), in the cluster, or far away (cloud).

A pure function over facts. Each tier is held against the rows of `_EXCLUSIONS`, the first that
applies names why it is out; the tiers that remain are tried in the order of preference. Only the
last row rests on a guess, so it yields when nothing else is left: then the fastest tier is tried.

    reason          the tier that comes first is …
    preferred       … the first choice
    cascade         … the edge, whose answer is final when it is confident
    absent, residency, payload, breaker, budget
                    … second choice or later: this ruled out the first one
    best-effort     … the one nearest to the budget: none is expected to keep it
    none            there is none
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgekit.errors import AccessDeniedError, InvalidInputError
from edgekit.http import Headers
from edgekit.policy.breaker import Passage
from edgekit.policy.structured import BareItem, Token, serialize_item

__all__ = [
    "Placement",
    "PlacementFacts",
    "Residency",
    "Tier",
    "TierFacts",
    "parse_residency",
    "place",
    "placement_field",
    "residency_error",
]


class Tier(enum.Enum):
    """Where a model can run."""

    EDGE = "edge"
    CLUSTER = "cluster"
    CLOUD = "cloud"


class Residency(enum.Enum):
    """Where the data of a request may go; each value includes the ones before it."""

    EDGE = "edge"
    CLUSTER = "cluster"
    ANY = "any"

    def allows(self, tier: Tier) -> bool:
        """True when data may go to `tier`."""
        return tier in _REACH[self]


_REACH = {
    Residency.EDGE: {Tier.EDGE},
    Residency.CLUSTER: {Tier.EDGE, Tier.CLUSTER},
    Residency.ANY: set(Tier),
}


@dataclass(frozen=True, slots=True)
class TierFacts:
    """What is known of one tier for one request.

    Attributes:
        available: It is configured and has the model.
        passage: What its breaker says.
        ewma_ms: Mean time of late; None when nothing is known.
        p95_ms: Time within which 95 % of its answers came of late; None when nothing is known.
        max_payload_bytes: Largest request it takes; None without limit.
    """

    available: bool
    passage: Passage = Passage.CLOSED
    ewma_ms: float | None = None
    p95_ms: float | None = None
    max_payload_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class PlacementFacts:
    """All that placement depends on.

    Attributes:
        budget_ms: What is left of the deadline.
        payload_bytes: Size of the request.
        residency: Where its data may go.
        cascade: The edge answers first, and passes on what it doubts.
        tiers: Facts of each tier; one that is missing is not available.
    """

    budget_ms: float
    payload_bytes: int
    residency: Residency
    cascade: bool
    tiers: Mapping[Tier, TierFacts]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where to try, and why.

    Attributes:
        order: Tiers to try, first choice first; empty when there is none.
        reason: See the module.
        excluded: Why each of the other tiers is out.
        predicted_ms: Expected time of the first tier; None when nothing is known.
    """

    order: tuple[Tier, ...]
    reason: str
    excluded: Mapping[Tier, str]
    predicted_ms: float | None

    @property
    def first(self) -> Tier | None:
        """The tier to try first."""
        return self.order[0] if self.order else None


_PREFERENCE = {
    # The cluster has the better model; the edge answers when nothing better can.
    False: (Tier.CLUSTER, Tier.CLOUD, Tier.EDGE),
    True: (Tier.EDGE, Tier.CLUSTER, Tier.CLOUD),
}

_Rule = Callable[[PlacementFacts, Tier, TierFacts], bool]

_EXCLUSIONS: tuple[tuple[str, _Rule], ...] = (
    ("absent", lambda _facts, _tier, known: not known.available),
    ("residency", lambda facts, tier, _known: not facts.residency.allows(tier)),
    ("payload", lambda facts, _tier, known: _exceeds(facts.payload_bytes, known.max_payload_bytes)),
    ("breaker", lambda _facts, _tier, known: known.passage is Passage.OPEN),
    ("budget", lambda facts, _tier, known: (known.p95_ms or 0.0) > facts.budget_ms),
)

_NOT_THERE = TierFacts(available=False)


def place(facts: PlacementFacts) -> Placement:
    """Choose; the same facts always give the same answer."""
    preference = _PREFERENCE[facts.cascade]
    known = {tier: facts.tiers.get(tier, _NOT_THERE) for tier in preference}
    excluded = {
        tier: reason
        for tier in preference
        if (reason := _exclusion(facts, tier, known[tier])) is not None
    }
    order = tuple(tier for tier in preference if tier not in excluded)
    if not order:
        slow = [tier for tier in preference if excluded[tier] == "budget"]
        if not slow:
            return Placement((), "none", excluded, None)
        order = tuple(sorted(slow, key=lambda tier: known[tier].p95_ms or 0.0))
        left = {tier: reason for tier, reason in excluded.items() if reason != "budget"}
        return Placement(order, "best-effort", left, known[order[0]].ewma_ms)
    return Placement(order, _reason(facts, order[0], excluded), excluded, known[order[0]].ewma_ms)


def parse_residency(headers: Headers) -> Residency:
    """Where the client lets its data go; anywhere when it says nothing.

    Raises:
        InvalidInputError: The field holds something else. A typing error must not send data away.
    """
    field = headers.get("inference-residency")
    try:
        return Residency.ANY if field is None else Residency(field.strip().lower())
    except ValueError:
        raise InvalidInputError(
            f"Inference-Residency: {field!r} is none of edge, cluster, any",
            param="Inference-Residency",
        ) from None


def residency_error(residency: Residency, what: str) -> AccessDeniedError:
    """Why a request is refused that `what` could answer only where its data may not go."""
    return AccessDeniedError(
        f"the data may not leave the {residency.value}, and {what} cannot answer there",
        param="Inference-Residency",
    )


def placement_field(
    tier: str, reason: str, *, predicted_ms: float | None, actual_ms: float | None
) -> str:
    """Value of `Inference-Placement`: an item with parameters (RFC 9651).

    Args:
        tier: Who answered: a tier, or ``cache`` when nobody had to.
        reason: Why.
        predicted_ms: Expected time of the tier, where it was known.
        actual_ms: Time the tier took, where one was asked.
    """
    params: dict[str, BareItem] = {"reason": Token(reason)}
    if predicted_ms is not None:
        params["predicted_ms"] = round(float(predicted_ms), 1)
    if actual_ms is not None:
        params["actual_ms"] = round(float(actual_ms), 1)
    return serialize_item(Token(tier), params)


def _exclusion(facts: PlacementFacts, tier: Tier, known: TierFacts) -> str | None:
    return next((name for name, applies in _EXCLUSIONS if applies(facts, tier, known)), None)


def _reason(facts: PlacementFacts, chosen: Tier, excluded: Mapping[Tier, str]) -> str:
    preference = _PREFERENCE[facts.cascade]
    if chosen is not preference[0]:
        return excluded[preference[0]]
    return "cascade" if facts.cascade else "preferred"


def _exceeds(size: int, limit: int | None) -> bool:
    return limit is not None and size > limit
