"""`edgekit.catalog`: when stored metadata is trusted, and that a broken store costs no answer."""

from __future__ import annotations

import json

import pytest

from edgekit.catalog import fetch_metadata, find_metadata
from edgekit.exchange import Exchange
from edgekit.http import Request
from edgekit.protocols.trace import Trace
from fakes.edge_ports import FakeClock, InProcessClient, LogLines, MemoryStore, make_ports
from fakes.inference_backend import FakeBackend

TRACE = Trace("request-1", "00-" + "1" * 32 + "-" + "2" * 16 + "-00", None)


class World:
    """One edge with everything visible."""

    def __init__(self) -> None:
        self.backend = FakeBackend()
        self.client = InProcessClient(self.backend)
        self.store = MemoryStore()
        self.clock = FakeClock()
        self.log = LogLines()

    def exchange(self) -> Exchange:
        ports = make_ports(client=self.client, store=self.store, clock=self.clock, log=self.log)
        return Exchange(Request("POST", "/"), ports, TRACE, self.clock.monotonic_s())

    def fetch(self, version: str | None = None) -> None:
        exchange = self.exchange()
        fetch_metadata(exchange, "pixels", version)
        exchange.store_kept()


@pytest.fixture
def world() -> World:
    return World()


def test_catalog_find_after_fetch_returns_the_same(world: World) -> None:
    world.fetch()
    found = find_metadata(world.exchange(), "pixels", None)
    assert found is not None
    assert (found.name, found.version, found.digest) == ("pixels", "1", "sha256:aaaa")
    assert list(world.store.items) == ["meta/pixels/"]


def test_catalog_fetch_stores_only_after_the_response(world: World) -> None:
    exchange = world.exchange()
    fetch_metadata(exchange, "pixels", None)
    assert world.store.calls == []
    exchange.store_kept()
    assert world.store.calls == ["set_many"]


def test_catalog_versions_have_entries_of_their_own(world: World) -> None:
    world.fetch("1")
    assert find_metadata(world.exchange(), "pixels", None) is None
    assert find_metadata(world.exchange(), "pixels", "1") is not None


def test_catalog_entry_past_its_time_is_not_found(world: World) -> None:
    world.fetch()
    world.clock.advance(59.9)
    assert find_metadata(world.exchange(), "pixels", None) is not None
    world.clock.advance(0.1)
    assert find_metadata(world.exchange(), "pixels", None) is None


def test_catalog_clock_set_back_does_not_prolong_an_entry(world: World) -> None:
    world.fetch()
    world.clock.wall_s -= 3600
    assert find_metadata(world.exchange(), "pixels", None) is None


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b'{"schema": 1}',
        b'{"schema": 1, "expires_s": "soon", "document": {}}',
        b'{"schema": 1, "expires_s": 1800000030, "document": {"name": "x"}}',
        b'{"schema": 1, "expires_s": 1800000030, "document": []}',
        b"\xff\xfe",
    ],
)
def test_catalog_damaged_entry_is_not_found_and_logged(world: World, damage: bytes) -> None:
    world.store.items["meta/pixels/"] = damage
    assert find_metadata(world.exchange(), "pixels", None) is None
    assert "[request-1]" in world.log.text()
    assert "damaged" in world.log.text()


def test_catalog_entry_of_another_schema_is_not_found(world: World) -> None:
    world.fetch()
    entry = json.loads(world.store.items["meta/pixels/"])
    world.store.items["meta/pixels/"] = json.dumps({**entry, "schema": 0}).encode()
    assert find_metadata(world.exchange(), "pixels", None) is None


def test_catalog_broken_store_is_logged_and_survived(world: World) -> None:
    world.store.broken = True
    assert find_metadata(world.exchange(), "pixels", None) is None
    world.fetch()
    assert "was not read: the store is broken" in world.log.text()
    assert "meta/pixels/ not stored: the store is broken" in world.log.text()


def test_catalog_of_version_is_asked_about_under_the_clients_key(world: World) -> None:
    exchange = world.exchange()
    fetch_metadata(exchange, "pixels", None, of_version="1")
    exchange.store_kept()
    assert world.backend.received[0].target == "/v2/models/pixels/versions/1"
    assert list(world.store.items) == ["meta/pixels/"]
