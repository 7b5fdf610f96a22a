"""Ollama's API on the wire: what its requests may hold, and its errors in mid-stream.

As in `edgekit.protocols.openai`, members that no table names pass: options are many, and each
release has new ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edgekit.errors import EdgeError
from edgekit.protocols.fields import (
    Check,
    Required,
    array,
    boolean,
    check_members,
    integer,
    name,
    number,
    obj,
    one_of,
    refuse,
    text,
    texts,
)
from edgekit.protocols.ndjson import format_line

__all__ = [
    "API_VERSION",
    "RUNNING",
    "check_chat",
    "check_embed",
    "check_embeddings",
    "check_generate",
    "check_show",
    "failure_line",
    "wants_stream",
]

API_VERSION = "0.12.6"
"""Release of Ollama whose API this is; clients decide by it what they may use."""

RUNNING = b"Ollama is running"
"""What `GET /` of Ollama says, word for word: clients compare."""

MAX_STOPS = 16
MAX_MESSAGES = 4096
MAX_EMBEDDING_INPUTS = 2048
MAX_TOP_LOGPROBS = 20

_DURATION = re.compile(r"-?(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+|-?\d+(\.\d+)?")


def _keep_alive(path: str, value: Any) -> None:
    """Seconds, or a duration as Go writes it (5m, 1h30m); negative: for ever."""
    if isinstance(value, str):
        if not _DURATION.fullmatch(value):
            raise refuse(path, f"is {value[:40]!r}, it takes seconds or a duration such as 5m")
        return
    number()(path, value)


def _format(path: str, value: Any) -> None:
    """Empty, `json`, or a JSON schema."""
    if not isinstance(value, dict):
        one_of("", "json")(path, value)


def _think(path: str, value: Any) -> None:
    if not isinstance(value, bool):
        one_of("low", "medium", "high", "max")(path, value)


_OPTIONS: Mapping[str, Check] = {
    "temperature": number(0),
    "top_p": number(0, 1),
    "min_p": number(0, 1),
    "top_k": integer(-1, 1 << 31),
    "seed": integer(),
    "stop": texts(MAX_STOPS),
    "num_predict": integer(-2, 1 << 31),
    "num_ctx": integer(1, 1 << 31),
    "repeat_penalty": number(0),
    "presence_penalty": number(),
    "frequency_penalty": number(),
}

_SHARED: Mapping[str, Check] = {
    "model": Required(name),
    "stream": boolean,
    "format": _format,
    "options": obj(_OPTIONS),
    "keep_alive": _keep_alive,
    "think": _think,
    "logprobs": boolean,
    "top_logprobs": integer(0, MAX_TOP_LOGPROBS),
}

_TOOL_CALL = obj({"function": Required(obj({"name": Required(name), "arguments": obj()}))})
_TOOL = obj({"function": Required(obj({"name": Required(name), "parameters": obj()}))})

_MESSAGE = obj(
    {
        "role": Required(one_of("system", "user", "assistant", "tool")),
        "content": text,
        "thinking": text,
        "images": array(text),
        "tool_calls": array(_TOOL_CALL),
        "tool_name": text,
    }
)

_CHAT: Mapping[str, Check] = {
    **_SHARED,
    "messages": array(_MESSAGE, at_most=MAX_MESSAGES),
    "tools": array(_TOOL, at_most=128),
}

_GENERATE: Mapping[str, Check] = {
    **_SHARED,
    "prompt": text,
    "suffix": text,
    "system": text,
    "template": text,
    "context": array(integer(0)),
    "raw": boolean,
    "images": array(text),
}

_EMBED: Mapping[str, Check] = {
    "model": Required(name),
    "truncate": boolean,
    "dimensions": integer(1, 1 << 20),
    "options": obj(_OPTIONS),
    "keep_alive": _keep_alive,
}


def check_chat(document: Mapping[str, Any]) -> None:
    """`POST /api/chat` can be passed on. Raises `InvalidInputError`."""
    check_members(document, _CHAT)


def check_generate(document: Mapping[str, Any]) -> None:
    """`POST /api/generate` can be passed on. Raises `InvalidInputError`."""
    check_members(document, _GENERATE)


def check_embed(document: Mapping[str, Any]) -> None:
    """`POST /api/embed` can be passed on. Raises `InvalidInputError`."""
    check_members(document, {**_EMBED, "input": Required(texts(MAX_EMBEDDING_INPUTS))})


def check_embeddings(document: Mapping[str, Any]) -> None:
    """`POST /api/embeddings` can be passed on. Raises `InvalidInputError`."""
    check_members(document, {**_EMBED, "prompt": Required(text)})


def check_show(document: Mapping[str, Any]) -> None:
    """`POST /api/show` names a model, by its old member or the new one."""
    if document.get("model") is None and document.get("name") is not None:
        name("name", document["name"])
        return
    check_members(document, {"model": Required(name)})


def wants_stream(document: Mapping[str, Any]) -> bool:
    """Ollama streams unless it is told not to."""
    return document.get("stream") is not False


def failure_line(error: EdgeError) -> bytes:
    """What ends a stream that broke: every client raises it, none takes it for an end."""
    return format_line({"error": error.message})
