from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.policy.cache import CacheShape, Lookup, ResponseCache
from edgekit.policy.cache_entry import StoredAnswer
from edgekit.policy.cache_key import CacheKey, derive_key
from edgekit.policy.snapshot import Snapshot
from fakes.edge_ports import MemoryStore

NOW_S = 1_800_000_000.0


def _key(request: str, digest: str = "d1", tenant: str = "acme") -> CacheKey:
    return derive_key(
        tenant=tenant, route="classify", request=[request.encode()], model_digest=digest
    )


def _answer(lookup: Lookup, body: bytes = b"answer", now_s: float = NOW_S) -> StoredAnswer:
    return StoredAnswer(
        address=lookup.key.address,
        identity=lookup.key.identity,
        generations=lookup.generations,
        stored_at_s=now_s,
        lifetime_s=60,
        status=200,
        headers=(),
        body=body,
    )


class Harness:
    """A cache over a memory store, used as the pipeline does."""

    def __init__(self, shape: CacheShape | None = None) -> None:
        self.store = MemoryStore()
        self.cache = ResponseCache(shape or CacheShape())

    def find(
        self, key: CacheKey, now_s: float = NOW_S, tenant: str = "acme", model: str = "digits"
    ) -> Lookup:
        snapshot = Snapshot.read(self.store, self.cache.keys(key, tenant=tenant, model=model))
        return self.cache.find(snapshot, key, tenant=tenant, model=model, now_s=now_s)

    def put(self, key: CacheKey, body: bytes = b"answer", now_s: float = NOW_S) -> Lookup:
        lookup = self.find(key, now_s)
        self.store.set_many(self.cache.store_items(lookup, _answer(lookup, body, now_s), now_s))
        return lookup

    def use(self, key: CacheKey, now_s: float) -> bool:
        lookup = self.find(key, now_s)
        if lookup.answer is None:
            return False
        self.store.set_many(self.cache.touch_items(lookup, now_s))
        return True


def test_find_returns_what_was_stored() -> None:
    harness = Harness()
    harness.put(_key("a"), b"body")
    found = harness.find(_key("a")).answer
    assert found is not None
    assert found.body == b"body"


def test_find_reads_one_batch_and_store_writes_one() -> None:
    harness = Harness()
    harness.put(_key("a"))
    assert harness.store.calls == ["get_many", "set_many"]


def test_find_misses_what_another_tenant_stored() -> None:
    harness = Harness()
    harness.put(_key("a"))
    assert harness.find(_key("a", tenant="other"), tenant="other").answer is None


def test_find_misses_the_answer_of_an_older_model_and_replaces_it() -> None:
    harness = Harness()
    old = harness.put(_key("a", digest="d1"))
    new = harness.put(_key("a", digest="d2"), b"new")
    assert new.answer is None
    assert new.way == old.way
    assert harness.find(_key("a", digest="d1")).answer is None


@pytest.mark.parametrize("damage", [b"", b"IAE", b"\0" * 500])
def test_find_misses_a_damaged_entry_and_reuses_its_place(damage: bytes) -> None:
    harness = Harness()
    way = harness.put(_key("a")).way
    [name] = [name for name in harness.store.items if name.startswith("cache/e/")]
    harness.store.items[name] = damage
    again = harness.find(_key("a"))
    assert again.answer is None
    assert again.way == way


def test_find_prefers_the_newer_of_two_copies() -> None:
    harness = Harness(CacheShape(sets=1, ways=2))
    lookup = harness.find(_key("a"))
    for way, (body, age_s) in enumerate([(b"old", 30.0), (b"new", 0.0)]):
        answer = _answer(lookup, body, NOW_S - age_s)
        items = harness.cache.store_items(replace(lookup, way=way), answer, NOW_S)
        harness.store.set_many(items)
    found = harness.find(_key("a")).answer
    assert found is not None
    assert found.body == b"new"


def test_store_answer_that_is_too_large_is_not_stored() -> None:
    harness = Harness(CacheShape(max_entry_bytes=2048))
    lookup = harness.find(_key("a"))
    assert harness.cache.store_items(lookup, _answer(lookup, b"x" * 2048), NOW_S) == []
    assert harness.cache.store_items(lookup, _answer(lookup, b"x" * 100), NOW_S) != []


def test_store_full_set_evicts_the_least_recently_used() -> None:
    harness = Harness(CacheShape(sets=1, ways=3))
    for second, name in enumerate("abc"):
        harness.put(_key(name), now_s=NOW_S + second)
    assert harness.use(_key("a"), NOW_S + 10)
    harness.put(_key("d"), now_s=NOW_S + 11)
    alive = [name for name in "abcd" if harness.find(_key(name), NOW_S + 12).answer]
    assert alive == ["a", "c", "d"]


