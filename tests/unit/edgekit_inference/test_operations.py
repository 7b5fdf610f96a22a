"""Policy applied: how many key-value operations a request costs."""

from __future__ import annotations

import pytest

from fakes.edge_world import (
    ACME,
    KEYS,
    EdgeWorld,
)


@pytest.fixture
def world() -> EdgeWorld:
    return EdgeWorld()


def keyed_world() -> EdgeWorld:
    return EdgeWorld(api_keys=KEYS)


def test_operations_of_a_hit_are_three_under_every_kind_of_limit() -> None:
    world = keyed_world()
    world.classify(auth=ACME)
    world.keyed.spent()
    world.classify(auth=ACME)
    assert world.keyed.spent() == ["get_many", "compare_and_swap", "set_many"]


def test_operations_of_a_miss_are_at_most_six() -> None:
    world = keyed_world()
    world.classify(1, auth=ACME)
    world.keyed.spent()
    for lit in range(2, 9):
        world.classify(lit, auth=ACME)
        spent = world.keyed.spent()
        assert len(spent) <= 6, spent
        assert spent[0] == "get_many"
    world.classify(2, cache_control="no-cache", auth=ACME)
    assert len(world.keyed.spent()) <= 6


def test_operations_of_a_hit_without_limits_are_two(world: EdgeWorld) -> None:
    world.classify()
    world.keyed.spent()
    world.classify()
    assert world.keyed.spent() == ["get_many", "set_many"]


def test_store_is_never_listed_and_keys_are_short(world: EdgeWorld) -> None:
    world.classify(model="m" * 128)
    world.classify()
    assert all(len(key.encode()) <= 255 for key in world.store.items)
