"""The models that serve, and how they change without anybody noticing.

A change of version goes: load, warm up, switch, drain the old one, free it. Requests find
either the old version or the new one, never neither. What fails to load leaves the running
version as it is, with the reason in the index.

All of it runs on the event loop; only loading itself runs on a thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from gpu_backend.batching.admission import QueueLimits
from gpu_backend.batching.batcher import Batcher
from gpu_backend.batching.stats import ModelStats
from gpu_backend.errors import (
    BackendError,
    ExecutionProviderError,
    ModelInvalidError,
    ModelNotFoundError,
    ModelNotReadyError,
)
from gpu_backend.execution.priority import yield_to_event_loop
from gpu_backend.repository.files import Fingerprint, ModelFolder, find_models
from gpu_backend.repository.loader import Loader
from gpu_backend.repository.manifest import read_manifest
from gpu_backend.repository.model import LoadedModel
from gpu_backend.repository.slot import ModelSlot, VersionStatus

__all__ = ["Repository", "RepositoryOptions"]

_log = logging.getLogger(__name__)

_PARALLEL_LOADS = 2
"""A model that takes minutes must not keep the others waiting; more would only fill the memory."""


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


class Repository:
    """Slots by name. `start` first, `stop` last."""

    def __init__(self, options: RepositoryOptions, loader: Loader) -> None:
        self._options = options
        self._loader = loader
        # A session's own threads take their priority from the thread that loads it.
        self._loading = ThreadPoolExecutor(
            _PARALLEL_LOADS,
            thread_name_prefix="load",
            initializer=yield_to_event_loop,
            initargs=(options.niceness,),
        )
        self._slots: dict[str, ModelSlot] = {}
        self._active: dict[str, LoadedModel] = {}
        self._drains: set[asyncio.Task[None]] = set()
        self._seen: dict[str, Fingerprint] = {}
        self.started = False

    # -- asking --------------------------------------------------------------------------------

    def find(self, name: str, version: str | None = None) -> LoadedModel | None:
        """The version that answers; None when it is not loaded."""
        if version is None:
            return self._active.get(name)
        slot = self._slots.get(name)
        if slot is None or not version.isdecimal():
            return None
        return slot.serving.get(int(version))

    async def get(self, name: str, version: str | None = None) -> LoadedModel:
        """The version that answers, loaded on demand where the memory budget kept it out.

        Raises:
            ModelNotFoundError: No such model or version.
            ModelNotReadyError: It exists and cannot serve.
        """
        model = self.find(name, version)
        if model is not None:
            return model
        slot = self._slot(name)
        number = self._number(slot, version)
        if slot.unloaded:
            raise ModelNotReadyError(f"model {name!r} is unloaded; load it to use it")
        async with slot.lock:
            model = self.find(name, version)
            if model is None:
                status = slot.statuses.get(number)
                if status is not None and status.reason:
                    raise ModelNotReadyError(f"model {name!r} cannot serve: {status.reason}")
                model = await self._bring_up(slot, number)
        return model

    def slots(self) -> list[ModelSlot]:
        """Every model known, by name."""
        return [self._slots[name] for name in sorted(self._slots)]

    def slot(self, name: str) -> ModelSlot:
        """The slot of `name`.

        Raises:
            ModelNotFoundError: There is none.
        """
        return self._slot(name)

    def stats_of(self, name: str) -> ModelStats | None:
        """Counters of `name`; None when there is no such model."""
        slot = self._slots.get(name)
        return None if slot is None else slot.stats

    def loaded(self) -> Iterator[LoadedModel]:
        """Every version that serves."""
        for slot in self.slots():
            yield from slot.serving.values()

    def _slot(self, name: str) -> ModelSlot:
        slot = self._slots.get(name)
        if slot is None:
            raise ModelNotFoundError(f"no model {name!r}; POST /v2/repository/index lists them")
        return slot

    def _number(self, slot: ModelSlot, version: str | None) -> int:
        if version is None:
            if slot.wanted:
                return slot.wanted[-1]
            raise ModelNotReadyError(f"model {slot.name!r} cannot serve: {slot.reason()}")
        if version.isdecimal() and int(version) in slot.wanted:
            return int(version)
        served = ", ".join(map(str, slot.wanted)) or "none"
        raise ModelNotFoundError(
            f"model {slot.name!r} has no version {version!r}; versions served: {served}"
        )

    # -- start and stop --------------------------------------------------------------------------

    async def start(self) -> None:
        """Load what is there; a model that fails stays out, with its reason.

        Raises:
            ExecutionProviderError: Hardware asked for by name cannot be had.
        """
        for name, folder in (await asyncio.to_thread(find_models, self._options.roots)).items():
            slot = self._slots[name] = ModelSlot(folder)
            try:
                async with slot.lock:
                    await self._update(slot, folder, initial=True)
            except ExecutionProviderError:
                raise
            except BackendError as exc:
                _log.error("model %s is not served: %s", name, exc.message)
        self.started = True

    async def stop(self) -> None:
        """Drain and free everything."""
        for slot in self.slots():
            async with slot.lock:
                self._retire(slot, list(slot.serving))
        while self._drains:
            await asyncio.wait(self._drains)
        self._loading.shutdown(wait=False)

    # -- changing --------------------------------------------------------------------------------

    async def load(self, name: str) -> None:
        """Serve the versions of `name` that its folder holds now.

        Raises:
            ModelNotFoundError: No repository has such a model.
            ModelInvalidError: It must not be served; what served before goes on serving.
        """
        folder = (await asyncio.to_thread(find_models, self._options.roots)).get(name)
        if folder is None:
            raise ModelNotFoundError(f"no model {name!r} in the repositories")
        slot = self._slots.setdefault(name, ModelSlot(folder))
        async with slot.lock:
            slot.unloaded = False
            await self._update(slot, folder)

    async def unload(self, name: str) -> None:
        """Serve `name` no more; its memory is free once its requests are answered.

        Raises:
            ModelNotFoundError: There is no such model.
        """
        slot = self._slot(name)
        async with slot.lock:
            slot.unloaded = True
            drains = self._retire(slot, list(slot.serving), "unloaded by request")
            slot.statuses = {
                number: VersionStatus("UNAVAILABLE", "unloaded by request")
                for number in slot.wanted
            }
        if drains:
            await asyncio.wait(drains)

    async def poll(self) -> None:
        """Follow what changed on disk since the last poll.

        Files are loaded once two polls have seen them alike: a copy in progress is left alone.
        """
        found = await asyncio.to_thread(_look, self._options.roots)
        for name, (folder, fingerprint) in found.items():
            slot = self._slots.get(name)
            known = slot.fingerprint if slot is not None else None
            settled = self._seen.get(name) == fingerprint
            self._seen[name] = fingerprint
            if fingerprint == known or not settled:
                continue
            slot = self._slots.setdefault(name, ModelSlot(folder))
            await self._follow(slot, folder)
        for name in [name for name in self._slots if name not in found]:
            await self._forget(name)

    async def _follow(self, slot: ModelSlot, folder: ModelFolder) -> None:
        try:
            async with slot.lock:
                slot.unloaded = False
                await self._update(slot, folder)
        except BackendError as exc:
            _log.error("model %s: the change on disk is refused: %s", slot.name, exc.message)

    async def _forget(self, name: str) -> None:
        slot = self._slots[name]
        async with slot.lock:
            self._retire(slot, list(slot.serving), "its folder is gone")
            del self._slots[name]
            self._seen.pop(name, None)
        _log.info("model %s is gone from disk and is served no more", name)

    # -- with the slot's lock held ---------------------------------------------------------------

    async def _update(self, slot: ModelSlot, folder: ModelFolder, initial: bool = False) -> None:
        """Make `slot` serve what `folder` holds.

        Raises:
            BackendError: Of the last version that failed; the others are loaded nevertheless.
        """
        slot.folder = folder
        slot.fingerprint = await asyncio.to_thread(folder.fingerprint)
        slot.fault = ""
        try:
            manifest = await asyncio.to_thread(read_manifest, folder.path)
            if not folder.versions:
                raise ModelInvalidError("it has no version folder with a model.onnx")
        except ModelInvalidError as exc:
            slot.fault = exc.message
            raise
        if manifest.serve == "all":
            served, failure = await self._update_all(slot, folder.versions, initial)
        else:
            served, failure = await self._update_latest(slot, folder.versions, initial)
        if served:
            slot.wanted = served
            gone = [number for number in slot.serving if number not in served]
            self._retire(slot, gone, "replaced")
            slot.statuses = {
                number: status
                for number, status in slot.statuses.items()
                if number in served or (number in folder.versions and status.reason != "replaced")
            }
        if failure is not None:
            raise failure

    async def _update_all(
        self, slot: ModelSlot, versions: tuple[int, ...], initial: bool
    ) -> tuple[tuple[int, ...], BackendError | None]:
        """Load each version; those that serve or may be loaded on demand, and the last failure."""
        served: list[int] = []
        failure: BackendError | None = None
        for number in versions:
            try:
                await self._admit(slot, number, initial)
                served.append(number)
            except ExecutionProviderError:
                raise
            except BackendError as exc:
                failure = exc
                if number in slot.serving:
                    served.append(number)
        return tuple(served), failure

    async def _update_latest(
        self, slot: ModelSlot, versions: tuple[int, ...], initial: bool
    ) -> tuple[tuple[int, ...], BackendError | None]:
        """Load the highest version.

        When it fails, what serves now stays; when nothing serves, the next lower version is
        better than none.
        """
        failure: BackendError | None = None
        for number in reversed(versions):
            try:
                await self._admit(slot, number, initial)
                return (number,), failure
            except ExecutionProviderError:
                raise
            except BackendError as exc:
                failure = failure or exc
                if slot.serving:
                    return (), failure
        return (), failure

    async def _admit(self, slot: ModelSlot, number: int, initial: bool) -> None:
        """Load `number`; at start-up only when the memory budget has room for it."""
        size = await asyncio.to_thread(slot.folder.size_bytes, number)
        if initial and not self._has_room(size):
            slot.statuses[number] = VersionStatus("UNAVAILABLE", "")
        else:
            await self._bring_up(slot, number)

    async def _bring_up(self, slot: ModelSlot, number: int) -> LoadedModel:
        """Load `number`, then switch to it."""
        before = slot.statuses.get(number)
        slot.statuses[number] = VersionStatus("LOADING")
        size = await asyncio.to_thread(slot.folder.size_bytes, number)
        self._make_room(size, keep=slot)
        try:
            loop = asyncio.get_running_loop()
            model = await loop.run_in_executor(
                self._loading, self._loader.load, slot.folder, number
            )
        except BackendError as exc:
            refused = f"the change on disk is refused: {exc.message}"
            slot.statuses[number] = (
                VersionStatus("READY", refused)
                if number in slot.serving
                else VersionStatus("UNAVAILABLE", exc.message)
            )
            raise
        except BaseException:  # cancelled: the state is what it was
            slot.statuses[number] = before or VersionStatus("UNAVAILABLE")
            raise
        self._switch(slot, model)
        return model

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
        self._note_active(slot)
        if old is not None:
            self._drain(old)
        _report(model)

    def _retire(
        self, slot: ModelSlot, numbers: list[int], reason: str = ""
    ) -> list[asyncio.Task[None]]:
        """Take versions out of service; they are freed when their requests are answered."""
        drains = []
        for number in numbers:
            drains.append(self._drain(slot.serving.pop(number)))
            slot.statuses[number] = VersionStatus("UNAVAILABLE", reason)
        self._note_active(slot)
        return drains

    def _note_active(self, slot: ModelSlot) -> None:
        active = slot.active
        if active is None:
            self._active.pop(slot.name, None)
        else:
            self._active[slot.name] = active

    def _drain(self, model: LoadedModel) -> asyncio.Task[None]:
        async def drain() -> None:
            if not await model.batcher.drain(self._options.drain_timeout_s):
                _log.warning("model %s: requests were cut off", model.identity.decode())
            model.close()

        task = asyncio.create_task(drain())
        self._drains.add(task)
        task.add_done_callback(self._drains.discard)
        return task

    # -- memory ----------------------------------------------------------------------------------

    def _has_room(self, size_bytes: int) -> bool:
        budget = self._options.memory_budget_bytes
        return not budget or self._used_bytes() + size_bytes <= budget

    def _used_bytes(self) -> int:
        return sum(model.size_bytes for model in self.loaded())

    def _make_room(self, size_bytes: int, keep: ModelSlot) -> None:
        """Unload the least recently used versions of other models until `size_bytes` fit."""
        while not self._has_room(size_bytes):
            candidates: list[tuple[ModelSlot, LoadedModel]] = [
                (slot, model)
                for slot in self._slots.values()
                if slot is not keep and not slot.lock.locked()
                for model in slot.serving.values()
            ]
            if not candidates:
                return  # one model above the budget is still better than none
            slot, model = min(candidates, key=_last_used)
            self._retire(slot, [model.version], "")
            _log.info("model %s makes room for %s", model.identity.decode(), keep.name)


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


def _last_used(candidate: tuple[ModelSlot, LoadedModel]) -> float:
    return candidate[1].last_used


def _look(roots: tuple[Path, ...]) -> dict[str, tuple[ModelFolder, Fingerprint]]:
    return {name: (folder, folder.fingerprint()) for name, folder in find_models(roots).items()}
