"""How many model tokens an answer cost, as each protocol tells it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from edgekit.chat.events import Usage

__all__ = ["find_openai_usage", "format_openai_usage", "ollama_usage", "openai_usage"]

_USAGE = re.compile(r'"usage"\s*:\s*(?=\{)')
_DECODER = json.JSONDecoder()


def openai_usage(value: object) -> Usage | None:
    """Usage in the member `usage` of OpenAI's answers; None where it is none."""
    if not isinstance(value, Mapping) or "prompt_tokens" not in value:
        return None
    return Usage(
        prompt_tokens=_count(value.get("prompt_tokens")),
        completion_tokens=_count(value.get("completion_tokens")),
        cached_tokens=_count(_inner(value, "prompt_tokens_details").get("cached_tokens")),
        reasoning_tokens=_count(_inner(value, "completion_tokens_details").get("reasoning_tokens")),
    )


def ollama_usage(document: Mapping[str, Any]) -> Usage:
    """Usage in Ollama's last line, or its whole answer."""
    return Usage(_count(document.get("prompt_eval_count")), _count(document.get("eval_count")))


def format_openai_usage(usage: Usage) -> dict[str, object]:
    """The member `usage` of OpenAI's answers."""
    document: dict[str, object] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    if usage.cached_tokens:
        document["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens:
        document["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return document


def find_openai_usage(body: bytes) -> Usage | None:
    """Usage in a whole answer, without parsing the rest: embeddings have megabytes."""
    text = body.decode("utf-8", "replace")
    for found in reversed(list(_USAGE.finditer(text))):
        try:
            value, _ = _DECODER.raw_decode(text, found.end())
        except ValueError:
            continue
        usage = openai_usage(value)
        if usage is not None:
            return usage
    return None


def _inner(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inner = value.get(name)
    return inner if isinstance(inner, Mapping) else {}


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
