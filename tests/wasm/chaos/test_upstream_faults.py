"""The backend killed, hung, slow, talking garbage, flapping, or cut off: every client is answered.

The route has a fallback (the component's own model), so no client may see a 5xx, and each answer
says what it is.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from fakes.inference_backend import Fault
from wasm.cases.table import Answer
from wasm.chaos.stage import (
    PATIENCE_S,
    Stage,
    await_cluster,
    classify,
    fresh_picture,
    raised,
    tier_of,
)

EDGE_REASONS = {
    "edge;reason=fallback-edge",
    "edge;reason=breaker",
    "edge;reason=budget",
}


def check_all_answered(answers: list[Answer]) -> Counter[str]:
    """Every status is 200 and every answer is explained; who gave how many."""
    assert {answer.status for answer in answers} == {200}
    for answer in answers:
        assert answer.json()["predictions"], answer.body
        assert "inference-model" in answer.headers
        assert "cache-status" in answer.headers
    return Counter(map(tier_of, answers))


HUNG_MS = "2000"
"""Budget of a request that meets a backend which hangs: enough for its silence to count."""


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.HANG, Fault.BREAK_BODY])
def test_fault_of_the_backend_is_covered_and_over_when_it_ends(stage: Stage, fault: Fault) -> None:
    before = check_all_answered(stage.traffic(8))
    assert set(before) == {"cluster;reason=preferred"}
    stage.backend.fault = fault
    during = check_all_answered(stage.traffic(inference_deadline_ms=HUNG_MS))
    assert set(during) <= EDGE_REASONS
    stage.backend.fault = Fault.NONE
    await_cluster(stage)


def test_hung_backend_is_not_waited_for_again_and_again(tmp_path: Path) -> None:
    variables = {
        "backend_first_byte_timeout_ms": "500",
        "breaker_ejection_ms": "60000",
        "breaker_max_ejection_ms": "60000",
    }
    with raised(tmp_path, variables) as stage:
        stage.backend.fault = Fault.HANG
        while "edge;reason=breaker" not in check_all_answered(stage.traffic(4)):
            assert stage.backend.inference_calls() < 40, "the breaker does not open"
        asked = stage.backend.inference_calls()
        assert set(check_all_answered(stage.traffic(12))) == {"edge;reason=breaker"}
        assert stage.backend.inference_calls() == asked


def test_slow_backend_is_covered_within_the_clients_budget(stage: Stage) -> None:
    stage.backend.delay_s = 0.4
    slow = classify(stage.edge, inference_deadline_ms="250")
    assert slow.status == 200
    assert tier_of(slow) in EDGE_REASONS
    assert tier_of(classify(stage.edge)).startswith("cluster")


def test_backend_that_answers_garbage_is_covered(stage: Stage) -> None:
    stage.backend.garbage = True
    assert set(check_all_answered(stage.traffic())) <= EDGE_REASONS
    stage.backend.garbage = False
    await_cluster(stage)


def test_flapping_backend_never_shows(stage: Stage) -> None:
    answers = []
    for number in range(6):
        stage.backend.fault = Fault.RESET if number % 2 else Fault.NONE
        answers += stage.traffic(6)
    tiers = check_all_answered(answers)
    assert tiers["cluster;reason=preferred"] > 0
    assert sum(tiers[reason] for reason in EDGE_REASONS) > 0


def test_network_cut_is_covered_and_healed(stage: Stage) -> None:
    known = fresh_picture()
    assert tier_of(classify(stage.edge, known)) == "cluster;reason=preferred"
    stage.edge.settle()
    stage.proxy.cut()
    during = check_all_answered(stage.traffic())
    assert set(during) <= EDGE_REASONS
    assert tier_of(classify(stage.edge, known)) == "edge;reason=cache-hit"
    stage.proxy.heal()
    await_cluster(stage)


def test_model_without_fallback_gets_503_with_advice_and_recovers(stage: Stage) -> None:
    stage.proxy.cut()
    answers = stage.traffic(12, model="pixels")
    assert {answer.status for answer in answers} == {503}
    for answer in answers:
        assert answer.json()["code"] == "exhausted"
        assert int(answer.headers["retry-after"]) >= 1
    stage.proxy.heal()
    deadline_s = time.monotonic() + PATIENCE_S
    while classify(stage.edge, model="pixels").status != 200:
        assert time.monotonic() < deadline_s, "the cluster is not used although it is back"
        time.sleep(0.05)


def test_stale_answer_of_the_better_model_comes_before_the_edge_model(stage: Stage) -> None:
    picture = fresh_picture()
    fresh = classify(stage.edge, picture)
    stage.edge.settle()
    stage.proxy.cut()
    answer = classify(stage.edge, picture, cache_control="no-cache, stale-if-error=60")
    assert tier_of(answer) == "edge;reason=fallback-stale"
    assert "detail=stale-if-error" in answer.headers["cache-status"]
    assert answer.json()["predictions"] == fresh.json()["predictions"]
