"""Policy applied: a key-value store that fails costs no answer."""

from __future__ import annotations

from edgekit.ports import StoreUnavailableError
from fakes.edge_ports import MemoryStore
from fakes.edge_world import (
    ACME,
    KEYS,
    EdgeWorld,
    status_of,
)


def keyed_world() -> EdgeWorld:
    return EdgeWorld(api_keys=KEYS)


def test_store_that_is_away_costs_the_cache_and_nothing_else() -> None:
    world = keyed_world()
    world.store.broken = True
    for _ in range(2):
        response = world.classify(auth=ACME)
        assert response.status == 200
        assert "fwd=miss" in status_of(response)
        assert "stored" not in status_of(response)
    assert "going on without it" in world.log.text()


class ReadOnlyStore(MemoryStore):
    """Reads work, writes do not."""

    def _enter(self, call: str) -> None:
        super()._enter(call)
        if not call.startswith("get"):
            raise StoreUnavailableError("read-only")


def test_store_that_is_read_only_costs_no_answer() -> None:
    world = EdgeWorld(store=ReadOnlyStore(), api_keys=KEYS, records_enabled="true")
    for _ in range(2):
        assert world.classify(auth=ACME).status == 200
    # The spool cannot take them, so the backend gets them directly.
    assert len(world.records.records) == 2
