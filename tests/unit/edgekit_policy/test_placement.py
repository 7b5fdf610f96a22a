import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import InvalidInputError
from edgekit.http import Headers
from edgekit.policy.breaker import Passage
from edgekit.policy.cascade import CascadeRule, CascadeVerdict, weigh
from edgekit.policy.fallback import Step, StepKind, plan_steps
from edgekit.policy.placement import (
    Placement,
    PlacementFacts,
    Residency,
    Tier,
    TierFacts,
    parse_residency,
    place,
    placement_field,
)

EDGE, CLUSTER, CLOUD = Tier.EDGE, Tier.CLUSTER, Tier.CLOUD
UP = TierFacts(available=True, ewma_ms=10, p95_ms=20)
SLOW = TierFacts(available=True, ewma_ms=500, p95_ms=900)
SLOWER = TierFacts(available=True, ewma_ms=600, p95_ms=2000)
NEW = TierFacts(available=True)
OPEN = TierFacts(available=True, passage=Passage.OPEN)
PROBE = TierFacts(available=True, passage=Passage.PROBE)
SMALL = TierFacts(available=True, max_payload_bytes=999)


def _facts(
    tiers: dict[Tier, TierFacts],
    residency: Residency = Residency.ANY,
    cascade: bool = False,
    budget_ms: float = 100,
) -> PlacementFacts:
    return PlacementFacts(budget_ms, 1000, residency, cascade, tiers)


@pytest.mark.parametrize(
    ("tiers", "residency", "cascade", "order", "reason"),
    [
        ({CLUSTER: UP, EDGE: UP}, "any", False, [CLUSTER, EDGE], "preferred"),
        ({CLUSTER: UP, CLOUD: UP, EDGE: UP}, "any", False, [CLUSTER, CLOUD, EDGE], "preferred"),
        ({CLUSTER: NEW}, "any", False, [CLUSTER], "preferred"),
        ({CLUSTER: PROBE}, "any", False, [CLUSTER], "preferred"),
        ({CLUSTER: UP, EDGE: UP}, "any", True, [EDGE, CLUSTER], "cascade"),
        ({CLUSTER: UP, EDGE: UP}, "edge", False, [EDGE], "residency"),
        ({CLUSTER: UP, EDGE: UP}, "edge", True, [EDGE], "cascade"),
        ({CLUSTER: UP}, "edge", False, [], "none"),
        ({CLOUD: UP, EDGE: UP}, "cluster", False, [EDGE], "absent"),
        ({CLOUD: UP}, "cluster", False, [], "none"),
        ({CLOUD: UP, EDGE: UP}, "any", False, [CLOUD, EDGE], "absent"),
        ({CLUSTER: OPEN, EDGE: UP}, "any", False, [EDGE], "breaker"),
        ({CLUSTER: OPEN, CLOUD: UP, EDGE: UP}, "any", False, [CLOUD, EDGE], "breaker"),
        ({CLUSTER: OPEN}, "any", False, [], "none"),
        ({CLUSTER: SMALL, EDGE: UP}, "any", False, [EDGE], "payload"),
        ({CLUSTER: SLOW, EDGE: UP}, "any", False, [EDGE], "budget"),
        ({CLUSTER: SLOW}, "any", False, [CLUSTER], "best-effort"),
        ({CLUSTER: SLOWER, CLOUD: SLOW}, "any", False, [CLOUD, CLUSTER], "best-effort"),
        ({CLUSTER: UP, EDGE: SMALL}, "any", True, [CLUSTER], "payload"),
        ({}, "any", False, [], "none"),
    ],
)
def test_place_table(
    tiers: dict[Tier, TierFacts], residency: str, cascade: bool, order: list[Tier], reason: str
) -> None:
    placement = place(_facts(tiers, Residency(residency), cascade))
    assert (list(placement.order), placement.reason) == (order, reason)


