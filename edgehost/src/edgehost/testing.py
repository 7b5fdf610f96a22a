"""Run a Spin app inside a test: a context manager, and a pytest fixture on top of it.

The fixture comes with the package; nothing has to be registered:

    def test_hello(spin_app):
        app = spin_app("spin.toml", variables={"greeting": "hi"})
        with urllib.request.urlopen(app.url + "/hello") as response:
            assert response.read() == b"hi"
        assert ("hello", "stdout", "called") in app.logs

Outside pytest:

    with EdgeHost("spin.toml") as app:
        ...

Tests are kept apart from the machine they run on: the app gets a free port and a state directory
of its own, and sees neither ``SPIN_VARIABLE_*`` of the environment nor a ``.env`` file, unless the
test passes them. Compiled components are shared with `python -m edgehost`, so that only the first
test after a build waits for the compiler.

This module imports only the standard library until an app is started.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from typing import Self

    from edgehost.app import App
    from edgehost.host import Host

__all__ = ["AppOptions", "EdgeHost", "EdgeHostProcess", "GuestLine", "RunningApp", "SpinAppFactory"]

_LOG_LINES_KEPT = 10_000
_START_TIMEOUT_S = 300.0  # compiling several components on a slow machine
_STOP_TIMEOUT_S = 15.0


class GuestLine(NamedTuple):
    """A line that a component printed; `stream` is ``stdout`` or ``stderr``."""

    component: str
    stream: str
    text: str


@dataclass(frozen=True, slots=True)
class AppOptions:
    """How a test runs its app; each has the meaning of the flag of `edgehost up`."""

    variables: Mapping[str, str] | None = None
    runtime_config: str | os.PathLike[str] | None = None
    state_dir: str | os.PathLike[str] | None = None
    """None: a temporary directory that goes with the app."""
    component_env: Mapping[str, str] | None = None
    environ: Mapping[str, str] | None = None
    """Where ``SPIN_VARIABLE_*`` are looked up; None: nowhere."""
    request_timeout_s: float = 30.0
    max_instance_memory: int | None = None
    threads: int = 8


class RunningApp(Protocol):
    """An app that is being served."""

    @property
    def url(self) -> str:
        """``http://127.0.0.1:port``, without a slash at its end."""
        ...

    @property
    def logs(self) -> list[GuestLine]:
        """What components have printed so far, oldest first (the last 10,000 lines)."""
        ...

    def close(self) -> None:
        """Stop it. Idempotent."""
        ...


class SpinAppFactory(Protocol):
    """What the `spin_app` fixture gives; see `AppOptions` for the keywords."""

    def __call__(
        self,
        manifest: str | os.PathLike[str] = "spin.toml",
        *,
        subprocess: bool = False,
        **options: object,
    ) -> RunningApp:
        """Start the app; it is stopped at the end of the test."""
        ...


class EdgeHost:
    """Serves an app from threads of this process.

    Args:
        manifest: The spin.toml, or the directory it is in.
        options: How to run it.

    Raises:
        ConfigError: The app is wrong; every fault is listed.
    """

    def __init__(
        self, manifest: str | os.PathLike[str] = "spin.toml", options: AppOptions | None = None
    ) -> None:
        self._logs: deque[GuestLine] = deque(maxlen=_LOG_LINES_KEPT)
        self._cleanup = contextlib.ExitStack()
        with contextlib.ExitStack() as started:
            self._host = self._start(Path(manifest).absolute(), options or AppOptions(), started)
            self._cleanup = started.pop_all()

    @property
    def url(self) -> str:
        """``http://127.0.0.1:port``."""
        host, port = self._host.address
        return f"http://{host}:{port}"

    @property
    def logs(self) -> list[GuestLine]:
        """What components have printed so far, oldest first."""
        return list(self._logs)

    @property
    def host(self) -> Host:
        """The host itself, for what this class does not show."""
        return self._host

    def close(self) -> None:
        """Stop serving, let running requests finish for a moment, and free everything."""
        self._cleanup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, manifest: Path, options: AppOptions, started: contextlib.ExitStack) -> Host:
        from edgehost.host import Host, HostOptions

        app = _load(manifest, options, started)
        started.callback(app.close)
        host = Host(
            app,
            HostOptions(address=("127.0.0.1", 0), threads=options.threads, prewarm=1),
            lambda *line: self._logs.append(GuestLine(*line)),
        )
        started.callback(host.stop, 1.0)
        host.start()
        return host


