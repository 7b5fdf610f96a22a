"""Stand-ins for a session: what they compute is known, when they finish is the test's choice."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from gpu_backend.errors import ExecutionFailedError
from gpu_backend.execution.datatypes import Array
from gpu_backend.execution.session import Feeds

__all__ = ["DoublingRunner", "ExplodingRunner", "GatedRunner", "item_feeds"]


def item_feeds(*values: float) -> dict[str, Array]:
    """Feeds of one input `x`, a row per value."""
    return {"x": np.array([[value] for value in values], dtype=np.float32)}


class DoublingRunner:
    """Doubles `x`. Remembers each batch; fails on the values it is told to fail on."""

    output_names = ["y"]  # noqa: RUF012  # a session has an instance attribute of this name

    def __init__(self, poison: frozenset[float] = frozenset()) -> None:
        self.batches: list[list[float]] = []
        self._poison = poison

    def run(self, feeds: Feeds) -> list[Array]:
        values = feeds["x"][:, 0].tolist()
        self.batches.append(values)
        if self._poison & set(values):
            raise ExecutionFailedError(f"poison among {values}")
        return [feeds["x"] * 2]


class GatedRunner(DoublingRunner):
    """Each run waits, on its thread, until the test opens the gate once."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._gate = threading.Semaphore(0)
        self.started = threading.Semaphore(0)

    def run(self, feeds: Feeds) -> list[Array]:
        self.started.release()
        if not self._gate.acquire(timeout=30):
            raise ExecutionFailedError("the test never opened the gate")
        return super().run(feeds)

    def open(self, times: int = 1) -> None:
        self._gate.release(times)


class ExplodingRunner(DoublingRunner):
    """Fails in a way that no library documents."""

    def run(self, feeds: Feeds) -> list[Array]:
        raise KeyError("surprise")