def test_place_says_why_each_other_tier_is_out() -> None:
    placement = place(_facts({CLUSTER: OPEN, CLOUD: SLOW, EDGE: UP}))
    assert placement.excluded == {CLUSTER: "breaker", CLOUD: "budget"}
    assert placement.predicted_ms == 10


tier_facts = st.builds(
    TierFacts,
    available=st.booleans(),
    passage=st.sampled_from(Passage),
    ewma_ms=st.none() | st.floats(0, 1000),
    p95_ms=st.none() | st.floats(0, 1000),
    max_payload_bytes=st.none() | st.integers(0, 2000),
)
all_facts = st.builds(
    PlacementFacts,
    budget_ms=st.floats(0, 1000),
    payload_bytes=st.integers(0, 2000),
    residency=st.sampled_from(Residency),
    cascade=st.booleans(),
    tiers=st.dictionaries(st.sampled_from(Tier), tier_facts),
)


@given(all_facts)
def test_place_never_breaks_a_rule_that_is_no_guess(facts: PlacementFacts) -> None:
    placement = place(facts)
    for tier in placement.order:
        known = facts.tiers[tier]
        assert known.available
        assert facts.residency.allows(tier)
        assert known.passage is not Passage.OPEN
        assert known.max_payload_bytes is None or facts.payload_bytes <= known.max_payload_bytes
    assert len(set(placement.order)) == len(placement.order)
    assert set(placement.order).isdisjoint(placement.excluded)
    assert set(placement.order) | set(placement.excluded) == set(Tier)


@given(all_facts)
def test_place_prefers_any_tier_that_keeps_the_budget(facts: PlacementFacts) -> None:
    placement = place(facts)
    late = [t for t in placement.order if (facts.tiers[t].p95_ms or 0) > facts.budget_ms]
    assert (placement.reason == "best-effort") == bool(late)
    assert not late or len(late) == len(placement.order)


@given(all_facts)
def test_place_is_empty_only_when_nothing_is_possible(facts: PlacementFacts) -> None:
    possible = [
        tier
        for tier, known in facts.tiers.items()
        if known.available
        and facts.residency.allows(tier)
        and known.passage is not Passage.OPEN
        and (known.max_payload_bytes is None or facts.payload_bytes <= known.max_payload_bytes)
    ]
    placement = place(facts)
    assert bool(placement.order) == bool(possible)
    assert (placement.reason == "none") == (placement.first is None)


@given(all_facts)
def test_place_same_facts_give_the_same_answer(facts: PlacementFacts) -> None:
    assert place(facts) == place(facts)


@given(all_facts, st.floats(0, 1000))
def test_place_a_larger_budget_never_loses_a_tier_that_fits(
    facts: PlacementFacts, more_ms: float
) -> None:
    wider = PlacementFacts(
        facts.budget_ms + more_ms,
        facts.payload_bytes,
        facts.residency,
        facts.cascade,
        facts.tiers,
    )
    narrow, wide = place(facts), place(wider)
    assert set(narrow.order) <= set(wide.order) or narrow.reason == "best-effort"


@pytest.mark.parametrize(
    ("field", "residency"),
    [(None, "any"), ("edge", "edge"), (" Cluster ", "cluster"), ("ANY", "any")],
)
def test_residency_is_read(field: str | None, residency: str) -> None:
    headers = Headers([] if field is None else [("inference-residency", field)])
    assert parse_residency(headers) is Residency(residency)


@pytest.mark.parametrize("field", ["", "egde", "edge, any"])
def test_residency_misspelt_is_refused_rather_than_taken_for_anywhere(field: str) -> None:
    with pytest.raises(InvalidInputError, match="none of edge, cluster, any"):
        parse_residency(Headers([("inference-residency", field)]))


@pytest.mark.parametrize(
    ("predicted_ms", "actual_ms", "field"),
    [
        (None, None, "cache;reason=hit"),
        (12, 14.25, "cache;reason=hit;predicted_ms=12.0;actual_ms=14.2"),
    ],
)
def test_placement_field_is_a_structured_item(
    predicted_ms: float | None, actual_ms: float | None, field: str
) -> None:
    made = placement_field("cache", "hit", predicted_ms=predicted_ms, actual_ms=actual_ms)
    assert made == field


