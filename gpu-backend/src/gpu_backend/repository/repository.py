"""The models there are, and how they change without anybody noticing.

Requests find either the old version of a model or the new one, never neither. What fails to load
leaves the running version as it is, with the reason in the index.

All of it runs on the event loop; only files are read, and models loaded, on threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

from gpu_backend.batching.stats import ModelStats
from gpu_backend.errors import (
    BackendError,
    ExecutionProviderError,
    ModelInvalidError,
    ModelNotFoundError,
    ModelNotReadyError,
)
from gpu_backend.repository.files import Fingerprint, ModelFolder, find_models
from gpu_backend.repository.loader import Loader
from gpu_backend.repository.manifest import read_manifest
from gpu_backend.repository.model import LoadedModel
from gpu_backend.repository.serving import RepositoryOptions, Serving
from gpu_backend.repository.slot import ModelSlot, VersionStatus

__all__ = ["Repository", "RepositoryOptions"]

_log = logging.getLogger(__name__)

_MAX_VERSION_DIGITS = 18


class Repository:
    """Slots by name. `start` first, `stop` last."""

    def __init__(self, options: RepositoryOptions, loader: Loader) -> None:
        self._roots = options.roots
        self._serving = Serving(options, loader)
        self._slots: dict[str, ModelSlot] = {}
        self._seen: dict[str, Fingerprint] = {}
        self._demanded: dict[tuple[str, int], asyncio.Task[LoadedModel]] = {}
        self.started = False

    # -- asking --------------------------------------------------------------------------------

    def find(self, name: str, version: str | None = None) -> LoadedModel | None:
        """The version that answers; None when it is not loaded."""
        if version is None:
            return self._serving.active.get(name)
        slot = self._slots.get(name)
        number = _parse_version(version)
        return None if slot is None or number is None else slot.serving.get(number)

    async def get(self, name: str, version: str | None = None) -> LoadedModel:
        """The version that answers, loaded on demand where the memory budget kept it out.

        A caller that stops waiting does not stop the loading: others may wait for it too.

        Raises:
            ModelNotFoundError: No such model or version.
            ModelNotReadyError: It exists and cannot serve.
        """
        model = self.find(name, version)
        if model is not None:
            return model
        slot = self.slot(name)
        if slot.unloaded:
            raise ModelNotReadyError(f"model {name!r} is unloaded; load it to use it")
        number = _choose_version(slot, version)
        demand = self._demanded.get((name, number))
        if demand is None:
            demand = asyncio.create_task(self._load_on_demand(slot, number))
            self._demanded[name, number] = demand
            demand.add_done_callback(lambda task: self._end_demand(name, number, task))
        return await asyncio.shield(demand)

    def slots(self) -> list[ModelSlot]:
        """Every model known, by name."""
        return [self._slots[name] for name in sorted(self._slots)]

    def slot(self, name: str) -> ModelSlot:
        """The slot of `name`.

        Raises:
            ModelNotFoundError: There is none.
        """
        slot = self._slots.get(name)
        if slot is None:
            raise ModelNotFoundError(f"no model {name!r}; POST /v2/repository/index lists them")
        return slot

    def stats_of(self, name: str) -> ModelStats | None:
        """Counters of `name`; None when there is no such model."""
        slot = self._slots.get(name)
        return None if slot is None else slot.stats

    def loaded(self) -> Iterator[LoadedModel]:
        """Every version that serves."""
        for slot in self.slots():
            yield from slot.serving.values()

    async def _load_on_demand(self, slot: ModelSlot, number: int) -> LoadedModel:
        async with slot.lock:
            model = slot.serving.get(number)
            if model is not None:
                return model
            status = slot.statuses.get(number)
            if status is not None and status.reason:
                raise ModelNotReadyError(f"model {slot.name!r} cannot serve: {status.reason}")
            return await self._serving.bring_up(slot, number)

    def _end_demand(self, name: str, number: int, task: asyncio.Task[LoadedModel]) -> None:
        del self._demanded[name, number]
        if not task.cancelled():
            task.exception()  # heard, even where every caller has left

    # -- start and stop --------------------------------------------------------------------------

    async def start(self) -> None:
        """Load what is there; a model that fails stays out, with its reason.

        Raises:
            ExecutionProviderError: Hardware asked for by name cannot be had.
        """
        for root in self._roots:
            if not root.is_dir():
                _log.warning("there is no folder %s; it is looked for again", root)
        for name, folder in (await asyncio.to_thread(find_models, self._roots)).items():
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
        """Free everything."""
        for demand in list(self._demanded.values()):
            demand.cancel()
        await self._serving.close()

    # -- changing --------------------------------------------------------------------------------

    async def load(self, name: str) -> None:
        """Serve the versions of `name` that its folder holds now.

        Raises:
            ModelNotFoundError: No repository has such a model.
            ModelInvalidError: It must not be served; what served before goes on serving.
        """
        folder = (await asyncio.to_thread(find_models, self._roots)).get(name)
        if folder is None:
            raise ModelNotFoundError(f"no model {name!r} in the repositories")
        slot = self._slots.setdefault(name, ModelSlot(folder))
        async with slot.lock:
            slot.unloaded = False
            await self._update(slot, folder)

    async def unload(self, name: str) -> None:
        """Serve `name` no more; its memory is free when this returns.

        Raises:
            ModelNotFoundError: There is no such model.
        """
        slot = self.slot(name)
        async with slot.lock:
            slot.unloaded = True
            drains = self._serving.retire(slot, list(slot.serving))
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
        found = await asyncio.to_thread(_look, self._roots)
        for name, (folder, fingerprint) in found.items():
            slot = self._slots.get(name)
            known = slot.fingerprint if slot is not None else None
            settled = self._seen.get(name) == fingerprint
            self._seen[name] = fingerprint
            if fingerprint != known and settled:
                await self._follow(self._slots.setdefault(name, ModelSlot(folder)), folder)
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
            self._serving.retire(slot, list(slot.serving))
            del self._slots[name]
            self._seen.pop(name, None)
        _log.info("model %s is gone from disk and is served no more", name)

    # -- with the slot's lock held ---------------------------------------------------------------

    async def _update(self, slot: ModelSlot, folder: ModelFolder, initial: bool = False) -> None:
        """Make `slot` serve what `folder` holds.

        Raises:
            BackendError: Of a version that failed; the others are loaded nevertheless.
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
        update = self._update_all if manifest.serve == "all" else self._update_latest
        served, failure = await update(slot, folder.versions, initial)
        if served:
            slot.wanted = served
            gone = [number for number in slot.serving if number not in served]
            self._serving.retire(slot, gone)
            slot.statuses = {
                number: status
                for number, status in slot.statuses.items()
                if number in served or (number in folder.versions and number not in gone)
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
        size_bytes = await asyncio.to_thread(slot.folder.size_bytes, number)
        if initial and not self._serving.has_room(size_bytes):
            slot.statuses[number] = VersionStatus("UNAVAILABLE")
        else:
            await self._serving.bring_up(slot, number)


def _parse_version(text: str) -> int | None:
    """The number that a version in a URL names; None when it names none."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= _MAX_VERSION_DIGITS
    return int(text) if is_number else None


def _choose_version(slot: ModelSlot, version: str | None) -> int:
    if version is None:
        if slot.wanted:
            return slot.wanted[-1]
        raise ModelNotReadyError(f"model {slot.name!r} cannot serve: {slot.reason()}")
    number = _parse_version(version)
    if number is not None and number in slot.wanted:
        return number
    served = ", ".join(map(str, slot.wanted)) or "none"
    raise ModelNotFoundError(
        f"model {slot.name!r} has no version {version[:40]!r}; versions served: {served}"
    )


def _look(roots: tuple[Path, ...]) -> dict[str, tuple[ModelFolder, Fingerprint]]:
    return {name: (folder, folder.fingerprint()) for name, folder in find_models(roots).items()}
