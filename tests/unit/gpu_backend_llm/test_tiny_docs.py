"""The model that ships: the same text every time, plain ONNX Runtime's logits, whole streams."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnxruntime_genai as genai
import pytest

from fakes.llm_folders import TINY_DOCS, genai_greedy, plain_logits
from gpu_backend.llm.engine import Chunk, GenerateRequest, Message, Prompt
from gpu_backend.llm.folder_model import make_engine
from gpu_backend.llm.genai_folder import read_genai_folder
from gpu_backend.llm.manifest import read_language_manifest
from gpu_backend.llm.sequence import Outlet
from gpu_backend.llm.tokenizer import FolderTokenizer

PROMPTS = ["Return the ", "What does textwrap.wrap do?", "class Path:"]

MOST_BYTES = 4 << 20


async def collect(request: GenerateRequest) -> list[Chunk]:
    engine = make_engine(read_language_manifest(TINY_DOCS.parent), 1)
    try:
        return [chunk async for chunk in engine.generate("tiny-docs", request)]
    finally:
        await engine.close()


async def test_greedy_text_is_the_same_after_every_load() -> None:
    request = GenerateRequest((Message("user", "What does open do?"),), max_tokens=40)
    first, second = [await collect(request) for _ in range(2)]
    assert "".join(c.text for c in first) == "".join(c.text for c in second) != ""


def test_logits_of_genai_equal_those_of_plain_onnxruntime() -> None:
    tokens = FolderTokenizer(read_genai_folder(TINY_DOCS)).encode(PROMPTS[1])
    model = genai.Model(str(TINY_DOCS))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(tokens) + 1)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(tokens)
    logits = generator.get_logits().reshape(-1, 2048)[-1]
    expected = plain_logits(TINY_DOCS, [int(token) for token in tokens])[-1]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_text_is_the_one_that_genai_writes(prompt: str) -> None:
    tokenizer = FolderTokenizer(read_genai_folder(TINY_DOCS))
    (tokens,) = genai_greedy(TINY_DOCS, [prompt], 40)
    decoder = tokenizer.decoder()
    expected = "".join(decoder.push(token) for token in tokens)
    chunks = await collect(GenerateRequest(Prompt(prompt), max_tokens=40))
    assert "".join(chunk.text for chunk in chunks) == expected


async def test_every_token_is_handed_out_when_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[object] = []  # a reader that is slow gets several at once
    put = Outlet.put

    def note(outlet: Outlet, item: Chunk | Exception) -> None:
        handed.append(item)
        put(outlet, item)

    monkeypatch.setattr(Outlet, "put", note)
    chunks = await collect(GenerateRequest(Prompt("Return the "), max_tokens=20))
    pieces = [item for item in handed if isinstance(item, Chunk)]
    assert len(pieces) > 15  # a token may be half a character
    assert "".join(piece.text for piece in pieces) == "".join(chunk.text for chunk in chunks)
    assert [piece for piece in pieces if piece.finish is not None] == [pieces[-1]]


def test_folder_is_small_and_its_card_names_its_digest() -> None:
    files = [path for path in Path(TINY_DOCS).iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    digest = read_language_manifest(TINY_DOCS.parent).digests["1"]
    card = (TINY_DOCS.parent / "README.md").read_text()
    assert re.findall(r"sha256:[0-9a-f]{64}", card) == [digest]
