"""`edgespin.keyvalue`: the store over `wasi:keyvalue`, on hosts as they really behave."""

from __future__ import annotations

from typing import Any

import pytest
from spin_sdk.wit.imports import atomics, batch
from spin_sdk.wit.imports import wasi_keyvalue_store as store
from spin_sdk.wit.types import Err

from edgekit.ports import StoreUnavailableError
from edgespin.keyvalue import DefaultStore


class Host:
    """A key-value host.

    Attributes:
        items: What is stored.
        opened: Labels in the order they were opened.
        failure: Raised by every call.
        batch_failure: Raised by batch calls, as Spin does over Redis.
        lying_swap: `swap` sets the value and says that it failed, as Spin does over Redis.
        rival: Stored by another client between `current` and `swap`.
    """

    def __init__(self) -> None:
        self.items: dict[str, bytes] = {}
        self.opened: list[str] = []
        self.failure: Err[Any] | None = None
        self.batch_failure: Err[Any] | None = None
        self.lying_swap = False
        self.rival: bytes | None = None
        self.handles = 0

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def open(self, label: str) -> Bucket:
        self.check()
        self.opened.append(label)
        return Bucket(self)

    def get_many(self, bucket: Bucket, keys: list[str]) -> list[tuple[str, bytes | None]]:
        """In an order of its own and without absent keys, as Spin does over SQLite."""
        if self.batch_failure is not None:
            raise self.batch_failure
        return [(key, self.items[key]) for key in sorted(set(keys)) if key in self.items]

    def set_many(self, bucket: Bucket, items: list[tuple[str, bytes]]) -> None:
        self.items.update(items)

    def delete_many(self, bucket: Bucket, keys: list[str]) -> None:
        for key in keys:
            self.items.pop(key, None)

    def increment(self, bucket: Bucket, key: str, delta: int) -> int:
        value = int(self.items.get(key, b"0")) + delta
        self.items[key] = str(value).encode()
        return value

    def swap(self, cas: Cas, value: bytes) -> None:
        cas.released = True
        self.handles -= 1
        self.check()
        if self.rival is not None:
            self.items[cas.key] = self.rival
        if self.items.get(cas.key) == cas.seen:
            self.items[cas.key] = value
            if not self.lying_swap:
                return
        raise Err(atomics.CasError_CasFailed(Cas(self, cas.key)))  # type: ignore[arg-type]


class Bucket:
    def __init__(self, host: Host) -> None:
        self._host = host

    def get(self, key: str) -> bytes | None:
        self._host.check()
        return self._host.items.get(key)

    def set(self, key: str, value: bytes) -> None:
        self._host.check()
        self._host.items[key] = value

    def delete(self, key: str) -> None:
        self._host.check()
        self._host.items.pop(key, None)


class Cas:
    def __init__(self, host: Host, key: str) -> None:
        self._host = host
        self.key = key
        self.seen: bytes | None = None
        self.released = False
        host.handles += 1

    def current(self) -> bytes | None:
        self.seen = self._host.items.get(self.key)
        return self.seen

    def __enter__(self) -> Cas:
        return self

    def __exit__(self, *_error: object) -> None:
        assert not self.released
        self.released = True
        self._host.handles -= 1


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()
    monkeypatch.setattr(store, "open", host.open)
    for name in ("get_many", "set_many", "delete_many"):
        monkeypatch.setattr(batch, name, getattr(host, name))
    monkeypatch.setattr(atomics, "increment", host.increment)
    monkeypatch.setattr(atomics, "swap", host.swap)

    class BoundCas:
        @staticmethod
        def new(bucket: Bucket, key: str) -> Cas:
            return Cas(host, key)

    monkeypatch.setattr(atomics, "Cas", BoundCas)
    return host


