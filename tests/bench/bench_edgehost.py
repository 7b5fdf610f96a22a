"""Measures the embedded host end to end, over sockets, with a real Python guest.

    .venv/bin/python tests/bench/bench_edgehost.py [--quick]

Latency and throughput come from wrk where it is on PATH, else from a plain client in this file
(which shares the cores with the host, as wrk does, but costs more of them).
"""

from __future__ import annotations

import argparse
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
for folder in ("tests", "scripts"):
    sys.path.insert(0, str(ROOT / folder))

from bench.report import Latency, cpu_seconds, machine, resident_bytes  # noqa: E402
from edgehost.testing import AppOptions, EdgeHostProcess  # noqa: E402
from fakes.guest_builder import build_guest  # noqa: E402

BODY_BYTES = 150_000
WARM_UP_REQUESTS = 100
_REPORT_LUA = """
done = function(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format("REPORT %d %d %d %d %d %d\\n", summary.requests, summary.duration, failed,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What a load run gave."""

    latency: Latency
    per_second: float
    failed: int

    def __str__(self) -> str:
        failed = f"  {self.failed} FAILED" if self.failed else ""
        return f"{self.latency}  {self.per_second:7.0f} req/s{failed}"


def main() -> int:
    """Run every measurement and print it; 1 if a request failed."""
    options = _options()
    seconds = 2 if options.quick else 8
    requests = 3_000 if options.quick else options.requests
    wrk = shutil.which("wrk")
    load = (lambda *a: _wrk(str(wrk), *a)) if wrk else _plain_load
    print(f"machine  {machine('wasmtime', 'h11', 'uvloop')}")
    print(
        f"client   {'wrk' if wrk else 'plain Python'}, {seconds} s a run, one guest instance each"
    )
    failed = 0
    with tempfile.TemporaryDirectory(prefix="edgehost-bench-") as directory:
        manifest = _write_app(Path(directory))
        with EdgeHostProcess(manifest, AppOptions(threads=64)) as app:
            for connections in (1, 2, 32):
                result = load(app.url + "/hello", connections, seconds)
                failed += result.failed
                print(f"hello, {connections:2} connections   {result}", flush=True)
            echo = _time(_echo(app.url), 30 if options.quick else 300)
            print(f"150 KB in and out        {echo}", flush=True)
            failed += _memory(app, requests)
        _threads(manifest, load, 5 if options.quick else 15)
        _start(manifest, 3 if options.quick else 10)
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a minute instead of several")
    parser.add_argument("--requests", type=int, default=50_000, help="for the memory figure")
    return parser.parse_args()


def _write_app(directory: Path) -> Path:
    manifest = directory / "spin.toml"
    manifest.write_text(
        'spin_manifest_version = 2\n[application]\nname = "bench"\nversion = "0.1.0"\n'
        '[[trigger.http]]\nroute = "/..."\ncomponent = "traffic"\n'
        f'[component.traffic]\nsource = "{build_guest("traffic")}"\n'
    )
    return manifest


def _threads(manifest: Path, load: Callable[[str, int, int], Load], rounds: int) -> None:
    """Two guest threads against one, in turns of a second: what else the machine does hits both."""
    ratios = []
    requests, cpu_s = [0, 0], [0.0, 0.0]
    with (
        EdgeHostProcess(manifest, AppOptions(threads=1)) as one,
        EdgeHostProcess(manifest, AppOptions(threads=2)) as two,
    ):
        for number in range(rounds + 1):
            rates = []
            for which, app in enumerate((one, two)):
                before_s = cpu_seconds(app.process.pid)
                result = load(app.url + "/hello", 8, 1)
                rates.append(result.per_second)
                if number:  # the first round warms up
                    requests[which] += result.latency.n
                    cpu_s[which] += cpu_seconds(app.process.pid) - before_s
            if number:
                ratios.append(rates[1] / rates[0])
    cost_ms = [1000 * seconds / count for seconds, count in zip(cpu_s, requests, strict=True)]
    print(
        f"two guest threads        {statistics.median(ratios):.2f} x one  "
        f"(median of {rounds} pairs of 1 s, {min(ratios):.2f} to {max(ratios):.2f}); "
        f"processor time a request {cost_ms[0]:.2f} ms with one, {cost_ms[1]:.2f} ms with two",
        flush=True,
    )


