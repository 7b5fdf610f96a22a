"""The service: names, bounds, deadlines, ends and the following of folders."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import pytest

from fakes.llm_engines import ScriptedEngine, finish, models_of
from fakes.llm_upstreams import OLLAMA_CHAT, OLLAMA_TAGS, ScriptedServer, ndjson
from gpu_backend.errors import (
    DeadlineExceededError,
    ExecutionFailedError,
    InvalidInputError,
    ModelNotFoundError,
    ModelNotReadyError,
    OverloadedError,
    UpstreamUnavailableError,
)
from gpu_backend.llm.engine import (
    Capabilities,
    Chunk,
    Engine,
    Format,
    GenerateRequest,
    Message,
    ModelCard,
    Prompt,
)
from gpu_backend.llm.gate import Gate
from gpu_backend.llm.language_models import LanguageModels
from gpu_backend.llm.manifest import GenerationLimits, LanguageManifest, Upstream
from gpu_backend.llm.ollama import OllamaEngine

HELLO = GenerateRequest(Prompt("hello"))


async def read(models: LanguageModels, name: str = "scripted", **more: float) -> list[Chunk]:
    async with models.generate(name, HELLO, **more) as (_, chunks):
        return [chunk async for chunk in chunks]


async def test_text_and_account_of_a_whole_generation(tmp_path: Path) -> None:
    models = await models_of(tmp_path, ScriptedEngine())
    assert "".join(chunk.text for chunk in await read(models)) == "Hello there"
    stats = models.served()[0].stats
    assert stats.requests == {"ok": 1}
    assert (stats.prompt_tokens, stats.completion_tokens) == (3, 2)
    assert (stats.first_token_s.count, stats.queue_s.count) == (1, 1)


@pytest.mark.parametrize("name", ["scripted", "scripted:latest"])
async def test_name_with_and_without_its_tag_is_the_same_model(tmp_path: Path, name: str) -> None:
    models = await models_of(tmp_path, ScriptedEngine())
    assert (await models.card(name)).name == "scripted"


async def test_unknown_name_is_not_found(tmp_path: Path) -> None:
    models = await models_of(tmp_path, ScriptedEngine())
    with pytest.raises(ModelNotFoundError, match="nobody"):
        await read(models, "nobody")


async def test_stream_without_an_end_is_a_failure(tmp_path: Path) -> None:
    models = await models_of(tmp_path, ScriptedEngine([Chunk("half")]))
    with pytest.raises(ExecutionFailedError, match="without an end"):
        await read(models)
    assert models.served()[0].stats.requests == {"execution_failed": 1}


async def test_foreign_exception_of_an_engine_is_a_failure(tmp_path: Path) -> None:
    models = await models_of(tmp_path, ScriptedEngine([Chunk("a"), KeyError("x")]))
    with pytest.raises(ExecutionFailedError, match="the engine failed"):
        await read(models)


async def test_request_beyond_the_queue_is_refused_with_a_time(tmp_path: Path) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(gate=gate)
    limits = GenerationLimits(max_streams=1, max_queue=1)
    models = await models_of(tmp_path, engine, limits)
    waiting = [asyncio.create_task(read(models)) for _ in range(2)]
    await asyncio.sleep(0.01)
    with pytest.raises(OverloadedError) as caught:
        await read(models)
    assert caught.value.retry_after_s >= 1.0
    gate.set()
    assert len(await asyncio.gather(*waiting)) == 2
    assert (await read(models))[-1].finish is not None


async def test_left_generation_is_cancelled_and_gives_its_place_back(tmp_path: Path) -> None:
    engine = ScriptedEngine(gate=asyncio.Event())
    models = await models_of(tmp_path, engine, GenerationLimits(max_streams=1, max_queue=0))
    for _ in range(3):
        async with models.generate("scripted", HELLO) as (_, chunks):
            await anext(chunks)
            assert engine.running == 1
        assert engine.running == 0
    assert models.served()[0].stats.requests == {"cancelled": 3}
    assert models.served()[0].gate.inside == 0


async def test_cancelled_reader_cancels_the_engine(tmp_path: Path) -> None:
    engine = ScriptedEngine(gate=asyncio.Event())
    models = await models_of(tmp_path, engine)
    task = asyncio.create_task(read(models))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (engine.running, models.served()[0].gate.inside) == (0, 0)


async def test_deadline_that_has_passed_is_told(tmp_path: Path) -> None:
    models = await models_of(tmp_path, ScriptedEngine(gate=asyncio.Event()))
    with pytest.raises(DeadlineExceededError):
        await read(models, deadline=perf_counter() + 0.02)
    assert models.served()[0].stats.requests == {"deadline_exceeded": 1}


async def test_generation_may_take_no_longer_than_its_limit(tmp_path: Path) -> None:
    engine = ScriptedEngine(gate=asyncio.Event())
    models = await models_of(tmp_path, engine, GenerationLimits(max_duration_s=0.1))
    with pytest.raises(DeadlineExceededError):
        await read(models)
    assert engine.running == 0


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (GenerateRequest(Prompt("x"), top_logprobs=0), "logprobs"),
        (GenerateRequest(Prompt("x"), format=Format("json_object")), "response_format"),
        (GenerateRequest(Prompt("x"), tools=({},)), "tools"),
        (GenerateRequest((Message("user", "x", images=("aa",)),)), "messages"),
    ],
)
async def test_what_a_model_cannot_do_is_refused(
    tmp_path: Path, request_: GenerateRequest, param: str
) -> None:
    models = await models_of(tmp_path, ScriptedEngine(capabilities=Capabilities()))
    with pytest.raises(InvalidInputError) as caught:
        async with models.generate("scripted", request_):
            pass
    assert caught.value.param == param


async def test_embeddings_of_a_model_that_makes_none_are_refused(tmp_path: Path) -> None:
    models = await models_of(tmp_path, ScriptedEngine(capabilities=Capabilities()))
    with pytest.raises(InvalidInputError, match="no embeddings"):
        await models.embed("scripted", ["a"], None, None)


# -- folders and servers ---------------------------------------------------------------------


def write_server(root: Path, name: str, model: str = "") -> None:
    (root / name).mkdir()
    alias = f'model = "{model}"\n' if model else ""
    (root / name / "model.toml").write_text(
        f'[model]\nplatform = "ollama"\n[upstream]\nurl = "http://ollama:11434"\n{alias}'
    )


async def models_over(root: Path, server: ScriptedServer) -> LanguageModels:
    def make(manifest: LanguageManifest, threads: int) -> Engine:
        assert manifest.upstream is not None
        alias = manifest.name if manifest.upstream.model else None
        return OllamaEngine(manifest.upstream, alias, server.transport())

    models = LanguageModels((root,), 0, make)
    await models.start()
    return models


async def test_models_of_a_server_answer_under_their_own_names(tmp_path: Path) -> None:
    server = ScriptedServer(ndjson(OLLAMA_CHAT), documents={"/api/tags": OLLAMA_TAGS})
    write_server(tmp_path, "cluster")
    models = await models_over(tmp_path, server)
    assert [card.name for card in await models.cards()] == ["llama3.2:latest"]
    assert (await read(models, "llama3.2"))[-1].finish is not None
    assert server.sent()["model"] == "llama3.2:latest"
    with pytest.raises(ModelNotFoundError):
        await read(models, "cluster")


async def test_list_of_a_server_is_asked_for_once_in_a_while(tmp_path: Path) -> None:
    server = ScriptedServer(documents={"/api/tags": OLLAMA_TAGS})
    write_server(tmp_path, "cluster")
    models = await models_over(tmp_path, server)
    for _ in range(5):
        await models.card("llama3.2")
    assert len(server.requests) == 1


async def test_alias_is_used_without_asking_the_server_first(tmp_path: Path) -> None:
    server = ScriptedServer(ndjson(OLLAMA_CHAT), documents={"/api/tags": OLLAMA_TAGS})
    write_server(tmp_path, "assistant", "llama3.2")
    models = await models_over(tmp_path, server)
    await read(models, "assistant")
    assert [request.url.path for request in server.requests] == ["/api/generate"]


async def test_server_that_is_down_hides_no_other_model(tmp_path: Path) -> None:
    class Down(ScriptedEngine):
        async def cards(self) -> list[object]:  # type: ignore[override]
            raise UpstreamUnavailableError("down")

    def make(manifest: LanguageManifest, threads: int) -> Engine:
        return Down() if manifest.upstream else ScriptedEngine()

    (tmp_path / "scripted").mkdir()
    (tmp_path / "scripted" / "genai_config.json").write_text("{}")
    write_server(tmp_path, "cluster")
    models = LanguageModels((tmp_path,), 0, make)
    await models.start()
    assert [card.name for card in await models.cards()] == ["scripted"]
    with pytest.raises(UpstreamUnavailableError):
        await models.card("llama3.2")


async def test_known_model_is_served_without_asking_another_server(tmp_path: Path) -> None:
    asked: list[str] = []

    class Asked(ScriptedEngine):
        async def cards(self) -> Sequence[ModelCard]:
            asked.append(self.name)
            return await super().cards()

    def make(manifest: LanguageManifest, threads: int) -> Engine:
        return Asked(name=f"model-of-{manifest.name}")

    for name in ("a-slow", "b-other"):
        write_server(tmp_path, name)
    models = LanguageModels((tmp_path,), 0, make)
    await models.start()
    other = models.served()[1].listed
    assert other is not None
    await other.fresh()
    assert (await read(models, "model-of-b-other"))[-1].finish is not None
    assert asked == ["model-of-b-other"]
    await models.close()


async def test_folder_with_faults_is_told_and_not_served(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "model.toml").write_text('[model]\nplatform = "ollama"\n')
    models = LanguageModels((tmp_path,), 0)
    await models.start()
    assert "upstream: is required" in models.faults()[0]
    with pytest.raises(ModelNotReadyError, match="upstream: is required"):
        await models.card("bad")


async def test_poll_takes_new_folders_once_they_rest_and_drops_those_that_went(
    tmp_path: Path,
) -> None:
    engines: list[ScriptedEngine] = []

    def make(manifest: LanguageManifest, threads: int) -> Engine:
        engines.append(ScriptedEngine(name=manifest.name))
        return engines[-1]

    models = LanguageModels((tmp_path,), 0, make)
    await models.start()
    config = tmp_path / "late" / "genai_config.json"
    config.parent.mkdir()
    config.write_text("{}")
    await models.poll()
    assert models.served() == []  # it may still be copied
    await models.poll()
    assert [served.name for served in models.served()] == ["late"]
    await models.poll()
    assert len(engines) == 1
    config.unlink()
    config.parent.rmdir()
    engines[0].is_loaded = True
    await models.poll()
    assert models.served() == []
    assert not engines[0].is_loaded


def test_gate_estimates_by_what_generations_took() -> None:
    gate = Gate("m", streams=1, queue=0)
    for _ in range(60):
        gate.observe(10.0)
    with gate.permit(), pytest.raises(OverloadedError) as caught, gate.permit():
        pass
    assert caught.value.retry_after_s == pytest.approx(10.0, rel=0.01)


async def test_cards_identity_names_version_digest_and_engine(tmp_path: Path) -> None:
    models = await models_of(tmp_path, ScriptedEngine([finish()]))
    card = await models.card("scripted")
    digest = "sha256:" + "ab" * 32
    assert card.identity == f"scripted;version=1;digest={digest};engine=onnxruntime-genai"


def test_upstream_defaults_bound_every_wait() -> None:
    upstream = Upstream("http://x")
    assert upstream.connect_timeout_s <= 10
    assert upstream.read_timeout_s <= 300
