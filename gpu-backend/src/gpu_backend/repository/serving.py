"""Putting versions into service and taking them out, within the memory there is.

With the lock of a slot held, its versions change in this order: load, warm up, switch, drain the
old one, free it.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from gpu_backend.batching.admission import QueueLimits
from gpu_backend.batching.batcher import Batcher
from gpu_backend.batching.workers import Workers
from gpu_backend.errors import BackendError
from gpu_backend.repository.loader import Loader
from gpu_backend.repository.model import LoadedModel
from gpu_backend.repository.slot import ModelSlot, VersionStatus

__all__ = ["RepositoryOptions", "Serving"]

_log = logging.getLogger(__name__)

_PARALLEL_LOADS = 2
"""A model that takes minutes must not keep the others waiting; more would only fill the memory."""

_LAST_DRAIN_S = 1.0
"""At the end no request is left; what still runs then hangs, and is not waited for."""


@dataclass(frozen=True, slots=True)
class RepositoryOptions:
    """How models are kept.

    Attributes:
        roots: Folders that hold models.
        limits: Of each model's queue.
        memory_budget_bytes: Of model files that may be loaded at a time; 0 is without bound.
            With a budget, models that do not fit are loaded when they are asked for, and the
            least recently used ones make room.
        drain_timeout_s: For requests of a version that is replaced.
        niceness: Of the threads that compute.
    """

    roots: tuple[Path, ...]
    limits: QueueLimits
    memory_budget_bytes: int
    drain_timeout_s: float
    niceness: int = 0


class Serving:
    """Every version that is loaded. Owns them, and the threads that load.

    Attributes:
        active: The version that answers for a model when none is named.
    """

    def __init__(self, options: RepositoryOptions, loader: Loader) -> None:
        self._options = options
        self._loader = loader
        # A session's own threads take their priority from the thread that loads it.
        self._loading = Workers("load", _PARALLEL_LOADS, options.niceness)
        self._slots: dict[LoadedModel, ModelSlot] = {}
        self._drains: set[asyncio.Task[None]] = set()
        self.active: dict[str, LoadedModel] = {}

    async def bring_up(self, slot: ModelSlot, number: int) -> LoadedModel:
        """Load version `number` of `slot`, then switch to it.

        Raises:
            BackendError: It must not be served; what served before goes on serving.
        """
        before = slot.statuses.get(number)
        slot.statuses[number] = VersionStatus("LOADING")
        try:
            size_bytes = await asyncio.to_thread(slot.folder.size_bytes, number)
            await self._make_room(size_bytes, keep=slot)
            model = await self._loading.run(lambda: self._loader.load(slot.folder, number))
        except BackendError as exc:
            slot.statuses[number] = (
                VersionStatus("READY", f"the change on disk is refused: {exc.message}")
                if number in slot.serving
                else VersionStatus("UNAVAILABLE", exc.message)
            )
            raise
        except BaseException:  # cancelled: the state is what it was
            slot.statuses[number] = before or VersionStatus("UNAVAILABLE")
            raise
        self._switch(slot, model)
        return model

    def retire(
        self, slot: ModelSlot, numbers: list[int], reason: str = ""
    ) -> list[asyncio.Task[None]]:
        """Take versions out of service.

        Returns:
            A task for each, which ends when its requests are answered and its memory is free.
        """
        drains = []
        for number in numbers:
            model = slot.serving.pop(number)
            slot.statuses[number] = VersionStatus("UNAVAILABLE", reason)
            drains.append(self._drain(model, self._options.drain_timeout_s))
        self._note_active(slot)
        return drains

    def has_room(self, size_bytes: int) -> bool:
        """True when a version of `size_bytes` fits into the budget beside what is loaded."""
        budget = self._options.memory_budget_bytes
        used = sum(model.size_bytes for model in self._slots)
        return not budget or used + size_bytes <= budget

    async def close(self) -> None:
        """Free everything."""
        for model, slot in list(self._slots.items()):
            if slot.serving.pop(model.version, None) is model:
                self._drain(model, _LAST_DRAIN_S)
        self.active.clear()
        while self._drains:
            await asyncio.wait(self._drains)
        self._loading.close()

    def _switch(self, slot: ModelSlot, model: LoadedModel) -> None:
        model.batcher = Batcher(
            model.name,
            model.session,
            model.policy,
            limits=self._options.limits,
            service=model.service,
            stats=slot.stats,
            inline_units=model.inline_units,
            niceness=self._options.niceness,
        )
        model.last_used = perf_counter()
        old = slot.serving.get(model.version)
        slot.serving[model.version] = model
        slot.statuses[model.version] = VersionStatus("READY")
        self._slots[model] = slot
        self._note_active(slot)
        if old is not None:
            self._drain(old, self._options.drain_timeout_s)
        _report(model)

    def _note_active(self, slot: ModelSlot) -> None:
        active = slot.active
        if active is None:
            self.active.pop(slot.name, None)
        else:
            self.active[slot.name] = active

    def _drain(self, model: LoadedModel, timeout_s: float) -> asyncio.Task[None]:
        async def drain() -> None:
            if not await model.batcher.drain(timeout_s):
                _log.warning("model %s: requests were cut off", model.identity.decode())
            model.close()
            del self._slots[model]

        task = asyncio.create_task(drain())
        self._drains.add(task)
        task.add_done_callback(self._drains.discard)
        return task

    async def _make_room(self, size_bytes: int, keep: ModelSlot) -> None:
        """Free the least recently used versions of other models until `size_bytes` fit."""
        while not self.has_room(size_bytes):
            candidates = [
                model
                for model, slot in self._slots.items()
                if slot is not keep and not slot.lock.locked() and model.version in slot.serving
            ]
            if not candidates:
                return  # one model above the budget is still better than none
            model = min(candidates, key=lambda candidate: candidate.last_used)
            _log.info("model %s makes room for %s", model.identity.decode(), keep.name)
            await asyncio.wait(self.retire(self._slots[model], [model.version]))


def _report(model: LoadedModel) -> None:
    """Tell the log what serves, and whether the hardware is what was meant."""
    status = model.session.status
    identity = model.identity.decode()
    _log.info("model %s serves after %.2f s (%s)", identity, model.load_s, status.reason)
    off_target = model.placement.off_target(status.active)
    if status.degraded:
        _log.warning("model %s is degraded: %s", identity, status.reason)
    elif off_target:
        nodes = ", ".join(f"{count} on {name}" for name, count in model.placement.nodes.items())
        _log.warning("model %s runs %d nodes elsewhere (%s)", identity, off_target, nodes)
