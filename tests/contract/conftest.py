"""Key-value stores of every kind, as fixtures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgehost.ports import Store
from fakes.keyvalue_backends import Backend, memory_backend, redis_backend, sqlite_backend
from fakes.redis_server import RedisServer, redis_missing


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    missing = redis_missing()
    if missing:
        pytest.skip(missing)
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=("memory", "sqlite", "redis"))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    with contextlib.ExitStack() as stack:
        if request.param == "memory":
            yield memory_backend()
        elif request.param == "sqlite":
            yield sqlite_backend(tmp_path / "state" / "sqlite_key_value.db", stack)
        else:
            yield redis_backend(request.getfixturevalue("redis_server"), stack)


@pytest.fixture
def store(backend: Backend) -> Store:
    return backend.open()
