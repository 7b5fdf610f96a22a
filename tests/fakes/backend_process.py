"""The backend as a process of its own, on a free port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BackendProcess", "running_backend"]

_READY = re.compile(r"ready on http://([0-9.]+:\d+)")

_START_S = 60


@dataclass(frozen=True, slots=True)
class BackendProcess:
    """A backend that is ready.

    Attributes:
        address: ``host:port``, as tritonclient wants it.
        process: For signals; standard error is in `log`.
        log: File with what it wrote to standard error.
    """

    address: str
    process: subprocess.Popen[str]
    log: Path

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"http://{self.address}"


@contextmanager
def running_backend(models: Path, log: Path, *flags: str) -> Iterator[BackendProcess]:
    """Start a backend over `models`; stop it, and check that it stops well, at the end."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("BACKEND_")}
    command = [sys.executable, "-m", "gpu_backend", "--listen", "127.0.0.1:0"]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, "--models", str(models), *flags],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    try:
        match = _READY.search(process.stdout.readline())
        assert match is not None, f"no ready line; its log:\n{log.read_text()}"
        yield BackendProcess(match[1], process, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(_START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            process.stdout.close()
