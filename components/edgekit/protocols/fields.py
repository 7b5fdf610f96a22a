"""Vocabulary for what a request may hold: checks by member name, errors by member path.

A check returns for a value that is fine and raises `InvalidInputError` for one that is not. A
member that is null counts as absent, as both protocols have it; one that no table names passes,
because servers have extensions of their own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.errors import InvalidInputError
from edgekit.protocols.json_text import parse_json

__all__ = [
    "Check",
    "Required",
    "array",
    "boolean",
    "check_members",
    "integer",
    "name",
    "number",
    "obj",
    "one_of",
    "parse_document",
    "refuse",
    "text",
    "texts",
]

Check = Callable[[str, Any], None]
"""Takes the path of a member and its value, which is never null."""

MAX_NAME_CHARS = 256
_NAME = re.compile(r"[!-~][ -~]*")


@dataclass(frozen=True, slots=True)
class Required:
    """A check of a member that has to be there."""

    check: Check

    def __call__(self, path: str, value: Any) -> None:
        """As the check."""
        self.check(path, value)


def refuse(path: str, text: str) -> InvalidInputError:
    """The error about the member at `path`; `text` completes the sentence."""
    return InvalidInputError(f"{path} {text}", param=path)


def parse_document(body: bytes) -> dict[str, Any]:
    """The JSON object that a request's body is.

    Raises:
        InvalidInputError: It is empty, no JSON, or another JSON value.
    """
    if not body.strip():
        raise InvalidInputError("the request body is empty: send a JSON object")
    try:
        document = parse_json(body)
    except ValueError as exc:
        raise InvalidInputError(f"the request body is no JSON ({exc})") from exc
    if not isinstance(document, dict):
        raise InvalidInputError("the request body is JSON but no object: send an object")
    return document


def check_members(document: Mapping[str, Any], table: Mapping[str, Check], path: str = "") -> None:
    """Every member of `document` that `table` names passes its check."""
    for name, check in table.items():
        value = document.get(name)
        where = f"{path}.{name}" if path else name
        if value is not None:
            check(where, value)
        elif isinstance(check, Required):
            raise refuse(where, "is missing")


def boolean(path: str, value: Any) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise refuse(path, f"is {_shown(value)}, it takes true or false")


def integer(low: int = -(2**63), high: int = 2**64 - 1) -> Check:
    """A whole number; seeds are 64 bits wide, with or without a sign."""

    def check(path: str, value: Any) -> None:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not low <= value <= high:
            raise refuse(path, f"is {_shown(value)}, it takes a whole number{_range(low, high)}")

    return check


def number(low: float = -math.inf, high: float = math.inf) -> Check:
    """A finite number."""

    def check(path: str, value: Any) -> None:
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if not numeric or not low <= value <= high or not math.isfinite(value):
            raise refuse(path, f"is {_shown(value)}, it takes a number{_range(low, high)}")

    return check


def text(path: str, value: Any) -> None:
    """Any string."""
    if not isinstance(value, str):
        raise refuse(path, f"is {_shown(value)}, it takes a string")


def name(path: str, value: Any) -> None:
    """Printable and of sensible length, as models and functions are called."""
    text(path, value)
    if not value.isprintable() or not 0 < len(value) <= MAX_NAME_CHARS:
        raise refuse(path, f"is {_shown(value)}, it takes 1 to {MAX_NAME_CHARS} printable letters")


def one_of(*values: str) -> Check:
    """One of some words."""

    def check(path: str, value: Any) -> None:
        if value not in values or not isinstance(value, str):
            raise refuse(path, f"is {_shown(value)}, it takes one of {', '.join(values)}")

    return check


def array(of: Check, at_least: int = 0, at_most: int | None = None) -> Check:
    """A list whose every entry passes `of`."""

    def check(path: str, value: Any) -> None:
        if not isinstance(value, list):
            raise refuse(path, f"is {_shown(value)}, it takes a list")
        if len(value) < at_least:
            raise refuse(path, f"has {len(value)} entries, it takes at least {at_least}")
        if at_most is not None and len(value) > at_most:
            raise refuse(path, f"has {len(value)} entries, it takes at most {at_most}")
        for index, entry in enumerate(value):
            of(f"{path}[{index}]", entry)

    return check


def obj(table: Mapping[str, Check] | None = None) -> Check:
    """An object whose members pass `table`."""

    def check(path: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise refuse(path, f"is {_shown(value)}, it takes an object")
        check_members(value, table or {}, path)

    return check


def texts(at_most: int) -> Check:
    """A string, or a list of at most `at_most` strings."""
    many = array(text, at_most=at_most)

    def check(path: str, value: Any) -> None:
        if not isinstance(value, str):
            many(path, value)

    return check


def _range(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return ""
    if math.isinf(high) or high == 2**64 - 1:
        return "" if low == -(2**63) else f" of at least {low:g}"
    return f" from {low:g} to {high:g}"


def _shown(value: Any) -> str:
    """What a client sent, short enough for a message; long texts stay out of it."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}…"
