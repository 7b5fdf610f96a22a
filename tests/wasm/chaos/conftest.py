"""Edges under faults: the real component in a real host, a backend and a network that misbehave."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from build_components import Component
from fakes.chaos_backend import ChaosBackend
from fakes.inference_server import serve_backend
from fakes.tcp_proxy import TcpProxy
from wasm import hosts
from wasm.cases.table import Answer, Call
from wasm.hosts import HttpEdge

VARIABLES = {
    # Short, so that a test sees an upstream come back.
    "breaker_ejection_ms": "100",
    "breaker_max_ejection_ms": "300",
    "backend_connect_timeout_ms": "500",
    "backend_first_byte_timeout_ms": "500",
    "backend_between_bytes_timeout_ms": "500",
    "retry_attempts": "2",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/chaos/" in item.nodeid or "chaos" in str(item.path):
            item.add_marker(pytest.mark.wasm)
            if not Component("predict").wasm.exists():
                item.add_marker(pytest.mark.skip("no build/predict.wasm: run `make build`"))


_pictures = itertools.count(1)


def fresh_picture() -> bytes:
    """8 × 8 pixels that nobody has sent before; always some kind of stroke."""
    number = next(_pictures)
    pixels = bytearray(64)
    for row in range(1, 7):
        pixels[row * 8 + 3] = pixels[row * 8 + 4] = 255
    for index, digit in enumerate(number.to_bytes(3, "big")):
        pixels[index * 8 + 7] = digit
    return bytes(pixels)


def classify(
    edge: HttpEdge, picture: bytes | None = None, model: str = "digits", **headers: str
) -> Answer:
    """One request; a new picture unless one is given."""
    fields = {"content-type": "application/octet-stream"}
    fields.update((name.replace("_", "-"), value) for name, value in headers.items())
    target = f"/v1/classify/{model}?width=8&height=8"
    return edge.send(Call("POST", target, fields, picture or fresh_picture()))


def tier_of(answer: Answer) -> str:
    """Who answered, and why: ``edge;reason=fallback-edge``."""
    tier, reason = answer.headers["inference-placement"].split(";")[:2]
    return f"{tier};{reason}"


def traffic(send: Callable[[], Answer], requests: int, clients: int = 4) -> list[Answer]:
    """`requests` answers, asked for by `clients` at once."""
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda _: send(), range(requests)))


class Stage:
    """Backend, network and edge of one test."""

    def __init__(self, backend: ChaosBackend, proxy: TcpProxy, edge: HttpEdge) -> None:
        self.backend = backend
        self.proxy = proxy
        self.edge = edge

    def traffic(self, requests: int = 24, model: str = "digits") -> list[Answer]:
        """Answers to that many new pictures."""
        return traffic(lambda: classify(self.edge, model=model), requests)


@contextlib.contextmanager
def raised(
    tmp_path: Path, variables: Mapping[str, str] | None = None, threads: int = 4
) -> Iterator[Stage]:
    """A stage with its own state directory."""
    backend = ChaosBackend(tmp_path / "records.sqlite")
    with serve_backend(backend) as url, contextlib.ExitStack() as stack:
        address = urlsplit(url)
        assert address.hostname is not None
        assert address.port is not None
        proxy = stack.enter_context(TcpProxy((address.hostname, address.port)))
        merged = {**VARIABLES, "backend_url": proxy.url, **(variables or {})}
        state = tmp_path / "state"
        edge = stack.enter_context(hosts.embedded(state, merged, threads=threads))
        yield Stage(backend, proxy, edge)
    backend.book.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with raised(tmp_path) as made:
        yield made
