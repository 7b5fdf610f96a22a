"""Policy applied: who is asked, how often, and who is spared."""

from __future__ import annotations

import pytest

from fakes.edge_world import (
    CLOUD,
    EdgeWorld,
    document,
    fail,
    placement_of,
)
from fakes.inference_backend import Fault, problem_reply


@pytest.fixture
def world() -> EdgeWorld:
    return EdgeWorld()


def test_connection_that_fails_is_tried_again_within_the_budget(world: EdgeWorld) -> None:
    world.classify(1)
    before = len(world.upstreams.requests)
    fail(world)
    assert world.classify(2).status == 503
    assert len(world.upstreams.requests) - before == 3


def test_retries_end_with_their_budget() -> None:
    world = EdgeWorld(breaker_failures="1000", retry_share_percent="0")
    world.classify(1)
    fail(world)
    before = len(world.upstreams.requests)
    for lit in range(10, 20):
        world.classify(lit)
    # Ten requests, and the three retries that are allowed without any share.
    assert len(world.upstreams.requests) - before == 13


def test_breaker_opens_and_is_answered_with_503_and_retry_after(world: EdgeWorld) -> None:
    fail(world)
    for lit in range(5):
        world.classify(lit)
    before = len(world.upstreams.requests)
    response = world.classify(7)
    assert response.status == 503
    assert document(response)["code"] == "exhausted"
    assert response.headers.get("retry-after") == "2"
    assert len(world.upstreams.requests) == before


def test_breaker_lets_one_probe_through_and_recovers(world: EdgeWorld) -> None:
    fail(world)
    for lit in range(5):
        world.classify(lit)
    world.clock.advance(2.1)
    world.upstreams.cluster.fault = Fault.NONE
    assert world.classify(1).status == 200
    assert world.classify(2).status == 200


def test_breaker_is_not_opened_by_clients_with_tiny_budgets(world: EdgeWorld) -> None:
    world.upstreams.takes_s = 0.05
    world.classify(1)
    for lit in range(2, 12):
        assert world.classify(lit, inference_deadline_ms="1").status == 504
    assert world.classify(20).status == 200


def test_breaker_is_not_opened_by_clients_mistakes(world: EdgeWorld) -> None:
    world.upstreams.cluster.override = lambda _: problem_reply(400, "no")
    for lit in range(10):
        assert world.classify(lit).status == 400
    world.upstreams.cluster.override = None
    assert world.classify(1).status == 200


def test_cloud_answers_when_the_cluster_cannot() -> None:
    world = EdgeWorld(cloud_url=CLOUD)
    fail(world)
    response = world.classify()
    assert response.status == 200
    assert placement_of(response).startswith("cloud;reason=fallback-upstream")


def test_cloud_is_out_of_reach_for_data_that_stays_in_the_cluster() -> None:
    world = EdgeWorld(cloud_url=CLOUD)
    fail(world)
    assert world.classify(inference_residency="cluster").status == 503
    assert world.upstreams.cloud.received == []


def test_residency_edge_without_a_model_there_is_403(world: EdgeWorld) -> None:
    response = world.classify(inference_residency="edge")
    assert (response.status, document(response)["param"]) == (403, "Inference-Residency")
    assert world.upstreams.requests == []


def test_residency_edge_is_answered_by_the_components_own_model(world: EdgeWorld) -> None:
    response = world.classify(model="digits", inference_residency="edge")
    assert response.status == 200
    assert placement_of(response).startswith("edge;reason=residency")
    assert 'provider="edge"' in (response.headers.get("inference-model") or "")
    assert document(response)["runtime"] == "edge"
    assert world.upstreams.requests == []


def test_breaker_probe_of_another_request_is_not_joined(world: EdgeWorld) -> None:
    fail(world)
    for lit in range(5):
        world.classify(lit)
    world.clock.advance(2.1)
    before = len(world.upstreams.requests)
    swap = world.store.compare_and_swap

    def lose(key: str, expected: bytes | None, value: bytes) -> bool:
        return False if key.startswith("breaker/") else swap(key, expected, value)

    world.store.compare_and_swap = lose  # type: ignore[method-assign]
    response = world.classify(30)
    assert response.status == 503
    assert len(world.upstreams.requests) == before
