"""One suite over every key-value store: what a guest may rely on wherever its data is kept."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from edgehost.errors import StoreError
from edgehost.keyvalue import SqliteDatabase, SqliteStore
from edgehost.keyvalue.redis import RedisStore
from edgehost.ports import Store
from fakes.keyvalue_backends import Backend, little_endian
from fakes.redis_server import RedisServer

THREADS = 4
ROUNDS = 50


def in_threads(work: Callable[[int], None]) -> None:
    """Run `work(0)` … `work(THREADS - 1)` at once; raise what any of them raised."""
    start = threading.Barrier(THREADS)
    raised: list[BaseException] = []

    def run(number: int) -> None:
        try:
            start.wait(timeout=10)
            work(number)
        except BaseException as exc:
            raised.append(exc)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


# One entry


def test_get_absent_key_gives_none(store: Store) -> None:
    assert store.get("absent") is None


def test_set_then_get_gives_the_value(store: Store) -> None:
    store.set("key", b"value")
    assert store.get("key") == b"value"


def test_set_existing_key_replaces_the_value(store: Store) -> None:
    store.set("key", b"a longer first value")
    store.set("key", b"second")
    assert store.get("key") == b"second"


def test_set_empty_value_is_not_absent(store: Store) -> None:
    store.set("key", b"")
    assert store.get("key") == b""
    assert store.exists("key")


def test_exists_follows_set_and_delete(store: Store) -> None:
    assert not store.exists("key")
    store.set("key", b"value")
    assert store.exists("key")
    store.delete("key")
    assert not store.exists("key")


def test_delete_absent_key_is_fine(store: Store) -> None:
    store.delete("absent")
    assert store.get("absent") is None


def test_every_byte_survives(store: Store) -> None:
    value = bytes(range(256)) * 3
    store.set("bytes", value)
    assert store.get("bytes") == value


@pytest.mark.parametrize(
    "key",
    ["", " ", "a\nb", "nul\0inside", "ключ", "鍵", "🔑" * 20, "x" * 255, "%_*?[a]", "Key", "key"],
)
def test_any_text_is_a_key(store: Store, key: str) -> None:
    store.set(key, key.encode())
    assert store.get(key) == key.encode()
    assert store.get_keys() == [key]


def test_keys_differing_in_case_or_form_are_distinct(store: Store) -> None:
    keys = ["key", "KEY", "e\u0301", "\u00e9", "key\0", "key "]  # é, composed and not
    for number, key in enumerate(keys):
        store.set(key, bytes([number]))
    assert [store.get(key) for key in keys] == [bytes([n]) for n in range(len(keys))]


# Limits


def test_key_over_255_bytes_is_refused_with_its_size(store: Store) -> None:
    for key in ("x" * 256, "é" * 128):
        with pytest.raises(StoreError, match="the key is 256 bytes long; the limit is 255 bytes"):
            store.set(key, b"value")
        with pytest.raises(StoreError, match="256 bytes"):
            store.get(key)
    assert store.get_keys() == []


def test_value_of_one_mebibyte_is_stored_and_one_byte_more_refused(store: Store) -> None:
    limit = 1 << 20
    store.set("large", b"x" * limit)
    with pytest.raises(StoreError, match=f"the value is {limit + 1} bytes long"):
        store.set("large", b"y" * (limit + 1))
    assert store.get("large") == b"x" * limit


def test_key_that_is_no_unicode_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="not valid Unicode"):
        store.set("\ud800", b"value")


def test_batch_with_one_bad_entry_stores_nothing(store: Store) -> None:
    with pytest.raises(StoreError):
        store.set_many([("good", b"1"), ("x" * 256, b"2")])
    assert store.get_keys() == []


# Many entries


def test_get_keys_lists_each_key_once(store: Store) -> None:
    for number in range(2_500):  # more than one batch of a Redis scan
        store.set(f"key-{number}", b"")
    keys = store.get_keys()
    assert len(keys) == 2_500
    assert set(keys) == {f"key-{number}" for number in range(2_500)}


def test_get_many_keeps_the_order_and_names_absent_keys(store: Store) -> None:
    store.set_many([("a", b"1"), ("b", b"2")])
    expected = [("b", b"2"), ("absent", None), ("a", b"1"), ("b", b"2")]
    assert store.get_many(["b", "absent", "a", "b"]) == expected


def test_set_many_same_key_twice_keeps_the_last(store: Store) -> None:
    store.set_many([("a", b"1"), ("a", b"2")])
    assert store.get("a") == b"2"


def test_delete_many_leaves_the_others(store: Store) -> None:
    store.set_many([("a", b"1"), ("b", b"2"), ("c", b"3")])
    store.delete_many(["a", "absent", "c"])
    assert store.get_keys() == ["b"]


def test_empty_batches_do_nothing(store: Store) -> None:
    store.set("a", b"1")
    store.set_many([])
    store.delete_many([])
    assert store.get_many([]) == []
    assert store.get_keys() == ["a"]


# Counters


def test_increment_absent_key_starts_at_zero(store: Store) -> None:
    assert store.increment("counter", 5) == 5
    assert store.increment("counter", -7) == -2
    assert store.increment("counter", 0) == -2


def test_increment_stores_what_spin_would_store(backend: Backend, store: Store) -> None:
    store.increment("counter", -300)
    assert store.get("counter") == backend.counter(-300)
    store.set("counter", backend.counter(41))
    assert store.increment("counter", 1) == 42


@pytest.mark.parametrize("value", [b"not a number", b"", b"\0" * 9])
def test_increment_of_what_is_no_counter_fails_and_changes_nothing(
    store: Store, value: bytes
) -> None:
    store.set("text", value)
    with pytest.raises(StoreError):
        store.increment("text", 1)
    assert store.get("text") == value


@pytest.mark.parametrize(("start", "delta"), [(2**63 - 1, 1), (-(2**63), -1)])
def test_increment_past_64_bits_fails_and_changes_nothing(
    backend: Backend, store: Store, start: int, delta: int
) -> None:
    store.set("counter", backend.counter(start))
    with pytest.raises(StoreError, match="overflow"):
        store.increment("counter", delta)
    assert store.increment("counter", 0) == start


def test_increment_by_many_threads_loses_nothing(backend: Backend) -> None:
    handles = [backend.open() for _ in range(THREADS)]

    def work(number: int) -> None:
        for _ in range(ROUNDS):
            handles[number].increment("counter", 1)

    in_threads(work)
    assert handles[0].increment("counter", 0) == THREADS * ROUNDS


def test_increment_by_two_processes_loses_nothing(backend: Backend, store: Store) -> None:
    if not backend.program:
        pytest.skip("a store in memory belongs to one process")
    program = f"{backend.program}\nfor _ in range({ROUNDS}): store.increment('counter', 1)"
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    for _ in range(ROUNDS):
        store.increment("counter", 1)
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert store.increment("counter", 0) == 3 * ROUNDS


# Compare and swap


def test_swap_of_the_expected_value_sets_the_new_one(store: Store) -> None:
    store.set("key", b"old")
    assert store.compare_and_swap("key", b"old", b"new")
    assert store.get("key") == b"new"


def test_swap_of_another_value_changes_nothing(store: Store) -> None:
    store.set("key", b"other")
    assert not store.compare_and_swap("key", b"old", b"new")
    assert not store.compare_and_swap("key", None, b"new")
    assert store.get("key") == b"other"


def test_swap_of_an_absent_key_needs_none(store: Store) -> None:
    assert not store.compare_and_swap("key", b"old", b"new")
    assert store.get("key") is None
    assert store.compare_and_swap("key", None, b"new")
    assert store.get("key") == b"new"


def test_swap_tells_empty_from_absent(store: Store) -> None:
    assert not store.compare_and_swap("key", b"", b"new")
    store.set("key", b"")
    assert not store.compare_and_swap("key", None, b"new")
    assert store.compare_and_swap("key", b"", b"new")


def test_swap_of_binary_values(store: Store) -> None:
    old, new = bytes(range(256)), b"\0\r\n" * 10
    store.set("key", old)
    assert store.compare_and_swap("key", old, new)
    assert store.get("key") == new


def test_swap_by_many_threads_lets_each_win_its_rounds(backend: Backend) -> None:
    handles = [backend.open() for _ in range(THREADS)]
    handles[0].set("key", b"0")

    def work(number: int) -> None:
        store = handles[number]
        for _ in range(ROUNDS):
            while True:
                seen = store.get("key")
                assert seen is not None
                if store.compare_and_swap("key", seen, str(int(seen) + 1).encode()):
                    break

    in_threads(work)
    assert handles[0].get("key") == str(THREADS * ROUNDS).encode()


def test_swap_of_an_absent_key_by_many_threads_has_one_winner(backend: Backend) -> None:
    handles = [backend.open() for _ in range(THREADS)]
    won: list[int] = []

    def work(number: int) -> None:
        if handles[number].compare_and_swap("key", None, str(number).encode()):
            won.append(number)

    in_threads(work)
    assert len(won) == 1
    assert handles[0].get("key") == str(won[0]).encode()


def test_reader_of_a_batch_never_sees_half_of_it(backend: Backend) -> None:
    writer, reader = backend.open(), backend.open()
    writer.set_many([("a", b"0"), ("b", b"0")])
    done = threading.Event()
    torn: list[object] = []

    def write() -> None:
        for number in range(1, ROUNDS * 4):
            writer.set_many([("a", b"%d" % number), ("b", b"%d" % number)])
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        (_, a), (_, b) = reader.get_many(["a", "b"])
        if a != b:
            torn.append((a, b))
    thread.join()
    assert torn == []


# What only one kind has


def test_sqlite_labels_of_one_file_are_apart(tmp_path: Path) -> None:
    with contextlib.closing(SqliteDatabase(tmp_path / "kv.db")) as database:
        first, second = SqliteStore(database, "first"), SqliteStore(database, "second")
        first.set("key", b"1")
        assert second.get("key") is None
        assert second.get_keys() == []


def test_sqlite_file_has_the_table_spin_reads(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    with contextlib.closing(SqliteDatabase(path)) as database:
        SqliteStore(database, "default").set("key", b"\0value")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT store, key, value FROM spin_key_value").fetchall()
    assert rows == [("default", "key", b"\0value")]


def test_sqlite_file_written_by_spin_is_read(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TABLE spin_key_value (store TEXT NOT NULL, key TEXT NOT NULL, "
            "value BLOB NOT NULL, PRIMARY KEY (store, key))"
        )
        connection.execute(
            "INSERT INTO spin_key_value VALUES ('default', 'counter', ?)", [little_endian(41)]
        )
        connection.commit()
    with contextlib.closing(SqliteDatabase(path)) as database:
        assert SqliteStore(database, "default").increment("counter", 1) == 42


def test_sqlite_data_outlives_the_host(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    for expected in (1, 2):
        with contextlib.closing(SqliteDatabase(path)) as database:
            assert SqliteStore(database, "default").increment("starts", 1) == expected


def test_redis_keys_are_used_as_they_are(redis_server: RedisServer) -> None:
    with (
        contextlib.closing(redis.Redis.from_url(redis_server.url)) as client,
        contextlib.closing(RedisStore(redis_server.url)) as store,
    ):
        client.flushall()
        client.set("written by another", b"1")
        client.set(b"\xff\xfe no text", b"1")
        store.set("written here", b"2")
        assert client.get("written here") == b"2"
        assert sorted(store.get_keys()) == ["written by another", "written here"]
