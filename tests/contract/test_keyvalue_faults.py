"""A store that cannot serve says so in a `StoreError`; nothing else ever comes out of it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import redis

from edgehost.errors import StoreError
from edgehost.keyvalue import SqliteDatabase, SqliteStore
from edgehost.keyvalue.redis import RedisStore
from fakes.redis_server import RedisServer, redis_missing

NOBODY = 65_534


@contextlib.contextmanager
def sqlite_store(path: Path) -> Iterator[SqliteStore]:
    with contextlib.closing(SqliteDatabase(path)) as database:
        yield SqliteStore(database, "default")


def in_child(work: Callable[[], str]) -> str:
    """What `work` returns when it is run in a forked process, which may limit itself."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)

    def run() -> None:
        try:
            sending.send(work())
        except BaseException as exc:
            sending.send(f"{type(exc).__name__}: {exc}")

    child = context.Process(target=run)
    child.start()
    sending.close()
    with receiving:
        answer = cast("str", receiving.recv())
    child.join(timeout=30)
    return answer


# SQLite


def test_sqlite_full_disk_fails_clearly_and_keeps_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"

    def fill() -> str:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with sqlite_store(path) as store:
            store.set("first", b"kept")
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
            try:
                for number in range(100):
                    store.set(f"key-{number}", b"x" * 100_000)
            except StoreError as exc:
                return f"{exc} / {store.get('first')!r}"
        return "never failed"

    answer = in_child(fill)
    assert answer.startswith(f"{path}: the disk")
    assert answer.endswith("/ b'kept'")
    with sqlite_store(path) as store:
        assert store.get("first") == b"kept"
        store.set("after", b"works again")


