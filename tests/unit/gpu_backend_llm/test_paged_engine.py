"""GenAI's paged engine on a folder whose attention is of plain operators, so that it runs here.

What is shown holds for the library's scheduling, cache, sampling and events; nothing of it has run
on an accelerator.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from fakes.llm_folders import FAMILY_ROOT, PAGED, make_embedded
from gpu_backend.errors import (
    BackendError,
    ExecutionFailedError,
    InvalidInputError,
    ModelNotReadyError,
    OverloadedError,
)
from gpu_backend.llm.embedded import EmbeddedEngine
from gpu_backend.llm.engine import (
    Chunk,
    FinishReason,
    Format,
    GenerateRequest,
    Prompt,
    Sampling,
)
from gpu_backend.llm.genai_folder import read_genai_folder
from gpu_backend.llm.manifest import GenerationLimits
from gpu_backend.llm.paged import Drawing, PagedDecoder
from gpu_backend.llm.tokenizer import FolderTokenizer

PROMPT = Prompt("The quick brown")


@asynccontextmanager
async def engine_for(
    path: Path = PAGED, limits: GenerationLimits | None = None
) -> AsyncIterator[EmbeddedEngine]:
    engine = make_embedded(path, limits)
    try:
        yield engine
    finally:
        await engine.close()


async def collect(engine: EmbeddedEngine, request: GenerateRequest) -> list[Chunk]:
    return [chunk async for chunk in engine.generate("m", request)]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def folder_with(target: Path, **batching: int) -> Path:
    """A copy of the folder with other bounds of its engine."""
    shutil.copytree(PAGED, target)
    file = target / "genai_config.json"
    config = json.loads(file.read_text())
    config["engine"]["dynamic_batching"].update(batching)
    for name, value in batching.items():
        if value == 0:
            del config["engine"]["dynamic_batching"][name]
    file.write_text(json.dumps(config))
    return target


def plain_greedy(tokens: list[int], count: int) -> list[int]:
    """By whole runs of plain ONNX Runtime, each over everything so far: the reference."""
    session = onnxruntime.InferenceSession(PAGED / "model.onnx", providers=["CPUExecutionProvider"])
    tokens = list(tokens)
    for _ in range(count):
        empty = np.zeros((8, 16, 1, 32), np.float32)
        feeds = {
            "input_ids": np.array(tokens, np.int64),
            "cumulative_sequence_lengths": np.array([0, len(tokens)], np.int32),
            "past_sequence_lengths": np.array([0], np.int32),
            "block_table": np.arange(8, dtype=np.int32)[None],
            "attention_metadata": np.zeros(3, np.int32),
            "past_key_values.0.key": empty,
            "past_key_values.0.value": empty,
        }
        tokens.append(int(session.run(["logits"], feeds)[0][0].argmax()))
    return tokens[-count:]


async def test_folder_built_for_paged_attention_is_served_by_the_paged_engine() -> None:
    async with engine_for() as engine:
        assert engine.kind == "paged"
        await collect(engine, GenerateRequest(PROMPT, max_tokens=2))
        assert set(engine._loops) == {"paged"}


async def test_greedy_text_equals_plain_onnx_runtime() -> None:
    tokenizer = FolderTokenizer(read_genai_folder(PAGED))
    expected = plain_greedy(tokenizer.encode_input(PROMPT).tolist(), 40)
    decoder = tokenizer.decoder()
    text = "".join(map(decoder.push, expected)) + decoder.flush()
    async with engine_for() as engine:
        assert text_of(await collect(engine, GenerateRequest(PROMPT, max_tokens=40))) == text


async def test_texts_of_unequal_length_share_the_engine_and_stay_apart() -> None:
    requests = [
        GenerateRequest(Prompt("The quick brown fox " * (1 + number % 3)), max_tokens=5 + number)
        for number in range(12)
    ]
    async with engine_for() as engine:
        alone = [text_of(await collect(engine, request)) for request in requests]
        together = await asyncio.gather(*(collect(engine, request) for request in requests))
    assert [text_of(chunks) for chunks in together] == alone


async def test_late_text_does_not_wait_for_the_end_of_an_early_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    permits, run = threading.Semaphore(0), PagedDecoder.run

    def paced(decoder: PagedDecoder) -> list[Drawing]:
        assert permits.acquire(timeout=10), "the test released no run"
        return run(decoder)

    monkeypatch.setattr(PagedDecoder, "run", paced)
    async with engine_for() as engine:
        await engine.load()
        early = asyncio.create_task(collect(engine, GenerateRequest(PROMPT, max_tokens=100)))
        permits.release(5)
        late = asyncio.create_task(collect(engine, GenerateRequest(PROMPT, max_tokens=3)))
        for _ in range(60):  # fewer than the early text needs
            if late.done():
                break
            permits.release()
            await asyncio.sleep(0.001)
        found = await asyncio.wait_for(late, 10)
        assert found[-1].finish is not None
        assert not early.done()
        permits.release(1000)
        assert (await early)[-1].finish is not None


async def test_texts_that_would_fill_the_cache_together_take_turns() -> None:
    # 32 blocks of 16 tokens: eight texts of 126 tokens need 64, and no block is ever taken back.
    request = GenerateRequest(PROMPT, max_tokens=120)
    async with engine_for() as engine, asyncio.timeout(60):
        found = await asyncio.gather(*(collect(engine, request) for _ in range(8)))
    ends = [chunks[-1].finish for chunks in found]
    assert all(end is not None and end.usage.completion_tokens == 120 for end in ends)


async def test_texts_blocking_each_other_in_a_cache_of_unknown_size_are_told_so(
    tmp_path: Path,
) -> None:
    folder = folder_with(tmp_path / "m", num_blocks=12)
    engine = make_embedded(folder)
    # As where GenAI sizes the cache by the accelerator's memory: nothing can be set aside.
    object.__setattr__(engine._folder, "blocks", 0)
    request = GenerateRequest(PROMPT, max_tokens=100)
    async with asyncio.timeout(60):
        found = await asyncio.gather(
            *(collect(engine, request) for _ in range(3)), return_exceptions=True
        )
    await engine.close()
    failed = [each for each in found if isinstance(each, BaseException)]
    assert 1 <= len(failed) <= 2
    assert all(isinstance(each, OverloadedError) for each in failed)


async def test_cancelled_texts_give_back_rows_and_blocks() -> None:
    request = GenerateRequest(PROMPT, max_tokens=120)
    async with engine_for() as engine:
        for _ in range(50):
            async with aclosing(engine.generate("m", request)) as stream:
                await anext(stream)
        async with asyncio.timeout(30):
            found = await asyncio.gather(*(collect(engine, request) for _ in range(4)))
        assert all(chunks[-1].finish is not None for chunks in found)
        assert engine._loops["paged"].active == 0


async def test_text_ends_where_the_context_does() -> None:
    async with engine_for() as engine:
        finish = (await collect(engine, GenerateRequest(PROMPT, max_tokens=4000)))[-1].finish
    assert finish is not None
    assert finish.reason is FinishReason.LENGTH
    assert finish.usage.prompt_tokens + finish.usage.completion_tokens == 128


async def test_context_is_no_longer_than_what_all_blocks_hold(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m", num_blocks=4)
    async with engine_for(folder) as engine:
        finish = (await collect(engine, GenerateRequest(PROMPT)))[-1].finish
        assert finish is not None
        assert finish.usage.prompt_tokens + finish.usage.completion_tokens == 64
        with pytest.raises(InvalidInputError, match="context 64"):
            await collect(engine, GenerateRequest(Prompt("word " * 80)))


async def test_stop_sequence_ends_the_text_before_it() -> None:
    async with engine_for() as engine:
        whole = text_of(await collect(engine, GenerateRequest(PROMPT, max_tokens=20)))
        stop = whole[5:8]
        chunks = await collect(engine, GenerateRequest(PROMPT, max_tokens=20, stop=(stop,)))
    assert text_of(chunks) == whole[: whole.index(stop)]
    assert chunks[-1].finish is not None
    assert chunks[-1].finish.reason is FinishReason.STOP


async def test_end_token_ends_the_text_and_is_not_counted() -> None:
    async with engine_for() as engine:
        for seed in range(200):
            sampling = Sampling(temperature=2.0, seed=seed)
            chunks = await collect(engine, GenerateRequest(PROMPT, sampling, max_tokens=60))
            finish = chunks[-1].finish
            assert finish is not None
            if finish.reason is FinishReason.STOP:
                assert finish.usage.completion_tokens < 60
                return
    pytest.fail("no seed drew an end token")


async def test_equal_seeds_write_equal_texts() -> None:
    async with engine_for() as engine:
        texts = [
            text_of(
                await collect(
                    engine,
                    GenerateRequest(PROMPT, Sampling(temperature=1.5, seed=seed), max_tokens=20),
                )
            )
            for seed in (-4, -4, 5)
        ]
    assert texts[0] == texts[1] != texts[2]


async def test_format_holds_the_text_to_its_form_without_a_second_model() -> None:
    async with engine_for() as engine:
        request = GenerateRequest(
            Prompt("JSON: "),
            Sampling(temperature=1.0, seed=1),
            max_tokens=60,
            format=Format("regex", r'\{"ok":(true|false)\}'),
        )
        chunks = await collect(engine, request)
        assert set(engine._loops) == {"paged"}
    assert set(json.loads(text_of(chunks))) == {"ok"}


async def test_schema_that_cannot_be_read_is_the_client_s_fault() -> None:
    async with engine_for() as engine:
        form = Format("json_schema", '{"type": "nonsense"}')
        with pytest.raises(InvalidInputError, match="GenAI refuses"):
            await collect(engine, GenerateRequest(PROMPT, max_tokens=5, format=form))
        assert (await collect(engine, GenerateRequest(PROMPT, max_tokens=5)))[-1].finish is not None


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (GenerateRequest(PROMPT, top_logprobs=0), "logprobs"),
        (GenerateRequest(PROMPT, Sampling(presence_penalty=1.0)), "presence_penalty"),
        (GenerateRequest(PROMPT, Sampling(frequency_penalty=1.0)), "frequency_penalty"),
        (GenerateRequest(PROMPT, Sampling(logit_bias={4: 1.0})), "logit_bias"),
        (GenerateRequest(PROMPT, Sampling(min_p=0.1)), "min_p"),
    ],
)
async def test_what_the_library_cannot_do_is_refused(request_: GenerateRequest, param: str) -> None:
    async with engine_for() as engine:
        with pytest.raises(InvalidInputError) as refused:
            await collect(engine, request_)
    assert refused.value.param == param


async def test_folder_without_paged_attention_is_not_served_by_it() -> None:
    limits = GenerationLimits(engine="paged")
    async with engine_for(FAMILY_ROOT / "llama", limits) as engine:
        with pytest.raises(ModelNotReadyError, match="not built for paged attention"):
            await collect(engine, GenerateRequest(PROMPT))


async def test_model_is_loaded_anew_after_the_library_s_engine_was_lost(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m")
    sound = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(_failing_graph())
    async with engine_for(folder) as engine:
        found = await asyncio.gather(
            *(collect(engine, GenerateRequest(PROMPT, max_tokens=5)) for _ in range(3)),
            return_exceptions=True,
        )
        assert [type(each) for each in found if not isinstance(each, BackendError)] == []
        assert any(isinstance(each, ExecutionFailedError) for each in found)
        (folder / "model.onnx").write_bytes(sound)
        async with asyncio.timeout(30):
            while engine._loops["paged"].is_alive:  # noqa: ASYNC110  # its thread ends by itself
                await asyncio.sleep(0.001)
        assert (await collect(engine, GenerateRequest(PROMPT, max_tokens=5)))[-1].finish is not None


def _failing_graph() -> bytes:
    """The graph of the folder, with logits of a form that GenAI has made no room for."""
    model = onnx.load(PAGED / "model.onnx")
    last = model.graph.node.pop()
    assert last.output[0] == "logits"
    twice = onnx.helper.make_node("Concat", [last.input[0]] * 2, ["twice"], axis=0)
    last.input[0] = "twice"
    model.graph.node.extend([twice, last])
    return bytes(model.SerializeToString())