def _memory(app: EdgeHostProcess, requests: int) -> int:
    """Resident memory before and after many requests; the number that failed."""
    _requests(app.url, 2, 1_000)
    before = resident_bytes(app.process.pid)
    failed = _requests(app.url, 2, requests)
    after = resident_bytes(app.process.pid)
    print(
        f"memory, {requests} requests   before {before / 2**20:.1f} MiB, "
        f"after {after / 2**20:.1f} MiB ({(after - before) / 2**20:+.1f})",
        flush=True,
    )
    return failed


def _start(manifest: Path, times: int) -> None:
    """From the start of the process to the first answer of a guest, compiled code in the cache."""
    durations = []
    for _ in range(times):
        started = time.perf_counter()
        with EdgeHostProcess(manifest) as app:
            _get(_connect(app.url), b"/hello")
            durations.append(time.perf_counter() - started)
    print(f"start to first answer    {Latency.of(durations)}", flush=True)


def _wrk(wrk: str, url: str, connections: int, seconds: int) -> Load:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_REPORT_LUA)
        script.flush()
        command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script.name, url]
        printed = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=seconds + 60
        ).stdout
    found = re.search(r"REPORT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", printed)
    if found is None:
        raise RuntimeError(f"wrk said nothing of use:\n{printed}")
    count, duration_us, failed, p50_us, p95_us, p99_us = map(int, found.groups())
    latency = Latency(count, p50_us / 1000, p95_us / 1000, p99_us / 1000)
    return Load(latency, count / (duration_us / 1e6), failed)


def _plain_load(url: str, connections: int, seconds: int) -> Load:
    deadline = time.perf_counter() + seconds
    durations: list[float] = []

    def client() -> None:
        with _connect(url) as connection:
            while time.perf_counter() < deadline:
                started = time.perf_counter()
                _get(connection, b"/hello")
                durations.append(time.perf_counter() - started)

    _in_threads(client, connections)
    return Load(Latency.of(durations), len(durations) / seconds, 0)


def _requests(url: str, connections: int, total: int) -> int:
    """Send `total` requests over `connections`; the number that were not answered with hello."""
    failures: list[bytes] = []

    def client() -> None:
        with _connect(url) as connection:
            for _ in range(total // connections):
                answer = _get(connection, b"/hello")
                if not answer.endswith(b"hello"):
                    failures.append(answer)

    _in_threads(client, connections)
    return len(failures)


def _in_threads(work: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _time(action: Callable[[], None], times: int) -> Latency:
    durations = []
    for _ in range(max(5, times // 10)):
        action()
    for _ in range(times):
        started = time.perf_counter()
        action()
        durations.append(time.perf_counter() - started)
    return Latency.of(durations)


def _echo(url: str) -> Callable[[], None]:
    connection = _connect(url)
    body = bytes(range(250)) * (BODY_BYTES // 250)
    head = f"POST /echo HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    def action() -> None:
        connection.sendall(head + body)
        if _receive(connection).partition(b"\r\n\r\n")[2] != body:
            raise RuntimeError("the echo is not what was sent")

    return action


def _connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _get(connection: socket.socket, path: bytes) -> bytes:
    connection.sendall(b"GET %s HTTP/1.1\r\nHost: bench\r\n\r\n" % path)
    return _receive(connection)


def _receive(connection: socket.socket) -> bytes:
    """One response with a content-length, head included."""
    received = bytearray()
    while b"\r\n\r\n" not in received:
        received += _some(connection)
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    if length is None:
        raise RuntimeError(f"no content-length: {head!r}")
    missing = int(length[1]) - len(body)
    while missing > 0:
        data = _some(connection)
        received += data
        missing -= len(data)
    return bytes(received)


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 20)
    if not data:
        raise RuntimeError("the host closed the connection")
    return data


if __name__ == "__main__":
    sys.exit(main())