def test_sqlite_database_at_its_size_limit_reports_a_full_disk(tmp_path: Path) -> None:
    with contextlib.closing(SqliteDatabase(tmp_path / "kv.db")) as database:
        store = SqliteStore(database, "default")
        store.set("first", b"kept")
        connection = database.acquire()
        connection.execute("PRAGMA max_page_count=16")
        database.release(connection, failed=False)
        with pytest.raises(StoreError, match="the disk is full: free some space"):
            store.set_many([(f"key-{number}", b"x" * 10_000) for number in range(100)])
        assert store.get_keys() == ["first"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_sqlite_directory_of_another_user_fails_clearly(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o755)
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    path = directory / "kv.db"
    with sqlite_store(path) as store:
        store.set("key", b"value")

    def write() -> str:
        os.setuid(NOBODY)
        with sqlite_store(path) as store:
            store.set("key", b"other")
        return "never failed"

    answer = in_child(write)
    assert answer.startswith(f"StoreError: {path}: the file")
    with sqlite_store(path) as store:
        assert store.get("key") == b"value"


def test_sqlite_directory_that_is_a_file_fails_clearly(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with (
        sqlite_store(tmp_path / "state" / "kv.db") as store,
        pytest.raises(StoreError, match=r"kv\.db: (File exists|Not a directory)"),
    ):
        store.get("key")


def test_sqlite_file_that_is_no_database_fails_clearly(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    path.write_bytes(b"no database, but long enough to look at" * 100)
    with (
        sqlite_store(path) as store,
        pytest.raises(StoreError, match="the file is no SQLite database: move it away"),
    ):
        store.set("key", b"value")


def test_sqlite_file_held_by_another_process_fails_after_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgehost.keyvalue.sqlite._BUSY_TIMEOUT_S", 0.05)
    path = tmp_path / "kv.db"
    with sqlite_store(path) as store, contextlib.closing(sqlite3.connect(path)) as other:
        store.set("key", b"value")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another process held the file for more than"):
            store.set("key", b"late")
        with pytest.raises(StoreError, match="another process held the file for more than"):
            store.increment("counter", 1)
        assert store.get("key") == b"value", "readers do not wait for a writer"
        other.rollback()
        store.set("key", b"in time")
        assert store.get("key") == b"in time"


def test_sqlite_value_of_another_type_is_named(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    with sqlite_store(path) as store, contextlib.closing(sqlite3.connect(path)) as other:
        store.set("key", b"value")
        other.execute("UPDATE spin_key_value SET value = 'text'")
        other.commit()
        with pytest.raises(StoreError, match="another program stored the value as str"):
            store.get("key")


def test_sqlite_closed_store_fails_clearly(tmp_path: Path) -> None:
    with sqlite_store(tmp_path / "kv.db") as store:
        store.set("key", b"value")
    for call in (lambda: store.get("key"), lambda: store.increment("counter", 1)):
        with pytest.raises(StoreError, match=r"kv\.db: the store is closed"):
            call()


def test_sqlite_failed_call_leaves_no_transaction_behind(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    with sqlite_store(path) as store, sqlite_store(path) as other:
        store.set("text", b"no counter")
        for _ in range(3):
            with pytest.raises(StoreError):
                store.increment("text", 1)
        other.set("key", b"not held up")
        assert store.get("key") == b"not held up"


def test_sqlite_has_as_many_connections_as_calls_overlap(tmp_path: Path) -> None:
    with contextlib.closing(SqliteDatabase(tmp_path / "kv.db")) as database:
        store = SqliteStore(database, "default")

        def use() -> None:
            store.increment("counter", 1)

        for _ in range(20):  # one after the other: a thread each, and one connection for all
            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
        assert store.increment("counter", 0) == 20
        assert len(database._idle) == 1


# Redis


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server the test may stop."""
    missing = redis_missing()
    if missing:
        pytest.skip(missing)
    with RedisServer(tmp_path) as server:
        yield server


@contextlib.contextmanager
def redis_store(url: str) -> Iterator[RedisStore]:
    store = RedisStore(url, connect_timeout_s=0.2, call_timeout_s=0.2, max_connections=2)
    with contextlib.closing(store):
        yield store


def test_redis_restarted_server_serves_again(own_server: RedisServer) -> None:
    with redis_store(own_server.url) as store:
        store.set("key", b"value")
        assert store.compare_and_swap("key", b"value", b"new")
        own_server.stop()
        with pytest.raises(StoreError, match=rf"Redis at 127\.0\.0\.1:{own_server.port} cannot"):
            store.get("key")
        own_server.start(own_server.port)
        assert store.get("key") is None
        assert store.increment("counter", 1) == 1
        assert store.compare_and_swap("key", None, b"new"), "its script was loaded again"


def test_redis_stopped_server_fails_every_call(own_server: RedisServer) -> None:
    with redis_store(own_server.url) as store:
        own_server.stop()
        calls: list[Callable[[], object]] = [
            lambda: store.get("key"),
            lambda: store.set("key", b""),
            lambda: store.delete("key"),
            lambda: store.exists("key"),
            lambda: store.get_keys(),
            lambda: store.get_many(["key"]),
            lambda: store.set_many([("key", b"")]),
            lambda: store.delete_many(["key"]),
            lambda: store.increment("key", 1),
            lambda: store.compare_and_swap("key", None, b""),
        ]
        for call in calls:
            with pytest.raises(StoreError, match="cannot be reached"):
                call()


def test_redis_silent_server_fails_in_time_without_the_password() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"redis://user:s3cret@127.0.0.1:{listener.getsockname()[1]}/0"
        with redis_store(url) as store, pytest.raises(StoreError) as caught:
            store.get("key")
        assert "did not answer in time" in str(caught.value)
        assert "s3cret" not in str(caught.value)


def test_redis_value_of_another_type_fails_clearly(own_server: RedisServer) -> None:
    with contextlib.closing(redis.Redis.from_url(own_server.url)) as client:
        client.rpush("list", b"entry")
    with redis_store(own_server.url) as store:
        for call in (lambda: store.get("list"), lambda: store.increment("list", 1)):
            with pytest.raises(StoreError, match="WRONGTYPE"):
                call()


def test_redis_memory_limit_fails_clearly(own_server: RedisServer) -> None:
    with contextlib.closing(redis.Redis.from_url(own_server.url)) as client:
        client.config_set("maxmemory", "1mb")
    with redis_store(own_server.url) as store, pytest.raises(StoreError, match="maxmemory"):
        store.set("key", b"x" * 1_000_000)


def test_redis_all_connections_in_use_fails_in_time(own_server: RedisServer) -> None:
    with redis_store(own_server.url) as store:
        pool = store._client.connection_pool
        held = [pool.get_connection(), pool.get_connection()]
        with pytest.raises(StoreError, match="No connection available"):
            store.get("key")
        for connection in held:
            pool.release(connection)
        assert store.get("key") is None
