"""Is an answer of the edge model good enough, or does a larger model look again?"""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.policy.placement import Placement, Tier

__all__ = ["CascadeRule", "CascadeVerdict", "weigh"]


@dataclass(frozen=True, slots=True)
class CascadeRule:
    """When an edge answer is final.

    Attributes:
        threshold: Least confidence, 0 to 1; from the model's card, where it is set so that
            answers above it are as accurate as the larger model's.
    """

    threshold: float


@dataclass(frozen=True, slots=True)
class CascadeVerdict:
    """What to do with an edge answer.

    Attributes:
        final: Answer with it.
        reason: ``confident``; ``budget`` or ``only-tier`` when a doubtful answer has to do;
            ``doubtful`` when it is passed on.
    """

    final: bool
    reason: str


def weigh(
    rule: CascadeRule,
    confidence: float,
    placement: Placement,
    *,
    remaining_ms: float,
    next_p95_ms: float | None,
) -> CascadeVerdict:
    """Weigh an edge answer.

    Args:
        rule: The model's threshold.
        confidence: Probability of the top class.
        placement: Where the request may go.
        remaining_ms: What is left of the deadline.
        next_p95_ms: Time the next tier is likely to keep; None when nothing is known.
    """
    if confidence >= rule.threshold:
        return CascadeVerdict(True, "confident")
    if not any(tier is not Tier.EDGE for tier in placement.order):
        return CascadeVerdict(True, "only-tier")
    if remaining_ms <= (next_p95_ms or 0.0):
        return CascadeVerdict(True, "budget")
    return CascadeVerdict(False, "doubtful")
