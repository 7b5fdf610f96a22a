"""GenAI folders for tests: one per family with random weights, and the model that ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import onnxruntime_genai as genai
from numpy.typing import NDArray

from gpu_backend.llm.embedded import EmbeddedEngine
from gpu_backend.llm.engine import Capabilities, ModelCard
from gpu_backend.llm.genai import GUIDANCE
from gpu_backend.llm.genai_folder import read_genai_folder
from gpu_backend.llm.manifest import GenerationLimits

__all__ = [
    "FAMILIES",
    "FAMILY_ROOT",
    "PAGED",
    "TINY_DOCS",
    "genai_greedy",
    "make_embedded",
    "plain_logits",
]

_REPOSITORY = Path(__file__).resolve().parents[2]

FAMILY_ROOT = _REPOSITORY / "tests" / "data" / "genai"

FAMILIES = ("llama", "phi", "phi3", "qwen2", "qwen3")

PAGED = FAMILY_ROOT / "paged"
"""Built as for GenAI's paged engine, but of plain operators: its path runs on CPU."""

TINY_DOCS = _REPOSITORY / "gpu-backend" / "models" / "tiny-docs" / "1"


def make_embedded(path: Path, limits: GenerationLimits | None = None) -> EmbeddedEngine:
    """An engine for the folder `path`; nothing is loaded yet."""
    folder = read_genai_folder(path)
    card = ModelCard(
        path.name,
        "onnxruntime-genai",
        context_length=folder.context_length,
        template=folder.chat_template,
        capabilities=Capabilities(logprobs=not folder.paged, formats=frozenset(GUIDANCE)),
    )
    return EmbeddedEngine(card, folder, limits or GenerationLimits(), threads=1)


def genai_greedy(path: Path, prompts: list[str], count: int) -> list[list[int]]:
    """What GenAI itself generates, one prompt after the other: the reference."""
    model = genai.Model(str(path))
    tokenizer = genai.Tokenizer(str(path))
    texts = []
    for prompt in prompts:
        tokens = tokenizer.encode(prompt)
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(max_length=len(tokens) + count, do_sample=False)
        generator = genai.Generator(model, parameters)
        generator.append_tokens(tokens)
        drawn: list[int] = []
        while not generator.is_done():
            generator.generate_next_token()
            drawn.append(int(generator.get_next_tokens()[0]))
        texts.append(drawn)
    return texts


def plain_logits(path: Path, tokens: list[int]) -> NDArray[np.float32]:
    """Logits after every token, by one run of plain ONNX Runtime with an empty past.

    Returns:
        Shape (tokens, vocabulary).
    """
    folder = read_genai_folder(path)
    session = onnxruntime.InferenceSession(str(folder.graph), providers=["CPUExecutionProvider"])
    empty = np.zeros((1, folder.kv_heads, 0, folder.head_size), np.float32)
    feeds = {entry.name: empty for entry in session.get_inputs()}
    feeds["input_ids"] = np.array([tokens], np.int64)
    feeds["attention_mask"] = np.ones((1, len(tokens)), np.int64)
    logits: NDArray[np.float32] = session.run(["logits"], feeds)[0][0]
    return logits
