"""One edge over memory, with everything visible and a clock that only moves when told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgekit.http import Headers, Request, Response
from edgekit.ports import (
    HttpClient,
    UpstreamError,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamTimeoutError,
)
from fakes.edge_ports import DEFAULT_VARIABLES, FakeClock, LogLines, MemoryStore, make_ports
from fakes.inference_backend import FakeBackend, FakeModel, Fault, json_reply
from predict.app import PIPELINE

__all__ = [
    "ACME",
    "BETA",
    "CLOUD",
    "KEYS",
    "EdgeWorld",
    "KeyedStore",
    "RecordsSink",
    "document",
    "fail",
    "placement_of",
    "status_of",
]

CLOUD = "https://cloud.test"

POLICY_VARIABLES = {
    **DEFAULT_VARIABLES,
    "classify_cache_ttl_s": "300",
    "infer_cache_ttl_s": "60",
    "retry_attempts": "3",
    "cache_stale_while_revalidate_s": "30",
    "cache_stale_if_error_s": "3600",
    "backend_first_byte_timeout_ms": "20000",
}


class KeyedStore(MemoryStore):
    """Notes which keys each operation is about."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[str, tuple[str, ...]]] = []

    def _note(self, call: str, *keys: str) -> None:
        self.operations.append((call, keys))

    def get(self, key: str) -> bytes | None:
        self._note("get", key)
        return super().get(key)

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        self._note("get_many", *keys)
        return super().get_many(keys)

    def set(self, key: str, value: bytes) -> None:
        self._note("set", key)
        super().set(key, value)

    def set_many(self, items: Sequence[tuple[str, bytes]]) -> None:
        self._note("set_many", *(key for key, _ in items))
        super().set_many(items)

    def delete(self, key: str) -> None:
        self._note("delete", key)
        super().delete(key)

    def delete_many(self, keys: Sequence[str]) -> None:
        self._note("delete_many", *keys)
        super().delete_many(keys)

    def increment(self, key: str, delta: int) -> int:
        self._note("increment", key)
        return super().increment(key, delta)

    def compare_and_swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        self._note("compare_and_swap", key)
        return super().compare_and_swap(key, expected, value)

    def spent(self) -> list[str]:
        """Operations since the last call, those of records aside."""
        spent = [call for call, keys in self.operations if not keys[0].startswith("spool/")]
        self.operations.clear()
        return spent


@dataclass
class RecordsSink:
    """The backend's records endpoint: keeps one record per id."""

    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    deliveries: int = 0
    dropped: int = 0
    away: bool = False

    def take(self, body: bytes) -> int:
        if self.away:
            return 503
        document = json.loads(body)
        self.deliveries += 1
        self.dropped = max(self.dropped, document["dropped"])
        for record in document["records"]:
            self.records[record["id"]] = record
        return 200


class Upstreams:
    """An `HttpClient` before a cluster and a cloud, each of which can fail and take its time."""

    def __init__(self, clock: FakeClock, records: RecordsSink) -> None:
        self.clock = clock
        self.records = records
        self.cluster = FakeBackend([FakeModel(), FakeModel(name="digits")])
        self.cloud = FakeBackend([FakeModel(), FakeModel(name="digits")])
        self.takes_s = 0.0
        self.requests: list[UpstreamRequest] = []

    def send(self, request: UpstreamRequest) -> UpstreamResponse:
        path = "/" + request.url.split("/", 3)[3]
        assert isinstance(request.body, bytes)
        if path == "/v1/records":
            reply = json_reply({}, self.records.take(request.body))
            return UpstreamResponse(reply.status, Headers(reply.headers), reply.chunks())
        self.requests.append(request)
        if self.takes_s > request.timeouts.first_byte_s:
            self.clock.advance(request.timeouts.first_byte_s)
            raise UpstreamTimeoutError("http response timeout")
        self.clock.advance(self.takes_s)
        backend = self.cloud if request.url.startswith(CLOUD) else self.cluster
        reply = backend.answer(request.method, path, request.headers, request.body)
        if reply.fault in (Fault.REFUSE, Fault.RESET):
            raise UpstreamError("connection refused")
        if reply.fault is Fault.HANG:
            self.clock.advance(request.timeouts.first_byte_s)
            raise UpstreamTimeoutError("http response timeout")

        def chunks() -> Iterator[bytes]:
            if reply.fault is Fault.BREAK_BODY:
                yield reply.body[: len(reply.body) // 2]
                raise UpstreamError("connection terminated")
            yield from reply.chunks()

        return UpstreamResponse(reply.status, Headers(reply.headers), chunks())


class EdgeWorld:
    """The pipeline of the component `predict` with its surroundings."""

    def __init__(
        self,
        *,
        client: HttpClient | None = None,
        store: MemoryStore | None = None,
        variables: Mapping[str, str] | None = None,
        **more: str,
    ) -> None:
        self.clock = FakeClock()
        self.records = RecordsSink()
        self.upstreams = Upstreams(self.clock, self.records)
        self.client = client or self.upstreams
        self.store = store or KeyedStore()
        self.log = LogLines()
        self.variables = {**POLICY_VARIABLES, **(variables or {}), **more}
        self._ports = make_ports(
            client=self.client,
            store=self.store,
            clock=self.clock,
            log=self.log,
            variables=self.variables,
        )

    @property
    def keyed(self) -> KeyedStore:
        assert isinstance(self.store, KeyedStore)
        return self.store

    @property
    def infer_calls(self) -> int:
        return len(self.upstreams.cluster.infer_calls())

    def send(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        finish: bool = True,
    ) -> Response:
        path, _, query = target.partition("?")
        request = Request(method, path, query, Headers((headers or {}).items()), body)
        response = PIPELINE(request, self._ports)
        if finish:
            self.finish(response)
        return response

    def finish(self, response: Response) -> None:
        """What the host does once the client has its answer."""
        for step in response.after:
            step()

    def classify(
        self,
        lit: int = 3,
        model: str = "pixels",
        *,
        auth: Mapping[str, str] | None = None,
        finish: bool = True,
        **headers: str,
    ) -> Response:
        """One picture of 8 × 8 pixels of which one is lit."""
        pixels = bytearray(64)
        pixels[lit] = 255
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        fields.update(auth or {})
        fields.setdefault("content-type", "application/octet-stream")
        target = f"/v1/classify/{model}?width=8&height=8"
        return self.send("POST", target, bytes(pixels), fields, finish=finish)


def document(response: Response) -> Any:
    """The JSON of a response."""
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


def status_of(response: Response) -> str:
    """Its `Cache-Status`."""
    return response.headers.get("cache-status") or ""


def placement_of(response: Response) -> str:
    """Its `Inference-Placement` without the measured time."""
    return (response.headers.get("inference-placement") or "").partition(";actual")[0]


def fail(world: EdgeWorld, fault: Fault = Fault.RESET) -> None:
    """Let every call to the cluster fail that way."""
    world.upstreams.cluster.fault = fault


KEYS = json.dumps(
    {
        "acme": {
            "keys": [hashlib.sha256(b"acme-key").hexdigest()],
            "rate_per_s": 100,
            "burst": 100,
            "concurrency": 4,
            "daily_requests": 1000,
            "scopes": ["infer", "admin"],
        },
        "beta": {"keys": [hashlib.sha256(b"beta-key").hexdigest()]},
    }
)
"""Two tenants: one under every kind of limit, one without any."""

ACME = {"authorization": "Bearer acme-key"}
BETA = {"authorization": "Bearer beta-key"}
