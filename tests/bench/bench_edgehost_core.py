"""Measures the Wasm core of the embedded host without a network.

    python tests/bench/bench_edgehost_core.py [--requests N] [--soak N]

"Visible" is the time from the call of `handle` to the last byte of the answer, "whole" the time
until `handle` returns with the used instance closed and the next one made. Every request has an
instance of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in ("tests", "scripts"):
    sys.path.insert(0, str(ROOT / folder))

from bench.report import Latency, machine, resident_bytes  # noqa: E402
from edgehost.ports import BodyWriter, ComponentSpec, Headers, IncomingRequest  # noqa: E402
from edgehost.wasm import CompiledComponent, ComponentRunner, WasmEngine  # noqa: E402
from fakes.edgehost_http import MemoryBody, MemorySink, MemoryWriter, NoOutbound, request  # noqa: E402
from fakes.guest_builder import BUILD_DIR, build_guest  # noqa: E402

CACHE_DIR = BUILD_DIR / "compiled"
PAYLOAD = bytes(range(256)) * 588  # 150,528 bytes: a 224 by 224 RGB image
WARM_UP = 50

MakeRequest = Callable[[], IncomingRequest]


class TimedWriter(MemoryWriter):
    """Notes when the body was finished."""

    ended_at = 0.0

    def finish(self, trailers: Headers | None = None) -> None:
        self.ended_at = time.perf_counter()
        super().finish(trailers)


class TimedSink(MemorySink):
    """A sink with a `TimedWriter`."""

    def __init__(self) -> None:
        super().__init__(writer=TimedWriter())

    def start(self, status: int, headers: Headers) -> BodyWriter:
        return super().start(status, headers)


def hello() -> IncomingRequest:
    return request("/", headers=[("accept", b"*/*"), ("user-agent", b"bench")])


def echo() -> IncomingRequest:
    return request("/", method="POST", body=MemoryBody(PAYLOAD))


def measure(runner: ComponentRunner, make: MakeRequest, count: int) -> tuple[Latency, Latency]:
    """Latency until the last byte, and until the instance was replaced."""
    visible, whole = [], []
    for number in range(count + WARM_UP):
        incoming, sink = make(), TimedSink()
        started = time.perf_counter()
        runner.handle(incoming, sink)
        ended = time.perf_counter()
        assert isinstance(sink.writer, TimedWriter)
        assert sink.writer.finished, sink.error
        if number >= WARM_UP:
            visible.append(sink.writer.ended_at - started)
            whole.append(ended - started)
    return Latency.of(visible), Latency.of(whole)


def throughput(runner: ComponentRunner, make: MakeRequest, threads: int, count: int) -> float:
    """Requests per second with `threads` threads, `count` requests each."""

    def work() -> None:
        for _ in range(count):
            sink = MemorySink()
            runner.handle(make(), sink)
            assert sink.writer.finished, sink.error

    workers = [threading.Thread(target=work) for _ in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return threads * count / (time.perf_counter() - started)


def soak(runner: ComponentRunner, count: int) -> tuple[int, int]:
    """Resident bytes after a tenth of `count` requests, and after all of them."""
    early = 0
    for number in range(count):
        if number == count // 10:
            early = resident_bytes()
        runner.handle(hello(), MemorySink())
    return early, resident_bytes()


def start_to_first_answer() -> float:
    """Seconds from starting Python to the answer of a first request, compiled code cached."""
    started = time.perf_counter()
    subprocess.run([sys.executable, __file__, "--first-answer"], check=True, timeout=60)
    return time.perf_counter() - started


def make_runner(engine: WasmEngine, compiled: CompiledComponent, prewarm: int) -> ComponentRunner:
    spec = ComponentSpec("hello", compiled.source)
    return ComponentRunner(
        engine, compiled, spec, NoOutbound(), lambda *line: print(*line), prewarm=prewarm
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000, help="requests per figure")
    parser.add_argument("--soak", type=int, default=0, help="requests to watch memory over")
    parser.add_argument("--first-answer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()

    engine = WasmEngine(cache_dir=CACHE_DIR)
    compiled = engine.load(build_guest("hello"))
    runner = make_runner(engine, compiled, prewarm=1 if options.first_answer else 2)
    if options.first_answer:
        sink = MemorySink()
        runner.handle(hello(), sink)
        assert sink.body == b"hello"
        return

    print(f"embedded host, Wasm core only. {machine('wasmtime')}")
    for name, make in (("hello", hello), ("150 KB in and out", echo)):
        visible, whole = measure(runner, make, options.requests)
        print(f"{name:<18} visible  {visible}")
        print(f"{name:<18} whole    {whole}")
    cold = make_runner(engine, compiled, prewarm=0)
    print(f"{'hello, no prewarm':<18} visible  {measure(cold, hello, options.requests)[0]}")
    cold.close()
    for name, make in (("hello", hello), ("150 KB in and out", echo)):
        one, two = (throughput(runner, make, threads, options.requests) for threads in (1, 2))
        print(f"{name:<18} 1 thread {one:7.0f}/s, 2 threads {two:7.0f}/s = {two / one:.2f} times")
    if options.soak:
        early, late = soak(runner, options.soak)
        print(
            f"memory             {early / 2**20:.1f} MiB after {options.soak // 10} requests, "
            f"{late / 2**20:.1f} MiB after {options.soak}"
        )
    print(f"start to first answer, warm cache: {start_to_first_answer() * 1000:.0f} ms")
    runner.close()
    engine.close()


if __name__ == "__main__":
    main()
