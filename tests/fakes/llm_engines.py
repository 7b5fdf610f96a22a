"""Engines whose chunks a test writes down, and step decoders whose steps it releases."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gpu_backend.errors import BackendError
from gpu_backend.llm.engine import (
    Capabilities,
    Chunk,
    Chunks,
    Embeddings,
    Finish,
    FinishReason,
    GenerateRequest,
    ModelCard,
    Usage,
)
from gpu_backend.llm.language_models import LanguageModels
from gpu_backend.llm.manifest import GenerationLimits, LanguageManifest
from gpu_backend.llm.sequence import Drawn
from gpu_backend.llm.sequence import Sequence as Text

__all__ = ["ScriptedDecoder", "ScriptedEngine", "finish", "models_of"]

ABLE = Capabilities(
    logprobs=True,
    formats=frozenset(("json_object", "json_schema")),
    tools=True,
    images=True,
    embeddings=True,
)


def finish(reason: FinishReason = FinishReason.STOP, completion_tokens: int = 2) -> Chunk:
    """A last chunk."""
    return Chunk(finish=Finish(reason, Usage(3, completion_tokens, 0.25, 0.5, 0.0, 0.125)))


@dataclass(eq=False)
class ScriptedEngine:
    """Sends `script` to everybody.

    Attributes:
        script: Chunks, and errors that are raised in their place.
        gate: Awaited before every item after the first; None never waits.
        requests: That came.
        running: Generations that are not over.
        closed: Generations whose iterator was closed, by end or by cancellation.
    """

    script: Sequence[Chunk | Exception] = (Chunk("Hello"), Chunk(" there"), finish())
    gate: asyncio.Event | None = None
    capabilities: Capabilities = ABLE
    name: str = "scripted"
    is_loaded: bool = False
    requests: list[GenerateRequest] = field(default_factory=list)
    running: int = 0
    closed: int = 0

    async def generate(self, model: str, request: GenerateRequest) -> Chunks:
        self.requests.append(request)
        self.running += 1
        try:
            for number, item in enumerate(self.script):
                if number and self.gate is not None:
                    await self.gate.wait()
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.running -= 1
            self.closed += 1

    async def embed(self, model: str, texts: Sequence[str], dimensions: int | None) -> Embeddings:
        return Embeddings([[0.5, -1.0] for _ in texts], 2 * len(texts))

    async def cards(self) -> Sequence[ModelCard]:
        return (
            ModelCard(
                self.name,
                "onnxruntime-genai",
                "1",
                "sha256:" + "ab" * 32,
                1234,
                1700000000.0,
                512,
                "llama",
                capabilities=self.capabilities,
            ),
        )

    async def load(self) -> None:
        self.is_loaded = True

    async def unload(self) -> None:
        self.is_loaded = False

    async def close(self) -> None:
        self.is_loaded = False


async def models_of(
    root: Path, engine: ScriptedEngine, limits: GenerationLimits | None = None
) -> LanguageModels:
    """Models that know `engine` alone, under its name; `root` is an empty folder."""
    folder = root / engine.name
    folder.mkdir()
    (folder / "genai_config.json").write_text("{}")

    def make(manifest: LanguageManifest, threads: int) -> ScriptedEngine:
        return engine

    models = LanguageModels((root,), 0, make)
    await models.start()
    served = models.served()[0]
    if limits is not None:
        served.manifest = LanguageManifest(engine.name, folder, limits=limits)
        served.gate = type(served.gate)(engine.name, limits.max_streams, limits.max_queue)
    return models


@dataclass(eq=False)
class ScriptedDecoder:
    """Draws tokens 1, 2, 3 … for every text; each prefill and step waits for a permit.

    Attributes:
        max_streams: Texts at a time.
        permits: Released by the test, one per prefill or step; None needs none.
        failures: Raised by the next steps in their place.
    """

    max_streams: int = 2
    permits: threading.Semaphore | None = None
    failures: list[BackendError | Exception] = field(default_factory=list)
    reading: threading.Event = field(default_factory=threading.Event)
    held: list[Text] = field(default_factory=list)
    most_held: int = 0
    batches: list[int] = field(default_factory=list)
    interrupted: bool = False
    closed: bool = False
    _drawn: dict[Text, int] = field(default_factory=dict)

    def prefill(self, sequence: Text) -> Drawn | None:
        self.held.append(sequence)
        self.most_held = max(self.most_held, len(self.held))
        self.reading.set()
        self._wait()
        if self.interrupted:
            self.interrupted = False
            raise RuntimeError("interrupted")
        return self._draw(sequence)

    def decode(self, sequences: Sequence[Text]) -> list[Drawn | None]:
        self._wait()
        self.batches.append(len(sequences))
        return [self._draw(sequence) for sequence in sequences]

    def release(self, sequence: Text) -> None:
        if sequence in self.held:
            self.held.remove(sequence)

    def interrupt(self) -> None:
        self.interrupted = True
        if self.permits is not None:
            self.permits.release()

    def close(self) -> None:
        self.closed = True

    def _wait(self) -> None:
        if self.permits is not None:
            assert self.permits.acquire(timeout=10), "the test released no step"
        if self.failures:
            raise self.failures.pop(0)

    def _draw(self, sequence: Text) -> Drawn:
        token = self._drawn.get(sequence, 0) + 1
        self._drawn[sequence] = token
        return Drawn(token)
