"""The backend's application over one scripted engine, in the test's own event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from fakes.backend_app import make_repository
from fakes.llm_engines import ScriptedEngine, models_of
from gpu_backend.api.app import BackendApp, RequestLimits
from gpu_backend.dataplane import Dataplane
from gpu_backend.llm.language_models import LanguageModels
from gpu_backend.llm.manifest import GenerationLimits
from gpu_backend.processing.pool import CodecPool

__all__ = ["TextBackend", "running_text_backend"]


@dataclass(frozen=True, slots=True)
class TextBackend:
    """A backend that generates what `engine` says."""

    client: httpx.AsyncClient
    engine: ScriptedEngine
    models: LanguageModels
    app: BackendApp

    async def post(self, path: str, **body: Any) -> httpx.Response:
        """Send `body` to the scripted model."""
        return await self.client.post(path, json={"model": "scripted", **body})


@asynccontextmanager
async def running_text_backend(
    root: Path,
    engine: ScriptedEngine | None = None,
    limits: GenerationLimits | None = None,
    max_body_bytes: int = 1 << 20,
) -> AsyncIterator[TextBackend]:
    """Start, and stop at the end; `root` is an empty folder."""
    served = engine or ScriptedEngine()
    models = await models_of(root, served, limits)
    repository = make_repository()
    await repository.start()
    pool = CodecPool(workers=1, max_wait_s=2)
    dataplane = Dataplane(repository, max_wait_s=30, language_models=models)
    app = BackendApp(dataplane, pool, RequestLimits(max_body_bytes, 1_000_000))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://backend") as client:
        yield TextBackend(client, served, models, app)
    await models.close()
    await repository.stop()
    pool.close()
