"""Token limits at the edge, which knows no model's vocabulary.

The input is estimated, to refuse what is far too long before it costs anything; the engine's
context window remains the exact limit. The output is limited exactly, by the engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgekit.errors import InvalidInputError

__all__ = ["cap_output", "check_input", "estimate_tokens", "given_tokens"]

CHARS_PER_TOKEN = 4
"""English text in vocabularies of 32,000 to 200,000 entries; other scripts have fewer."""


def estimate_tokens(text: str) -> int:
    """About how many tokens `text` has: a quarter of its ASCII, and one per other character."""
    others = 0 if text.isascii() else sum(char > "\x7f" for char in text)
    return others + -(-(len(text) - others) // CHARS_PER_TOKEN)


def given_tokens(document: Mapping[str, Any]) -> int:
    """Tokens that a request holds as numbers already."""
    found = 0
    for member in ("prompt", "input", "context"):
        value = document.get(member)
        for entry in value if isinstance(value, list) else ():
            found += len(entry) if isinstance(entry, list) else isinstance(entry, int)
    return found


def check_input(tokens: int, limit: int) -> None:
    """Return when `tokens` are at most `limit`; 0 is no limit. Raises `InvalidInputError`."""
    if limit and tokens > limit:
        raise InvalidInputError(
            f"the prompt has about {tokens} tokens, this edge passes on at most {limit}: "
            "send less of it"
        )


def cap_output(document: dict[str, Any], members: Iterable[str], limit: int) -> bool:
    """No answer can be longer than `limit` tokens; True when that changed the request.

    Args:
        document: The request; `options.num_predict` stands for a member inside of another.
        members: Where clients say how much they want; the first is set where none does.
        limit: 0 is no limit.
    """
    if not limit:
        return False
    members = list(members)
    found = [place for place in (_place(document, name) for name in members) if place]
    capped = False
    for holder, name in found:
        if not 0 < holder[name] <= limit:  # negative: without end
            holder[name] = limit
            capped = True
    if found:
        return capped
    *path, name = members[0].split(".")
    holder = document
    for part in path:
        holder[part] = dict(holder.get(part) or {})
        holder = holder[part]
    holder[name] = limit
    return True


def _place(document: dict[str, Any], member: str) -> tuple[dict[str, Any], str] | None:
    *path, name = member.split(".")
    holder: Any = document
    for part in path:
        holder = holder.get(part) or {}
    return (holder, name) if holder.get(name) is not None else None
