"""Answers of embedding calls, from one protocol to the other."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.chat.writing import AnswerFrame, compact
from edgekit.ports import UpstreamError
from edgekit.protocols.json_text import parse_json

__all__ = ["embedding_tokens", "ollama_to_openai", "openai_to_embed", "openai_to_embeddings"]

FAULTS = (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error)
"""What reading a document of the wrong shape raises."""


def ollama_to_openai(body: bytes, document: Mapping[str, Any], frame: AnswerFrame) -> bytes:
    """Answer of `/v1/embeddings` for one of `/api/embed`.

    Args:
        body: The upstream's answer.
        document: The client's request: base64 is little-endian float32, where it asks for that.
        frame: Of the answer.

    Raises:
        UpstreamError: The answer has another shape.
    """
    encode = _as_base64 if document.get("encoding_format") == "base64" else _as_numbers
    try:
        answer = parse_json(body)
        tokens = answer.get("prompt_eval_count", 0)
        data = [
            {"object": "embedding", "index": index, "embedding": encode(vector)}
            for index, vector in enumerate(answer["embeddings"])
        ]
    except FAULTS as exc:
        raise UpstreamError("the engine's answer has an unknown shape") from exc
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return compact({"object": "list", "data": data, "model": frame.model, "usage": usage})


def openai_to_embed(body: bytes, _document: Mapping[str, Any], frame: AnswerFrame) -> bytes:
    """Answer of `/api/embed` for one of `/v1/embeddings`. Raises as `ollama_to_openai`."""
    vectors, tokens = _read_openai(body)
    return compact(
        {
            "model": frame.model,
            "embeddings": vectors,
            "total_duration": frame.elapsed_ns(),
            "load_duration": 0,
            "prompt_eval_count": tokens,
        }
    )


def openai_to_embeddings(body: bytes, _document: Mapping[str, Any], _frame: AnswerFrame) -> bytes:
    """Answer of `/api/embeddings` for one of `/v1/embeddings`. Raises as `ollama_to_openai`."""
    vectors, _ = _read_openai(body)
    return compact({"embedding": vectors[0] if vectors else []})


def embedding_tokens(body: bytes) -> int:
    """`prompt_eval_count` of an answer of `/api/embed`; 0 where it is not told."""
    _, found, rest = body.rpartition(b'"prompt_eval_count":')
    digits = rest.strip().split(b",")[0].rstrip(b"} \r\n")
    return int(digits) if found and digits.isdigit() and len(digits) < 12 else 0


def _read_openai(body: bytes) -> tuple[list[Sequence[float]], int]:
    try:
        answer = parse_json(body)
        entries = sorted(answer["data"], key=lambda entry: entry["index"])
        vectors = [_vector(entry["embedding"]) for entry in entries]
        return vectors, (answer.get("usage") or {}).get("prompt_tokens", 0)
    except FAULTS as exc:
        raise UpstreamError("the engine's answer has an unknown shape") from exc


def _vector(value: Any) -> Sequence[float]:
    """Numbers, whether they came as such or as base64."""
    if not isinstance(value, str):
        return _as_numbers(value)
    raw = base64.b64decode(value, validate=True)
    return struct.unpack(f"<{len(raw) // 4}f", raw)


def _as_numbers(vector: Any) -> list[float]:
    if not isinstance(vector, list):
        raise TypeError("an embedding is a list")
    return vector


def _as_base64(vector: Any) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
