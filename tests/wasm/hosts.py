"""The whole application in a real host, seen through HTTP: the embedded one, or Spin."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from build_components import ROOT
from edgehost.testing import AppOptions, EdgeHost
from wasm.cases.table import Answer, Call

__all__ = ["HttpEdge", "SettledEdge", "embedded", "spin", "with_engine_embeddings"]

MANIFEST = ROOT / "spin.toml"
STORE_FILE = "sqlite_key_value.db"
START_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 30.0


class HttpEdge:
    """A running application; both hosts keep the default store in a file of one form.

    Args:
        url: Where it listens.
        state_dir: Where that file is.
        settle: Returns when the guest has done what it does after its response.
        running: How many guests hold a thread; Spin does not tell.
    """

    def __init__(
        self,
        url: str,
        state_dir: Path,
        settle: Callable[[HttpEdge], None],
        running: Callable[[], int] | None = None,
    ) -> None:
        self.url = url
        self._running = running
        self._store = state_dir / STORE_FILE
        self._settle = settle

    def settle(self) -> None:
        """Wait until no guest works any more."""
        self._settle(self)

    def running_requests(self) -> int:
        """Guests at work now; only the embedded host can be asked."""
        assert self._running is not None, "this host does not tell"
        return self._running()

    def forget(self) -> None:
        """Empty the default key-value store."""
        self._settle(self)
        if self._store.exists():
            with contextlib.closing(sqlite3.connect(self._store)) as database, database:
                database.execute("DELETE FROM spin_key_value")

    def send(self, call: Call) -> Answer:
        """One request over a connection of its own."""
        address = urlsplit(self.url)
        assert address.hostname is not None
        connection = http.client.HTTPConnection(
            address.hostname, address.port, timeout=ANSWER_TIMEOUT_S
        )
        with contextlib.closing(connection):
            connection.request(call.method, call.target, call.body or None, dict(call.headers))
            response = connection.getresponse()
            complete = True
            try:
                body = response.read()
            except (http.client.IncompleteRead, ConnectionError) as error:
                complete = False
                body = getattr(error, "partial", b"")
            fields: dict[str, str] = {}
            for name, value in response.getheaders():
                name = name.lower()
                fields[name] = f"{fields[name]}, {value}" if name in fields else value
        return Answer(response.status, fields, body, complete)


@contextlib.contextmanager
def embedded(
    state_dir: Path, variables: Mapping[str, str], threads: int = 1, manifest: Path = MANIFEST
) -> Iterator[HttpEdge]:
    """The application in the embedded host; with one thread, guests run one after the other."""

    def settle(edge: HttpEdge) -> None:
        deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        while edge.running_requests():
            assert time.monotonic() < deadline_s, "a guest goes on and on"
            time.sleep(0.001)

    options = AppOptions(variables=variables, state_dir=state_dir, threads=threads)
    with EdgeHost(manifest, options) as host:
        yield HttpEdge(host.url, state_dir, settle, lambda: host.host.running_requests)


@contextlib.contextmanager
def spin(state_dir: Path, variables: Mapping[str, str]) -> Iterator[HttpEdge]:
    """The application under `spin up`."""
    program = shutil.which("spin")
    assert program is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [program, "up", "--from", str(MANIFEST), "--listen", address]
    command += ["--state-dir", str(state_dir), "--quiet"]
    for name, value in variables.items():
        command += ["--variable", f"{name}={value}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        # Spin tells nobody when a guest has ended; a store write takes about a millisecond.
        edge = HttpEdge(f"http://{address}", state_dir, lambda _edge: time.sleep(0.05))
        _await(edge, process)
        yield edge
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(edge: HttpEdge, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        assert process.poll() is None, f"spin ended with exit code {process.returncode}"
        assert time.monotonic() < deadline_s, f"spin did not listen within {START_TIMEOUT_S} s"
        try:
            edge.send(Call("GET", "/"))
            return
        except OSError:
            time.sleep(0.1)


class SettledEdge:
    """Sends each request only when the one before has left nothing behind."""

    def __init__(self, edge: HttpEdge) -> None:
        self._edge = edge

    def send(self, call: Call) -> Answer:
        """One request."""
        answer = self._edge.send(call)
        self._edge.settle()
        return answer


def with_engine_embeddings(folder: Path) -> Path:
    """spin.toml, changed so that the language model's server answers `/v1/embeddings` too.

    That is one line for an operator; what the application ships with asks the backend's models.
    """
    text = MANIFEST.read_text(encoding="utf-8")
    shipped = 'route = "/v1/embeddings"\ncomponent = "predict"'
    assert shipped in text
    text = text.replace(shipped, shipped.replace("predict", "chat"))
    text = text.replace('source = "build/', f'source = "{ROOT}/build/')
    manifest = folder / "spin.toml"
    manifest.write_text(text, encoding="utf-8")
    return manifest
