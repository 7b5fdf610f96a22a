"""The whole application, started as a user would: `make up`."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
READY_TIMEOUT_S = 400.0
"""More than `make up` itself waits, so that what it says is what a test reports."""


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class MakeUp:
    """One `make up` in a session of its own, with its output in a file."""

    def __init__(self, log: Path, env: Mapping[str, str]) -> None:
        self.edge = f"127.0.0.1:{free_port()}"
        self.backend = f"127.0.0.1:{free_port()}"
        addresses = {"EDGE_LISTEN": self.edge, "BACKEND_LISTEN": self.backend}
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                ["make", "--no-print-directory", "up"],
                cwd=ROOT,
                env={**os.environ, **addresses, **env},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.edge_url = f"http://{self.edge}"
        self.backend_url = f"http://{self.backend}"

    @property
    def output(self) -> str:
        """All it has printed so far."""
        return self._log.read_text(errors="replace")

    def wait_ready(self) -> None:
        """It has printed its last line before it waits."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while "Ctrl-C stops everything." not in self.output:
            assert self.process.poll() is None, f"make up ended early:\n{self.output}"
            assert time.monotonic() < deadline, f"make up was not ready:\n{self.output}"
            time.sleep(0.1)

    def pids(self) -> set[int]:
        """Every live process that was told one of the two addresses."""
        needles = (self.edge.encode(), self.backend.encode())
        found = set()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(entry.name)
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                zombie = " Z " in (entry / "stat").read_text()
                if not zombie and any(needle in text for needle in needles):
                    found.add(pid)
        return found

    def interrupt(self) -> None:
        """What Ctrl-C in the terminal does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)

    def close(self) -> None:
        """Nothing of it is left, whatever state it is in."""
        self.interrupt()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=60)
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(timeout=10)


StartApp = Callable[..., MakeUp]


@pytest.fixture
def start_app(tmp_path: Path) -> Iterator[StartApp]:
    """Start `make up` with more environment; stopped when the test ends."""
    started: list[MakeUp] = []

    def start(**env: str) -> MakeUp:
        app = MakeUp(tmp_path / f"up-{len(started)}.log", {"EDGE_HOST": "embedded", **env})
        started.append(app)
        return app

    yield start
    for app in started:
        app.close()


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeUp]:
    """One running application for all tests that only call it."""
    running = MakeUp(tmp_path_factory.mktemp("up") / "up.log", {"EDGE_HOST": "auto"})
    try:
        running.wait_ready()
        yield running
    finally:
        running.close()
