"""One request on its way through the pipeline, with what belongs to it alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edgekit.backend import Backend
from edgekit.http import Request, Response
from edgekit.ports import Clock, HttpClient, KeyValueStore, Log, RandomSource, Variables
from edgekit.protocols.inference_headers import format_placement, format_server_timing
from edgekit.protocols.trace import Trace
from edgekit.settings import Settings, read_settings

__all__ = ["Exchange", "Placement", "Ports"]


@dataclass(frozen=True, slots=True)
class Ports:
    """The world as one component sees it."""

    http: HttpClient
    store: KeyValueStore
    variables: Variables
    clock: Clock
    random: RandomSource
    log: Log


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the answer was computed, why there, and how long that took."""

    tier: str
    reason: str
    actual_ms: float


@dataclass(slots=True)
class Exchange:
    """State of one request.

    Attributes:
        request: What came in.
        ports: The world.
        trace: Identifiers, for the log and the next hop.
        started_s: Monotonic time at which it was accepted.
        placement: Set by whichever step had the answer computed.
        after: Work for the time after the response.
    """

    request: Request
    ports: Ports
    trace: Trace
    started_s: float
    placement: Placement | None = None
    after: list[Callable[[], None]] = field(default_factory=list)
    _settings: Settings | None = None
    _marked_s: float = field(init=False)
    _stages: list[tuple[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._marked_s = self.started_s

    @property
    def settings(self) -> Settings:
        """What the operator decided. Raises `InternalError` when that makes no sense."""
        if self._settings is None:
            self._settings = read_settings(self.ports.variables)
        return self._settings

    def backend(self) -> Backend:
        """The backend, called on behalf of this request."""
        return Backend(
            url=self.settings.backend_url,
            timeouts=self.settings.backend_timeouts,
            client=self.ports.http,
            trace=self.trace,
            log=self.log,
        )

    def log(self, message: str) -> None:
        """Write one line that can be found by the request's identifier."""
        self.ports.log(f"[{self.trace.request_id}] {message}")

    def end_stage(self, name: str) -> float:
        """Note the milliseconds since the last stage ended as stage `name`; returns them."""
        now_s = self.ports.clock.monotonic_s()
        duration_ms = (now_s - self._marked_s) * 1000
        self._marked_s = now_s
        self._stages.append((name, duration_ms))
        return duration_ms

    def elapsed_ms(self) -> float:
        """Milliseconds since the request was accepted."""
        return (self.ports.clock.monotonic_s() - self.started_s) * 1000

    def stamp(self, response: Response) -> None:
        """Set the fields that tell what happened to this request; hand over the work after it."""
        headers = response.headers
        headers.set("x-request-id", self.trace.request_id)
        stages = [*self._stages, ("total", self.elapsed_ms())]
        headers.add("server-timing", format_server_timing(stages))
        if self.placement is not None:
            tier, reason = self.placement.tier, self.placement.reason
            headers.set(
                "inference-placement", format_placement(tier, reason, self.placement.actual_ms)
            )
        response.after.extend(self.after)
