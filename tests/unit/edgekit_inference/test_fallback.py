"""Policy applied: what stands in for an upstream that fails."""

from __future__ import annotations

import pytest

from fakes.edge_world import (
    EdgeWorld,
    document,
    fail,
    placement_of,
    status_of,
)
from fakes.inference_backend import Fault, Reply, problem_reply


@pytest.fixture
def world() -> EdgeWorld:
    return EdgeWorld()


def test_stale_answer_stands_in_for_a_failed_upstream(world: EdgeWorld) -> None:
    world.classify()
    world.clock.advance(1000)
    fail(world)
    response = world.classify()
    assert response.status == 200
    assert "fwd=stale" in status_of(response)
    assert "ttl=-700" in status_of(response)
    assert "detail=stale-if-error" in status_of(response)
    assert placement_of(response).startswith("edge;reason=fallback-stale")
    assert response.headers.get("age") == "1000"


def test_stale_answer_is_not_used_against_the_clients_word(world: EdgeWorld) -> None:
    world.classify()
    world.clock.advance(1000)
    fail(world)
    assert world.classify(cache_control="max-age=500").status == 503
    assert world.classify(cache_control="stale-if-error=600").status == 503
    assert world.classify(cache_control="stale-if-error=700").status == 200


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.HANG, Fault.BREAK_BODY])
def test_edge_model_stands_in_when_nothing_is_stored(world: EdgeWorld, fault: Fault) -> None:
    fail(world, fault)
    response = world.classify(model="digits")
    assert response.status == 200
    assert placement_of(response).startswith("edge;reason=fallback-edge")
    assert "stored" not in status_of(response)
    assert len(document(response)["predictions"]) == 5


def garbage(_: object) -> Reply:
    return Reply(200, [("content-type", "application/json")], b"\x00garbage")


def test_edge_model_stands_in_for_an_upstream_that_answers_garbage(world: EdgeWorld) -> None:
    world.upstreams.cluster.override = garbage
    assert world.classify(model="digits").status == 200


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_edge_model_stands_in_for_every_error_of_the_server(world: EdgeWorld, status: int) -> None:
    world.upstreams.cluster.override = lambda _: problem_reply(status, "because")
    response = world.classify(model="digits")
    assert response.status == 200
    assert placement_of(response).startswith("edge;reason=fallback-edge")


def test_edge_model_stands_in_for_a_model_the_cluster_lacks(world: EdgeWorld) -> None:
    del world.upstreams.cluster.models["digits"]
    assert world.classify(model="digits").status == 200
    assert world.classify(model="nobody").status == 404


def test_slow_upstream_leaves_time_for_the_edge_model(world: EdgeWorld) -> None:
    world.upstreams.takes_s = 30
    started_s = world.clock.monotonic_s()
    response = world.classify(model="digits", inference_deadline_ms="800", finish=False)
    assert response.status == 200
    assert world.clock.monotonic_s() - started_s < 0.8


def test_upstream_that_is_always_too_slow_is_not_asked_for_short_budgets(world: EdgeWorld) -> None:
    world.upstreams.takes_s = 0.5
    world.classify(1, model="digits")
    before = len(world.upstreams.requests)
    response = world.classify(2, model="digits", inference_deadline_ms="100")
    assert placement_of(response).startswith("edge;reason=budget")
    assert len(world.upstreams.requests) == before


def test_bad_input_is_the_clients_to_know_even_while_the_backend_is_away(world: EdgeWorld) -> None:
    fail(world)
    headers = {"content-type": "image/png"}
    assert world.send("POST", "/v1/classify/digits", b"no png", headers).status == 400
