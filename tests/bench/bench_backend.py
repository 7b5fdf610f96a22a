"""Measures the backend beside raw `session.run` and the servers that pip can install.

    .venv/bin/python tests/bench/bench_backend.py [--models DIR] [--peers mlserver,litserve]
        [--workloads digits,minilm] [--rounds 3] [--seconds 3] [--priority -15] [--out DIR]

All servers of a workload are up at once and measured in turn, the others stopped, each with the
same model file, the same bodies and wrk; a number is the median of its rounds, a ratio the median
of the ratios within a round. Peers live in `--cache`, made on demand (`bench/peers/catalogue.py`).
Needs wrk (`apt-get install wrk`) and Linux.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from bench.load import WORKLOADS, Load, Workload, drive  # noqa: E402
from bench.overload import Overload, overload  # noqa: E402
from bench.peers.catalogue import PEERS, Peer, PeerError, Server  # noqa: E402
from bench.report import machine  # noqa: E402
from bench.results import render  # noqa: E402
from fakes.backend_process import running_backend  # noqa: E402

OVERLOAD_DEADLINE_MS = 250
PAUSE_S = 0.5


def main() -> int:
    """Measure, print and write; 1 if a request of ours failed, 2 if it cannot be measured."""
    given = _options()
    # So that `kill` also ends the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    wrk = shutil.which("wrk")
    if wrk is None:
        print("error: wrk is not on PATH: apt-get install wrk", file=sys.stderr)
        return 2
    packages = ("onnxruntime", "numpy", "uvicorn", "uvloop", "httptools", "orjson")
    result = (
        _earlier(given.out)
        if given.add
        else {
            "date": _now(),
            "machine": machine(*packages),
            "rounds": given.rounds,
            "seconds": given.seconds,
            "priority": given.priority,
            "load_average_before": os.getloadavg()[1],
            "versions": {},
            "absent": {},
            "workloads": {},
            "overload": {},
        }
    )
    pythons = _install(given.peers, given.cache, result)
    for workload in given.workloads:
        folder = _find_model(given.models, workload.model)
        if folder is None:
            result["absent"][workload.name] = "its model is not built (make models)"
            print(f"{workload.name}: {result['absent'][workload.name]}")
            continue
        print(f"\n{workload.name}", flush=True)
        with _serving(workload, folder, pythons, given.threads, result) as servers:
            floor = Floor(given.priority, [server.session for server in servers])
            result["workloads"][workload.name] = _measure(
                wrk, workload, folder, servers, given, floor
            )
        if workload.name in given.overload:
            result["overload"][workload.name] = _overload(workload, folder, given)
        _write(result, given.out)
    ours = [r for w in result["workloads"].values() for r in w["rounds"] if r["server"] == "ours"]
    return 1 if any(each["failed"] for each in ours) else 0


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _earlier(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "backend.json").read_text(encoding="utf-8"))
    return result


def _write(result: dict[str, Any], folder: Path) -> None:
    """After every workload, so that a run that is cut short leaves what it measured."""
    result["load_average_after"] = os.getloadavg()[1]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "backend.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    render(result, folder)


def _options() -> argparse.Namespace:
    def workloads(text: str) -> list[Workload]:
        return [WORKLOADS[name] for name in text.split(",") if name]

    def peers(text: str) -> list[Peer]:
        return [each for each in PEERS if each.name in text.split(",")]

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models",
        type=Path,
        action="append",
        default=[ROOT / "gpu-backend" / "models", ROOT / ".models"],
        help="folder with models; may be given more than once",
    )
    parser.add_argument("--cache", type=Path, default=cache / "inference-anywhere-bench")
    parser.add_argument("--peers", type=peers, default=list(PEERS), help="names, with commas")
    parser.add_argument("--workloads", type=workloads, default=list(WORKLOADS.values()))
    parser.add_argument("--connections", type=numbers, help="instead of the workloads' own")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of one round")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--overload", default="minilm", help="workloads to overload as well")
    parser.add_argument(
        "--priority", type=int, default=0, help="nice value of what is measured, while it is"
    )
    parser.add_argument("--add", action="store_true", help="keep other workloads in --out")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    given = parser.parse_args()
    given.overload = given.overload.split(",")
    return given


def _install(peers: Sequence[Peer], cache: Path, result: dict[str, Any]) -> dict[Peer, Path]:
    pythons = {}
    for peer in peers:
        try:
            print(f"{peer.name}: environment …", flush=True)
            pythons[peer] = peer.install(cache)
            result["versions"][peer.name] = peer.versions(pythons[peer])
        except PeerError as exc:
            result["absent"][peer.name] = str(exc)
            print(f"{peer.name}: {exc}", flush=True)
    return pythons


def _find_model(roots: Sequence[Path], name: str) -> Path | None:
    return next(
        (root / name for root in roots if (root / name / "1" / "model.onnx").is_file()), None
    )


@contextmanager
def _serving(
    workload: Workload,
    folder: Path,
    pythons: dict[Peer, Path],
    threads: int,
    result: dict[str, Any],
) -> Iterator[list[Server]]:
    """Ours and every peer that starts, over copies of one model file."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-backend-")))
        servers = [stack.enter_context(_ours(folder, scratch, threads))]
        for peer, python in pythons.items():
            if workload.binary and not peer.speaks_binary:
                continue
            log = scratch / f"{peer.name}.log"
            model = scratch / "models" / workload.model / "1" / "model.onnx"
            running = peer.running(
                python, model, threads, (workload.bodies()[0], workload.fields()), log
            )
            try:
                servers.append(stack.enter_context(running))
                print(f"  {peer.name} is up", flush=True)
            except PeerError as exc:
                result["absent"][f"{peer.name}, {workload.name}"] = str(exc)
                print(f"  {peer.name}: {exc}", flush=True)
        yield servers