class EdgeHostProcess:
    """Serves an app from a process of its own, as `python -m edgehost up` does.

    For what must not share the test's process: signals, memory figures, a crash. `process` is the
    `subprocess.Popen`; `stderr` holds what it said besides the lines of components.

    Raises:
        RuntimeError: It did not start; the text is what it printed.
    """

    def __init__(
        self,
        manifest: str | os.PathLike[str] = "spin.toml",
        options: AppOptions | None = None,
        *flags: str,
    ) -> None:
        self._logs: deque[GuestLine] = deque(maxlen=_LOG_LINES_KEPT)
        self.stderr: deque[str] = deque(maxlen=_LOG_LINES_KEPT)
        self._url: str | None = None
        self._cleanup = contextlib.ExitStack()
        with contextlib.ExitStack() as started:
            self._start(Path(manifest).absolute(), options or AppOptions(), flags, started)
            self._cleanup = started.pop_all()

    @property
    def url(self) -> str:
        """``http://127.0.0.1:port``."""
        assert self._url is not None  # set before __init__ returns
        return self._url

    @property
    def logs(self) -> list[GuestLine]:
        """What components have printed so far, oldest first; all of it counts as ``stderr``."""
        return list(self._logs)

    def close(self) -> None:
        """Ask it to stop, and kill it if it does not."""
        self._cleanup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(
        self,
        manifest: Path,
        options: AppOptions,
        flags: tuple[str, ...],
        started: contextlib.ExitStack,
    ) -> None:
        work_dir = started.enter_context(tempfile.TemporaryDirectory(prefix="edgehost-"))
        command = [sys.executable, "-m", "edgehost", "up", "--from", str(manifest)]
        self.process = subprocess.Popen(
            [*command, *_flags(options, work_dir), *flags],
            cwd=work_dir,
            env=_environment(options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.callback(self._stop)
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._readers = [
            threading.Thread(target=self._read_stdout, args=(lines,), daemon=True),
            threading.Thread(target=self._read_stderr, daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self._url = self._await_url(lines)

    def _await_url(self, lines: queue.SimpleQueue[str | None]) -> str:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise RuntimeError(f"edgehost did not start in {_START_TIMEOUT_S:g} s") from None
            if line is None:
                self.process.wait(_STOP_TIMEOUT_S)
                self._readers[1].join(_STOP_TIMEOUT_S)
                code, said = self.process.returncode, "\n".join(self.stderr)
                raise RuntimeError(f"edgehost ended with exit code {code}:\n{said}")
            if line.startswith("Serving "):
                return line.removeprefix("Serving ").strip()

    def _read_stdout(self, lines: queue.SimpleQueue[str | None]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            lines.put(line)
        lines.put(None)

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            guest = re.match(r"\[([a-z][a-z0-9-]*)\] (.*)", line)
            if guest is not None:
                self._logs.append(GuestLine(guest[1], "stderr", guest[2]))
            else:
                self.stderr.append(line.rstrip("\n"))

    def _stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for reader in self._readers:
            reader.join(_STOP_TIMEOUT_S)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def _load(manifest: Path, options: AppOptions, started: contextlib.ExitStack) -> App:
    from edgehost.app import App
    from edgehost.ports import InstanceLimits

    work_dir = started.enter_context(tempfile.TemporaryDirectory(prefix="edgehost-"))
    config = options.runtime_config
    return App.load(
        manifest,
        variables=options.variables,
        runtime_config=None if config is None else Path(config).absolute(),
        state_dir=os.fspath(_state_dir(options, work_dir)),
        env=options.environ or {},
        component_env=options.component_env,
        limits=InstanceLimits(options.max_instance_memory, options.request_timeout_s),
        working_dir=Path(work_dir),
    )


def _state_dir(options: AppOptions, work_dir: str) -> Path:
    given = options.state_dir
    return Path(work_dir) / "state" if given is None else Path(given).absolute()


def _flags(options: AppOptions, work_dir: str) -> list[str]:
    flags = ["--listen", "127.0.0.1:0", "--state-dir", str(_state_dir(options, work_dir))]
    flags += ["--request-timeout", f"{round(options.request_timeout_s * 1000)}ms"]
    flags += ["--threads", str(options.threads)]
    for name, value in (options.variables or {}).items():
        flags += ["--variable", f"{name}={value}"]
    for name, value in (options.component_env or {}).items():
        flags += ["--env", f"{name}={value}"]
    if options.runtime_config is not None:
        flags += ["--runtime-config-file", str(Path(options.runtime_config).absolute())]
    if options.max_instance_memory is not None:
        flags += ["--max-instance-memory", str(options.max_instance_memory)]
    return flags


def _environment(options: AppOptions) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SPIN_")}
    return {**kept, **(options.environ or {}), "PYTHONUNBUFFERED": "1"}


def _factory(running: contextlib.ExitStack) -> Callable[..., RunningApp]:
    def start(
        manifest: str | os.PathLike[str] = "spin.toml",
        *,
        subprocess: bool = False,
        **options: object,
    ) -> RunningApp:
        checked = AppOptions(**options)  # type: ignore[arg-type]  # a wrong keyword is a TypeError
        if subprocess:
            return running.enter_context(EdgeHostProcess(manifest, checked))
        return running.enter_context(EdgeHost(manifest, checked))

    return start


try:
    import pytest
except ImportError:  # the context managers work without it
    pass
else:

    @pytest.fixture
    def spin_app() -> Iterator[SpinAppFactory]:
        """Start apps by their spin.toml; they stop at the end of the test.

        `spin_app(manifest, variables={...}, runtime_config=..., subprocess=True, ...)` returns an
        object with `url`, `logs` and `close()`. See `AppOptions` for all keywords.
        """
        with contextlib.ExitStack() as running:
            yield _factory(running)
