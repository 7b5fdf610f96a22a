"""Runs requests through a `ComponentRunner` without a network."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from edgehost.ports import ComponentSpec, IncomingRequest, OutboundHttp
from edgehost.wasm import Cancellation, CompiledComponent, ComponentRunner, WasmEngine
from fakes.edgehost_http import MemorySink, NoOutbound, request

__all__ = ["GuestHarness", "RunningRequest"]


@dataclass
class RunningRequest:
    """A request whose guest runs on a thread of its own."""

    sink: MemorySink
    cancellation: Cancellation
    thread: threading.Thread

    def join(self, timeout_s: float = 60.0) -> None:
        """Wait for the guest to end."""
        self.thread.join(timeout_s)
        assert not self.thread.is_alive(), "the guest did not end"


@dataclass
class GuestHarness:
    """A runner with everything around it faked; the lines a guest printed are in `lines`."""

    engine: WasmEngine
    compiled: CompiledComponent
    spec: ComponentSpec
    outbound: OutboundHttp = field(default_factory=NoOutbound)
    prewarm: int = 0
    lines: list[tuple[str, str, str]] = field(default_factory=list)

    def __enter__(self) -> GuestHarness:
        self.runner = ComponentRunner(
            self.engine,
            self.compiled,
            self.spec,
            self.outbound,
            lambda *line: self.lines.append(line),
            prewarm=self.prewarm,
        )
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.runner.close()

    def run(
        self,
        path: str,
        incoming: IncomingRequest | None = None,
        sink: MemorySink | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> MemorySink:
        """Serve one request on this thread and return what came of it."""
        sink = sink or MemorySink()
        self.runner.handle(incoming or request(path), sink, cancelled)
        return sink

    def start(
        self, path: str, incoming: IncomingRequest | None = None, sink: MemorySink | None = None
    ) -> RunningRequest:
        """Serve one request on a thread of its own."""
        sink = sink or MemorySink()
        cancellation = Cancellation()
        thread = threading.Thread(
            target=self.runner.handle, args=(incoming or request(path), sink, cancellation)
        )
        thread.start()
        return RunningRequest(sink, cancellation, thread)
