"""The running app: routes to components, components to threads, and an orderly end.

    HttpServer ─▶ Host._route ─▶ WorkerPool ─▶ ComponentRunner.handle
      I/O thread    I/O thread    guest thread

`Host` is the composition root below the command line and the test fixture: it builds engine,
runners, client and server from an `App`, and takes them down in the opposite order.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgehost.abi.guest import Cancellation
from edgehost.access_log import log_access
from edgehost.app import App
from edgehost.chaining import ChainedCall
from edgehost.errors import GuestCancelledError
from edgehost.http.call import Call
from edgehost.http.client import HttpClient
from edgehost.http.exchange import Exchange, RequestHead
from edgehost.http.loop import LoopThread
from edgehost.http.pipes import OutboundBody
from edgehost.http.pool import PoolLimits
from edgehost.http.server import HttpServer, ServerLimits
from edgehost.ports import Gate, Headers, IncomingRequest, OutboundError, Wakeup
from edgehost.request_headers import chained_fields, has_text_values, routed_fields
from edgehost.routes import WELL_KNOWN_PREFIX
from edgehost.run_gate import RunGate, usable_cores
from edgehost.stdio import GuestLog
from edgehost.wasm import ComponentRunner, WasmEngine
from edgehost.workers import WorkerPool

__all__ = ["Host", "HostOptions", "default_cache_dir"]

_log = logging.getLogger(__name__)

_EXPIRY_SWEEP_S = 0.25
_CANCEL_TIMEOUT_S = 2.0


def default_cache_dir() -> Path:
    """Where compiled components are kept: beside those of other programs of the user."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgehost"


@dataclass(frozen=True, slots=True)
class HostOptions:
    """How to run an app, beyond what its files say."""

    address: tuple[str, int] = ("127.0.0.1", 3000)
    cache_dir: Path | None = field(default_factory=default_cache_dir)
    """None compiles components on every start."""
    threads: int = 64
    """Requests served at once, waiting for upstreams included; each holds some 20 MB."""
    queue_size: int = 1000
    """Requests waiting for a thread; beyond it the answer is 503."""
    prewarm: int = 2
    """Instances of each component made ahead of their request."""
    max_memory_bytes: int | None = None
    """Upper bound for every instance's memory."""
    access_log: bool = False
    limits: ServerLimits = field(default_factory=ServerLimits)


