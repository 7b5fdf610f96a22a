"""The embedded engine: limits, formats, loading and leaving memory."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import onnxruntime_genai as genai
import pytest

from fakes.llm_folders import FAMILIES, FAMILY_ROOT, PAGED, make_embedded
from gpu_backend.errors import (
    ExecutionFailedError,
    InvalidInputError,
    ModelInvalidError,
    ModelNotReadyError,
)
from gpu_backend.llm.embedded import EmbeddedEngine
from gpu_backend.llm.engine import (
    Chunk,
    Chunks,
    FinishReason,
    Format,
    GenerateRequest,
    Message,
    Prompt,
    Sampling,
)
from gpu_backend.llm.generation_thread import GenerationThread
from gpu_backend.llm.manifest import GenerationLimits

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
)


@asynccontextmanager
async def engine_for(
    family: str = "llama", limits: GenerationLimits | None = None
) -> AsyncIterator[EmbeddedEngine]:
    engine = make_embedded(FAMILY_ROOT / family, limits)
    try:
        yield engine
    finally:
        await engine.close()


async def collect(engine: EmbeddedEngine, request: GenerateRequest) -> list[Chunk]:
    return [chunk async for chunk in engine.generate("m", request)]


async def _drain(stream: Chunks) -> None:
    async for _ in stream:
        pass


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize("family", FAMILIES)
async def test_both_decoders_write_the_same_text(family: str) -> None:
    request = GenerateRequest(Prompt("The quick brown"), max_tokens=30)
    texts = []
    for kind in ("batched", "genai"):
        async with engine_for(family, GenerationLimits(engine=kind)) as engine:
            texts.append(text_of(await collect(engine, request)))
    assert texts[0] == texts[1]


async def test_folder_on_cpu_is_batched() -> None:
    async with engine_for() as engine:
        assert engine.kind == "batched"


@pytest.mark.parametrize(("source", "kind"), [(FAMILY_ROOT / "llama", "genai"), (PAGED, "paged")])
@pytest.mark.skipif(genai.is_cuda_available(), reason="this build of GenAI has CUDA")
async def test_folder_for_an_accelerator_that_is_missing_says_so_and_does_not_run_on_cpu(
    tmp_path: Path, source: Path, kind: str
) -> None:
    shutil.copytree(source, tmp_path / "m")
    file = tmp_path / "m" / "genai_config.json"
    config = json.loads(file.read_text())
    config["model"]["decoder"]["session_options"]["provider_options"] = [{"cuda": {}}]
    file.write_text(json.dumps(config))
    engine = make_embedded(tmp_path / "m")
    assert engine.kind == kind
    with pytest.raises(ModelNotReadyError, match=r"(?i)cuda"):
        await collect(engine, GenerateRequest(Prompt("a")))
    await engine.close()


async def test_prompt_that_fills_the_context_is_refused() -> None:
    async with engine_for() as engine:
        with pytest.raises(InvalidInputError, match="context 128"):
            await collect(engine, GenerateRequest(Prompt("word " * 200)))


async def test_text_ends_where_the_context_does() -> None:
    async with engine_for() as engine:
        request = GenerateRequest(Prompt("The quick brown"), max_tokens=4000)
        finish = (await collect(engine, request))[-1].finish
    assert finish is not None
    assert finish.reason is FinishReason.LENGTH
    assert finish.usage.prompt_tokens + finish.usage.completion_tokens == 128


@pytest.mark.parametrize("kind", ["batched", "genai"])
async def test_context_may_be_shorter_than_the_model_s_own(kind: str) -> None:
    async with engine_for(limits=GenerationLimits(engine=kind, context_length=20)) as engine:
        finish = (await collect(engine, GenerateRequest(Prompt("The quick"))))[-1].finish
    assert finish is not None
    assert finish.usage.prompt_tokens + finish.usage.completion_tokens == 20


async def test_output_is_bounded_by_the_manifest() -> None:
    async with engine_for(limits=GenerationLimits(max_output_tokens=5)) as engine:
        finish = (await collect(engine, GenerateRequest(Prompt("a"), max_tokens=50)))[-1].finish
    assert finish is not None
    assert finish.usage.completion_tokens == 5


@pytest.mark.parametrize("kind", ["batched", "genai"])
async def test_stop_sequence_ends_the_text_before_it(kind: str) -> None:
    async with engine_for(limits=GenerationLimits(engine=kind)) as engine:
        whole = text_of(await collect(engine, GenerateRequest(Prompt("The quick"), max_tokens=20)))
        stop = whole[5:8]
        chunks = await collect(
            engine, GenerateRequest(Prompt("The quick"), max_tokens=20, stop=(stop,))
        )
    assert text_of(chunks) == whole[: whole.index(stop)]
    assert chunks[-1].finish is not None
    assert chunks[-1].finish.reason is FinishReason.STOP


@pytest.mark.parametrize("kind", ["batched", "genai"])
async def test_equal_seeds_write_equal_texts(kind: str) -> None:
    async with engine_for(limits=GenerationLimits(engine=kind)) as engine:
        texts = [
            text_of(
                await collect(
                    engine,
                    GenerateRequest(
                        Prompt("The quick"), Sampling(temperature=1.5, seed=seed), max_tokens=20
                    ),
                )
            )
            for seed in (4, 4, 5)
        ]
    assert texts[0] == texts[1] != texts[2]


async def test_schema_holds_the_text_to_its_form() -> None:
    async with engine_for() as engine:
        request = GenerateRequest(
            Prompt("JSON: "),
            Sampling(temperature=1.0, seed=1),
            max_tokens=100,
            format=Format("regex", r'\{"ok":(true|false)\}'),
        )
        chunks = await collect(engine, request)
    assert set(json.loads(text_of(chunks))) == {"ok"}
    assert chunks[-1].finish is not None
    assert chunks[-1].finish.reason is FinishReason.STOP


async def test_schema_gives_json_without_white_space() -> None:
    async with engine_for() as engine:
        request = GenerateRequest(Prompt("x"), max_tokens=60, format=Format("json_schema", SCHEMA))
        text = text_of(await collect(engine, request))
    assert text in ('{"ok":true}', '{"ok":false}')


async def test_schema_that_cannot_be_read_is_the_client_s_fault() -> None:
    async with engine_for() as engine:
        form = Format("json_schema", '{"type": "nonsense"}')
        with pytest.raises(InvalidInputError, match="GenAI refuses"):
            await collect(engine, GenerateRequest(Prompt("x"), max_tokens=5, format=form))


@pytest.mark.parametrize("kind", ["batched", "genai"])
async def test_scores_belong_to_the_tokens_of_the_text(kind: str) -> None:
    async with engine_for(limits=GenerationLimits(engine=kind)) as engine:
        request = GenerateRequest(Prompt("The quick"), max_tokens=8, top_logprobs=2)
        chunks = await collect(engine, request)
    scores = [score for chunk in chunks for score in chunk.scores]
    assert len(scores) == 8
    assert all(score.logprob <= 0 and len(score.top) == 2 for score in scores)
    raw = b"".join(score.raw for score in scores)
    assert raw.decode("utf-8", "replace") == text_of(chunks)


async def test_both_decoders_score_alike() -> None:
    request = GenerateRequest(Prompt("The quick"), max_tokens=6, top_logprobs=1)
    found = []
    for kind in ("batched", "genai"):
        async with engine_for(limits=GenerationLimits(engine=kind)) as engine:
            chunks = await collect(engine, request)
            found.append([score.logprob for chunk in chunks for score in chunk.scores])
    assert found[0] == pytest.approx(found[1], abs=1e-4)


async def test_conversation_goes_through_the_folder_s_template() -> None:
    async with engine_for("qwen2") as engine:
        chat = await collect(engine, GenerateRequest((Message("user", "hi"),), max_tokens=6))
        written = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        plain = await collect(engine, GenerateRequest(Prompt(written), max_tokens=6))
    assert text_of(chat) == text_of(plain)


async def test_conversation_without_a_template_is_refused() -> None:
    async with engine_for("phi") as engine:
        with pytest.raises(InvalidInputError, match="no chat template"):
            await collect(engine, GenerateRequest((Message("user", "hi"),)))


async def test_start_token_is_not_doubled_by_the_template() -> None:
    async with engine_for("llama") as engine:
        chunks = await collect(engine, GenerateRequest((Message("user", "hi"),), max_tokens=1))
        assert chunks[-1].finish is not None
        with_template = chunks[-1].finish.usage.prompt_tokens
    assert with_template < 40


async def test_tools_are_refused() -> None:
    async with engine_for() as engine:
        with pytest.raises(InvalidInputError, match="does not support tools"):
            await collect(engine, GenerateRequest(Prompt("x"), tools=({},)))


async def test_closed_stream_frees_its_slot_at_once() -> None:
    async with engine_for(limits=GenerationLimits(max_streams=1)) as engine:
        request = GenerateRequest(Prompt("The quick"), max_tokens=100)
        for _ in range(20):
            async with aclosing(engine.generate("m", request)) as stream:
                await anext(stream)
        async with asyncio.timeout(5):
            assert (await collect(engine, request))[-1].finish is not None


async def test_model_loads_once_for_many_and_again_after_it_was_unloaded() -> None:
    async with engine_for() as engine:
        request = GenerateRequest(Prompt("a"), max_tokens=3)
        loaded = [engine.is_loaded]
        await asyncio.gather(*(collect(engine, request) for _ in range(5)))
        loaded.append(engine.is_loaded)
        assert set(engine._loops) == {"batched"}
        await engine.unload()
        loaded.append(engine.is_loaded)
        assert loaded == [False, True, False]
        assert (await collect(engine, request))[-1].finish is not None


@pytest.mark.parametrize("path", [FAMILY_ROOT / "llama", PAGED], ids=["batched", "paged"])
async def test_client_that_leaves_during_the_load_leaves_it_to_the_next(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, loads = asyncio.Event(), []
    make = EmbeddedEngine._make_loop

    async def gated(engine: EmbeddedEngine, kind: str) -> GenerationThread:
        loads.append(kind)
        await gate.wait()
        return await make(engine, kind)

    monkeypatch.setattr(EmbeddedEngine, "_make_loop", gated)
    engine = make_embedded(path)
    request = GenerateRequest(Prompt("a"), max_tokens=3)
    leaver, stayer = [asyncio.create_task(collect(engine, request)) for _ in range(2)]
    while not loads:  # noqa: ASYNC110  # the other tasks run meanwhile
        await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    late = asyncio.create_task(collect(engine, request))
    gate.set()
    assert text_of(await stayer) == text_of(await late) != ""
    assert len(loads) == 1
    await engine.close()
    assert not [t for t in threading.enumerate() if t.name.startswith(path.name)]


async def test_closed_engine_loads_nothing_any_more() -> None:
    engine = make_embedded(FAMILY_ROOT / "llama")
    await engine.close()
    with pytest.raises(ModelNotReadyError, match="removed"):
        await collect(engine, GenerateRequest(Prompt("a"), max_tokens=3))


async def test_unloading_ends_a_running_text_with_an_error() -> None:
    async with engine_for() as engine:
        request = GenerateRequest(Prompt("The quick"), max_tokens=120)
        stream = engine.generate("m", request)
        await anext(stream)
        await engine.unload()
        with pytest.raises(ExecutionFailedError, match="unloaded"):
            await _drain(stream)


async def test_idle_model_leaves_memory() -> None:
    async with engine_for(limits=GenerationLimits(idle_unload_s=0.01)) as engine:
        await collect(engine, GenerateRequest(Prompt("a"), max_tokens=3))
        async with asyncio.timeout(10):
            while engine.is_loaded:  # noqa: ASYNC110  # a timer of the loop ends it
                await asyncio.sleep(0.005)


async def test_files_that_are_not_the_ones_meant_are_not_served() -> None:
    def refuse() -> None:
        raise ModelInvalidError("digest mismatch")

    engine = make_embedded(FAMILY_ROOT / "llama")
    engine._verify = refuse
    with pytest.raises(ModelNotReadyError, match="digest mismatch"):
        await collect(engine, GenerateRequest(Prompt("a")))


async def test_folder_without_its_graph_is_not_ready(tmp_path: Path) -> None:
    for file in (FAMILY_ROOT / "llama").iterdir():
        if not file.name.startswith("model.onnx"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    engine = make_embedded(tmp_path)
    with pytest.raises(ModelNotReadyError, match="cannot be loaded"):
        await collect(engine, GenerateRequest(Prompt("a")))
    await engine.close()


async def test_tools_that_are_not_to_be_used_are_no_fault() -> None:
    async with engine_for() as engine:
        request = GenerateRequest(Prompt("x"), max_tokens=2, tools=({},), tool_choice="none")
        assert (await collect(engine, request))[-1].finish is not None


@pytest.mark.parametrize("kind", ["batched", "genai"])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, seed=-5),
        Sampling(temperature=1.0, top_k=-1),
        Sampling(temperature=1.0, top_k=1 << 24),
        Sampling(temperature=1.0, top_p=0.0),
        Sampling(temperature=1e-9),
        Sampling(temperature=1.0, repetition_penalty=0.01),
    ],
)
async def test_extreme_sampling_is_served_and_hurts_nobody_after_it(
    kind: str, sampling: Sampling
) -> None:
    plain = GenerateRequest(Prompt("The quick"), max_tokens=8)
    async with engine_for(limits=GenerationLimits(engine=kind)) as engine:
        before = text_of(await collect(engine, plain))
        await collect(engine, GenerateRequest(Prompt("a"), sampling, max_tokens=8))
        assert text_of(await collect(engine, plain)) == before


async def test_min_p_is_refused_where_genai_draws() -> None:
    request = GenerateRequest(Prompt("x"), Sampling(min_p=0.1))
    async with engine_for(limits=GenerationLimits(engine="genai")) as engine:
        with pytest.raises(InvalidInputError, match="min_p"):
            await collect(engine, request)
