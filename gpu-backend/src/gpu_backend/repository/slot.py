"""One model of the repository: which of its versions serve, and why others do not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from gpu_backend.batching.stats import ModelStats
from gpu_backend.repository.files import Fingerprint, ModelFolder
from gpu_backend.repository.model import LoadedModel

__all__ = ["ModelSlot", "State", "VersionStatus"]

State = str
"""As in Triton's repository index: ``READY``, ``LOADING``, ``UNLOADING`` or ``UNAVAILABLE``."""


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """State of one version, and the reason where it does not serve."""

    state: State
    reason: str = ""


@dataclass(eq=False, slots=True)
class ModelSlot:
    """Everything the repository knows about one model.

    Attributes:
        folder: On disk, as last seen.
        fingerprint: Of the files that were loaded last, or last failed to load.
        serving: Versions that serve, by number.
        statuses: Of every version known.
        stats: Since the process started, over all versions.
        lock: Held while versions are loaded or unloaded, one change at a time.
        unloaded: By request: stays so until it is loaded by request, or its files change.
        wanted: Versions that should serve and may be loaded on demand.
    """

    folder: ModelFolder
    fingerprint: Fingerprint = ()
    serving: dict[int, LoadedModel] = field(default_factory=dict)
    statuses: dict[int, VersionStatus] = field(default_factory=dict)
    stats: ModelStats = field(default_factory=ModelStats)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    unloaded: bool = False
    wanted: tuple[int, ...] = ()
    fault: str = ""

    @property
    def name(self) -> str:
        """Of the model."""
        return self.folder.name

    @property
    def active(self) -> LoadedModel | None:
        """The version that answers when none is named: the highest that serves."""
        return self.serving[max(self.serving)] if self.serving else None

    def reason(self) -> str:
        """Why nothing serves; empty when something does, or may on demand."""
        if self.serving:
            return ""
        if self.fault:
            return self.fault
        reasons = [
            f"version {number}: {status.reason}"
            for number, status in sorted(self.statuses.items())
            if status.state == "UNAVAILABLE" and status.reason
        ]
        return "; ".join(reasons)
