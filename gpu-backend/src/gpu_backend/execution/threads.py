"""How many cores this process may use: its affinity, and the quota of its container."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["usable_cores"]

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = Path("/sys/fs/cgroup/cpu")


def usable_cores(quota_v2: Path = _CGROUP_V2, quota_v1: Path = _CGROUP_V1) -> int:
    """Cores that threads of this process can really run on, at least 1.

    ONNX Runtime counts the machine's cores. In a container with a quota that many threads are
    throttled together for most of every period, which is slower than fewer threads.

    Args:
        quota_v2: `cpu.max` of the unified cgroup hierarchy.
        quota_v1: Folder with `cpu.cfs_quota_us` and `cpu.cfs_period_us` of the older one.
    """
    cores = len(os.sched_getaffinity(0))
    quota = _read_v2(quota_v2) or _read_v1(quota_v1)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _read_v2(file: Path) -> float | None:
    try:
        quota, period = file.read_text(encoding="ascii").split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return None


def _read_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None
