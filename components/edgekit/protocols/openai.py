"""OpenAI's API on the wire: what its requests may hold, and its errors in mid-stream.

The tables hold what an edge can judge without knowing the engine: types, ranges of the published
API, and shapes that no server takes. Members they do not name pass, so extensions of vLLM,
llama.cpp and others reach their servers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgekit.errors import EdgeError, InvalidInputError
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
from edgekit.protocols.problems import error_object
from edgekit.protocols.sse import format_event

__all__ = [
    "DONE",
    "check_chat",
    "check_completion",
    "check_embeddings",
    "check_response",
    "failure_event",
]

DONE = b"data: [DONE]\n\n"

MAX_STOPS = 16
"""The published API says 4, others take more."""

MAX_MESSAGES = 4096
MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
MAX_EMBEDDING_INPUTS = 2048

TEXT_PARTS = ("text", "input_text", "output_text", "refusal")

_FUNCTION: Mapping[str, Check] = {
    "name": Required(name),
    "description": text,
    "parameters": obj(),
    "strict": boolean,
}
_TOOL = obj({"type": Required(one_of("function")), "function": Required(obj(_FUNCTION))})
_TOOL_CALL = obj({"function": Required(obj({"name": Required(name), "arguments": text}))})
_FORMAT = obj(
    {
        "type": Required(one_of("text", "json_object", "json_schema")),
        "json_schema": obj({"name": Required(name), "schema": obj()}),
    }
)


def _content(path: str, value: Any) -> None:
    """A string, or a list of parts with a type each."""
    if isinstance(value, str):
        return
    array(_part, at_least=1)(path, value)


def _part(path: str, value: Any) -> None:
    obj({"type": Required(text)})(path, value)
    if value["type"] in TEXT_PARTS:
        Required(text)(f"{path}.text", value.get("text", value.get("refusal")))
    elif value["type"] == "image_url":
        obj({"image_url": Required(obj({"url": Required(text)}))})(path, value)


def _message(path: str, value: Any) -> None:
    obj(_MESSAGE)(path, value)
    calls = value.get("tool_calls")
    if value.get("content") is None and not (value["role"] == "assistant" and calls):
        raise refuse(f"{path}.content", "is missing")
    if value["role"] == "tool" and not value.get("tool_call_id"):
        raise refuse(f"{path}.tool_call_id", "is missing")


_MESSAGE: Mapping[str, Check] = {
    "role": Required(one_of("developer", "system", "user", "assistant", "tool", "function")),
    "content": _content,
    "name": text,
    "tool_calls": array(_TOOL_CALL),
    "tool_call_id": text,
}

_SAMPLING: Mapping[str, Check] = {
    "model": Required(name),
    "stream": boolean,
    "stream_options": obj({"include_usage": boolean}),
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "n": integer(1, MAX_CHOICES),
    "stop": texts(MAX_STOPS),
    "seed": integer(),
    "max_tokens": integer(1, 1 << 31),
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "logit_bias": obj(),
    "user": text,
}

_CHAT: Mapping[str, Check] = {
    **_SAMPLING,
    "messages": Required(array(_message, at_least=1, at_most=MAX_MESSAGES)),
    "max_completion_tokens": integer(1, 1 << 31),
    "logprobs": boolean,
    "top_logprobs": integer(0, MAX_TOP_LOGPROBS),
    "response_format": _FORMAT,
    "tools": array(_TOOL, at_most=128),
    "parallel_tool_calls": boolean,
    "reasoning_effort": text,
}


def check_chat(document: Mapping[str, Any]) -> None:
    """`POST /v1/chat/completions` can be passed on. Raises `InvalidInputError`."""
    check_members(document, _CHAT)
    _check_stream_options(document)
    if document.get("top_logprobs") is not None and not document.get("logprobs"):
        raise refuse("top_logprobs", "needs logprobs to be true")
    choice = document.get("tool_choice")
    if choice is not None and not isinstance(choice, str | dict):
        raise refuse("tool_choice", "takes a word or an object")
    if choice not in (None, "none", "auto") and not document.get("tools"):
        raise refuse("tool_choice", "needs tools")


_PROMPT_MEMBERS: Mapping[str, Check] = {
    **_SAMPLING,
    "logprobs": integer(0, MAX_TOP_LOGPROBS),
    "best_of": integer(1, MAX_CHOICES),
    "echo": boolean,
    "suffix": text,
}


def check_completion(document: Mapping[str, Any]) -> None:
    """`POST /v1/completions` can be passed on. Raises `InvalidInputError`."""
    check_members(document, _PROMPT_MEMBERS)
    _check_stream_options(document)
    if document.get("prompt") is None:
        raise refuse("prompt", "is missing")
    _check_inputs("prompt", document["prompt"], MAX_CHOICES)


def check_embeddings(document: Mapping[str, Any]) -> None:
    """`POST /v1/embeddings` can be passed on. Raises `InvalidInputError`."""
    check_members(
        document,
        {
            "model": Required(name),
            "encoding_format": one_of("float", "base64"),
            "dimensions": integer(1, 1 << 20),
            "user": text,
        },
    )
    if document.get("input") is None:
        raise refuse("input", "is missing")
    _check_inputs("input", document["input"], MAX_EMBEDDING_INPUTS)
    if document["input"] in ("", []):
        raise refuse("input", "is empty")


def _check_inputs(path: str, value: Any, at_most: int) -> None:
    """A string, strings, token numbers, or lists of token numbers."""
    if isinstance(value, str):
        return
    if not isinstance(value, list):
        raise refuse(path, "takes a string, a list of strings, or token numbers")
    tokens = integer(0, 1 << 31)
    if value and isinstance(value[0], int):
        array(tokens)(path, value)
    elif value and isinstance(value[0], list):
        array(array(tokens, at_least=1), at_most=at_most)(path, value)
    else:
        array(text, at_most=at_most)(path, value)


def _check_stream_options(document: Mapping[str, Any]) -> None:
    if document.get("stream_options") is not None and not document.get("stream"):
        raise refuse("stream_options", "is allowed only where stream is true")


_RESPONSE: Mapping[str, Check] = {
    "model": Required(name),
    "instructions": text,
    "stream": boolean,
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "max_output_tokens": integer(1, 1 << 31),
    "parallel_tool_calls": boolean,
    "store": boolean,
    "background": boolean,
    "previous_response_id": text,
    "metadata": obj(),
    "text": obj({"format": obj({"type": Required(text)})}),
    "reasoning": obj({"effort": text}),
    "tools": array(obj({"type": Required(text)}), at_most=128),
    "top_logprobs": integer(0, MAX_TOP_LOGPROBS),
    "user": text,
}


def check_response(document: Mapping[str, Any]) -> None:
    """`POST /v1/responses` makes sense, and needs nothing that would have to be remembered.

    Raises:
        InvalidInputError: A member is malformed, or asks for state or tools of the server.
    """
    check_members(document, _RESPONSE)
    for member in ("previous_response_id", "conversation", "prompt"):
        if document.get(member) is not None:
            raise refuse(member, "needs a server that keeps state; send the whole input instead")
    if document.get("background"):
        raise refuse("background", "is not offered: answers are streamed or sent at once")
    given = document.get("input")
    if given is None:
        raise refuse("input", "is missing")
    if not isinstance(given, str):
        array(obj(), at_least=1, at_most=MAX_MESSAGES)("input", given)
    for index, tool in enumerate(document.get("tools") or ()):
        if tool["type"] != "function":
            raise refuse(f"tools[{index}].type", f"is {tool['type'][:40]!r}, it takes function")
        check_members(tool, _FUNCTION, f"tools[{index}]")


def failure_event(error: EdgeError) -> bytes:
    """What ends a stream that broke: every client raises it, none takes it for an end."""
    document = {"error": error_object(error)}
    return format_event(json.dumps(document, separators=(",", ":")).encode())


def require_one_choice(document: Mapping[str, Any]) -> None:
    """Raises `InvalidInputError` where several answers are asked for at once."""
    for member in ("n", "best_of"):
        if (document.get(member) or 1) > 1:
            raise InvalidInputError(
                f"{member} is {document[member]}: the engine behind this edge gives one answer "
                "per request",
                param=member,
            )