class Host:
    """An app that is being served.

    Args:
        app: What to serve. Closing it stays with the caller.
        options: How.
        guest_log: Gets the lines guests print.
        progress: Told what is being prepared, for a person who waits.

    Raises:
        ConfigError: A component cannot be loaded.
    """

    def __init__(
        self,
        app: App,
        options: HostOptions,
        guest_log: Callable[[str, str, str], None] | None = None,
        progress: Callable[[str], None] = lambda _message: None,
    ) -> None:
        self._app = app
        self._options = options
        self._guest_log = guest_log or GuestLog()
        self._address: tuple[str, int] | None = None
        self._closed = False
        self._started_s = time.monotonic()
        self._io = LoopThread()
        self._server = HttpServer(
            self._io,
            self._route,
            limits=options.limits,
            on_over=log_access if options.access_log else None,
        )
        self._client = HttpClient(
            self._io,
            limits=_pool_limits(app),
            self_authority=self._self_authority,
            chain=self._chain,
        )
        timeout_s = max(
            (spec.limits.request_timeout_s for spec in app.components.values()), default=30.0
        )
        # One more than cores: while one guest's response is on its way, another can start.
        gate = RunGate(usable_cores() + 1)
        self._gate = gate
        self._workers = WorkerPool(options.threads, options.queue_size, timeout_s, gate)
        # Calls between components have threads of their own: were they to wait for the threads
        # their callers hold, a full house could not empty.
        self._chained_workers = WorkerPool(
            options.threads, options.queue_size, timeout_s, gate, name="edgehost-chained"
        )
        self._engine = WasmEngine(
            cache_dir=options.cache_dir,
            pool_size=2 * options.threads,
            memory_limit_bytes=options.max_memory_bytes,
        )
        self._runners: dict[str, ComponentRunner] = {}
        try:
            self._load_components(progress)
        except BaseException:
            self._close_wasm()
            raise

    def start(self) -> tuple[str, int]:
        """Listen; the address really bound.

        Raises:
            OSError: The address cannot be bound.
        """
        self._io.start()
        try:
            self._address = self._server.listen(*self._options.address)
        except BaseException:
            self.stop(0)
            raise
        self._io.post(self._expire_periodically)
        return self._address

    def stop(self, grace_s: float) -> bool:
        """Stop accepting, let requests finish for `grace_s`, then end the rest. Idempotent.

        Returns:
            True when every request finished by itself.
        """
        if self._closed:
            return True
        self._closed = True
        deadline = time.monotonic() + grace_s
        finished = True
        if self._io.running:
            finished = self._server.shut_down(grace_s)
        # Guests may go on after their response; what is left of the grace period is theirs.
        for workers in (self._workers, self._chained_workers):
            if not workers.close(max(0.0, deadline - time.monotonic())):
                finished = False
                workers.cancel_running()
                workers.close(_CANCEL_TIMEOUT_S)
        if self._io.running:
            self._io.call(self._close_client())
        self._close_wasm()
        self._io.stop()
        return finished

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens. Raises `RuntimeError` before `start`."""
        if self._address is None:
            raise RuntimeError("the host has not started")
        return self._address

    @property
    def running_requests(self) -> int:
        """Requests that hold a thread now."""
        return self._workers.running + self._chained_workers.running

    # Start and end.

    def _load_components(self, progress: Callable[[str], None]) -> None:
        for spec in self._app.components.values():
            progress(f"Preparing component {spec.id}")
            compiled = self._engine.load(spec.source)
            self._runners[spec.id] = ComponentRunner(
                self._engine,
                compiled,
                spec,
                self._client,
                self._guest_log,
                prewarm=self._options.prewarm,
            )

    def _close_wasm(self) -> None:
        for runner in self._runners.values():
            runner.close(1.0)
        self._engine.close()

    async def _close_client(self) -> None:
        self._client.close()

    def _self_authority(self) -> str | None:
        if self._address is None:
            return None
        host, port = self._address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _expire_periodically(self) -> None:
        self._workers.expire()
        self._chained_workers.expire()
        if not self._closed:
            asyncio.get_running_loop().call_later(_EXPIRY_SWEEP_S, self._expire_periodically)

    # Requests, on the I/O thread.

    def _route(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.path.startswith(WELL_KNOWN_PREFIX):
            self._answer_well_known(exchange)
            return
        match = self._app.routes.match(request.path)
        if match is None:
            exchange.respond(404)
        elif match.route.static_response is not None:
            static = match.route.static_response
            fields = [(name.lower(), value.encode()) for name, value in static.headers.items()]
            exchange.respond(static.status, fields, static.body)
        elif match.route.component is not None:
            fields = routed_fields(request, match)
            self._run(exchange, match.route.component, fields, self._workers)

    def _answer_well_known(self, exchange: Exchange) -> None:
        what = exchange.request.path.removeprefix(WELL_KNOWN_PREFIX)
        if what == "health":
            exchange.respond(200, body=b"OK")
        elif what == "info":
            info = {"name": self._app.name, "version": self._app.version}
            body = json.dumps({k: v for k, v in info.items() if v}, indent=2).encode()
            exchange.respond(200, [("content-type", b"application/json")], body)
        else:
            exchange.respond(404)

    def _chain(self, component: str, call: Call) -> None:
        if component not in self._runners:
            raise OutboundError(f"there is no component {component!r}", "destination-not-found")
        chained = ChainedCall(call, self._server, self._server.exchange_over)
        self._server.track(chained.exchange)
        fields = chained_fields(chained.exchange.request)
        self._run(chained.exchange, component, fields, self._chained_workers)
        chained.pump()

    def _run(self, exchange: Exchange, component: str, added: Headers, workers: WorkerPool) -> None:
        request = exchange.request
        if not has_text_values(request.headers):
            _log.error("%s %s: a header value is not UTF-8", request.method, request.path)
            exchange.respond(500)
            return
        job = _GuestJob(exchange, component, self._runners[component], added, self._gate)
        exchange.on_gone = job.cancel
        if not workers.submit(job):
            job.expire()


class _GuestJob:
    """One request on its way through a guest."""

    __slots__ = ("_cancellation", "_component", "_exchange", "_headers", "_runner")

    def __init__(
        self,
        exchange: Exchange,
        component: str,
        runner: ComponentRunner,
        added: Headers,
        gate: Gate,
    ) -> None:
        self._exchange = exchange
        self._component = component
        self._runner = runner
        self._headers = exchange.request.headers + added
        self._cancellation = _GatedCancellation(gate)

    def run(self) -> None:
        """Serve the request on this thread."""
        exchange = self._exchange
        if exchange.client_gone():
            return
        request = exchange.request
        self._runner.handle(
            IncomingRequest(
                method=request.method,
                scheme="http",
                authority=request.authority,
                path_with_query=request.path_with_query,
                headers=self._headers,
                body=exchange.body,
            ),
            _Sink(exchange, self._component),
            self._cancellation,
        )
        if not exchange.answered:
            exchange.fail()

    def cancel(self) -> None:
        """Nobody waits for the answer any more, or the host stops."""
        self._cancellation.cancel()

    def expire(self) -> None:
        """No thread was free in time."""
        exchange = self._exchange
        if not exchange.client_gone() and not exchange.answered:
            _log.warning("%s: too many requests, answering 503", exchange.request.path)
            exchange.respond(503, [("retry-after", b"1")])


class _GatedCancellation(Cancellation):
    """Also makes the guest leave the gate while it sleeps."""

    __slots__ = ("_gate",)

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    def bind(self, wakeup: Wakeup | None) -> None:
        """Name what to wake on `cancel`."""
        if wakeup is not None:
            wakeup.gate = self._gate
        super().bind(wakeup)


class _Sink:
    """A `ResponseSink` that says on the log why a guest gave no answer."""

    __slots__ = ("_component", "_exchange")

    def __init__(self, exchange: Exchange, component: str) -> None:
        self._exchange = exchange
        self._component = component

    def start(self, status: int, headers: Headers) -> OutboundBody:
        """Send the head and open the body."""
        return self._exchange.start(status, headers)

    def fail(self, error: BaseException) -> None:
        """Answer 500, as Spin."""
        if not isinstance(error, GuestCancelledError):
            request: RequestHead = self._exchange.request
            _log.error("[%s] %s %s: %s", self._component, request.method, request.path, error)
        self._exchange.fail(error)

    def client_gone(self) -> bool:
        """True once the client has disconnected."""
        return self._exchange.client_gone()


def _pool_limits(app: App) -> PoolLimits:
    config, default = app.outbound_http, PoolLimits()
    return PoolLimits(
        open=default.open if config.max_connections is None else config.max_connections,
        idle=default.idle if config.connection_pooling else 0,
    )
