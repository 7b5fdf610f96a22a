"""A real Redis server of the test's own: random port, nothing kept, gone at the end."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["RedisServer", "redis_missing"]

_STOP_TIMEOUT_S = 10.0
_ATTEMPTS = 5


def redis_missing() -> str | None:
    """The reason to skip a test that needs Redis; None when the server is installed."""
    return None if shutil.which("redis-server") else "redis-server is not on PATH"


class RedisServer:
    """Runs `redis-server` in `directory` while the context is entered."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, port: int | None = None) -> None:
        """Start on `port`, or on one that is free now."""
        for _ in range(_ATTEMPTS):  # somebody may take the port between our look and its bind
            self.port = port or _free_port()
            command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
            command += ["--save", "", "--appendonly", "no", "--dir", str(self._directory)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            if any("Ready to accept connections" in line for line in process.stdout):
                self._process = process
                return
            process.wait(_STOP_TIMEOUT_S)
            process.stdout.close()
        raise RuntimeError("redis-server does not start")

    def stop(self) -> None:
        """Kill it: no data is wanted back."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(_STOP_TIMEOUT_S)
            assert process.stdout is not None
            process.stdout.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
