"""Which store a label opens, for an app and for one component of it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from edgehost.errors import StoreError
from edgehost.keyvalue.memory import MemoryStore
from edgehost.keyvalue.sqlite import SqliteDatabase, SqliteStore
from edgehost.ports import Store, StoreProvider
from edgehost.runtime_config import (
    MemoryStoreConfig,
    RedisStoreConfig,
    SqliteStoreConfig,
    StoreConfig,
)

__all__ = ["DEFAULT_LABEL", "DEFAULT_STORE_FILE", "AppStores", "ComponentStores", "redis_fault"]

DEFAULT_LABEL = "default"
DEFAULT_STORE_FILE = "sqlite_key_value.db"


class _Closable(Protocol):
    def close(self) -> None: ...


def redis_fault() -> str | None:
    """Why Redis stores cannot be used here; None when they can."""
    try:
        import edgehost.keyvalue.redis  # noqa: F401 - an optional dependency
    except ImportError:
        return 'needs the Redis client: pip install "edgehost[redis]"'
    return None


class AppStores:
    """All stores of an app, opened at their first use; a `StoreProvider`."""

    def __init__(self, configured: Mapping[str, StoreConfig], state_dir: Path | None) -> None:
        """Serve what is configured, and `default` in any case.

        Args:
            configured: Stores of the runtime config, by label.
            state_dir: Where the default store's file is; None keeps it in memory.
        """
        default: StoreConfig = (
            MemoryStoreConfig()
            if state_dir is None
            else SqliteStoreConfig(state_dir / DEFAULT_STORE_FILE)
        )
        self._configs = {DEFAULT_LABEL: default, **configured}
        self._stores: dict[str, Store] = {}
        self._databases: dict[Path, SqliteDatabase] = {}
        self._closables: list[_Closable] = []
        self._lock = threading.Lock()

    @property
    def labels(self) -> frozenset[str]:
        """Labels that can be opened."""
        return frozenset(self._configs)

    def describe(self, label: str) -> str:
        """Where the store keeps its data, for people; never a password."""
        config = self._configs[label]
        if isinstance(config, SqliteStoreConfig):
            return f'"{config.path}"'
        if isinstance(config, RedisStoreConfig):
            return f"Redis at {config.address}"
        return "a temporary in-memory store"

    def open(self, label: str) -> Store:
        """The store behind `label`; the same one each time.

        Raises:
            StoreError: ``no-such-store`` for a label the app does not define.
        """
        store = self._stores.get(label)
        if store is not None:
            return store
        with self._lock:
            if label not in self._configs:
                raise StoreError(f'there is no key-value store "{label}"', "no-such-store")
            if label not in self._stores:
                self._stores[label] = self._make(label, self._configs[label])
            return self._stores[label]

    def _make(self, label: str, config: StoreConfig) -> Store:
        if isinstance(config, SqliteStoreConfig):
            database = self._databases.get(config.path)
            if database is None:
                database = self._databases[config.path] = SqliteDatabase(config.path)
                self._closables.append(database)
            return SqliteStore(database, label)
        if isinstance(config, RedisStoreConfig):
            from edgehost.keyvalue.redis import RedisStore

            redis_store = RedisStore(config.url)
            self._closables.append(redis_store)
            return redis_store
        memory_store = MemoryStore()
        self._closables.append(memory_store)
        return memory_store

    def close(self) -> None:
        """Close every store; call it when no guest runs any more."""
        with self._lock:
            for closable in self._closables:
                with suppress(StoreError):
                    closable.close()
            self._closables.clear()
            self._stores.clear()


class ComponentStores:
    """The stores one component may open; a `StoreProvider`."""

    __slots__ = ("_allowed", "_stores")

    def __init__(self, stores: StoreProvider, allowed: frozenset[str]) -> None:
        self._stores = stores
        self._allowed = allowed

    def open(self, label: str) -> Store:
        """The store behind `label`.

        Raises:
            StoreError: ``access-denied`` for a label the component does not list.
        """
        if label not in self._allowed:
            raise StoreError(
                f'access to key-value store "{label}" denied: add it to key_value_stores of the '
                "component",
                "access-denied",
            )
        return self._stores.open(label)
