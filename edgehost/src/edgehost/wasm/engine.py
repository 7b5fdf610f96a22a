"""The Wasm engine: settings, compiled components, the epoch clock and the slots for instances.

One engine serves a process. It holds what must be shared: machine code, the pool of pre-reserved
memories, and the limit on how many instances exist at once.
"""

from __future__ import annotations

import platform
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from wasmtime import Config, Engine, WasmtimeError, _bindings
from wasmtime.component import Component, ComponentInstanceType, ExportIndex, FuncType

from edgehost.abi import native
from edgehost.abi.interfaces import compatible_name
from edgehost.errors import ConfigError
from edgehost.wasm.cache import ComponentCache

__all__ = ["CompiledComponent", "WasmEngine"]

HANDLER_EXPORT: Final = "wasi:http/incoming-handler@0.2"
COMPONENT_MAGIC: Final = b"\0asm\x0d\0\x01\0"
MODULE_MAGIC: Final = b"\0asm\x01\0\0\0"
EPOCH_TICK_S: Final = 0.02
"""How late a deadline or a cancellation may reach a computing guest."""
PARK_AFTER_TICKS: Final = 50

DEFAULT_POOL_SIZE: Final = 64
KEEP_RESIDENT_BYTES: Final = 16 << 20
"""Of a finished instance's memory, what is cleared in place instead of unmapped: a Python guest
touches about 10 MB, and page faults on those would cost more than the request."""

MEMORIES_PER_COMPONENT: Final = 8
TABLES_PER_COMPONENT: Final = 32
CORE_INSTANCES_PER_COMPONENT: Final = 1000
"""A componentize-py guest has one memory, a few tables and some thirty core instances; a composed
component has those of all its parts. Only addresses are reserved, no memory."""
TABLE_ELEMENTS: Final = 100_000
UNPOOLED_GROWTH_BYTES: Final = 16 << 20
"""Where addresses are scarce, a memory is as large as it must be, with room to grow in place."""


@dataclass(frozen=True, slots=True)
class CompiledComponent:
    """Machine code of one component, ready to instantiate.

    Attributes:
        handler: Index of the exported ``wasi:http/incoming-handler`` function ``handle``.
        handler_type: Its type: an incoming-request and a response-outparam.
    """

    source: Path
    component: Component
    handler: ExportIndex
    handler_type: FuncType


class WasmEngine:
    """Compiles components and bounds their instances. Every method may be called from any thread.

    Args:
        cache_dir: Where compiled components are kept between runs; None compiles every time.
        pool_size: Most instances alive at once, those made ahead of their request included.
        memory_limit_bytes: Upper bound for every instance's memory; None leaves Wasm's 4 GiB.
    """

    def __init__(
        self,
        *,
        cache_dir: Path | None,
        pool_size: int = DEFAULT_POOL_SIZE,
        memory_limit_bytes: int | None = None,
    ) -> None:
        if pool_size < 1:
            raise ValueError(f"pool_size must be at least 1, not {pool_size}")
        self.memory_limit_bytes = memory_limit_bytes
        self.pooled = _address_space_is_unlimited()
        config = _configuration(pool_size if self.pooled else None)
        self.engine = Engine(config)
        self.address = native.address_of(self.engine.ptr())
        self.slots = InstanceSlots(pool_size)
        self._cache = ComponentCache(cache_dir, _fingerprint(pooled=self.pooled))
        self._epochs = _EpochClock(lambda: native.increment_epoch(self.address))

    def load(self, source: Path) -> CompiledComponent:
        """Return the component in `source`, compiled now or on an earlier run.

        Raises:
            ConfigError: No such file, not a component, or not an HTTP component.
        """
        try:
            wasm = source.read_bytes()
        except OSError as error:
            raise ConfigError([f"{source}: {error.strerror or error}"]) from error
        if not wasm.startswith(COMPONENT_MAGIC):
            kind = "a core module" if wasm.startswith(MODULE_MAGIC) else "not WebAssembly"
            raise ConfigError([f"{source}: {kind}, where a WebAssembly component is expected"])
        try:
            component = self._cache.load(self.engine, wasm)
        except WasmtimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError([f"{source}: not a valid WebAssembly component: {reason}"]) from error
        return self._find_handler(source, component)

    def _find_handler(self, source: Path, component: Component) -> CompiledComponent:
        with component.type as component_type:
            exports = {name: item.ty for name, item in component_type.exports(self.engine).items()}
        for name, item in exports.items():
            if compatible_name(name) != HANDLER_EXPORT or not isinstance(
                item, ComponentInstanceType
            ):
                continue
            handler = component.get_export_index("handle", component.get_export_index(name))
            handler_type = item.exports(self.engine)["handle"].ty
            if handler is not None and isinstance(handler_type, FuncType):
                return CompiledComponent(source, component, handler, handler_type)
        found = ", ".join(exports) or "nothing"
        raise ConfigError([f"{source}: exports no {HANDLER_EXPORT}.x but {found}"])

    def instance_running(self) -> None:
        """Keep the epoch clock going until the matching `instance_stopped`."""
        self._epochs.hold()

    def instance_stopped(self) -> None:
        """One running instance fewer; the clock rests when none is left."""
        self._epochs.release()

    def close(self) -> None:
        """Stop the clock and free the engine; all instances must be closed before."""
        self._epochs.close()
        self.engine.close()


