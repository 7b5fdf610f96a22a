"""What every benchmark prints: the machine it ran on, versions, n and percentiles."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

__all__ = ["Latency", "cpu_seconds", "machine", "resident_bytes"]


def machine(*packages: str) -> str:
    """One line: processor, cores, memory, Python, and the versions of `packages`."""
    versions = " ".join(f"{name} {metadata.version(name)}" for name in packages)
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {memory_gb:.0f} GiB, "
        f"Python {platform.python_version()} {versions}".rstrip()
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def resident_bytes(pid: int | str = "self") -> int:
    """Resident memory of a process (Linux), in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """Processor time a process has used (Linux), in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of a sample, in milliseconds (nearest-rank)."""

    n: int
    p50_ms: float
    p95_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """From durations in seconds; at least one."""
        ordered = sorted(seconds)

        def rank(share: float) -> float:
            return ordered[max(0, math.ceil(share * len(ordered)) - 1)] * 1000

        return cls(len(ordered), rank(0.50), rank(0.95), rank(0.99))

    def __str__(self) -> str:
        return (
            f"n={self.n:<6} p50 {self.p50_ms:8.3f} ms  p95 {self.p95_ms:8.3f} ms  "
            f"p99 {self.p99_ms:8.3f} ms"
        )
