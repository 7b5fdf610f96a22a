"""What one request costs at each station: the inputs of scripts/simulate_scale.py.

    make build
    PYTHONPATH=components:scripts:tests .venv/bin/python tests/bench/bench_scale_inputs.py

CPU time, not latency: of the edge's process, the backend's and redis-server's, over requests sent
one after the other with tenants and limits on, less what they spend idle. Redis counts its commands
itself. CPU time depends little on who else uses the machine; it is not free of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import redis

from bench.report import machine
from build_components import ROOT
from edgehost.testing import AppOptions, EdgeHostProcess
from fakes.backend_process import running_backend

REQUESTS = 200
WARM_UP = 30
SIDE = 28
PATH = f"/v1/classify/digits?width={SIDE}&height={SIDE}"
KEY = "sk-of-the-benchmark"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
TENANTS = {"acme": {"keys": [DIGEST], "rate_per_s": 10_000, "burst": 10_000}}
SETTLE_S = 1.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Commands that a connection is opened with or that the host's checks make, not a request.
UNCOUNTED = ("info", "auth", "client", "hello", "ping", "config", "select", "command")

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Cost:
    """Of one request: CPU milliseconds of three processes, commands to the store, swaps."""

    edge_ms: float
    backend_ms: float
    store_ms: float
    commands: float
    swaps: float


def picture(number: int) -> bytes:
    """784 pixels that depend on `number`, with a stroke in them."""
    pixels = bytearray(SIDE * SIDE)
    for row in range(4, 24):
        pixels[row * SIDE + 13] = pixels[row * SIDE + 14] = 255
    pixels[-4:] = number.to_bytes(4, "big")
    return bytes(pixels)


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


@contextlib.contextmanager
def store(folder: Path) -> Iterator[tuple[str, int]]:
    """A Redis server of its own; yields its URL and process number."""
    server = shutil.which("redis-server")
    if server is None:
        raise SystemExit("redis-server is not on PATH")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        server,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        str(folder),
        "--save",
        "",
    ]
    with subprocess.Popen([*command, "--save", ""], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not any("Ready to accept connections" in line for line in process.stdout):
                raise SystemExit("redis-server does not start")
            yield f"redis://127.0.0.1:{port}", process.pid
        finally:
            process.kill()


def commands(client: redis.Redis) -> dict[str, int]:
    stats = client.info("commandstats")
    return {
        name.removeprefix("cmdstat_").partition("|")[0]: one["calls"]
        for name, one in stats.items()
        if name.removeprefix("cmdstat_").partition("|")[0] not in UNCOUNTED
    }


def send(url: str, bodies: Iterator[bytes], count: int) -> None:
    address = urlsplit(url)
    headers = {"content-type": "application/octet-stream", "authorization": f"Bearer {KEY}"}
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    with contextlib.closing(connection):
        for body in itertools.islice(bodies, count):
            connection.request("POST", PATH, body, headers)
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                raise SystemExit(f"status {response.status}: {content[:300]!r}")


def measure(
    url: str, pids: tuple[int, int, int], client: redis.Redis, bodies: Iterator[bytes]
) -> Cost:
    """The mean cost of `REQUESTS` requests, what is done after the response included."""
    send(url, bodies, WARM_UP)
    time.sleep(SETTLE_S)
    before, counted = [cpu_s(pid) for pid in pids], commands(client)
    started = time.monotonic()
    send(url, bodies, REQUESTS)
    time.sleep(SETTLE_S)
    busy_s = time.monotonic() - started
    after, made = [cpu_s(pid) for pid in pids], commands(client)
    idle = [idle_share(pid) * busy_s for pid in pids]
    each = [
        (end - begin - rest) / REQUESTS * 1000
        for begin, end, rest in zip(before, after, idle, strict=True)
    ]
    new = {name: count - counted.get(name, 0) for name, count in made.items()}
    # The host's compare-and-swap is a script; Redis counts its GET and its SET as well. Spin's is a
    # WATCH on a connection of its own, which the model prices apart.
    swaps = new.get("evalsha", 0)
    plain = (sum(new.values()) - 3 * swaps) / REQUESTS
    edge_ms, backend_ms, store_ms = each
    return Cost(edge_ms, backend_ms, store_ms, plain, swaps / REQUESTS)


def idle_share(pid: int, seconds: float = 1.0) -> float:
    """CPU seconds per second of a process that nobody asks for anything."""
    before = cpu_s(pid)
    time.sleep(seconds)
    return (cpu_s(pid) - before) / seconds


def command_us(url: str, pid: int, *flags: str) -> float:
    """CPU microseconds of the server per GET, by redis-benchmark."""
    tool = shutil.which("redis-benchmark")
    if tool is None:
        raise SystemExit("redis-benchmark is not on PATH")
    count = 60_000 if not flags else 10_000
    before = cpu_s(pid)
    command = [tool, "-p", str(urlsplit(url).port), "-t", "get", "-n", str(count), "-q", *flags]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return (cpu_s(pid) - before) / count * 1e6


def main() -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        models, log = ROOT / "gpu-backend" / "models", folder / "backend.log"
        records = folder / "records.sqlite"
        backend = stack.enter_context(running_backend(models, log, "--records", str(records)))
        url, store_pid = stack.enter_context(store(folder))
        config = folder / "runtime-config.toml"
        config.write_text(
            "[outbound_http]\nconnection_pooling = true\n"
            f'[key_value_store.default]\ntype = "redis"\nurl = "{url}"\n',
            encoding="utf-8",
        )
        variables = {
            "backend_url": backend.url,
            "api_keys": json.dumps(TENANTS),
            "infer_cache_ttl_s": "300",
        }
        options = AppOptions(variables=variables, runtime_config=config, threads=2)
        edge = stack.enter_context(EdgeHostProcess(ROOT / "spin.toml", options))
        client = stack.enter_context(contextlib.closing(redis.Redis.from_url(url)))
        pids = (edge.process.pid, backend.process.pid, store_pid)
        rows = {
            "miss": measure(edge.url, pids, client, (picture(n) for n in _numbers)),
            "hit": measure(edge.url, pids, client, itertools.repeat(picture(0))),
        }
        version = re.sub(r"[^\d.]", "", str(client.info("server")["redis_version"]))
        print(machine("wasmtime", "onnxruntime"), f"redis-server {version}")
        print(
            f"{'':<6}{'edge ms':>9}{'backend ms':>12}{'store ms':>10}{'commands':>10}{'swaps':>7}"
        )
        for title, cost in rows.items():
            print(
                f"{title:<6}{cost.edge_ms:>12.1f}{cost.backend_ms:>12.2f}{cost.store_ms:>12.3f}"
                f"{cost.commands:>12.1f}{cost.swaps:>12.1f}"
            )
        print(f"GET on an open connection: {command_us(url, store_pid):.0f} µs of redis-server")
        print(f"connect and GET:           {command_us(url, store_pid, '-k', '0'):.0f} µs")


if __name__ == "__main__":
    main()