class InstanceSlots:
    """Bounds the instances of a process and shares the slots between components.

    An instance made ahead of its request gives way when another component needs its slot now.
    """

    def __init__(self, size: int) -> None:
        self._free = size
        self._condition = threading.Condition()
        self._evictors: list[Callable[[], bool]] = []

    def add_evictor(self, evict: Callable[[], bool]) -> None:
        """Register a function that closes one idle instance and returns True, or returns False."""
        with self._condition:
            self._evictors.append(evict)

    def remove_evictor(self, evict: Callable[[], bool]) -> None:
        """Undo `add_evictor`."""
        with self._condition:
            self._evictors.remove(evict)

    def try_acquire(self) -> bool:
        """Take a slot if one is free."""
        with self._condition:
            if self._free == 0:
                return False
            self._free -= 1
            return True

    def acquire(self, timeout_s: float) -> bool:
        """Take a slot, closing an idle instance or waiting if need be; False after the timeout."""
        if self.try_acquire():
            return True
        with self._condition:
            evictors = list(self._evictors)
        for evict in evictors:
            if evict() and self.try_acquire():
                return True
        with self._condition:
            if not self._condition.wait_for(lambda: self._free > 0, timeout_s):
                return False
            self._free -= 1
            return True

    def release(self) -> None:
        """Give a slot back."""
        with self._condition:
            self._free += 1
            self._condition.notify()


class _EpochClock:
    """Advances the engine's epoch while instances run.

    Between requests it goes on for a while: waking a parked thread costs more than its ticks.
    """

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._condition = threading.Condition()
        self._running = 0
        self._parked = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def hold(self) -> None:
        with self._condition:
            self._running += 1
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="edgehost-epochs", daemon=True
                )
                self._thread.start()
            elif self._parked:
                self._condition.notify()

    def release(self) -> None:
        with self._condition:
            self._running -= 1

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        idle_ticks = 0
        while True:
            with self._condition:
                if idle_ticks > PARK_AFTER_TICKS:
                    self._parked = True
                    self._condition.wait_for(lambda: self._closed or self._running > 0)
                    self._parked = False
                if self._condition.wait_for(lambda: self._closed, EPOCH_TICK_S):
                    return
                idle_ticks = 0 if self._running else idle_ticks + 1
            self._tick()


def _configuration(pool_size: int | None) -> Config:
    config = Config()
    config.epoch_interruption = True
    config.wasm_component_model = True
    # With it on, a call that takes two borrowed handles fails ("deferred host scope").
    _bindings.wasmtime_config_concurrency_support_set(config.ptr(), False)
    if pool_size is not None:
        _add_pool(config, pool_size)
    else:
        config.memory_reservation = 0
        config.memory_reservation_for_growth = UNPOOLED_GROWTH_BYTES
        config.memory_guard_size = 0
    return config


def _add_pool(config: Config, pool_size: int) -> None:
    pool = _bindings.wasmtime_pooling_allocation_config_new()
    settings = {
        "total_component_instances": pool_size,
        "total_core_instances": pool_size * CORE_INSTANCES_PER_COMPONENT,
        "total_memories": pool_size * MEMORIES_PER_COMPONENT,
        "total_tables": pool_size * TABLES_PER_COMPONENT,
        "max_core_instances_per_component": CORE_INSTANCES_PER_COMPONENT,
        "max_memories_per_component": MEMORIES_PER_COMPONENT,
        "max_tables_per_component": TABLES_PER_COMPONENT,
        "max_tables_per_module": TABLES_PER_COMPONENT,
        "max_memories_per_module": MEMORIES_PER_COMPONENT,
        "max_component_instance_size": 1 << 20,
        "max_core_instance_size": 1 << 20,
        "table_elements": TABLE_ELEMENTS,
        "linear_memory_keep_resident": KEEP_RESIDENT_BYTES,
        "table_keep_resident": TABLE_ELEMENTS * 8,
        "max_unused_warm_slots": pool_size,
        "total_stacks": 1,  # for asynchronous calls, of which there are none
        "total_gc_heaps": pool_size,
    }
    for name, value in settings.items():
        getattr(_bindings, f"wasmtime_pooling_allocation_config_{name}_set")(pool, value)
    _bindings.wasmtime_pooling_allocation_strategy_set(config.ptr(), pool)
    _bindings.wasmtime_pooling_allocation_config_delete(pool)


def _address_space_is_unlimited() -> bool:
    """The pool reserves 4 GiB of addresses per memory; under `ulimit -v` that would abort."""
    if sys.platform == "win32":
        return True
    import resource

    return resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def _fingerprint(*, pooled: bool) -> str:
    return f"wasmtime {version('wasmtime')} {platform.machine()} epochs pooled={pooled}"
