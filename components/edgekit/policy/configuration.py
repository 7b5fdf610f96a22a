"""Variables that hold JSON, read strictly: every fault at once, each with its place and remedy."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any

from edgekit.errors import InternalError

__all__ = ["ConfigurationError", "Faults", "parse_object"]


class ConfigurationError(InternalError):
    """A variable of the application makes no sense; the operator has to mend it.

    Args:
        faults: One line each, beginning with the place.
    """

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("bad configuration: " + "; ".join(self.faults))


class Faults:
    """Collects faults while reading, and raises them together."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def add(self, place: str, fact: str) -> None:
        """Note one fault."""
        self._found.append(f"{place}: {fact}")

    def check_names(self, place: str, value: dict[str, Any], known: Iterable[str]) -> None:
        """Note every name that is not known, with the one that was probably meant."""
        known = list(known)
        for name in value:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
                self.add(f"{place}.{name}", f"unknown; {hint}")

    def number(
        self, place: str, value: object, *, at_least: float, whole: bool = False
    ) -> float | None:
        """`value` when it is a number in range, or None after noting what it is instead."""
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not at_least <= value < 1e15:
            kind = "an integer" if whole else "a number"
            self.add(place, f"{value!r} is not {kind} of at least {at_least:g}")
            return None
        return value

    def raise_any(self) -> None:
        """Raise `ConfigurationError` when anything was noted."""
        if self._found:
            raise ConfigurationError(self._found)


def parse_object(variable: str, text: str) -> dict[str, Any]:
    """The JSON object in `text`; an empty text is an empty object.

    Raises:
        ConfigurationError: It is no JSON object.
    """
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise ConfigurationError([f"{variable}: not JSON ({exc})"]) from exc
    if not isinstance(value, dict):
        raise ConfigurationError([f"{variable}: must be a JSON object"])
    return value
