"""Policy applied: identical requests make one call."""

from __future__ import annotations

import pytest

from fakes.edge_world import (
    EdgeWorld,
    document,
    fail,
    placement_of,
    status_of,
)
from fakes.inference_backend import Fault


@pytest.fixture
def world() -> EdgeWorld:
    return EdgeWorld()


def test_identical_requests_are_collapsed_into_one_call(world: EdgeWorld) -> None:
    leader = world.classify(finish=False)
    outer_sleep = world.clock.sleep

    def finish_leader(seconds: float) -> None:
        outer_sleep(seconds)
        world.finish(leader)

    world.clock.sleep = finish_leader  # type: ignore[method-assign]
    follower = world.classify()
    assert world.infer_calls == 1
    assert "fwd=miss" in status_of(follower)
    assert "collapsed" in status_of(follower)
    assert placement_of(follower) == "edge;reason=cache-collapsed"
    assert document(follower)["predictions"] == document(leader)["predictions"]


def test_follower_of_a_leader_that_died_asks_itself_after_its_wait(world: EdgeWorld) -> None:
    world.classify(finish=False)  # and never ends its lease
    started_s = world.clock.monotonic_s()
    response = world.classify(inference_deadline_ms="2000")
    assert response.status == 200
    assert "collapsed=?0" in status_of(response)
    assert world.infer_calls == 2
    assert world.clock.monotonic_s() - started_s < 2


def test_follower_of_a_leader_that_failed_does_not_wait_out_its_lease(world: EdgeWorld) -> None:
    world.classify(1)
    fail(world)
    leader = world.classify(2, finish=False)
    assert leader.status == 503
    world.finish(leader)
    world.upstreams.cluster.fault = Fault.NONE
    started_s = world.clock.monotonic_s()
    assert world.classify(2).status == 200
    assert world.clock.monotonic_s() - started_s < 0.1


def test_collapsing_switched_off_asks_every_time() -> None:
    world = EdgeWorld(cache_collapse="false")
    world.classify(finish=False)
    world.classify()
    assert world.infer_calls == 2


def test_follower_ends_its_wait_when_the_leader_gave_up(world: EdgeWorld) -> None:
    world.classify(1)
    fail(world)
    leader = world.classify(2, finish=False)
    world.upstreams.cluster.fault = Fault.NONE
    sleep = world.clock.sleep

    def finish_leader(seconds: float) -> None:
        sleep(seconds)
        world.finish(leader)

    world.clock.sleep = finish_leader  # type: ignore[method-assign]
    started_s = world.clock.monotonic_s()
    response = world.classify(2)
    assert response.status == 200
    assert "collapsed=?0" in status_of(response)
    assert world.clock.monotonic_s() - started_s < 1


def test_refresh_is_left_to_the_instance_that_does_it_already(world: EdgeWorld) -> None:
    world.classify()
    world.clock.advance(290)
    world.classify(9)
    world.clock.advance(20)
    first, second = world.classify(finish=False), world.classify(finish=False)
    refreshing = [step for step in second.after if step.__name__ == "_refresh"]
    before = world.infer_calls
    # The second one begins its refresh while the first one holds the lease.
    next(step for step in first.after if step.__name__ == "_refresh")()
    refreshing[0]()
    assert world.infer_calls == before + 1
