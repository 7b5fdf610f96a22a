"""The backend inside the test's own event loop: application, repository and a client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import onnxruntime

from gpu_backend.api.app import BackendApp, RequestLimits
from gpu_backend.batching.admission import QueueLimits
from gpu_backend.dataplane import Dataplane
from gpu_backend.monitoring.tracing import Tracer
from gpu_backend.processing.pool import CodecPool
from gpu_backend.repository.loader import Loader
from gpu_backend.repository.repository import Repository, RepositoryOptions

__all__ = ["Backend", "make_repository", "running_app"]


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend whose models are loaded."""

    client: httpx.AsyncClient
    dataplane: Dataplane
    repository: Repository
    app: BackendApp


def make_repository(*roots: Path, provider: str = "auto", **options: Any) -> Repository:
    """A repository over `roots`, not started; `options` are those of `RepositoryOptions`."""
    available = tuple(onnxruntime.get_available_providers())
    values: dict[str, Any] = {
        "roots": roots,
        "limits": QueueLimits(),
        "memory_budget_bytes": 0,
        "drain_timeout_s": 30.0,
        **options,
    }
    loader = Loader(provider, available, intra_op_threads=1, inline_limit_s=100e-6)
    return Repository(RepositoryOptions(**values), loader)


@asynccontextmanager
async def running_app(
    *roots: Path,
    max_body_bytes: int = 1 << 20,
    tracer: Tracer | None = None,
    repository_control: bool = True,
    **options: Any,
) -> AsyncIterator[Backend]:
    """Start, and stop at the end."""
    repository = make_repository(*roots, **options)
    await repository.start()
    dataplane = Dataplane(repository, max_wait_s=30)
    pool = CodecPool(workers=2, max_wait_s=2)
    app = BackendApp(
        dataplane,
        pool,
        RequestLimits(max_body_bytes, 1_000_000),
        tracer,
        repository_control=repository_control,
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://backend") as client:
        # httpx asks for compressed answers by itself; tests ask for them when they mean it.
        client.headers.pop("accept-encoding")
        yield Backend(client, dataplane, repository, app)
    await repository.stop()
    pool.close()