def test_store_prefers_a_dead_entry_over_the_least_recently_used() -> None:
    harness = Harness(CacheShape(sets=1, ways=2))
    harness.put(_key("dead"), now_s=NOW_S - 100)
    harness.put(_key("live"), now_s=NOW_S)
    harness.use(_key("dead"), NOW_S + 5)
    harness.put(_key("new"), now_s=NOW_S + 6)
    assert harness.find(_key("live"), NOW_S + 6).answer is not None


def test_touch_clock_beyond_its_field_is_kept_in_range() -> None:
    harness = Harness()
    lookup = harness.put(_key("a"))
    [(_, stamps)] = harness.cache.touch_items(lookup, 1e12)
    assert len(stamps) == 4 * CacheShape().ways
    [(_, stamps)] = harness.cache.touch_items(lookup, -1.0)
    assert stamps == bytes(4 * CacheShape().ways)


def test_find_damaged_stamps_count_as_never_used() -> None:
    harness = Harness()
    lookup = harness.put(_key("a"))
    [(name, _)] = harness.cache.touch_items(lookup, NOW_S)
    harness.store.items[name] = b"xyz"
    assert harness.find(_key("a")).used_s == (0, 0, 0, 0)


def test_purge_all_makes_everything_a_miss() -> None:
    harness = Harness()
    harness.put(_key("a"))
    harness.cache.purge_all(harness.store)
    assert harness.find(_key("a")).answer is None


def test_purge_tenant_spares_other_tenants() -> None:
    harness = Harness()
    harness.put(_key("a"))
    harness.cache.purge_tenant(harness.store, "other")
    assert harness.find(_key("a")).answer is not None
    harness.cache.purge_tenant(harness.store, "acme")
    assert harness.find(_key("a")).answer is None


def test_purge_model_takes_one_operation_however_much_is_stored() -> None:
    harness = Harness()
    for name in "abcdef":
        harness.put(_key(name))
    harness.store.calls.clear()
    harness.cache.purge_model(harness.store, "digits")
    assert harness.store.calls == ["increment"]
    assert all(harness.find(_key(name)).answer is None for name in "abcdef")


def test_purge_during_a_request_keeps_its_answer_from_being_served_later() -> None:
    harness = Harness()
    lookup = harness.find(_key("a"))
    harness.cache.purge_model(harness.store, "digits")
    harness.store.set_many(harness.cache.store_items(lookup, _answer(lookup), NOW_S))
    assert harness.find(_key("a")).answer is None


def test_purge_key_removes_that_answer_alone() -> None:
    harness = Harness(CacheShape(sets=1, ways=4))
    harness.put(_key("a"))
    harness.put(_key("b"))
    assert harness.cache.purge_key(harness.store, _key("a").address)
    assert not harness.cache.purge_key(harness.store, _key("a").address)
    assert harness.find(_key("a")).answer is None
    assert harness.find(_key("b")).answer is not None


def test_snapshot_of_a_broken_store_is_a_miss_and_says_so() -> None:
    harness = Harness()
    harness.put(_key("a"))
    harness.store.broken = True
    keys = harness.cache.keys(_key("a"), tenant="acme", model="digits")
    snapshot = Snapshot.read(harness.store, keys)
    assert not snapshot.available
    found = harness.cache.find(snapshot, _key("a"), tenant="acme", model="digits", now_s=NOW_S)
    assert found.answer is None


@settings(max_examples=60)
@given(st.lists(st.integers(0, 200), max_size=120))
def test_store_never_holds_more_entries_than_its_shape_allows(requests: list[int]) -> None:
    harness = Harness(CacheShape(sets=4, ways=2))
    for second, request in enumerate(requests):
        harness.put(_key(str(request)), now_s=NOW_S + second)
    entries = [name for name in harness.store.items if name.startswith("cache/e/")]
    stamps = [name for name in harness.store.items if name.startswith("cache/u/")]
    assert len(entries) <= 8
    assert len(stamps) <= 4
    assert all(len(name) <= 255 for name in harness.store.items)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=60))
def test_store_one_set_behaves_like_exact_lru_when_nobody_interferes(requests: list[int]) -> None:
    harness = Harness(CacheShape(sets=1, ways=3))
    model: list[int] = []
    for second, request in enumerate(requests):
        now_s = NOW_S + second
        key = _key(str(request))
        lookup = harness.find(key, now_s)
        answer = replace(_answer(lookup, now_s=now_s), lifetime_s=10_000)
        hit = lookup.answer is not None
        assert hit == (request in model)
        if hit:
            harness.store.set_many(harness.cache.touch_items(lookup, now_s))
            model.remove(request)
        else:
            harness.store.set_many(harness.cache.store_items(lookup, answer, now_s))
            model = model[-2:]
        model.append(request)