RULE = CascadeRule(threshold=0.9)
BOTH = place(_facts({CLUSTER: UP, EDGE: UP}, cascade=True))
ONLY_EDGE = place(_facts({EDGE: UP}, cascade=True))


@pytest.mark.parametrize(
    ("confidence", "placement", "remaining_ms", "next_p95_ms", "verdict"),
    [
        (0.9, BOTH, 100, 20.0, CascadeVerdict(True, "confident")),
        (0.89, BOTH, 100, 20.0, CascadeVerdict(False, "doubtful")),
        (0.89, BOTH, 100, None, CascadeVerdict(False, "doubtful")),
        (0.89, BOTH, 20, 20.0, CascadeVerdict(True, "budget")),
        (0.89, BOTH, 0, None, CascadeVerdict(True, "budget")),
        (0.1, ONLY_EDGE, 100, None, CascadeVerdict(True, "only-tier")),
    ],
)
def test_weigh_passes_on_only_what_is_doubtful_and_fits(
    confidence: float,
    placement: Placement,
    remaining_ms: float,
    next_p95_ms: float | None,
    verdict: CascadeVerdict,
) -> None:
    weighed = weigh(RULE, confidence, placement, remaining_ms=remaining_ms, next_p95_ms=next_p95_ms)
    assert weighed == verdict


REFUSE = Step(StepKind.REFUSE, None, "exhausted")
STALE = Step(StepKind.STALE, None, "fallback-stale")
TO_EDGE = Step(StepKind.CALL, EDGE, "fallback-edge")


@pytest.mark.parametrize(
    ("tiers", "cascade", "stale", "edge", "steps"),
    [
        ({CLUSTER: UP}, False, False, False, [Step(StepKind.CALL, CLUSTER), REFUSE]),
        (
            {CLUSTER: UP, CLOUD: UP, EDGE: UP},
            False,
            True,
            True,
            [
                Step(StepKind.CALL, CLUSTER),
                Step(StepKind.CALL, CLOUD, "fallback-upstream"),
                STALE,
                TO_EDGE,
                REFUSE,
            ],
        ),
        ({CLUSTER: OPEN}, False, True, False, [STALE, REFUSE]),
        ({CLUSTER: OPEN, EDGE: UP}, False, True, True, [STALE, Step(StepKind.CALL, EDGE), REFUSE]),
        ({CLUSTER: SLOW, EDGE: UP}, False, True, True, [Step(StepKind.CALL, EDGE), STALE, REFUSE]),
        (
            {CLUSTER: UP, EDGE: UP},
            True,
            False,
            True,
            [
                Step(StepKind.CALL, EDGE),
                Step(StepKind.CALL, CLUSTER, "fallback-upstream"),
                REFUSE,
            ],
        ),
        ({CLUSTER: OPEN}, False, False, False, [REFUSE]),
        ({}, False, False, True, [TO_EDGE, REFUSE]),
    ],
)
def test_plan_steps_go_down_in_the_documented_order(
    tiers: dict[Tier, TierFacts], cascade: bool, stale: bool, edge: bool, steps: list[Step]
) -> None:
    assert list(plan_steps(place(_facts(tiers, cascade=cascade)), stale=stale, edge=edge)) == steps


@given(all_facts, st.booleans(), st.booleans())
def test_plan_steps_end_with_a_refusal_and_try_nothing_twice(
    facts: PlacementFacts, stale: bool, edge: bool
) -> None:
    steps = plan_steps(place(facts), stale=stale, edge=edge)
    assert [step.kind for step in steps].count(StepKind.REFUSE) == 1
    assert steps[-1].kind is StepKind.REFUSE
    assert len({(step.kind, step.tier) for step in steps}) == len(steps)
    if edge or stale:
        assert len(steps) > 1
