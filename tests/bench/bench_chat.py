"""Measures chat through the edge, through LiteLLM's proxy, and without either, in one run.

    make bench-chat                                        about six minutes
    .venv/bin/python tests/bench/bench_chat.py --quick     about two; writes nothing

The edge is the embedded host with `build/chat.wasm`. Two upstreams: a scripted one that generates
by the clock, so that only what stands before it counts, and the backend with the model that ships.
All systems of a section are up at once and measured in turn; an overhead is the median over the
rounds of the differences within a round. LiteLLM lives in `--cache`, made on demand from its pin;
`--no-peer` leaves it out. Client, servers and proxies share the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import uvloop

ROOT = Path(__file__).resolve().parents[2]
for _folder in ("tests", "scripts"):
    sys.path.insert(0, str(ROOT / _folder))

from bench import chat_load  # noqa: E402
from bench.chat_load import Calls, chat_body  # noqa: E402
from bench.chat_tables import render, report  # noqa: E402
from bench.paced_upstream import PACE_S, SLOW_S  # noqa: E402
from bench.peers.catalogue import PeerError, free_ports  # noqa: E402
from bench.peers.litellm_proxy import LITELLM, running_litellm  # noqa: E402
from bench.report import Latency, machine, resident_bytes  # noqa: E402
from edgehost.testing import AppOptions, EdgeHostProcess  # noqa: E402
from fakes.backend_process import running_backend  # noqa: E402

MODELS = ROOT / "gpu-backend" / "models"
MODEL = "tiny-docs"
PROMPT = "What does open() do?"
ENDLESS = "(((((((("
"""The shipped model's greedy answer to it does not end by itself: streams of equal length fill the
batch. With `top_k` 1 the temperature says nothing, yet nobody takes the call for deterministic."""
STREAMS = (1, 8, 32)
WAVE = 64
IDENTICAL = 20
LEFT = 50
CANCEL_PARALLEL = 32
SLICES = 10
"""Memory is looked at after each tenth of the cancelled streams."""

SETTLE_S = 20.0

_numbers = count(1)
"""No two prompts are alike, so nothing can be answered from a cache."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: Of every number.
        words: Of a paced stream.
        tokens: Of a stream of the backend.
        alone: Calls in a row, not streamed, on one connection.
        busy: The same on each of 16.
        waves: Of 64 streams, for memory.
        cancelled: Streams that are left.
    """

    rounds: int = 3
    words: int = 32
    tokens: int = 128
    alone: int = 100
    busy: int = 20
    waves: int = 10
    cancelled: int = 10_000


QUICK = Plan(rounds=1, words=16, alone=60, busy=10, waves=6, cancelled=1_000)


@dataclass(frozen=True, slots=True)
class System:
    """One way to the upstream; `pid` of what stands in it, to be watched."""

    name: str
    url: str
    pid: int | None = None


def main() -> int:
    """Measure, print and write; 1 if a call through us failed, 2 if nothing can be measured."""
    given = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not (ROOT / "build" / "chat.wasm").is_file():
        print("error: build/chat.wasm is missing: make build", file=sys.stderr)
        return 2
    plan = QUICK if given.quick else Plan()
    result: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine("wasmtime", "h11", "uvloop", "onnxruntime", "onnxruntime-genai"),
        "peer": "",
        "plan": asdict(plan),
        "load_average_before": os.getloadavg()[1],
    }
    print(f"machine  {result['machine']}", flush=True)
    python = _install(given, result)
    with tempfile.TemporaryDirectory(prefix="bench-chat-") as name, ExitStack() as stack:
        folder = Path(name)
        paced = stack.enter_context(_paced_upstream(folder))
        backend = stack.enter_context(running_backend(MODELS, folder / "backend.log")).url
        peer = None
        if python is not None:
            routes = {"paced": f"{paced}/v1", "slow": f"{paced}/v1", MODEL: f"{backend}/v1"}
            try:
                peer = stack.enter_context(running_litellm(python, routes, folder))
            except PeerError as exc:
                print(f"litellm: {exc}", file=sys.stderr)
                result["peer"] = f"litellm {exc}"
        peers = [] if peer is None else [System("litellm", peer.url, peer.session)]
        with _edge(chat_upstream="openai", chat_upstream_url=paced) as edge:
            systems = [System("direct", paced), edge, *peers]
            result["paced"] = _paced_streams(systems, plan)
            result["whole"] = _whole_calls(systems, plan)
            result["identical"] = _identical(systems, paced)
            result["left"] = _left(edge, paced)
            result["memory"] = _memory(edge, plan)
        with _edge(backend_url=backend) as edge:
            systems = [System("direct", backend), edge, *peers]
            result["backend"] = _backend_streams(systems, plan)
            result["cancelled"] = _cancelled(edge, backend, plan)
    result["load_average_after"] = os.getloadavg()[1]
    print(report(result))
    if not given.quick:
        given.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(result, indent=1) + "\n"
        (given.out / "chat.json").write_text(text, encoding="utf-8")
        render(result, given.out)
    return 1 if _failures(result) else 0


def _options() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds; writes nothing")
    parser.add_argument("--no-peer", action="store_true", help="without LiteLLM")
    parser.add_argument("--cache", type=Path, default=cache / "inference-anywhere-bench")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    return parser.parse_args()


def _failures(result: dict[str, Any]) -> int:
    rows = [*result["paced"], *result["whole"], *result["identical"], *result["backend"]]
    ours = sum(row["failed"] for row in rows if row["system"] != "litellm")
    return int(ours + result["memory"]["failed"] + result["cancelled"]["failed"])


# -- what is started -----------------------------------------------------------------------------


def _install(given: argparse.Namespace, result: dict[str, Any]) -> Path | None:
    if given.no_peer:
        return None
    print("litellm: environment …", flush=True)
    try:
        python = LITELLM.install(given.cache)
        result["peer"] = LITELLM.versions(python)
    except PeerError as exc:
        result["peer"] = f"litellm {exc}"
        print(result["peer"], file=sys.stderr)
        return None
    return python


@contextmanager
def _edge(**variables: str) -> Iterator[System]:
    """The application in the embedded host, with its defaults otherwise."""
    options = AppOptions(variables=variables, threads=WAVE, request_timeout_s=120.0)
    with EdgeHostProcess(ROOT / "spin.toml", options) as app:
        yield System("edge", app.url, app.process.pid)


@contextmanager
def _paced_upstream(folder: Path) -> Iterator[str]:
    port = free_ports(1)
    with (folder / "paced.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.paced_upstream", "--port", str(port)],
            cwd=ROOT / "tests",
            stderr=log,
        )
    try:
        deadline = time.monotonic() + SETTLE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


# -- what is measured ----------------------------------------------------------------------------


def _paced_streams(systems: Sequence[System], plan: Plan) -> list[dict[str, Any]]:
    """Streams by the clock: what is added to the first token and to the whole."""
    return _streams("paced streams", systems, plan, _bodies("paced", plan.words, stream=True))


def _backend_streams(systems: Sequence[System], plan: Plan) -> list[dict[str, Any]]:
    """Streams of the model that ships, as fast as it generates."""
    return _streams("streams of the backend", systems, plan, _endless(plan.tokens))


def _streams(
    title: str, systems: Sequence[System], plan: Plan, body: Callable[[int], bytes]
) -> list[dict[str, Any]]:
    each = {1: 8, 8: 3, 32: 2}
    return _in_turn(
        title,
        systems,
        [(parallel, each[parallel]) for parallel in STREAMS],
        plan.rounds,
        lambda system, parallel, n: chat_load.streams(system.url, body, parallel, n),
    )


def _whole_calls(systems: Sequence[System], plan: Plan) -> list[dict[str, Any]]:
    """Calls that are not streamed and answered at once: the overhead alone."""
    body = _bodies("paced", 16, stream=False)
    return _in_turn(
        "calls not streamed",
        systems,
        [(1, plan.alone), (16, plan.busy)],
        plan.rounds,
        lambda system, parallel, n: chat_load.ask(system.url, body, parallel, n),
    )


def _in_turn(
    title: str,
    systems: Sequence[System],
    loads: Sequence[tuple[int, int]],
    rounds: int,
    call: Callable[[System, int, int], Coroutine[Any, Any, Calls]],
) -> list[dict[str, Any]]:
    """Every system under every load, `rounds` times; the order turns from round to round."""
    print(f"\n{title}", flush=True)
    for system in systems:  # connections, caches and compiled code of all of them
        uvloop.run(call(system, 2, 3))
    rows = []
    for number in range(rounds):
        turned = [*systems[number % len(systems) :], *systems[: number % len(systems)]]
        for parallel, each in loads:
            for system in turned:
                calls = uvloop.run(call(system, parallel, each))
                row = _row(system, parallel, number, calls)
                rows.append(row)
                print(f"  {parallel:3} × {system.name:8} {_line(row)}", flush=True)
    return rows


def _row(system: System, parallel: int, number: int, calls: Calls) -> dict[str, Any]:
    row: dict[str, Any] = {
        "system": system.name,
        "parallel": parallel,
        "round": number,
        "failed": calls.failed,
        "tokens_per_s": calls.tokens / calls.seconds,
        "calls_per_s": len(calls.whole_s) / calls.seconds,
    }
    if calls.first_s:
        row["first"] = asdict(Latency.of(calls.first_s))
    if calls.whole_s:
        row["whole"] = asdict(Latency.of(calls.whole_s))
    if system.pid is not None:
        row["resident_mib"] = resident_bytes(system.pid) / 2**20
    return row


def _line(row: dict[str, Any]) -> str:
    parts = [f"{key} {Latency(**row[key])}" for key in ("first", "whole") if key in row]
    failed = f"  {row['failed']} FAILED" if row["failed"] else ""
    return f"{'  '.join(parts)}  {row['tokens_per_s']:7.0f} tokens/s{failed}"


def _identical(systems: Sequence[System], paced: str) -> list[dict[str, Any]]:
    """Equal calls at the same time, of a model that takes 0.2 s: how many reach it."""
    print(f"\n{IDENTICAL} identical calls at once, {SLOW_S * 1e3:.0f} ms each", flush=True)
    rows = []
    for system in systems:
        body = chat_body(
            "slow", f"{PROMPT} {next(_numbers)}", 16, stream=False, temperature=0, seed=1
        )
        before = _tally(paced)["calls"]
        calls = uvloop.run(chat_load.identical(system.url, body, IDENTICAL))
        row = {
            **_row(system, IDENTICAL, 0, calls),
            "upstream_calls": _tally(paced)["calls"] - before,
        }
        rows.append(row)
        print(f"  {system.name:8} {row['upstream_calls']:2} upstream  {_line(row)}", flush=True)
    return rows


def _memory(edge: System, plan: Plan) -> dict[str, Any]:
    """Resident memory over waves of 64 parallel streams."""
    assert edge.pid is not None
    print(f"\n{WAVE} parallel streams on one edge host", flush=True)
    body = _bodies("paced", plan.words, stream=True)
    before = resident_bytes(edge.pid)
    waves, first_s, failed = [], [], 0
    for _ in range(plan.waves):
        with _Peak(edge.pid) as peak:
            calls = uvloop.run(chat_load.streams(edge.url, body, WAVE, 1))
        failed += calls.failed
        first_s += calls.first_s
        waves.append(peak.bytes / 2**20)
        print(f"  wave: peak {waves[-1]:.1f} MiB, {calls.failed} failed", flush=True)
    return {
        "streams": WAVE,
        "before_mib": before / 2**20,
        "peaks_mib": waves,
        "failed": failed,
        "first": asdict(Latency.of(first_s)) if first_s else None,
    }


class _Peak:
    """Highest resident memory of a process inside the block, looked at every 20 ms."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.bytes = 0

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.bytes = max(self.bytes, resident_bytes(self._pid))

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _cancelled(edge: System, backend: str, plan: Plan) -> dict[str, Any]:
    """Streams that clients leave, at every stage: what is left of them."""
    assert edge.pid is not None
    print(f"\n{plan.cancelled} cancelled streams", flush=True)
    body = _endless(256)
    each = plan.cancelled // CANCEL_PARALLEL

    def run(number: int) -> Calls:
        return uvloop.run(chat_load.cancel(edge.url, body, CANCEL_PARALLEL, number))

    # What is allocated once: as many instances as may be alive together, and connections.
    uvloop.run(chat_load.streams(edge.url, _endless(64), WAVE, 3))
    run(max(4, each // SLICES))
    _settle(backend, edge.pid, None)
    before = _footprint(edge.pid)
    slices, resident = [], []
    for _ in range(SLICES):
        slices.append(run(each // SLICES))
        resident.append(resident_bytes(edge.pid) / 2**20)
    settled_s = _settle(backend, edge.pid, before)
    after = _footprint(edge.pid)
    again = uvloop.run(chat_load.streams(edge.url, body, 8, 1))
    found = {
        "count": sum(len(calls.whole_s) for calls in slices),
        "per_s": statistics.median(len(calls.whole_s) / calls.seconds for calls in slices),
        "failed": sum(calls.failed for calls in slices) + again.failed,
        "resident_mib": resident,
        "running_after": _generations(backend),
        "settled_s": settled_s,
        "before": before,
        "after": after,
    }
    print(f"  {found}", flush=True)
    return found


def _left(edge: System, paced: str) -> dict[str, Any]:
    """From leaving a stream of ten seconds at its first text until the upstream has stopped."""
    body = _bodies("paced", round(10 / PACE_S), stream=True)
    seconds = []
    for number in range(LEFT):
        left_at = uvloop.run(chat_load.leave(edge.url, body(number)))
        while _tally(paced)["open"]:
            if time.perf_counter() - left_at > SETTLE_S:
                raise RuntimeError("a stream was left, and its upstream went on")
        seconds.append(time.perf_counter() - left_at)
    latency = Latency.of(seconds)
    print(f"\nleft streams, until the upstream has stopped: {latency}", flush=True)
    return asdict(latency)


def _settle(backend: str, pid: int, before: dict[str, float] | None) -> float:
    """Seconds until the backend generates nothing and the edge has closed what it had opened."""
    started = time.monotonic()
    while time.monotonic() - started < SETTLE_S:
        files = before is None or _footprint(pid)["files"] <= before["files"]
        if _generations(backend) == 0 and files:
            break
        time.sleep(0.01)
    return time.monotonic() - started


def _footprint(pid: int) -> dict[str, float]:
    """Open files, threads and resident memory of a process (Linux)."""
    process = Path(f"/proc/{pid}")
    return {
        "files": sum(1 for _ in (process / "fd").iterdir()),
        "threads": sum(1 for _ in (process / "task").iterdir()),
        "resident_mib": resident_bytes(pid) / 2**20,
    }


def _generations(backend: str) -> int:
    """That run or wait in the backend."""
    with urllib.request.urlopen(f"{backend}/metrics", timeout=10) as response:
        text = response.read().decode()
    found = re.findall(r"^backend_generations\{[^}]*\} (\S+)$", text, re.MULTILINE)
    assert found, "the backend's metrics do not tell its generations"
    return int(sum(float(value) for value in found))


def _tally(paced: str) -> dict[str, int]:
    """Answers that were asked for, and streams that are open."""
    with urllib.request.urlopen(f"{paced}/calls", timeout=10) as response:
        found: dict[str, int] = json.load(response)
    return found


def _bodies(model: str, tokens: int, *, stream: bool) -> Callable[[int], bytes]:
    return lambda _: chat_body(model, f"{PROMPT} {next(_numbers)}", tokens, stream=stream)


def _endless(tokens: int) -> Callable[[int], bytes]:
    body = chat_body(MODEL, ENDLESS, tokens, stream=True, top_k=1)
    return lambda _: body


if __name__ == "__main__":
    raise SystemExit(main())
