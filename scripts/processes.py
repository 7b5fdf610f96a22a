"""Child processes that never outlive their parent, with their output prefixed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

__all__ = ["Child"]

PR_SET_PDEATHSIG = 1
KEPT_LINES = 40
"""Enough of a child's last output to say why it died."""


class Child:
    """One program in a session of its own, so that Ctrl-C reaches only the parent.

    The parent decides the order in which children stop; should it be killed outright, the kernel
    ends them (Linux; elsewhere they end when their output pipe breaks).
    """

    def __init__(
        self, name: str, command: Sequence[str], *, cwd: Path, env: Mapping[str, str]
    ) -> None:
        self.name = name
        self.last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._process: subprocess.Popen[str] = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            # The hook makes two system calls and takes no lock, so a fork with threads is safe.
            preexec_fn=_die_with_parent(os.getpid()),  # noqa: PLW1509
        )
        self._reader = threading.Thread(target=self._relay, daemon=True)
        self._reader.start()

    def _relay(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.last_lines.append(line.rstrip())
            with contextlib.suppress(OSError, ValueError):  # our own output may be closed by now
                sys.stdout.write(f"{self.name:<8}│ {line}")
                sys.stdout.flush()

    def exit_code(self) -> int | None:
        """The exit code once it has ended."""
        return self._process.poll()

    def reason(self) -> str:
        """Why it ended, as far as its own last words tell."""
        self._reader.join(timeout=2)
        errors = [line for line in self.last_lines if line.lower().startswith("error")]
        words = errors or [line for line in self.last_lines if line.strip()]
        return words[-1] if words else "it said nothing"

    def stop(self, grace_s: float) -> None:
        """It and all it started are gone; running requests get `grace_s` seconds to finish."""
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            print(f"  {self.name} did not stop within {grace_s:.0f} s: killed", flush=True)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join(timeout=2)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _die_with_parent(parent: int) -> Callable[[], None] | None:
    """A hook for the child that asks Linux for SIGTERM when the parent dies."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def hook() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    return hook
