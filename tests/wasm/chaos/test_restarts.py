"""Edge and backend killed with SIGKILL under traffic: records are accounted for to the last one."""

from __future__ import annotations

import contextlib
import http.client
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from build_components import ROOT
from edgehost.testing import AppOptions, EdgeHostProcess
from edgekit.policy.counters import read_counter
from fakes.backend_process import running_backend
from fakes.chaos_backend import ChaosBackend
from fakes.inference_backend import Fault
from fakes.inference_server import serve_backend
from fakes.tcp_proxy import TcpProxy
from wasm.cases.table import Answer
from wasm.chaos.stage import PATIENCE_S, VARIABLES, classify
from wasm.hosts import STORE_FILE, HttpEdge

CLIENTS = 4


def edge_process(state: Path, backend_url: str) -> EdgeHostProcess:
    variables = {**VARIABLES, "backend_url": backend_url}
    options = AppOptions(variables=variables, state_dir=state, threads=4)
    return EdgeHostProcess(ROOT / "spin.toml", options)


class Crowd:
    """Clients that ask one after the other, and count what they were answered."""

    def __init__(self, edge: HttpEdge) -> None:
        self._edge = edge
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.answers: list[Answer] = []
        self.broken = 0
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                answer = classify(self._edge)
            except (OSError, http.client.HTTPException):
                with self._lock:
                    self.broken += 1
                return
            with self._lock:
                self.answers.append(answer)

    def await_answers(self, count: int) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while len(self.answers) < count:
            assert time.monotonic() < deadline_s, f"only {len(self.answers)} answers"
            time.sleep(0.01)

    def go_home(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a client was not answered"


def spooled(state: Path) -> int:
    """Records, and numbers without one, that wait in the key-value store for their delivery."""
    with contextlib.closing(sqlite3.connect(state / STORE_FILE)) as database:
        rows = database.execute(
            "SELECT key, value FROM spin_key_value WHERE key IN ('spool/head', 'spool/tail')"
        )
        counters = {key: read_counter(value) for key, value in rows}
    return counters["spool/tail"] - counters.get("spool/head", 0)


def drain(edge: HttpEdge, state: Path, kept: Callable[[], int], wanted: int) -> int:
    """Keep asking, so that spooled records are flushed, to the last; how many requests it took."""
    asked = 0
    deadline_s = time.monotonic() + PATIENCE_S
    while kept() < wanted + asked or spooled(state):
        assert time.monotonic() < deadline_s, f"{kept()} of {wanted + asked}, {spooled(state)} wait"
        assert classify(edge).status == 200
        asked += 1
        time.sleep(0.3)
    return asked


@pytest.mark.slow
def test_edge_killed_under_traffic_delivers_every_accepted_record_once(tmp_path: Path) -> None:
    backend = ChaosBackend(tmp_path / "records.sqlite")
    backend.lose_answers = True
    answered = in_flight = 0
    with serve_backend(backend) as url:
        for number in range(3):
            backend.fault = Fault.RESET if number == 1 else Fault.NONE
            with edge_process(tmp_path / "state", url) as process:
                crowd = Crowd(HttpEdge(process.url, tmp_path / "state", lambda _: None))
                crowd.await_answers(25)
                process.process.kill()
                process.process.wait()
                crowd.go_home()
                assert {answer.status for answer in crowd.answers} == {200}
                answered += len(crowd.answers)
                in_flight += CLIENTS
        backend.fault = Fault.NONE
        with edge_process(tmp_path / "state", url) as process:
            edge = HttpEdge(process.url, tmp_path / "state", lambda _: None)

            def kept() -> int:
                return backend.book.summary().records

            # A record is accepted after its response: those of requests in flight may be missing,
            # and those of answers that did not reach their clients may be there.
            asked = drain(edge, tmp_path / "state", kept, answered - in_flight)
    total = answered + asked
    assert total - in_flight <= backend.book.summary().records <= total + in_flight
    assert backend.book.summary().dropped == 0
    backend.book.close()


@contextlib.contextmanager
def real_backend(tmp_path: Path, name: str) -> Iterator[tuple[str, int, object]]:
    models = ROOT / "gpu-backend" / "models"
    flags = ("--records", str(tmp_path / "records.sqlite"))
    with running_backend(models, tmp_path / f"{name}.log", *flags) as backend:
        address = urlsplit(backend.url)
        assert address.hostname is not None
        assert address.port is not None
        yield address.hostname, address.port, backend.process


@pytest.mark.slow
def test_backend_killed_under_traffic_is_covered_and_keeps_what_it_acknowledged(
    tmp_path: Path,
) -> None:
    with contextlib.ExitStack() as stack:
        host, port, process = stack.enter_context(real_backend(tmp_path, "first"))
        proxy = stack.enter_context(TcpProxy((host, port)))
        edge_host = stack.enter_context(edge_process(tmp_path / "state", proxy.url))
        edge = HttpEdge(edge_host.url, tmp_path / "state", lambda _: None)
        crowd = Crowd(edge)
        crowd.await_answers(30)
        process.kill()  # type: ignore[attr-defined]
        process.wait()  # type: ignore[attr-defined]
        crowd.await_answers(len(crowd.answers) + 30)
        host, port, _ = stack.enter_context(real_backend(tmp_path, "second"))
        proxy.target = (host, port)
        crowd.await_answers(len(crowd.answers) + 30)
        crowd.go_home()
        assert crowd.broken == 0
        assert {answer.status for answer in crowd.answers} == {200}

        def kept() -> int:
            shown = httpx.get(f"http://{host}:{port}/v1/records").json()
            assert shown["dropped"] == 0
            return int(shown["records"])

        asked = drain(edge, tmp_path / "state", kept, len(crowd.answers))
        assert kept() == len(crowd.answers) + asked
