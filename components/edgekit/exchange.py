"""One request on its way through the pipeline, with what belongs to it alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edgekit.backend import Backend, Upstream
from edgekit.http import Request, Response
from edgekit.policy.deadline import Deadline
from edgekit.policy.ledger import QuotaUse
from edgekit.policy.placement import placement_field
from edgekit.policy.ratelimit_fields import set_rate_limit_fields
from edgekit.policy.snapshot import Snapshot
from edgekit.policy.tenants import ANONYMOUS, Tenant
from edgekit.ports import (
    Clock,
    HttpClient,
    KeyValueStore,
    Log,
    RandomSource,
    StoreUnavailableError,
    Variables,
)
from edgekit.protocols.inference_headers import format_server_timing
from edgekit.protocols.trace import Trace
from edgekit.settings import Settings, read_settings

__all__ = ["Exchange", "Facts", "Placement", "Ports"]


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
    actual_ms: float | None = None
    predicted_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the record of an inference says beyond what its answer's fields do.

    Attributes:
        cache: hit, miss, stale, collapsed or bypass.
        confidence: Of the top class, where there is one.
        tokens: Model tokens this request cost.
        cost_micro: What it cost, in millionths of the operator's currency.
        status: Of an answer that ended otherwise than its head said; None for any other.
    """

    cache: str = "bypass"
    model_version: str = ""
    model_digest: str = ""
    confidence: float | None = None
    class_id: int | None = None
    tokens: int = 0
    cost_micro: int = 0
    status: int | None = None


UNBOUNDED_MS = 600_000
"""Budget until a route has said its own."""


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
        tenant: Who is calling.
        deadline: The request's latency budget.
        uses: Where the tenant stands with its limits.
        snapshot: What was read from the store in one batch; None before.
        keep: What is to be stored after the response, in one batch.
        cache_status: Value of `Cache-Status`; empty where no cache was involved.
        record: Has the response recorded, where it is one of an inference.
        facts: For the record.
    """

    request: Request
    ports: Ports
    trace: Trace
    started_s: float
    placement: Placement | None = None
    after: list[Callable[[], None]] = field(default_factory=list)
    tenant: Tenant = ANONYMOUS
    deadline: Deadline = field(init=False)
    uses: tuple[QuotaUse, ...] = ()
    snapshot: Snapshot | None = None
    keep: list[tuple[str, bytes]] = field(default_factory=list)
    cache_status: str = ""
    record: Callable[[Response], None] | None = None
    facts: Facts = field(default_factory=Facts)
    _upstream: Upstream | None = None
    _reserve_s: float = 0.0
    _settings: Settings | None = None
    _marked_s: float = field(init=False)
    _stages: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._marked_s = self.started_s
        self.deadline = Deadline(self.ports.clock, UNBOUNDED_MS, self.started_s)

    @property
    def settings(self) -> Settings:
        """What the operator decided. Raises `InternalError` when that makes no sense."""
        if self._settings is None:
            self._settings = read_settings(self.ports.variables)
        return self._settings

    @property
    def request_bytes(self) -> int:
        """Size of the request's body, as far as it has been received."""
        body = self.request.body
        return len(body) if isinstance(body, bytes) else 0

    @property
    def upstream(self) -> Upstream:
        """What `backend` calls: the cluster's backend, until another is chosen."""
        return self._upstream or self.settings.cluster

    def use_upstream(self, upstream: Upstream, reserve_s: float = 0.0) -> None:
        """Make `upstream` what `backend` calls, `reserve_s` of the budget kept for afterwards."""
        self._upstream = upstream
        self._reserve_s = reserve_s

    def backend(self) -> Backend:
        """The upstream in use, called on behalf of this request and within its deadline."""
        return Backend(
            upstream=self.upstream,
            client=self.ports.http,
            trace=self.trace,
            log=self.log,
            deadline=self.deadline,
            reserve_s=self._reserve_s,
        )

    def read(self, key: str) -> bytes | None:
        """A stored value, from the snapshot where there is one. Raises `StoreUnavailableError`."""
        if self.snapshot is not None and self.snapshot.available:
            return self.snapshot.get(key)
        return self.ports.store.get(key)

    def log(self, message: str) -> None:
        """Write one line that can be found by the request's identifier."""
        self.ports.log(f"[{self.trace.request_id}] {message}")

    def end_stage(self, name: str) -> float:
        """Count the milliseconds since the last stage ended to stage `name`; returns them."""
        now_s = self.ports.clock.monotonic_s()
        duration_ms = (now_s - self._marked_s) * 1000
        self._marked_s = now_s
        self._stages[name] = self._stages.get(name, 0.0) + duration_ms
        return duration_ms

    def elapsed_ms(self) -> float:
        """Milliseconds since the request was accepted."""
        return (self.ports.clock.monotonic_s() - self.started_s) * 1000

    def stamp(self, response: Response) -> None:
        """Set the fields that tell what happened to this request; hand over the work after it."""
        headers = response.headers
        headers.set("x-request-id", self.trace.request_id)
        stages = [*self._stages.items(), ("total", self.elapsed_ms())]
        headers.add("server-timing", format_server_timing(stages))
        placement = self.placement
        if placement is not None:
            value = placement_field(
                placement.tier,
                placement.reason,
                predicted_ms=placement.predicted_ms,
                actual_ms=placement.actual_ms,
            )
            headers.set("inference-placement", value)
        if self.cache_status:
            headers.set("cache-status", self.cache_status)
        set_rate_limit_fields(headers, self.uses)
        response.after.extend([*self.after, self.store_kept])

    def store_kept(self) -> None:
        """Store what is to be kept, in one batch; a store that fails costs the client nothing."""
        if not self.keep:
            return
        try:
            self.ports.store.set_many(self.keep)
        except StoreUnavailableError as error:
            self.log(f"{', '.join(key for key, _ in self.keep)} not stored: {error}")
