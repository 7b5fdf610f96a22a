"""Where the lines go that guests print."""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path
from typing import TextIO

__all__ = ["GuestLog"]


class GuestLog:
    """Prints guests' lines with their component's id in front, and keeps them in files if asked.

    Args:
        quiet: Print nothing.
        log_dir: Append lines to ``<component>_stdout.txt`` and ``<component>_stderr.txt`` there,
            under the names Spin uses.

    Raises:
        OSError: `log_dir` cannot be made.
    """

    def __init__(self, *, quiet: bool = False, log_dir: Path | None = None) -> None:
        self._quiet = quiet
        self._log_dir = log_dir
        self._lock = threading.Lock()
        self._files: dict[tuple[str, str], TextIO] = {}
        if log_dir is not None:
            log_dir.mkdir(parents=True, exist_ok=True)

    def __call__(self, component: str, stream: str, line: str) -> None:
        """Take one line; `stream` is ``stdout`` or ``stderr``. Callable from any thread."""
        with self._lock:
            if not self._quiet:
                # Both go to stderr, as in Spin: stdout is for what the host itself reports.
                print(f"[{component}] {line}", file=sys.stderr, flush=True)
            if self._log_dir is not None:
                self._append(self._log_dir, component, stream, line)

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()

    def _append(self, log_dir: Path, component: str, stream: str, line: str) -> None:
        try:
            file = self._files.get((component, stream))
            if file is None:
                name = re.sub(r"[^A-Za-z0-9._-]", "_", component)
                path = log_dir / f"{name}_{stream}.txt"
                file = path.open("a", encoding="utf-8")
                self._files[component, stream] = file
            file.write(line + "\n")
            file.flush()
        except OSError as exc:
            # A full disk must not fail requests; say it once and stop writing files.
            self._log_dir = None
            print(f"edgehost: logs of components are no longer kept: {exc}", file=sys.stderr)
