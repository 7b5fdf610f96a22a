"""Start the whole application: environments, components, backend, edge; then say how to call it.

    make up                               all of it, until Ctrl-C
    make up EDGE_LISTEN=127.0.0.1:3001    elsewhere; BACKEND_LISTEN likewise
    make up EDGE_HOST=embedded            never `spin`, even where it is on PATH
    make down                             stop what another terminal started

Standard library only. Every fault ends in one line on standard error, exit code 1, and no
process left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import build_components
import environments
from processes import Child

ROOT = Path(__file__).resolve().parent.parent
RUN_DIR = ROOT / ".run"
RECORDS_FILE = RUN_DIR / "records.sqlite"
BUILT_MODELS = ROOT / ".models"
READY_TIMEOUT_S = 300.0
"""The first start compiles the components to machine code: 10 s each on two idle cores, and far
longer on busy ones. A program that ends instead is noticed at once."""
CHAT_MODEL = "tiny-docs"
STOP_GRACE_S = 15.0
"""Longer than the edge's own grace period, so that running requests can finish."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Not through a proxy of the environment: it knows nothing of this machine's ports."""


class UpError(Exception):
    """The application cannot be started; the text is one clear line."""


@dataclass(frozen=True)
class Address:
    """Where a program listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, name: str, text: str) -> Address:
        """Read `host:port` or `[v6]:port`. Raises `UpError` naming the variable."""
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
            raise UpError(f"{name}={text} is no address: write host:port, such as 127.0.0.1:3000")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """A URL under which this machine reaches it."""
        reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{Address(reachable, self.port)}"

    def check_free(self, name: str) -> None:
        """Nothing listens there. Raises `UpError`."""
        try:
            info = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            with socket.socket(info[0], socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(info[4])
        except OSError as exc:
            raise UpError(
                f"cannot listen on {self} ({exc.strerror or exc}): "
                f"free it, or choose another with {name}=host:port"
            ) from exc


@dataclass(frozen=True)
class Plan:
    """What is to be started."""

    edge: Address
    backend: Address
    spin: str | None

    @classmethod
    def read(cls, env: Mapping[str, str]) -> Plan:
        """From EDGE_LISTEN, BACKEND_LISTEN and EDGE_HOST. Raises `UpError`."""
        edge = Address.parse("EDGE_LISTEN", env.get("EDGE_LISTEN") or "127.0.0.1:3000")
        backend = Address.parse("BACKEND_LISTEN", env.get("BACKEND_LISTEN") or "127.0.0.1:8080")
        if edge == backend:
            raise UpError(f"EDGE_LISTEN and BACKEND_LISTEN are both {edge}: choose two addresses")
        choice = env.get("EDGE_HOST") or "auto"
        if choice not in ("auto", "embedded", "spin"):
            raise UpError(f"EDGE_HOST={choice} is unknown: use auto, embedded or spin")
        spin = None if choice == "embedded" else shutil.which("spin", path=env.get("PATH"))
        if choice == "spin" and spin is None:
            raise UpError("EDGE_HOST=spin, but `spin` is not on PATH: install it or use embedded")
        return cls(edge, backend, spin)

    def backend_command(self, python: Path) -> list[str]:
        """Command line of the backend."""
        listen = ["--listen", str(self.backend)]
        return [str(python), "-m", "gpu_backend", *listen, "--records", str(RECORDS_FILE)]

    def backend_environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """The backend also serves what `make models` built, unless it is told what to serve."""
        if not BUILT_MODELS.is_dir():
            return dict(env)
        folders = (ROOT / "gpu-backend" / "models", BUILT_MODELS)
        return {"BACKEND_MODELS": os.pathsep.join(map(str, folders)), **env}

    def edge_command(self, python: Path) -> list[str]:
        """Command line of the edge; both hosts take the same flags."""
        host = [self.spin, "up"] if self.spin else [str(python), "-m", "edgehost", "up"]
        return [*host, "--from", str(ROOT / "spin.toml"), "--listen", str(self.edge)]

    def edge_environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """The edge learns where the backend is by an application variable."""
        return {"SPIN_VARIABLE_BACKEND_URL": self.backend.url, **env}


def up(plan: Plan) -> None:
    """Run until a signal comes or a program ends.

    Raises:
        UpError: It cannot be started, or a program ended.
        KeyboardInterrupt: The signal came before anything was started.
    """
    started = time.monotonic()
    # First: nobody should wait minutes for the news that a port is taken.
    plan.backend.check_free("BACKEND_LISTEN")
    plan.edge.check_free("EDGE_LISTEN")
    python = _prepare()
    stop = threading.Event()
    _on_signals(stop.set)
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with contextlib.ExitStack() as stack:
        backend_env = plan.backend_environment(env)
        backend = _start(stack, "backend", plan.backend_command(python), backend_env)
        edge = _start(stack, "edge", plan.edge_command(python), plan.edge_environment(env))
        _wait_ready(backend, f"{plan.backend.url}/v2/health/ready", stop)
        _wait_ready(edge, f"{plan.edge.url}/v2/health/ready", stop)
        if not stop.is_set():
            _announce(plan, time.monotonic() - started)
        _watch((backend, edge), stop)
        print("\nstopping …", flush=True)


def _prepare() -> Path:
    """Environments and components are current; the interpreter that runs them."""
    try:
        python = environments.ensure("host")
        build_components.build_changed(build_components.discover())
    except (environments.SetupError, build_components.BuildError, OSError) as exc:
        raise UpError(str(exc)) from exc
    return python


def _start(
    stack: contextlib.ExitStack, name: str, command: list[str], env: Mapping[str, str]
) -> Child:
    try:
        child = Child(name, command, cwd=ROOT, env=env)
    except OSError as exc:
        raise UpError(f"cannot start {name}: {exc}") from exc
    stack.callback(child.stop, STOP_GRACE_S)
    return child


def _wait_ready(child: Child, url: str, stop: threading.Event) -> None:
    """`url` answers 200. Raises `UpError` when the program ends first, or the time is over."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not stop.is_set() and not _answers(url):
        if child.exit_code() is not None:
            raise UpError(f"{child.name} ended with code {child.exit_code()}: {child.reason()}")
        if time.monotonic() > deadline:
            raise UpError(f"{child.name} was not ready within {READY_TIMEOUT_S:.0f} s ({url})")
        stop.wait(0.05)


def _answers(url: str) -> bool:
    try:
        with _DIRECTLY.open(url, timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def _watch(children: tuple[Child, ...], stop: threading.Event) -> None:
    while not stop.wait(0.2):
        for child in children:
            if child.exit_code() is not None:
                raise UpError(f"{child.name} ended with code {child.exit_code()}: {child.reason()}")


def _announce(plan: Plan, seconds: float) -> None:
    image = ROOT / "examples" / "seven.png"
    shown = image.relative_to(ROOT) if Path.cwd() == ROOT else image
    edge = plan.edge.url
    host = "spin" if plan.spin else "embedded host"
    print(
        f"""
Inference Anywhere is up after {seconds:.1f} s.  edge {edge} ({host})  \
backend {plan.backend.url} ({_provider(plan)})

  # a picture of a digit: decoded and prepared in Wasm, classified by ONNX Runtime
  curl -s {edge}/v1/classify/digits -H 'content-type: image/png' --data-binary @{shown}

  # the same as pixels, the two best classes
  curl -s '{edge}/v1/classify/digits?top_k=2' -H 'content-type: application/json' \\
    -d '{json.dumps({"pixels": _seven()}, separators=(",", ":"))}'

  # Open Inference Protocol v2, for Triton and KServe clients
  curl -s {edge}/v2/models/digits
{_chat_line(edge)}
Ctrl-C stops everything.""",
        flush=True,
    )


def _chat_line(edge: str) -> str:
    """How to chat with the language model that ships; empty where the edge does not offer it."""
    try:
        with _DIRECTLY.open(f"{edge}/v1/models", timeout=5) as response:
            offered = [model["id"] for model in json.load(response)["data"]]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return ""
    if CHAT_MODEL not in offered:
        return ""
    messages = [{"role": "user", "content": "What does open() do?"}]
    return f"""
  # a tiny language model; "stream": true brings its words as they come
  curl -s {edge}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{json.dumps({"model": CHAT_MODEL, "messages": messages})}'
"""


def _seven() -> list[list[int]]:
    """A hand-drawn seven, 8 by 8, white on black."""
    rows = ("00000000", "0FFFFFF0", "000000F0", "00000F00", "0000F000", "000F0000", "000F0000")
    return [[255 if cell == "F" else 0 for cell in row] for row in (*rows, "00000000")]


def _provider(plan: Plan) -> str:
    """The execution provider that really serves, as the backend tells it."""
    try:
        with _DIRECTLY.open(f"{plan.backend.url}/v2/models/digits", timeout=5) as response:
            parameters = json.load(response)["parameters"]
        return str(parameters["execution_provider"]["active"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return "provider unknown"


@contextlib.contextmanager
def _registered(plan: Plan) -> Iterator[None]:
    """`make down` finds this process by a lock it holds: a stale file holds none."""
    RUN_DIR.mkdir(exist_ok=True)
    path = RUN_DIR / f"up-{plan.edge.port}.lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise UpError(
                f"`make up` already serves port {plan.edge.port}: stop it with `make down`"
            ) from exc
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def down(port: int | None = None) -> None:
    """Nothing that `make up` started (at `port`, or at all) runs any more. Raises `UpError`."""
    for path in sorted(RUN_DIR.glob(f"up-{port or '*'}.lock")):
        with path.open() as file:
            if _locked(file.fileno()):
                pid = int(file.read())
                print(f"  stopping process {pid} ({path.stem})", flush=True)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                _wait_until_unlocked(file.fileno(), pid)
            path.unlink(missing_ok=True)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _wait_until_unlocked(descriptor: int, pid: int) -> None:
    deadline = time.monotonic() + 3 * STOP_GRACE_S
    while _locked(descriptor):
        if time.monotonic() > deadline:
            raise UpError(f"process {pid} did not stop within {3 * STOP_GRACE_S:.0f} s")
        time.sleep(0.05)


def _on_signals(action: Callable[[], None]) -> None:
    """What Ctrl-C, `make down` and a closed terminal do from now on."""

    def handler(_number: int, _frame: FrameType | None) -> None:
        action()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def _interrupt() -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Entry of the command line."""
    parser = argparse.ArgumentParser(description="Start backend and edge; Ctrl-C stops both.")
    parser.add_argument("--down", action="store_true", help="stop what another terminal started")
    parser.add_argument("--port", type=int, help="with --down: only the one at this edge port")
    arguments = parser.parse_args()
    try:
        if arguments.down:
            down(arguments.port)
            return 0
        _on_signals(_interrupt)
        plan = Plan.read(os.environ)
        with _registered(plan):
            up(plan)
    except UpError as exc:
        print(f"error: {exc}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("\nstopped before anything was started", flush=True)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
