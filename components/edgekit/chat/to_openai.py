"""Requests of Ollama clients, said in the words of OpenAI's API."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgekit.protocols.fields import refuse
from edgekit.protocols.ollama import wants_stream

__all__ = [
    "chat_to_openai",
    "embed_to_openai",
    "generate_to_chat",
    "generate_to_completion",
    "is_load_call",
    "is_raw",
]

OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    # Not of OpenAI's own API; vLLM, TGI and llama.cpp know them, and others say that they do not.
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
}

IMAGE_TYPES = (("iVBOR", "png"), ("/9j/", "jpeg"), ("R0lG", "gif"), ("UklG", "webp"))
"""How the base64 of each format begins."""

UNTRANSLATABLE = ("context", "template")


def is_load_call(document: Mapping[str, Any]) -> bool:
    """True for a call without a prompt: it only wants the model loaded, or unloaded."""
    return not (document.get("messages") or document.get("prompt") or document.get("images"))


def is_raw(document: Mapping[str, Any]) -> bool:
    """True when the prompt is to be continued as it is, or filled in."""
    return bool(document.get("raw") or document.get("suffix"))


def chat_to_openai(document: Mapping[str, Any]) -> dict[str, Any]:
    """Body of `/v1/chat/completions` for one of `/api/chat`."""
    request = _shared(document)
    request["messages"] = list(_messages(document["messages"]))
    if document.get("tools"):
        request["tools"] = [{"type": "function", **tool} for tool in document["tools"]]
    _add_chat_members(document, request)
    return request


def generate_to_chat(document: Mapping[str, Any]) -> dict[str, Any]:
    """Body of `/v1/chat/completions` for one of `/api/generate` that the template is applied to.

    Raises:
        InvalidInputError: It brings a template or a context of its own.
    """
    _require_translatable(document)
    request = _shared(document)
    message = {"role": "user", "content": document.get("prompt") or ""}
    if document.get("images"):
        message["images"] = document["images"]
    system = {"role": "system", "content": document.get("system") or ""}
    request["messages"] = list(_messages([system, message] if system["content"] else [message]))
    _add_chat_members(document, request)
    return request


def generate_to_completion(document: Mapping[str, Any]) -> dict[str, Any]:
    """Body of `/v1/completions` for one of `/api/generate` with `raw` or `suffix`.

    Raises:
        InvalidInputError: It asks for what completions have not.
    """
    _require_translatable(document)
    for member in ("images", "system"):
        if document.get(member):
            raise refuse(member, "goes with neither raw nor suffix on the engine behind this edge")
    request = _shared(document)
    request["prompt"] = document.get("prompt") or ""
    if document.get("suffix"):
        request["suffix"] = document["suffix"]
    if document.get("logprobs"):
        request["logprobs"] = document.get("top_logprobs") or 0
    format_ = _format(document.get("format"))
    if format_ is not None:
        request["response_format"] = format_
    return request


def embed_to_openai(document: Mapping[str, Any]) -> dict[str, Any]:
    """Body of `/v1/embeddings` for one of `/api/embed` or `/api/embeddings`."""
    given = document["input"] if "input" in document else document["prompt"]
    request = {"model": document["model"], "input": given, "encoding_format": "float"}
    if document.get("dimensions") is not None:
        request["dimensions"] = document["dimensions"]
    return request


def _require_translatable(document: Mapping[str, Any]) -> None:
    for member in UNTRANSLATABLE:
        if document.get(member):
            raise refuse(member, "is not offered by the engine behind this edge")


def _shared(document: Mapping[str, Any]) -> dict[str, Any]:
    request: dict[str, Any] = {"model": document["model"]}
    if wants_stream(document):
        request |= {"stream": True, "stream_options": {"include_usage": True}}
    options = document.get("options") or {}
    for option, name in OPTIONS.items():
        if options.get(option) is not None:
            request[name] = options[option]
    output = options.get("num_predict")
    if output is not None and output > 0:  # -1 and -2: until the model ends, or its context does
        request["max_tokens"] = output
    return request


def _add_chat_members(document: Mapping[str, Any], request: dict[str, Any]) -> None:
    format_ = _format(document.get("format"))
    if format_ is not None:
        request["response_format"] = format_
    if document.get("logprobs"):
        request["logprobs"] = True
        request["top_logprobs"] = document.get("top_logprobs") or 0
    think = document.get("think")
    if think is False:
        request["reasoning_effort"] = "none"
    elif isinstance(think, str):
        request["reasoning_effort"] = think


def _messages(messages: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    pending: list[tuple[str, str]] = []  # calls without a result: identifier and function
    for index, message in enumerate(messages):
        entry: dict[str, Any] = {"role": message["role"], "content": _content(message)}
        if message.get("tool_calls"):
            entry["tool_calls"] = _tool_calls(index, message["tool_calls"], pending)
        if message["role"] == "tool":
            entry["tool_call_id"] = _take_call(pending, message.get("tool_name"))
        yield entry


def _content(message: Mapping[str, Any]) -> Any:
    text = message.get("content") or ""
    images = message.get("images")
    if not images:
        return text
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    parts += [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in images]
    return parts


def _data_url(image: str) -> str:
    kind = next((name for start, name in IMAGE_TYPES if image.startswith(start)), "png")
    return f"data:image/{kind};base64,{image}"


def _tool_calls(
    message: int, calls: Sequence[Mapping[str, Any]], pending: list[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Ollama's calls have no identifiers; these are made of their places."""
    translated = []
    for index, call in enumerate(calls):
        function = call["function"]
        identifier = call.get("id") or f"call_{message}_{index}"
        pending.append((identifier, function["name"]))
        arguments = json.dumps(function.get("arguments") or {}, ensure_ascii=False)
        translated.append(
            {
                "id": identifier,
                "type": "function",
                "function": {"name": function["name"], "arguments": arguments},
            }
        )
    return translated


def _take_call(pending: list[tuple[str, str]], name: str | None) -> str:
    """Identifier of the first call without a result, of function `name` where it is given."""
    for index, (identifier, function) in enumerate(pending):
        if name is None or function == name:
            del pending[index]
            return identifier
    return "call_unknown"


def _format(value: Any) -> dict[str, Any] | None:
    if not value:
        return None
    if value == "json":
        return {"type": "json_object"}
    schema = {"name": "answer", "schema": value, "strict": True}
    return {"type": "json_schema", "json_schema": schema}
