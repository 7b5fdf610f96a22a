"""One instance of a component: its store, one call of its handler, and the end of both.

An instance serves one request. It is made ahead of the request where possible, because making it
costs as much as a small request; `close` frees the store and everything the guest still held.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Final

from edgehost.abi import native
from edgehost.abi.guest import Cancellation, Guest
from edgehost.abi.lowering import Lower
from edgehost.abi.native import VAL_SIZE
from edgehost.abi.output import GuestOutput
from edgehost.errors import GuestError, GuestTrapError
from edgehost.ports import ComponentSpec, IncomingRequest, OutboundHttp, ResponseSink
from edgehost.wasi.http import IncomingRequestResource, ResponseOutparam
from edgehost.wasm.engine import CompiledComponent, WasmEngine
from edgehost.wasm.linker import ComponentLinker

__all__ = ["GuestInstance", "Stdio"]

Stdio = Callable[[str, str, str], None]
"""Called with component id, ``stdout`` or ``stderr``, and one line."""

_UNLIMITED: Final = -1
_UPDATE_CONTINUE: Final = 0
_MAX_TABLE_ELEMENTS: Final = 1_000_000
_FUNC_SIZE: Final = 32  # wasmtime_component_func_t is 24 bytes, wasmtime_component_instance_t 16


class GuestInstance:
    """A component instantiated in a store of its own.

    Args:
        lower_arguments: Write the handler's arguments, incoming-request and response-outparam.

    Raises:
        GuestTrapError: The component cannot be instantiated, e.g. its memory exceeds the limit.
    """

    def __init__(
        self,
        engine: WasmEngine,
        compiled: CompiledComponent,
        linker: ComponentLinker,
        lower_arguments: Sequence[Lower],
        spec: ComponentSpec,
        outbound: OutboundHttp,
        stdio: Stdio,
    ) -> None:
        self._linker = linker
        self._engine = engine
        self._lower_request, self._lower_outparam = lower_arguments
        self.guest = Guest(
            spec,
            outbound,
            GuestOutput(lambda line: stdio(spec.id, "stdout", line)),
            GuestOutput(lambda line: stdio(spec.id, "stderr", line)),
        )
        self._arguments = (ctypes.c_uint64 * (2 * VAL_SIZE // 8))()
        self._func = (ctypes.c_uint64 * (_FUNC_SIZE // 8))()
        self._store: int = native.store_new(engine.address, 0, 0)
        self._context: int = native.store_context(self._store)
        self.guest.context = self._context
        linker.guests[self._context] = self.guest
        self._epoch_callback = native.EPOCH_CALLBACK(self._on_epoch)
        engine.instance_running()  # a start function can loop, too
        try:
            self._prepare(compiled, spec)
        except BaseException:
            self.close()
            raise
        finally:
            engine.instance_stopped()

    def _prepare(self, compiled: CompiledComponent, spec: ComponentSpec) -> None:
        limits = [
            limit
            for limit in (self._engine.memory_limit_bytes, spec.limits.memory_bytes)
            if limit is not None
        ]
        native.store_limiter(
            self._store,
            min(limits) if limits else _UNLIMITED,
            _MAX_TABLE_ELEMENTS,
            _UNLIMITED,
            _UNLIMITED,
            _UNLIMITED,
        )
        native.store_epoch_callback(self._store, self._epoch_callback, 0, 0)
        native.set_epoch_deadline(self._context, 1)
        self.guest.deadline = self.guest.clock() + spec.limits.request_timeout_s
        instance = (ctypes.c_uint64 * 4)()
        error = native.instantiate(
            self._linker.address,
            self._context,
            native.address_of(compiled.component.ptr()),
            ctypes.addressof(instance),
        )
        if error:
            reason = self.guest.failure or _root_cause(native.take_error(error))
            raise GuestTrapError(f"cannot instantiate {compiled.source}: {reason}")
        found = native.instance_get_func(
            ctypes.addressof(instance),
            self._context,
            native.address_of(compiled.handler.ptr()),
            ctypes.addressof(self._func),
        )
        if not found:
            raise GuestTrapError(f"{compiled.source}: the handler is not a function")

    def handle(
        self,
        request: IncomingRequest,
        sink: ResponseSink,
        cancelled: Callable[[], bool] | None,
    ) -> GuestError | None:
        """Run the guest's handler for `request` until it returns or is stopped.

        Never raises for a fault of the guest: `sink.fail` gets it. A fault after the answer had
        begun aborts its body if that was not finished, and is returned.
        """
        guest = self.guest
        guest.cancelled = cancelled
        if isinstance(cancelled, Cancellation):
            cancelled.bind(guest.wakeup)
        outparam = ResponseOutparam(sink, request.method)
        self._engine.instance_running()
        try:
            guest.deadline = guest.clock() + guest.spec.limits.request_timeout_s
            native.set_epoch_deadline(self._context, 1)
            error = self._call(IncomingRequestResource(request), outparam)
            return None if error is None or outparam.fail(error) else error
        finally:
            self._engine.instance_stopped()
            if isinstance(cancelled, Cancellation):
                cancelled.bind(None)
            guest.table.close()  # aborts a body the guest left unfinished, or fails the request
            outparam.drop()

    def _call(
        self, request: IncomingRequestResource, outparam: ResponseOutparam
    ) -> GuestError | None:
        arguments = ctypes.addressof(self._arguments)
        self._lower_request(self.guest, arguments, request)
        self._lower_outparam(self.guest, arguments + VAL_SIZE, outparam)
        error = native.func_call(ctypes.addressof(self._func), self._context, arguments, 2, 0, 0)
        native.val_delete(arguments)
        native.val_delete(arguments + VAL_SIZE)
        return self._guest_error(native.take_error(error)) if error else None

    def _guest_error(self, message: str) -> GuestError:
        """The fault that ended the call: the host's own reason if it has one."""
        failure = self.guest.failure
        if isinstance(failure, GuestError):
            return failure
        if failure is not None:
            host_error = GuestTrapError(f"host call failed: {failure!r}")
            host_error.__cause__ = failure
            return host_error
        return GuestTrapError(f"the guest trapped: {_root_cause(message)}")

    def _on_epoch(self, _context: int, _data: int, delta: int, kind: int) -> int:
        guest = self.guest
        try:
            guest.check_limits()
        except BaseException as error:  # nothing may pass through C frames
            return guest.stop(error)
        native.WORDS[delta >> 3] = 1
        native.BYTES[kind] = _UPDATE_CONTINUE
        return 0

    def close(self) -> None:
        """Free the store and what the guest still held."""
        store, self._store = self._store, 0
        if not store:
            return
        try:
            self.guest.table.close()
            self.guest.stdout.close()
            self.guest.stderr.close()
        finally:
            # First forgotten, then freed: another thread may get the address for its next store.
            del self._linker.guests[self._context]
            native.store_delete(store)


def _root_cause(message: str) -> str:
    """The innermost cause of a Wasmtime error, without the Wasm backtrace."""
    lines = [line.strip() for line in message.strip().splitlines()]
    causes = [line for line in lines if line and not line.startswith(("0:", "error while"))]
    return causes[-1].removeprefix("wasm trap: ") if causes else "unknown trap"
