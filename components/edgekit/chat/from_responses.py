"""Requests of the Responses API, said as chat completions: without state, whatever it is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgekit.protocols.fields import refuse

__all__ = ["response_to_chat"]

SAME = (
    "model",
    "temperature",
    "top_p",
    "parallel_tool_calls",
    "user",
    # Not of the Responses API, but servers with chat have them.
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "top_k",
    "min_p",
)

TEXT_PARTS = ("input_text", "output_text", "text", "refusal")
INCLUDE_LOGPROBS = "message.output_text.logprobs"


def response_to_chat(document: Mapping[str, Any]) -> dict[str, Any]:
    """Body of `/v1/chat/completions` for one of `/v1/responses`.

    Raises:
        InvalidInputError: An item of the input is of a kind that chat has not.
    """
    chat: dict[str, Any] = {name: document[name] for name in SAME if document.get(name) is not None}
    chat["messages"] = _messages(document)
    if document.get("stream"):
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    if document.get("max_output_tokens") is not None:
        chat["max_completion_tokens"] = document["max_output_tokens"]
    effort = (document.get("reasoning") or {}).get("effort")
    if effort is not None:
        chat["reasoning_effort"] = effort
    if INCLUDE_LOGPROBS in (document.get("include") or ()) or document.get("top_logprobs"):
        chat |= {"logprobs": True, "top_logprobs": document.get("top_logprobs") or 0}
    _add_tools(document, chat)
    _add_format(document, chat)
    return chat


def _messages(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if document.get("instructions"):
        messages.append({"role": "system", "content": document["instructions"]})
    given = document["input"]
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    for index, item in enumerate(given):
        for message in _item(f"input[{index}]", item):
            if "tool_calls" in message and messages and _takes_calls(messages[-1]):
                # Parallel calls are one message in chat, and an item each here.
                messages[-1].setdefault("tool_calls", []).extend(message["tool_calls"])
            else:
                messages.append(message)
    return messages


def _takes_calls(message: Mapping[str, Any]) -> bool:
    return bool(message["role"] == "assistant")


def _item(path: str, item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    kind = item.get("type") or "message"
    if kind == "message":
        role = item.get("role")
        if role not in ("user", "assistant", "system", "developer"):
            raise refuse(f"{path}.role", "takes user, assistant, system or developer")
        yield {"role": role, "content": _content(f"{path}.content", item.get("content"))}
    elif kind == "function_call":
        function = {
            "name": _text(f"{path}.name", item.get("name")),
            "arguments": _text(f"{path}.arguments", item.get("arguments")),
        }
        call = {
            "id": _text(f"{path}.call_id", item.get("call_id")),
            "type": "function",
            "function": function,
        }
        yield {"role": "assistant", "content": None, "tool_calls": [call]}
    elif kind == "function_call_output":
        output = item.get("output")
        content = output if isinstance(output, str) else _content(f"{path}.output", output)
        call_id = _text(f"{path}.call_id", item.get("call_id"))
        yield {"role": "tool", "tool_call_id": call_id, "content": content}
    elif kind != "reasoning":  # what a model thought is not shown to it again
        raise refuse(f"{path}.type", f"is {str(kind)[:40]!r}, which this edge does not know")


def _content(path: str, content: Any) -> Any:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise refuse(path, "takes a string or a list of parts")
    parts = [_part(f"{path}[{index}]", part) for index, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _part(path: str, part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in TEXT_PARTS:
        return {
            "type": "text",
            "text": _text(f"{path}.text", part.get("text", part.get("refusal"))),
        }
    if kind == "input_image":
        url = _text(f"{path}.image_url", part.get("image_url"))
        return {"type": "image_url", "image_url": {"url": url}}
    raise refuse(f"{path}.type", f"is {str(kind)[:40]!r}, it takes input_text or input_image")


def _text(path: str, value: Any) -> str:
    if not isinstance(value, str):
        raise refuse(path, "is missing or no string")
    return value


def _add_tools(document: Mapping[str, Any], chat: dict[str, Any]) -> None:
    tools: Sequence[Mapping[str, Any]] = document.get("tools") or ()
    if tools:
        chat["tools"] = [
            {
                "type": "function",
                "function": {name: value for name, value in tool.items() if name != "type"},
            }
            for tool in tools
        ]
    choice = document.get("tool_choice")
    if isinstance(choice, dict):
        function = {"name": _text("tool_choice.name", choice.get("name"))}
        chat["tool_choice"] = {"type": "function", "function": function}
    elif choice is not None:
        chat["tool_choice"] = choice


def _add_format(document: Mapping[str, Any], chat: dict[str, Any]) -> None:
    given = (document.get("text") or {}).get("format")
    if not given or given["type"] == "text":
        return
    if given["type"] == "json_object":
        chat["response_format"] = {"type": "json_object"}
    elif given["type"] == "json_schema":
        schema = {name: value for name, value in given.items() if name != "type"}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    else:
        raise refuse("text.format.type", f"is {given['type'][:40]!r}, which this edge knows not")
