"""Where in a request text for the model stands, whatever protocol it is of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["Slot", "slots"]

Slot = tuple[Any, Any]
"""A container and the key or index of the string in it, so that it can be replaced."""

TEXT_MEMBERS = (
    "messages",
    "content",
    "text",
    "refusal",
    "prompt",
    "suffix",
    "system",
    "template",
    "instructions",
    "input",
    "output",
    "thinking",
    "tool_calls",
    "function",
)
"""Members that hold text, or lead to it."""


def slots(node: dict[str, Any]) -> Iterator[Slot]:
    """Every string that a client wants the model to read, tool calls included.

    Descriptions of tools are left out: whoever writes the program writes them, not its users.
    """
    for name in TEXT_MEMBERS:
        if name in node:
            yield from _entry(node, name)
    if "arguments" in node:
        yield from _leaves(node, "arguments")


def _entry(container: Any, key: Any) -> Iterator[Slot]:
    value = container[key]
    if isinstance(value, str):
        yield container, key
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from _entry(value, index)
    elif isinstance(value, dict):
        yield from slots(value)


def _leaves(container: Any, key: Any) -> Iterator[Slot]:
    """Every string below: arguments have any shape."""
    value = container[key]
    if isinstance(value, str):
        yield container, key
    elif isinstance(value, dict | list):
        for inner in value if isinstance(value, dict) else range(len(value)):
            yield from _leaves(value, inner)
