"""Measures the key-value stores, and what else the host looks up for each request.

    python tests/bench/bench_keyvalue.py

One thread, one store, values of 1,000 bytes; times are of single calls, with the clock's own cost
of some 0.1 µs in them. Redis is measured where `redis-server` is on PATH.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.report import machine
from edgehost.allowed_host import AllowedHost
from edgehost.keyvalue import MemoryStore, SqliteDatabase, SqliteStore
from edgehost.keyvalue.redis import RedisStore
from edgehost.outbound_hosts import AllowedHosts
from edgehost.ports import Store
from edgehost.routes import Route, RouteTable
from fakes.redis_server import RedisServer, redis_missing

CALLS = 20_000
WARM_UP = 500
VALUE = b"v" * 1_000
LARGE = b"v" * 150_528


def measure(name: str, call: Callable[[], object], calls: int = CALLS) -> None:
    """Print percentiles of single calls in microseconds."""
    for _ in range(WARM_UP):
        call()
    times_ns = []
    for _ in range(calls):
        started = time.perf_counter_ns()
        call()
        times_ns.append(time.perf_counter_ns() - started)
    times_ns.sort()
    p50, p99 = (times_ns[int(calls * share)] / 1000 for share in (0.5, 0.99))
    print(f"  {name:<28} n={calls:<6} p50 {p50:8.2f} µs  p99 {p99:8.2f} µs")


def measure_store(name: str, store: Store) -> None:
    """Every operation a request uses."""
    print(name)
    store.set("key", VALUE)
    measure("get", lambda: store.get("key"))
    measure("get, absent", lambda: store.get("absent"))
    measure("set", lambda: store.set("key", VALUE))
    measure("increment", lambda: store.increment("counter", 1))
    measure("compare_and_swap", lambda: store.compare_and_swap("key", VALUE, VALUE))
    measure("get_many of 4", lambda: store.get_many(["key", "counter", "absent", "other"]))
    measure("set 150 KB", lambda: store.set("large", LARGE), CALLS // 10)
    measure("get 150 KB", lambda: store.get("large"), CALLS // 10)


def measure_decisions() -> None:
    """What the host looks up without a store."""
    print("per request")
    patterns = ("/v1/classify/:model", "/v2/...", "/healthz", "/")
    routes = RouteTable(Route(pattern, pattern, "component") for pattern in patterns)
    policy = AllowedHosts([AllowedHost.parse("http://127.0.0.1:8080")])
    measure("route, exact", lambda: routes.match("/healthz"))
    measure("route, parameter", lambda: routes.match("/v1/classify/digits"))
    measure("outbound permission", lambda: policy.check("http", "127.0.0.1:8080"))


def main() -> None:
    """Measure everything that is there."""
    print(machine("redis"))
    measure_decisions()
    measure_store("memory", MemoryStore())
    with TemporaryDirectory() as directory:
        with contextlib.closing(SqliteDatabase(Path(directory) / "kv.db")) as database:
            measure_store("sqlite", SqliteStore(database, "default"))
        missing = redis_missing()
        if missing:
            print(f"redis: skipped, {missing}")
            return
        with RedisServer(Path(directory)) as server:
            store = RedisStore(server.url)
            with contextlib.closing(store):
                measure_store("redis", store)


if __name__ == "__main__":
    main()