def test_store_is_opened_once_and_at_the_first_use(host: Host) -> None:
    keyvalue = DefaultStore()
    assert host.opened == []
    keyvalue.set("k", b"v")
    assert keyvalue.get("k") == b"v"
    keyvalue.delete("k")
    assert keyvalue.get("k") is None
    assert host.opened == ["default"]


def test_store_get_many_keeps_order_and_repeats(host: Host) -> None:
    keyvalue = DefaultStore()
    keyvalue.set_many([("a", b"1"), ("b", b"2")])
    assert keyvalue.get_many(["b", "x", "a", "b"]) == [b"2", None, b"1", b"2"]


def test_store_get_many_where_batches_fail_reads_one_by_one(host: Host) -> None:
    host.batch_failure = Err(store.Error_Other("wrong number of arguments for 'keys'"))
    host.items["a"] = b"1"
    assert DefaultStore().get_many(["x", "a"]) == [None, b"1"]


def test_store_batches_of_nothing_cost_no_call(host: Host) -> None:
    keyvalue = DefaultStore()
    assert keyvalue.get_many([]) == []
    keyvalue.set_many([])
    keyvalue.delete_many([])
    assert host.opened == []


def test_store_delete_many_removes_all(host: Host) -> None:
    host.items = {"a": b"1", "b": b"2", "c": b"3"}
    DefaultStore().delete_many(["a", "b", "x"])
    assert host.items == {"c": b"3"}


def test_store_increment_counts_from_nothing(host: Host) -> None:
    keyvalue = DefaultStore()
    assert [keyvalue.increment("n", 2), keyvalue.increment("n", -1)] == [2, 1]


def test_store_swap_of_what_is_expected_sets_it(host: Host) -> None:
    keyvalue = DefaultStore()
    assert keyvalue.compare_and_swap("k", None, b"1") is True
    assert keyvalue.compare_and_swap("k", b"1", b"2") is True
    assert host.items["k"] == b"2"
    assert host.handles == 0


def test_store_swap_of_something_else_leaves_it(host: Host) -> None:
    host.items["k"] = b"other"
    assert DefaultStore().compare_and_swap("k", b"1", b"2") is False
    assert host.items["k"] == b"other"
    assert host.handles == 0


def test_store_swap_lost_to_a_rival_is_false(host: Host) -> None:
    host.items["k"] = b"1"
    host.rival = b"rival"
    assert DefaultStore().compare_and_swap("k", b"1", b"2") is False
    assert host.handles == 0


def test_store_swap_that_only_says_it_failed_is_true(host: Host) -> None:
    host.lying_swap = True
    assert DefaultStore().compare_and_swap("k", None, b"mine") is True
    assert host.handles == 0


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (store.Error_NoSuchStore(), "NoSuchStore"),
        (store.Error_AccessDenied(), "AccessDenied"),
        (store.Error_Other("database is locked"), "database is locked"),
        (atomics.CasError_StoreError(store.Error_Other("locked")), "locked"),
    ],
)
def test_store_every_failure_is_unavailable_with_its_reason(
    host: Host, error: object, text: str
) -> None:
    host.failure = Err(error)
    keyvalue = DefaultStore()
    calls = [
        lambda: keyvalue.get("k"),
        lambda: keyvalue.set("k", b""),
        lambda: keyvalue.delete("k"),
        lambda: keyvalue.get_many(["k"]),
        lambda: keyvalue.set_many([("k", b"")]),
        lambda: keyvalue.delete_many(["k"]),
        lambda: keyvalue.increment("k", 1),
        lambda: keyvalue.compare_and_swap("k", None, b""),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailableError, match=text):
            call()  # type: ignore[no-untyped-call]


def test_store_swap_that_fails_otherwise_is_unavailable(host: Host) -> None:
    keyvalue = DefaultStore()
    keyvalue.set("k", b"1")
    host.failure = Err(atomics.CasError_StoreError(store.Error_Other("disk full")))
    with pytest.raises(StoreUnavailableError, match="disk full"):
        keyvalue.compare_and_swap("k", b"1", b"2")
