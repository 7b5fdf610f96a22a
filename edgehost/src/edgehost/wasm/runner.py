"""Serves the requests of one component, each with a fresh instance."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from edgehost.errors import ConfigError, GuestCancelledError, GuestError
from edgehost.ports import ComponentSpec, IncomingRequest, OutboundHttp, ResponseSink
from edgehost.wasi import REGISTRY
from edgehost.wasm.engine import CompiledComponent, WasmEngine
from edgehost.wasm.instance import GuestInstance, Stdio
from edgehost.wasm.linker import ComponentLinker

__all__ = ["ComponentRunner"]

_log = logging.getLogger(__name__)
DEFAULT_PREWARM: Final = 2
"""Instances kept ready: one for the next request and one for a request that overlaps it."""


class ComponentRunner:
    """Runs requests of one component. Every method may be called from any thread.

    Args:
        prewarm: Instances made ahead of their request; 0 makes each one on demand.

    Raises:
        ConfigError: The component cannot be linked or instantiated under its limits.
    """

    def __init__(
        self,
        engine: WasmEngine,
        compiled: CompiledComponent,
        spec: ComponentSpec,
        outbound: OutboundHttp,
        stdio: Stdio,
        *,
        prewarm: int = DEFAULT_PREWARM,
    ) -> None:
        self._engine = engine
        self._compiled = compiled
        self._spec = spec
        self._outbound = outbound
        self._stdio = stdio
        self._prewarm = prewarm
        self._lock = threading.Lock()
        self._idle: deque[GuestInstance] = deque()
        self._alive = 0
        self._closed = False
        self._all_closed = threading.Condition(self._lock)
        self._linker = ComponentLinker(engine.engine, compiled.component, REGISTRY)
        self._lower_arguments = self._linker.parameter_lowerers(compiled.handler_type)
        engine.slots.add_evictor(self._evict_one)
        try:
            self._refill()
        except GuestError as error:
            self.close()
            raise ConfigError([f"component {spec.id!r}: {error}"]) from error

    def handle(
        self,
        request: IncomingRequest,
        sink: ResponseSink,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        """Serve one request on the calling thread, with an instance of its own.

        Args:
            request: What the client sent; its body is read by the guest as it arrives.
            sink: Gets the answer, or the fault that took its place. Faults are never raised.
            cancelled: True once nobody waits for the answer. A `Cancellation` also interrupts a
                waiting guest at once; any other function is asked a few times a second.
        """
        try:
            instance = self._acquire()
        except GuestError as error:
            request.body.cancel()
            sink.fail(error)
            return
        try:
            late = instance.handle(request, sink, cancelled)
            if late is not None and not isinstance(late, GuestCancelledError):
                _log.warning("component %s: error after response started: %s", self._spec.id, late)
        except BaseException:  # a fault of this host, not of the guest
            _log.exception("component %s: request failed in the host", self._spec.id)
        finally:
            self._retire(instance)
            self._refill_quietly()

    def close(self, timeout_s: float = 30.0) -> None:
        """Close idle instances, wait for running ones, free the linker."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._engine.slots.remove_evictor(self._evict_one)
        while self._evict_one():
            pass
        with self._lock:
            ended = self._all_closed.wait_for(lambda: self._alive == 0, timeout_s)
        if ended:
            self._linker.close()
        else:  # leak the linker rather than pull it from under a running guest
            _log.warning("component %s: instances still run at shutdown", self._spec.id)

    def _acquire(self) -> GuestInstance:
        with self._lock:
            if self._closed:
                raise GuestError(f"component {self._spec.id!r} is shutting down")
            if self._idle:
                return self._idle.pop()  # the newest: its memory is still in the cache
        if not self._engine.slots.acquire(self._spec.limits.request_timeout_s):
            raise GuestError("no instance became free in time: too many requests are running")
        return self._new_instance()

    def _new_instance(self) -> GuestInstance:
        """Make an instance in a slot that was acquired; gives the slot back on failure."""
        with self._lock:
            self._alive += 1
        try:
            return GuestInstance(
                self._engine,
                self._compiled,
                self._linker,
                self._lower_arguments,
                self._spec,
                self._outbound,
                self._stdio,
            )
        except BaseException:
            self._forget()
            raise

    def _retire(self, instance: GuestInstance) -> None:
        try:
            instance.close()
        finally:
            self._forget()

    def _forget(self) -> None:
        self._engine.slots.release()
        with self._lock:
            self._alive -= 1
            if self._alive == 0:
                self._all_closed.notify_all()

    def _refill(self) -> None:
        """Make idle instances while some are missing and a slot is free."""
        while True:
            with self._lock:
                if self._closed or len(self._idle) >= self._prewarm:
                    return
            if not self._engine.slots.try_acquire():
                return
            instance = self._new_instance()
            with self._lock:
                keep = not self._closed and len(self._idle) < self._prewarm
                if keep:
                    self._idle.append(instance)
            if not keep:
                self._retire(instance)
                return

    def _refill_quietly(self) -> None:
        try:
            self._refill()
        except GuestError as error:  # the next request will say so to its client
            _log.warning("component %s: %s", self._spec.id, error)

    def _evict_one(self) -> bool:
        with self._lock:
            if not self._idle:
                return False
            instance = self._idle.popleft()
        self._retire(instance)
        return True
