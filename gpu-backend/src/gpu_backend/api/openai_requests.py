"""Requests of OpenAI's protocol as what the engines understand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gpu_backend.api.fields import Members
from gpu_backend.api.stops import read_stops
from gpu_backend.errors import InvalidInputError
from gpu_backend.llm.engine import (
    Format,
    GenerateRequest,
    Message,
    Prompt,
    Sampling,
    ToolCall,
)

__all__ = ["MAX_TEXTS", "read_chat", "read_completion", "read_count"]

MAX_TEXTS = 16
"""Of one request: `n` times the number of prompts."""

_MAX_TOKENS = 1 << 24

_MAX_TOP_LOGPROBS = 20

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


def read_chat(members: Members) -> tuple[GenerateRequest, ...]:
    """The texts asked for by a body of `/v1/chat/completions`.

    Raises:
        InvalidInputError: Names the member at fault.
    """
    given = members.objects("messages")
    if not given:
        raise members.fault("messages", "a list with at least one message", None)
    messages = tuple(
        _message(Members(entry, f"messages[{index}]")) for index, entry in enumerate(given)
    )
    wants_scores = members.truth("logprobs", False)
    top = members.whole("top_logprobs", 0, _MAX_TOP_LOGPROBS)
    if top is not None and not wants_scores:
        raise members.fault("top_logprobs", "logprobs: true beside it", top)
    limit = members.whole("max_completion_tokens", 1, _MAX_TOKENS)
    older = members.whole("max_tokens", 1, _MAX_TOKENS)
    base = GenerateRequest(
        input=messages,
        sampling=_sampling(members),
        max_tokens=older if limit is None else limit,
        stop=read_stops(members),
        top_logprobs=(top or 0) if wants_scores else None,
        format=_format(members.mapping("response_format")),
        tools=members.objects("tools"),
        tool_choice=members.anything("tool_choice"),
    )
    return _copies(base, members)


def read_completion(members: Members) -> tuple[GenerateRequest, ...]:
    """The texts asked for by a body of `/v1/completions`, prompt by prompt.

    Raises:
        InvalidInputError: Names the member at fault.
    """
    prompt = members.anything("prompt")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not prompts or not all(isinstance(p, str) for p in prompts):
        raise members.fault("prompt", "text or a list of texts (not of tokens)", prompt)
    if members.truth("echo", False) or members.text("suffix"):
        raise InvalidInputError("echo and suffix are not supported", param="echo")
    best_of = members.whole("best_of", 1, MAX_TEXTS)
    if best_of not in (None, 1):
        raise members.fault("best_of", "1", best_of)
    base = GenerateRequest(
        input=Prompt(""),
        sampling=_sampling(members),
        max_tokens=members.whole("max_tokens", 1, _MAX_TOKENS),
        stop=read_stops(members),
        top_logprobs=members.whole("logprobs", 0, _MAX_TOP_LOGPROBS),
        format=_format(members.mapping("response_format")),
    )
    requests = tuple(
        copy for text in prompts for copy in _copies(replace(base, input=Prompt(text)), members)
    )
    if len(requests) > MAX_TEXTS:
        raise members.fault("n", f"at most {MAX_TEXTS} texts in all", len(requests))
    return requests


def read_count(members: Members) -> int:
    """Texts per prompt.

    Raises:
        InvalidInputError: `n` is no number, or too large.
    """
    return members.whole("n", 1, MAX_TEXTS) or 1


def _copies(base: GenerateRequest, members: Members) -> tuple[GenerateRequest, ...]:
    """`n` requests; with a seed, each has its own, so that they differ and can be repeated."""
    count = read_count(members)
    for key in ("model", "stream", "stream_options", "user"):
        members.anything(key)
    extra = members.rest()
    if extra:
        base = replace(base, extra={"openai": extra})
    seed = base.sampling.seed
    if count == 1 or seed is None:
        return (base,) * count
    return tuple(
        replace(base, sampling=replace(base.sampling, seed=seed + number))
        for number in range(count)
    )


def _sampling(members: Members) -> Sampling:
    return Sampling(
        temperature=members.number("temperature", 0, 2),
        top_p=members.number("top_p", 0, 1),
        top_k=members.whole("top_k", -1, 1 << 24),
        min_p=members.number("min_p", 0, 1),
        seed=members.whole("seed", -(2**63), 2**63 - 1),
        presence_penalty=members.number("presence_penalty", -2, 2),
        frequency_penalty=members.number("frequency_penalty", -2, 2),
        repetition_penalty=members.number("repetition_penalty", 0.01, 10),
        logit_bias=_logit_bias(members),
    )


def _logit_bias(members: Members) -> Mapping[int, float]:
    given = members.mapping("logit_bias") or {}
    bias = Members(given, "logit_bias")
    found = {}
    for key in given:
        value = bias.number(key, -100, 100)
        if not key.isdecimal() or value is None:
            raise bias.fault(key, "a token's number and a number from -100 to 100", given[key])
        found[int(key)] = value
    return found


def _format(given: dict[str, Any] | None) -> Format | None:
    if given is None:
        return None
    members = Members(given, "response_format")
    kind = members.required_text("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return Format(kind)
    if kind == "json_schema":
        wrapped = Members(members.mapping("json_schema") or {}, "response_format.json_schema")
        schema = wrapped.mapping("schema")
        if schema is None:
            raise wrapped.fault("schema", "an object", None)
        return Format(kind, json.dumps(schema), wrapped.text("name") or "response")
    if kind in ("regex", "grammar"):
        return Format(kind, members.required_text(kind))
    raise members.fault("type", "text, json_object, json_schema, regex or grammar", kind)


def _message(members: Members) -> Message:
    role = members.required_text("role")
    if role not in _ROLES:
        raise members.fault("role", f"one of {', '.join(_ROLES)}", role)
    text, images = _content(members)
    return Message(
        role=_ROLES[role],
        content=text,
        images=images,
        tool_calls=tuple(
            _tool_call(index, Members(call, f"tool_calls[{index}]"))
            for index, call in enumerate(members.objects("tool_calls"))
        ),
        tool_call_id=members.text("tool_call_id"),
        name=members.text("name"),
    )


def _content(members: Members) -> tuple[str, tuple[str, ...]]:
    """Text and pictures of a message: a string, or a list of parts."""
    content = members.anything("content")
    if content is None:
        return "", ()
    if isinstance(content, str):
        return content, ()
    texts: list[str] = []
    images: list[str] = []
    for index, entry in enumerate(members.objects("content")):
        part = Members(entry, f"content[{index}]")
        kind = part.required_text("type")
        if kind in ("text", "refusal"):
            texts.append(part.text(kind) or "")
        elif kind == "image_url":
            images.append(_image(Members(part.mapping("image_url") or {}, "image_url")))
        else:
            raise part.fault("type", "text or image_url", kind)
    return "\n".join(texts), tuple(images)


def _image(members: Members) -> str:
    """Base64 of a picture; its address where it has one."""
    url = members.required_text("url")
    head, comma, data = url.partition(",")
    if url.startswith("data:") and comma and head.endswith(";base64"):
        return data
    if url.startswith(("http://", "https://")):
        return url
    raise members.fault("url", "a data: URL in base64, or http(s)", url)


def _tool_call(index: int, members: Members) -> ToolCall:
    function = Members(members.mapping("function") or {}, f"tool_calls[{index}].function")
    arguments = function.text("arguments") or "{}"
    try:
        json.loads(arguments)
    except ValueError as exc:
        raise function.fault("arguments", "JSON", arguments) from exc
    return ToolCall(index, members.text("id"), function.required_text("name"), arguments)
