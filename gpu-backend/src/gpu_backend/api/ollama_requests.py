"""Requests of Ollama's protocol as what the engines understand."""

from __future__ import annotations

import json
from typing import Any

from gpu_backend.api.fields import Members
from gpu_backend.api.stops import read_stops
from gpu_backend.llm.engine import (
    Format,
    GenerateRequest,
    Message,
    Prompt,
    Sampling,
    ToolCall,
)

__all__ = ["read_chat", "read_generate"]

_MAX_TOKENS = 1 << 24

_MAX_TOP_LOGPROBS = 20

_ROLES = ("system", "user", "assistant", "tool")

_OWN_MEMBERS = ("keep_alive", "think", "template", "suffix", "context", "truncate", "shift")
"""Passed on to a real Ollama server as they are; other engines have nothing like them."""


def read_generate(members: Members) -> GenerateRequest | None:
    """The text asked for by a body of `/api/generate`; None when nothing is to be generated.

    Raises:
        InvalidInputError: Names the member at fault.
    """
    prompt = members.text("prompt") or ""
    images = members.texts("images", 16)
    if not prompt and not images:
        return None
    content = Prompt(prompt, members.text("system"), images, members.truth("raw", False))
    return _request(members, content)


def read_chat(members: Members) -> GenerateRequest | None:
    """The text asked for by a body of `/api/chat`; None when nothing is to be generated.

    Raises:
        InvalidInputError: Names the member at fault.
    """
    given = members.objects("messages")
    if not given:
        return None
    messages = tuple(
        _message(Members(entry, f"messages[{index}]")) for index, entry in enumerate(given)
    )
    return _request(members, messages)


def _request(members: Members, content: tuple[Message, ...] | Prompt) -> GenerateRequest:
    options = Members(members.mapping("options") or {}, "options")
    # -1 and -2 mean "until the end" to Ollama.
    limit = options.whole("num_predict", -2, _MAX_TOKENS)
    wants_scores = members.truth("logprobs", False)
    top = members.whole("top_logprobs", 0, _MAX_TOP_LOGPROBS) or 0
    return GenerateRequest(
        input=content,
        sampling=_sampling(options),
        max_tokens=limit if limit is not None and limit > 0 else None,
        stop=read_stops(options),
        top_logprobs=top if wants_scores else None,
        format=_format(members),
        tools=members.objects("tools"),
        extra={"ollama": _extra(members, options)},
    )


def _extra(members: Members, options: Members) -> dict[str, Any]:
    given = {key: members.anything(key) for key in _OWN_MEMBERS}
    extra = {key: value for key, value in given.items() if value is not None}
    others = options.rest()
    if others:
        extra["options"] = others
    return extra


def _sampling(options: Members) -> Sampling:
    return Sampling(
        temperature=options.number("temperature", 0, 100),
        top_p=options.number("top_p", 0, 1),
        top_k=options.whole("top_k", -1, 1 << 24),
        min_p=options.number("min_p", 0, 1),
        seed=options.whole("seed", -(2**63), 2**63 - 1),
        presence_penalty=options.number("presence_penalty", -2, 2),
        frequency_penalty=options.number("frequency_penalty", -2, 2),
        repetition_penalty=options.number("repeat_penalty", 0.01, 10),
    )


def _format(members: Members) -> Format | None:
    given = members.anything("format")
    if given in (None, ""):
        return None
    if given == "json":
        return Format("json_object")
    if isinstance(given, dict):
        return Format("json_schema", json.dumps(given))
    raise members.fault("format", "json or a JSON schema", given)


def _message(members: Members) -> Message:
    role = members.required_text("role")
    if role not in _ROLES:
        raise members.fault("role", f"one of {', '.join(_ROLES)}", role)
    return Message(
        role=role,
        content=members.text("content") or "",
        images=members.texts("images", 16),
        tool_calls=tuple(
            _tool_call(index, Members(call, f"tool_calls[{index}]"))
            for index, call in enumerate(members.objects("tool_calls"))
        ),
        name=members.text("tool_name"),
        tool_call_id=members.text("tool_call_id"),
    )


def _tool_call(index: int, members: Members) -> ToolCall:
    function = Members(members.mapping("function") or {}, f"tool_calls[{index}].function")
    arguments = json.dumps(function.mapping("arguments") or {})
    return ToolCall(index, members.text("id"), function.required_text("name"), arguments)
