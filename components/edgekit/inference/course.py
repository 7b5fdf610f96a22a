"""The course of one inference that nothing stored could answer: tier after tier, then stand-ins."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

from edgekit.errors import EdgeError, ExhaustedError, ModelNotFoundError
from edgekit.exchange import Exchange
from edgekit.inference.contract import Answer, Inference
from edgekit.inference.tiers import TIER_FAILURES, Tiers
from edgekit.policy.cascade import CascadeRule, weigh
from edgekit.policy.fallback import Step, StepKind, plan_steps
from edgekit.policy.placement import PlacementFacts, Residency, Tier, place, residency_error

__all__ = ["Course", "Given"]

_RESERVE_S = 0.1
_RESERVE_SHARE = 1 / 8
"""Kept of the budget for a stand-in: the edge's own model and a stored answer take milliseconds."""


@dataclass(frozen=True, slots=True)
class Given:
    """An answer and how it came about; no answer means that the stored one is to be served.

    Attributes:
        reason: Reason code for `Inference-Placement`.
        predicted_ms: Expected time of the tier; None when nothing was known.
        actual_ms: Time it took; None for a stored answer.
    """

    tier: Tier
    reason: str
    answer: Answer | None = None
    predicted_ms: float | None = None
    actual_ms: float | None = None


class Course:
    """Decides on the way and goes it."""

    def __init__(
        self,
        exchange: Exchange,
        inference: Inference,
        tiers: Tiers,
        *,
        residency: Residency,
        cascade: bool,
        stale: bool,
    ) -> None:
        self._exchange = exchange
        self._inference = inference
        self._tiers = tiers
        self._residency = residency
        has_edge = inference.edge_model is not None
        plan = place(
            PlacementFacts(
                budget_ms=exchange.deadline.remaining_ms(),
                payload_bytes=exchange.request_bytes,
                residency=residency,
                cascade=cascade and has_edge,
                tiers=tiers.facts(),
            )
        )
        # Nothing ruled the upstreams out: the model exists here alone.
        self.plan = plan if tiers.reachable else replace(plan, reason="edge-only")
        self._steps = plan_steps(self.plan, stale=stale, edge=has_edge)

    def run(self) -> Given:
        """The first answer that stands.

        Raises:
            EdgeError: The request is at fault, or nobody could answer.
        """
        doubtful: Given | None = None
        failure: EdgeError | None = None
        for step, following in itertools.pairwise(self._steps):
            if step.tier is None:  # the stored answer
                return Given(Tier.EDGE, step.reason)
            last = following.kind is StepKind.REFUSE and doubtful is None
            try:
                given = self._call(step, step.tier, last=last)
            except (*TIER_FAILURES, ModelNotFoundError) as error:
                self._exchange.log(f"{step.tier.value}: {error.message}")
                failure = error
                continue
            reason, final = self._weigh(given)
            given = Given(given.tier, reason, given.answer, given.predicted_ms, given.actual_ms)
            if final:
                return given
            doubtful = given
        if doubtful is not None:
            return doubtful
        raise self._refusal(failure)

    def _call(self, step: Step, tier: Tier, *, last: bool) -> Given:
        exchange = self._exchange
        predicted_ms = self._tiers.ewma_ms(tier)
        left_s = exchange.deadline.remaining_s()
        started_ms = exchange.elapsed_ms()
        answer = self._tiers.call(
            tier, reserve_s=0.0 if last else min(_RESERVE_S, left_s * _RESERVE_SHARE)
        )
        actual_ms = exchange.elapsed_ms() - started_ms
        return Given(tier, step.reason or self.plan.reason, answer, predicted_ms, actual_ms)

    def _weigh(self, given: Given) -> tuple[str, bool]:
        """Reason code of an answer, and whether it is final."""
        model = self._inference.edge_model
        if self.plan.reason != "cascade" or model is None or model.cascade_threshold is None:
            return given.reason, True
        if given.tier is not Tier.EDGE:
            return "cascade-doubtful", True
        confidence = given.answer.confidence if given.answer is not None else None
        verdict = weigh(
            CascadeRule(model.cascade_threshold),
            confidence or 0.0,
            self.plan,
            remaining_ms=self._exchange.deadline.remaining_ms(),
            next_p95_ms=self._tiers.p95_ms([t for t in self.plan.order if t is not Tier.EDGE]),
        )
        return f"cascade-{verdict.reason}", verdict.final

    def _refusal(self, failure: EdgeError | None) -> EdgeError:
        """Why nobody answered, in the words that help the client most."""
        wait_s = self._tiers.retry_after_s()
        if failure is None and wait_s is None and "residency" in self.plan.excluded.values():
            return residency_error(self._residency, f"model {self._inference.model!r}")
        if failure is not None and failure.code != "upstream_unavailable":
            return failure
        cause = failure.message if failure is not None else "its upstreams failed too often of late"
        wait_s = wait_s or 1.0
        return ExhaustedError(
            f"model {self._inference.model!r} cannot be reached now ({cause}); "
            f"try again in {math.ceil(wait_s)} s",
            retry_after_s=wait_s,
        )
