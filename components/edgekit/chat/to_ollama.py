"""Requests of OpenAI clients, said in Ollama's words.

What Ollama has no word for is refused where leaving it out would change the answer, and left out
where it would not (`user`, `metadata`, `store`, `service_tier`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.errors import InvalidInputError
from edgekit.protocols.fields import refuse
from edgekit.protocols.json_text import parse_json

__all__ = ["chat_to_ollama", "completion_to_generate", "embeddings_to_embed"]

OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    # Extensions that servers of both kinds know.
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}

OPENAI_DEFAULTS = {"temperature": 1.0, "top_p": 1.0}
"""Ollama's own are 0.8 and 0.9; a client of OpenAI's API expects these."""

ROLES = {"developer": "system", "function": "tool"}

UNTRANSLATABLE = ("logit_bias", "audio", "modalities", "prediction", "web_search_options")


def chat_to_ollama(document: Mapping[str, Any]) -> dict[str, Any]:
    """Body of `/api/chat` for one of `/v1/chat/completions`.

    Raises:
        InvalidInputError: It asks for what Ollama cannot do.
    """
    _require_translatable(document)
    request = _shared(document)
    request["messages"] = _messages(document["messages"])
    output = document.get("max_completion_tokens") or document.get("max_tokens")
    if output is not None:
        request["options"]["num_predict"] = output
    if document.get("tools") and document.get("tool_choice") != "none":
        if document.get("tool_choice") not in (None, "auto"):
            raise refuse("tool_choice", "can only be none or auto with the engine behind this edge")
        request["tools"] = document["tools"]
    format_ = _format(document.get("response_format"))
    if format_ is not None:
        request["format"] = format_
    if document.get("logprobs"):
        request["logprobs"] = True
        request["top_logprobs"] = document.get("top_logprobs") or 0
    effort = document.get("reasoning_effort")
    if effort is not None:
        request["think"] = False if effort in ("none", "minimal") else effort
    return request


def completion_to_generate(document: Mapping[str, Any]) -> dict[str, Any]:
    """Body of `/api/generate` for one of `/v1/completions`: the text as it is, without template.

    Raises:
        InvalidInputError: It asks for what Ollama cannot do.
    """
    _require_translatable(document)
    if document.get("echo"):
        raise refuse("echo", "is not offered by the engine behind this edge")
    request = _shared(document)
    request["prompt"] = _one_text("prompt", document["prompt"])
    request["raw"] = True
    if document.get("suffix"):
        request["suffix"] = document["suffix"]
        del request["raw"]  # where the suffix goes is for the model's template to say
    if document.get("max_tokens") is not None:
        request["options"]["num_predict"] = document["max_tokens"]
    if document.get("logprobs") is not None:
        request["logprobs"] = True
        request["top_logprobs"] = document["logprobs"]
    return request


def embeddings_to_embed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Body of `/api/embed` for one of `/v1/embeddings`.

    Raises:
        InvalidInputError: The input is token numbers, which only the engine could read as text.
    """
    given = document["input"]
    if not isinstance(given, str) and not all(isinstance(entry, str) for entry in given):
        raise refuse("input", "takes text with the engine behind this edge, not token numbers")
    request = {"model": document["model"], "input": given}
    if document.get("dimensions") is not None:
        request["dimensions"] = document["dimensions"]
    return request


def _require_translatable(document: Mapping[str, Any]) -> None:
    for member in UNTRANSLATABLE:
        if document.get(member):
            raise refuse(member, "is not offered by the engine behind this edge")
    for member in ("n", "best_of"):
        if (document.get(member) or 1) > 1:
            raise refuse(member, "is more than 1: the engine behind this edge gives one answer")


def _shared(document: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = dict(OPENAI_DEFAULTS)
    for name, option in OPTIONS.items():
        if document.get(name) is not None:
            options[option] = document[name]
    stop = document.get("stop")
    if stop:
        options["stop"] = [stop] if isinstance(stop, str) else stop
    request: dict[str, Any] = {
        "model": document["model"],
        "stream": bool(document.get("stream")),
        "options": options,
    }
    if document.get("keep_alive") is not None:
        request["keep_alive"] = document["keep_alive"]
    return request


def _messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    names: dict[str, str] = {}  # of the functions, by the identifiers of their calls
    translated = []
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        role = message["role"]
        entry: dict[str, Any] = {"role": ROLES.get(role, role)}
        entry.update(_content(f"{path}.content", message.get("content")))
        if message.get("tool_calls"):
            entry["tool_calls"] = _tool_calls(f"{path}.tool_calls", message["tool_calls"], names)
        if entry["role"] == "tool":
            name = message.get("name") or names.get(message.get("tool_call_id") or "")
            if name:
                entry["tool_name"] = name
        translated.append(entry)
    return translated


def _content(path: str, content: Any) -> dict[str, Any]:
    if content is None or isinstance(content, str):
        return {"content": content or ""}
    texts: list[str] = []
    images: list[str] = []
    for index, part in enumerate(content):
        kind = part["type"]
        if kind in ("text", "refusal"):
            texts.append(part[kind])
        elif kind == "image_url":
            images.append(_image(f"{path}[{index}].image_url.url", part["image_url"]["url"]))
        else:
            raise refuse(f"{path}[{index}].type", "is not offered by the engine behind this edge")
    entry: dict[str, Any] = {"content": "\n".join(texts)}
    if images:
        entry["images"] = images
    return entry


def _image(path: str, url: str) -> str:
    head, comma, data = url.partition(",")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise refuse(path, "takes a data URL in base64: this edge fetches nothing by address")
    return data


def _tool_calls(
    path: str, calls: Sequence[Mapping[str, Any]], names: dict[str, str]
) -> list[dict[str, Any]]:
    translated = []
    for index, call in enumerate(calls):
        function = call["function"]
        if call.get("id"):
            names[call["id"]] = function["name"]
        try:
            arguments = parse_json((function.get("arguments") or "{}").encode())
        except ValueError as exc:
            raise refuse(f"{path}[{index}].function.arguments", f"is no JSON ({exc})") from exc
        translated.append({"function": {"name": function["name"], "arguments": arguments}})
    return translated


def _format(response_format: Mapping[str, Any] | None) -> Any:
    if response_format is None or response_format["type"] == "text":
        return None
    if response_format["type"] == "json_object":
        return "json"
    schema = (response_format.get("json_schema") or {}).get("schema")
    if schema is None:
        raise refuse("response_format.json_schema.schema", "is missing")
    return schema


def _one_text(path: str, value: Any) -> str:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if not isinstance(value, str):
        raise InvalidInputError(
            f"{path} takes one text with the engine behind this edge", param=path
        )
    return value
