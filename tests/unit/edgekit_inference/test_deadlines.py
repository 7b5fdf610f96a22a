"""Policy applied: one budget for everything."""

from __future__ import annotations

import pytest

from fakes.edge_world import (
    EdgeWorld,
    document,
)


@pytest.fixture
def world() -> EdgeWorld:
    return EdgeWorld()


def test_deadline_bounds_every_call_and_goes_along(world: EdgeWorld) -> None:
    world.upstreams.takes_s = 0.1
    world.classify(inference_deadline_ms="400")
    for request in world.upstreams.requests:
        assert request.timeouts.first_byte_s <= 0.4 + 1e-9
        assert 0 < int(request.headers.get("inference-deadline-ms") or 0) <= 400
    left_ms = [int(r.headers.get("inference-deadline-ms") or 0) for r in world.upstreams.requests]
    assert left_ms == sorted(left_ms, reverse=True)
    assert left_ms[0] - left_ms[-1] >= 100


def test_deadline_that_runs_out_is_504_in_time(world: EdgeWorld) -> None:
    world.upstreams.takes_s = 10
    started_s = world.clock.monotonic_s()
    response = world.classify(inference_deadline_ms="300", finish=False)
    assert response.status == 504
    assert world.clock.monotonic_s() - started_s <= 0.31


def test_deadline_that_makes_no_sense_is_400(world: EdgeWorld) -> None:
    response = world.classify(inference_deadline_ms="soon")
    assert (response.status, document(response)["param"]) == (400, "Inference-Deadline-Ms")
