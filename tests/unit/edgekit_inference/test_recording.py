"""Policy applied: what is written down, and that it arrives."""

from __future__ import annotations

import pytest

from fakes.edge_world import (
    ACME,
    KEYS,
    EdgeWorld,
    fail,
)


def recording_world(**variables: str) -> EdgeWorld:
    return EdgeWorld(variables=variables, records_enabled="true")


def test_every_inference_is_recorded_and_delivered_after_the_response() -> None:
    world = recording_world()
    response = world.classify(finish=False)
    assert world.records.records == {}
    world.finish(response)
    [record] = world.records.records.values()
    assert record["model"] == "pixels"
    assert record["tier"] == "cluster"
    assert record["reason"] == "preferred"
    assert record["cache"] == "miss"
    assert record["status"] == 200
    assert record["class_id"] == 3
    assert record["confidence"] == pytest.approx(0.999592)
    assert "payload" not in record


def test_hits_and_fallbacks_are_recorded_as_what_they_are() -> None:
    world = recording_world()
    world.classify()
    world.classify()
    fail(world)
    world.classify(model="digits")
    world.clock.advance(5)
    world.classify(model="nobody")
    caches = [(record["cache"], record.get("reason")) for record in world.records.records.values()]
    assert ("miss", "preferred") in caches
    assert ("hit", "cache-hit") in caches
    assert ("miss", "fallback-edge") in caches


def test_records_wait_out_an_outage_and_arrive_exactly_once() -> None:
    world = recording_world()
    world.records.away = True
    for lit in range(20):
        world.classify(lit)
        world.clock.advance(1)
    assert world.records.records == {}
    world.records.away = False
    world.clock.advance(60)
    world.classify(30)
    assert len(world.records.records) == 21


def test_records_beyond_the_bound_are_counted() -> None:
    world = recording_world(records_capacity="5")
    world.records.away = True
    for lit in range(8):
        world.classify(lit)
    world.records.away = False
    world.clock.advance(60)
    world.classify(30)
    assert len(world.records.records) == 5
    assert world.records.dropped == 4


def test_refused_requests_are_not_recorded() -> None:
    world = recording_world(api_keys=KEYS)
    world.classify()
    world.classify(inference_residency="nowhere", auth=ACME)
    world.clock.advance(10)
    world.classify(auth=ACME)
    assert len(world.records.records) == 1


def test_payload_is_sampled_only_when_switched_on() -> None:
    world = recording_world(records_sample_percent="100")
    world.classify()
    [record] = world.records.records.values()
    assert record["payload"].startswith("AAAA")


def test_record_that_nobody_takes_is_logged() -> None:
    world = recording_world()
    world.store.broken = True
    world.records.away = True
    assert world.classify().status == 200
    assert "a record was lost" in world.log.text()
