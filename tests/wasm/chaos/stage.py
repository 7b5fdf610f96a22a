"""Backend, network and edge of one test, and what is asked of them.

Here and not in `conftest.py`, which pytest loads under a name of its own: a test that imported it
would have a second copy of `fresh_picture`, and its pictures would not be fresh.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from fakes.chaos_backend import ChaosBackend
from fakes.inference_server import serve_backend
from fakes.tcp_proxy import TcpProxy
from wasm import hosts
from wasm.cases.table import Answer, Call
from wasm.hosts import HttpEdge

__all__ = [
    "PATIENCE_S",
    "VARIABLES",
    "Stage",
    "await_cluster",
    "classify",
    "fresh_picture",
    "raised",
    "tier_of",
    "traffic",
]

PATIENCE_S = 60.0
"""How long a condition may take to come true on a machine that does other things as well."""

VARIABLES = {
    # Short, so that a test sees an upstream come back.
    "breaker_ejection_ms": "100",
    "breaker_max_ejection_ms": "300",
    # Long: a healthy backend on a loaded machine is not at fault. What hangs is waited for only as
    # long as a test says, with a deadline or a timeout of its own.
    "backend_connect_timeout_ms": "20000",
    "backend_first_byte_timeout_ms": "20000",
    "backend_between_bytes_timeout_ms": "20000",
    "classify_deadline_ms": "20000",
    "retry_attempts": "2",
}

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

    def traffic(self, requests: int = 24, model: str = "digits", **headers: str) -> list[Answer]:
        """Answers to that many new pictures."""
        return traffic(lambda: classify(self.edge, None, model, **headers), requests)


def await_cluster(stage: Stage) -> None:
    """Return once the cluster answers again, which has to come to pass."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not tier_of(classify(stage.edge)).startswith("cluster"):
        assert time.monotonic() < deadline_s, "the cluster is not used although it is back"
        time.sleep(0.05)


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
