"""JSON in and out: members of the right type and range, or an error that names them.

A member that is null counts as absent: clients write both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import orjson

from gpu_backend.errors import InvalidInputError

__all__ = ["Members", "to_json"]


def to_json(document: object) -> bytes:
    """`document` as JSON, lone surrogates included: other servers' models do write them."""
    try:
        return orjson.dumps(document)
    except TypeError:
        return json.dumps(document).encode()


class Members:
    """One JSON object being read; remembers which members were asked for.

    Args:
        document: The object.
        path: Where it stands in the request, as ``options``; empty for the body itself.
    """

    def __init__(self, document: Mapping[str, Any], path: str = "") -> None:
        self._document = document
        self._path = path
        self._known: set[str] = set()

    def text(self, key: str, default: str | None = None) -> str | None:
        """A string."""
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.fault(key, "a string", value)
        return value

    def required_text(self, key: str) -> str:
        """A string that is there and not empty."""
        value = self.text(key)
        if not value:
            raise self.fault(key, "a string", value)
        return value

    def truth(self, key: str, default: bool) -> bool:
        """A boolean."""
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fault(key, "true or false", value)
        return value

    def whole(self, key: str, low: int, high: int) -> int | None:
        """A whole number from `low` to `high`."""
        value = self._take(key)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.fault(key, f"a whole number from {low} to {high}", value)
        return value

    def number(self, key: str, low: float, high: float) -> float | None:
        """A number from `low` to `high`."""
        value = self._take(key)
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not low <= value <= high:
            raise self.fault(key, f"a number from {low:g} to {high:g}", value)
        return float(value)

    def mapping(self, key: str) -> dict[str, Any] | None:
        """An object."""
        value = self._take(key)
        if value is not None and not isinstance(value, dict):
            raise self.fault(key, "an object", value)
        return value

    def texts(self, key: str, most: int) -> tuple[str, ...]:
        """A string, or a list of up to `most` strings."""
        value = self._take(key)
        if value is None:
            return ()
        given = [value] if isinstance(value, str) else value
        if not isinstance(given, list) or not all(isinstance(entry, str) for entry in given):
            raise self.fault(key, "a string or a list of strings", value)
        if len(given) > most:
            raise self.fault(key, f"at most {most} strings", f"{len(given)} of them")
        return tuple(given)

    def objects(self, key: str) -> tuple[dict[str, Any], ...]:
        """A list of objects."""
        value = self._take(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise self.fault(key, "a list of objects", value)
        return tuple(value)

    def anything(self, key: str) -> Any:
        """Whatever is there."""
        return self._take(key)

    def rest(self) -> dict[str, Any]:
        """Members that nobody asked for."""
        return {key: value for key, value in self._document.items() if key not in self._known}

    def fault(self, key: str, expected: str, value: object) -> InvalidInputError:
        """What is wrong with `key`."""
        name = f"{self._path}.{key}" if self._path else key
        shown = "nothing" if value is None else f"{value!r}"
        return InvalidInputError(f"{name}: expected {expected}, got {shown[:80]}", param=name)

    def _take(self, key: str) -> Any:
        self._known.add(key)
        return self._document.get(key)
