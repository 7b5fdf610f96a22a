"""One contract for every engine: batched, GenAI's two, Ollama and OpenAI-compatible servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

import pytest
import pytest_asyncio

from fakes.llm_folders import FAMILY_ROOT, PAGED, make_embedded
from fakes.llm_upstreams import (
    OLLAMA_CHAT,
    OLLAMA_TAGS,
    OPENAI_CHAT,
    ScriptedServer,
    ndjson,
    server_sent_events,
)
from gpu_backend.llm.engine import Chunk, Engine, GenerateRequest, Message
from gpu_backend.llm.manifest import GenerationLimits, Upstream
from gpu_backend.llm.ollama import OllamaEngine
from gpu_backend.llm.openai_compatible import OpenAICompatibleEngine

REQUEST = GenerateRequest((Message("user", "Größe?"),), max_tokens=12)


@dataclass
class Subject:
    engine: Engine
    server: ScriptedServer | None


def make(kind: str) -> Subject:
    if kind in ("batched", "genai"):
        return Subject(make_embedded(FAMILY_ROOT / "llama", GenerationLimits(engine=kind)), None)
    if kind == "paged":
        return Subject(make_embedded(PAGED), None)
    upstream = Upstream("http://server:8000")
    if kind == "ollama":
        server = ScriptedServer(
            ndjson(OLLAMA_CHAT), piece_bytes=7, documents={"/api/tags": OLLAMA_TAGS}
        )
        return Subject(OllamaEngine(upstream, transport=server.transport()), server)
    server = ScriptedServer(
        server_sent_events(OPENAI_CHAT),
        piece_bytes=7,
        documents={"/v1/models": {"object": "list", "data": [{"id": "served", "created": 1}]}},
    )
    return Subject(OpenAICompatibleEngine(upstream, transport=server.transport()), server)


@pytest_asyncio.fixture(params=["batched", "genai", "paged", "ollama", "openai"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    it = make(request.param)
    yield it
    await it.engine.close()


async def collect(engine: Engine, request: GenerateRequest = REQUEST) -> list[Chunk]:
    return [chunk async for chunk in engine.generate("m", request)]


async def test_only_the_last_chunk_has_the_end(subject: Subject) -> None:
    chunks = await collect(subject.engine)
    assert [chunk.finish is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


async def test_usage_counts_prompt_and_text(subject: Subject) -> None:
    finish = (await collect(subject.engine))[-1].finish
    assert finish is not None
    assert finish.usage.prompt_tokens > 0
    assert finish.usage.completion_tokens > 0


async def test_text_is_whole_characters(subject: Subject) -> None:
    for chunk in await collect(subject.engine):
        chunk.text.encode("utf-8")  # a lone surrogate would raise


async def test_repeated_request_gives_the_same_text(subject: Subject) -> None:
    first, second = [await collect(subject.engine) for _ in range(2)]
    assert "".join(c.text for c in first) == "".join(c.text for c in second) != ""


async def test_nothing_happens_before_the_first_chunk_is_asked_for(subject: Subject) -> None:
    stream = subject.engine.generate("m", REQUEST)
    await asyncio.sleep(0)
    if subject.server is not None:
        assert subject.server.requests == []
    await stream.aclose()


async def test_closed_stream_frees_what_it_held(subject: Subject) -> None:
    async with aclosing(subject.engine.generate("m", REQUEST)) as stream:
        await anext(stream)
    if subject.server is not None:
        assert subject.server.closed == 1
    assert (await collect(subject.engine))[-1].finish is not None


async def test_streams_side_by_side_do_not_mix(subject: Subject) -> None:
    alone = await collect(subject.engine)
    together = await asyncio.gather(*(collect(subject.engine) for _ in range(4)))
    for chunks in together:
        assert "".join(c.text for c in chunks) == "".join(c.text for c in alone)


async def test_cards_name_the_models(subject: Subject) -> None:
    cards = await subject.engine.cards()
    assert [card.name for card in cards] in (["llama"], ["paged"], ["llama3.2:latest"], ["served"])
