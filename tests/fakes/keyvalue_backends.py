"""The kinds of key-value store, each as the contract tests want it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis

from edgehost.keyvalue import MemoryStore, SqliteDatabase, SqliteStore
from edgehost.keyvalue.redis import RedisStore
from edgehost.ports import Store
from fakes.redis_server import RedisServer

__all__ = ["Backend", "little_endian", "memory_backend", "redis_backend", "sqlite_backend"]


@dataclass(frozen=True)
class Backend:
    """A kind of store: how to open one more handle on the same data, and its counters' form."""

    name: str
    open: Callable[[], Store]
    counter: Callable[[int], bytes]
    program: str
    """Python that makes `store`, to be run in another process; empty where none can share it."""


def little_endian(number: int) -> bytes:
    """A counter as SQLite and memory stores keep it."""
    return number.to_bytes(8, "little", signed=True)


def _decimal(number: int) -> bytes:
    return str(number).encode()


def memory_backend() -> Backend:
    """Handles on one new store in memory."""
    store = MemoryStore()
    return Backend("memory", lambda: store, little_endian, "")


def sqlite_backend(path: Path, stack: contextlib.ExitStack) -> Backend:
    """Handles on the file at `path`, each with connections of its own; `stack` closes them."""

    def open_sqlite() -> Store:
        database = stack.enter_context(contextlib.closing(SqliteDatabase(path)))
        return SqliteStore(database, "default")

    program = (
        "from pathlib import Path; from edgehost.keyvalue import SqliteDatabase, SqliteStore; "
        f"store = SqliteStore(SqliteDatabase(Path({str(path)!r})), 'default')"
    )
    return Backend("sqlite", open_sqlite, little_endian, program)


def redis_backend(server: RedisServer, stack: contextlib.ExitStack) -> Backend:
    """Handles on the server's database, emptied first; `stack` closes them."""
    with contextlib.closing(redis.Redis.from_url(server.url)) as client:
        client.flushall()

    def open_redis() -> Store:
        return stack.enter_context(contextlib.closing(RedisStore(server.url)))

    program = f"from edgehost.keyvalue.redis import RedisStore; store = RedisStore({server.url!r})"
    return Backend("redis", open_redis, _decimal, program)
