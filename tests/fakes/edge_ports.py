"""In-memory implementations of `edgekit.ports`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from edgekit.exchange import Ports
from edgekit.http import Headers
from edgekit.ports import (
    HttpClient,
    StoreUnavailableError,
    UpstreamError,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamTimeoutError,
)
from fakes.inference_backend import FakeBackend, Fault, Reply

__all__ = [
    "DEFAULT_VARIABLES",
    "CountingRandom",
    "DictVariables",
    "FakeClock",
    "InProcessClient",
    "LogLines",
    "MemoryStore",
    "make_ports",
]

DEFAULT_VARIABLES: Mapping[str, str] = {
    "backend_url": "http://backend.test:8080",
    "backend_connect_timeout_ms": "1000",
    "backend_first_byte_timeout_ms": "2000",
    "backend_between_bytes_timeout_ms": "3000",
    "max_body_bytes": "100000",
    "max_image_pixels": "65536",
    "metadata_ttl_s": "60",
    # Policy is switched on by the tests that are about it.
    "classify_cache_ttl_s": "0",
    "infer_cache_ttl_s": "0",
    "retry_attempts": "1",
    "records_enabled": "false",
}


class MemoryStore:
    """A key-value store; set `broken` to have every call fail, count round trips in `calls`."""

    def __init__(self) -> None:
        self.items: dict[str, bytes] = {}
        self.broken = False
        self.calls: list[str] = []

    def _enter(self, call: str) -> None:
        self.calls.append(call)
        if self.broken:
            raise StoreUnavailableError("the store is broken")

    def get(self, key: str) -> bytes | None:
        self._enter("get")
        return self.items.get(key)

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        self._enter("get_many")
        return [self.items.get(key) for key in keys]

    def set(self, key: str, value: bytes) -> None:
        self._enter("set")
        self.items[key] = value

    def set_many(self, items: Sequence[tuple[str, bytes]]) -> None:
        self._enter("set_many")
        self.items.update(items)

    def delete(self, key: str) -> None:
        self._enter("delete")
        self.items.pop(key, None)

    def delete_many(self, keys: Sequence[str]) -> None:
        self._enter("delete_many")
        for key in keys:
            self.items.pop(key, None)

    def increment(self, key: str, delta: int) -> int:
        self._enter("increment")
        value = int.from_bytes(self.items.get(key, b""), "little", signed=True) + delta
        self.items[key] = value.to_bytes(8, "little", signed=True)
        return value

    def compare_and_swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        self._enter("compare_and_swap")
        if self.items.get(key) != expected:
            return False
        self.items[key] = value
        return True


class FakeClock:
    """Time that passes only when told; `tick_s` passes with each reading of the monotonic clock."""

    def __init__(self, tick_s: float = 0.0) -> None:
        self.wall_s = 1_800_000_000.0
        self.uptime_s = 100.0
        self.tick_s = tick_s
        self.slept: list[float] = []

    def now_s(self) -> float:
        return self.wall_s

    def monotonic_s(self) -> float:
        self.uptime_s += self.tick_s
        return self.uptime_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self.wall_s += seconds
        self.uptime_s += seconds


class CountingRandom:
    """Bytes 0, 1, 2, …: distinct and predictable."""

    def __init__(self) -> None:
        self._next = 0

    def random(self) -> float:
        return 0.5

    def token_bytes(self, count: int) -> bytes:
        data = bytes((self._next + index) % 256 for index in range(count))
        self._next += count
        return data


class DictVariables:
    """Variables with the defaults of the tests and what a test changes."""

    def __init__(self, **changes: str) -> None:
        self.values = {**DEFAULT_VARIABLES, **changes}

    def get(self, name: str) -> str:
        return self.values.get(name, "")


class InProcessClient:
    """An `HttpClient` that asks a `FakeBackend` without a network; keeps every request."""

    def __init__(self, backend: FakeBackend) -> None:
        self.backend = backend
        self.requests: list[UpstreamRequest] = []
        self.closed_bodies = 0

    def send(self, request: UpstreamRequest) -> UpstreamResponse:
        self.requests.append(request)
        target = "/" + request.url.split("/", 3)[3]
        body = request.body if isinstance(request.body, bytes) else b"".join(request.body)
        reply = self.backend.answer(request.method, target, request.headers, body)
        if reply.fault in (Fault.REFUSE, Fault.RESET):
            raise UpstreamError("connection refused")
        if reply.fault is Fault.HANG:
            raise UpstreamTimeoutError("http response timeout")
        return UpstreamResponse(reply.status, Headers(reply.headers), self._chunks(reply))

    def _chunks(self, reply: Reply) -> Iterator[bytes]:
        try:
            if reply.fault is Fault.BREAK_BODY:
                yield reply.body[: len(reply.body) // 2]
                raise UpstreamError("connection terminated")
            yield from reply.chunks()
        finally:
            self.closed_bodies += 1


@dataclass
class LogLines:
    """Keeps what is logged."""

    lines: list[str] = field(default_factory=list)

    def __call__(self, message: str) -> None:
        self.lines.append(message)

    def text(self) -> str:
        return "\n".join(self.lines)


def make_ports(
    backend: FakeBackend | None = None,
    *,
    client: HttpClient | None = None,
    store: MemoryStore | None = None,
    clock: FakeClock | None = None,
    log: Callable[[str], None] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Ports:
    """Ports over memory; pass a part to look at it afterwards."""
    return Ports(
        http=client or InProcessClient(backend or FakeBackend()),
        store=store or MemoryStore(),
        variables=DictVariables(**(variables or {})),
        clock=clock or FakeClock(),
        random=CountingRandom(),
        log=log or LogLines(),
    )
