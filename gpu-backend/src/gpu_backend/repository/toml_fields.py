"""Strict reading of TOML tables: every key is known, every value has its type.

Faults are gathered, each with the path of its key, so that one reading reports them all.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Table", "list_of", "number", "one_of", "text", "truth"]

T = TypeVar("T")
D = TypeVar("D")


class Table:
    """One TOML table being read; remembers which keys were asked for.

    Args:
        content: The parsed table.
        path: Where it stands in the file, as ``image``; empty for the top level.
        faults: Shared list that faults are added to.
    """

    def __init__(self, content: dict[str, Any], path: str, faults: list[str]) -> None:
        self._content = content
        self._path = path
        self._faults = faults
        self._known: list[str] = []

    def take(self, key: str, parse: Callable[[object], T], default: D) -> T | D:
        """The value of `key` as `parse` reads it; `default` when absent or at fault."""
        self._known.append(key)
        if key not in self._content:
            return default
        try:
            return parse(self._content[key])
        except ValueError as exc:
            self.fault(key, f"{exc}, got {self._content[key]!r}")
            return default

    def table(self, key: str) -> Table | None:
        """The table under `key`; None when absent."""
        self._known.append(key)
        value = self._content.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.fault(key, f"expected a table, got {value!r}")
            return None
        return Table(value, self._join(key), self._faults)

    def tables(self, key: str) -> list[Table]:
        """The array of tables under `key`."""
        self._known.append(key)
        value = self._content.get(key, [])
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            self.fault(key, f"expected [[{self._join(key)}]] tables, got {value!r}")
            return []
        return [
            Table(entry, f"{self._join(key)}[{index}]", self._faults)
            for index, entry in enumerate(value)
        ]

    def keys(self) -> list[str]:
        """Every key in the table; the caller takes them all."""
        return list(self._content)

    def fault(self, key: str, text: str) -> None:
        """Add a fault about `key`."""
        self._faults.append(f"{self._join(key)}: {text}")

    def close(self) -> None:
        """Report every key that nobody asked for."""
        for key in self._content:
            if key in self._known:
                continue
            close = difflib.get_close_matches(key, self._known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"one of {', '.join(self._known)}"
            self.fault(key, f"unknown key; {hint}")

    def _join(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key


def text(value: object) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("expected a string")
    return value


def truth(value: object) -> bool:
    """A boolean."""
    if value is True or value is False:
        return value
    raise ValueError("expected true or false")


def number(low: float, high: float, *, whole: bool = True) -> Callable[[object], Any]:
    """A number from `low` to `high`; an int when `whole`, else a float."""

    def parse(value: object) -> int | float:
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            kind = "a whole number" if whole else "a number"
            raise ValueError(f"expected {kind} from {low:g} to {high:g}")
        return value if whole else float(value)

    return parse


def one_of(*options: str) -> Callable[[object], str]:
    """One of some words."""

    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in options:
            close = difflib.get_close_matches(str(value), options, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"expected one of {', '.join(options)}{hint}")
        return value

    return parse


def list_of(
    parse: Callable[[object], T], *, low: int = 0, high: int = 1_000_000
) -> Callable[[object], tuple[T, ...]]:
    """`low` to `high` entries, each as `parse` reads it."""

    def parse_list(value: object) -> tuple[T, ...]:
        if isinstance(value, list) and low <= len(value) <= high:
            return tuple(parse(entry) for entry in value)
        raise ValueError(f"expected a list of {low} to {high} entries")

    return parse_list
