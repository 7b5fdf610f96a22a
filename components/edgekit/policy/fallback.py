"""What comes after a failure: other upstream, stale answer, edge model, and only then 503."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.policy.placement import Placement, Tier

__all__ = ["Step", "StepKind", "plan_steps"]


class StepKind(enum.Enum):
    """What a step does."""

    CALL = "call"
    STALE = "stale"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to try.

    Attributes:
        kind: What to do.
        tier: Whom to ask, for CALL.
        reason: Reason code of the answer when this step gives it; empty for the first choice,
            whose reason is the placement's.
    """

    kind: StepKind
    tier: Tier | None = None
    reason: str = ""


def plan_steps(placement: Placement, *, stale: bool, edge: bool) -> Sequence[Step]:
    """The whole way down, decided before the first step.

    Args:
        placement: Tiers that may be tried.
        stale: A stored answer may cover an upstream's failure.
        edge: The component has the model and the data may be used there, whatever the breaker or
            the budget of the upstreams say: as the last resort it is always better than nothing.

    Returns:
        Steps in order; the last one refuses.
    """
    upstreams = [tier for tier in placement.order if tier is not Tier.EDGE]
    steps = [Step(StepKind.CALL, tier, "fallback-upstream") for tier in upstreams]
    if stale:
        steps.append(Step(StepKind.STALE, None, "fallback-stale"))
    if edge:
        steps.append(Step(StepKind.CALL, Tier.EDGE, "fallback-edge"))
    if placement.first is Tier.EDGE:
        steps = [step for step in steps if step.tier is not Tier.EDGE]
        # Behind an open breaker the edge is a substitute: the better model's stale answer first.
        place = len(steps) if placement.reason == "breaker" else 0
        steps.insert(place, Step(StepKind.CALL, Tier.EDGE))
    elif upstreams:
        steps[0] = Step(StepKind.CALL, upstreams[0])
    return (*steps, Step(StepKind.REFUSE, None, "exhausted"))