@contextmanager
def _ours(folder: Path, scratch: Path, threads: int) -> Iterator[Server]:
    """Our backend as it comes: validation, metrics and limits on."""
    shutil.copytree(folder, scratch / "models" / folder.name)
    flags = ("--intra-op-threads", str(threads))
    with running_backend(scratch / "models", scratch / "ours.log", *flags) as backend:
        url = f"{backend.url}/v2/models/{folder.name}/infer"
        yield Server("ours", url, backend.process.pid)


def _measure(
    wrk: str,
    workload: Workload,
    folder: Path,
    servers: Sequence[Server],
    given: argparse.Namespace,
    floor: Floor,
) -> dict[str, Any]:
    bodies, fields = workload.bodies(), workload.fields()
    rounds: list[dict[str, Any]] = []
    limits = [_raw(workload, folder, given.threads, rows, floor) for rows in (1, 32)]
    for connections in given.connections or workload.connections:
        for number in range(given.rounds):
            limits.append(
                _raw(workload, folder, given.threads, 32 if connections > 1 else 1, floor)
            )
            for server in servers:
                time.sleep(PAUSE_S)
                with floor.given_to(server.session):
                    load = drive(wrk, server.url, bodies, fields, connections, given.seconds)
                rounds.append(_row(server, connections, number, load))
                print(
                    f"  {server.name:9} {connections:4} connections  {load.latency} "
                    f"{load.per_second:8.0f} req/s"
                    + (f"  {load.failed} FAILED" * bool(load.failed)),
                    flush=True,
                )
    return {"raw": limits, "rounds": rounds}


def _row(server: Server, connections: int, number: int, load: Load) -> dict[str, Any]:
    return {
        "server": server.name,
        "connections": connections,
        "round": number,
        "per_second": round(load.per_second, 1),
        "failed": load.failed,
        **dataclasses.asdict(load.latency),
    }


def _raw(
    workload: Workload, folder: Path, threads: int, rows: int, floor: Floor
) -> dict[str, float]:
    """`session.run` in one loop, with the settings every server has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"), options)
    feeds = workload.feeds(rows)
    times = []
    with floor.given_to(None):
        end = time.perf_counter() + 1.0
        while time.perf_counter() < end:
            started = time.perf_counter()
            session.run(None, feeds)
            times.append(time.perf_counter() - started)
    p50_s = float(np.median(times))
    print(f"  session.run, {rows:2} rows  p50 {p50_s * 1e3:.3f} ms, {rows / p50_s:.0f} items/s")
    return {"rows": rows, "p50_ms": p50_s * 1e3, "items_per_second": rows / p50_s}


def _overload(workload: Workload, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Ours offered five times what it can do, each request with a deadline."""
    with tempfile.TemporaryDirectory(prefix="bench-backend-") as scratch, ExitStack() as stack:
        server = stack.enter_context(_ours(folder, Path(scratch), given.threads))
        subject = Overload(
            server.url,
            folder.name,
            workload.bodies(),
            workload.fields(),
            OVERLOAD_DEADLINE_MS,
            given.seconds,
        )
        with Floor(given.priority, [server.session]).given_to(server.session):
            measured = overload(subject, lambda name, run: print(f"  {name}: {run}", flush=True))
        return {
            "date": _now(),
            "machine": machine("onnxruntime"),
            "load_average": os.getloadavg()[0],
            "deadline_ms": OVERLOAD_DEADLINE_MS,
            **measured,
        }


class Floor:
    """Gives one server the machine for the length of a block: the others are stopped meanwhile.

    Some servers keep polling while nobody asks them, and would be measured into the rest.

    Args:
        nice: Added to the nice values of this process and of the server within the block; what a
            server gives its own threads, one below the other, stays as it is. 0 changes nothing.
        sessions: First process of every server; descendants are included.
    """

    def __init__(self, nice: int, sessions: Sequence[int]) -> None:
        self._nice = nice
        self._sessions = sessions

    @contextmanager
    def given_to(self, session: int | None) -> Iterator[None]:
        """Stop all servers but this one; None stops all."""
        others = set().union(*(_family(each) for each in self._sessions if each != session))
        measured = {os.getpid(), *(() if session is None else _family(session))}
        _signal(others, signal.SIGSTOP)
        self._add(measured, self._nice)
        try:
            yield
        finally:
            self._add(measured, -self._nice)
            _signal(others, signal.SIGCONT)

    @staticmethod
    def _add(family: Iterable[int], nice: int) -> None:
        if nice == 0:
            return
        for pid in family:
            try:
                # Linux weighs sessions first (autogroup), then the threads within one.
                group = Path(f"/proc/{pid}/autogroup")
                group.write_text(str(min(nice, 0)), encoding="ascii")
                for task in Path(f"/proc/{pid}/task").iterdir():
                    thread = int(task.name)
                    own = os.getpriority(os.PRIO_PROCESS, thread)
                    os.setpriority(os.PRIO_PROCESS, thread, own + nice)
            except OSError:
                continue


def _signal(family: Iterable[int], number: signal.Signals) -> None:
    for pid in family:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _family(root: int) -> set[int]:
    """The process itself and all its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text(encoding="ascii", errors="replace")
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    family, grown = {root}, True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in family}
        grown = not children <= family
        family |= children
    return family


if __name__ == "__main__":
    sys.exit(main())
