"""Structured field values, written: what `Cache-Status` and `RateLimit` are made of.

Only serialisation (RFC 9651, section 4.1): the edge sends structured fields and reads none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

__all__ = ["BareItem", "Token", "serialize_item", "serialize_list"]

_KEY = re.compile(r"[a-z*][a-z0-9_.*-]*\Z")
_TOKEN = re.compile(r"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*\Z")
_MAX_INTEGER = 999_999_999_999_999
_MAX_DECIMAL = 999_999_999_999.9995


class Token(str):
    """A short textual word, written without quotes (RFC 9651, section 3.3.4)."""

    __slots__ = ()


BareItem = bool | int | float | Token | str
"""The bare items the edge sends; `Token` before `str`, because a token is one."""


def serialize_list(members: Iterable[tuple[BareItem, Mapping[str, BareItem]]]) -> str:
    """A list of items with parameters (RFC 9651, section 4.1.1).

    Args:
        members: Bare item and parameters of each member, in order.

    Raises:
        ValueError: A value or key has no representation.
    """
    return ", ".join(serialize_item(value, params) for value, params in members)


def serialize_item(value: BareItem, params: Mapping[str, BareItem]) -> str:
    """One item with its parameters (RFC 9651, section 4.1.3). Raises as `serialize_list`."""
    return _bare(value) + "".join(_parameter(key, item) for key, item in params.items())


def _parameter(key: str, value: BareItem) -> str:
    if not _KEY.match(key):
        raise ValueError(f"{key!r} is no structured field key")
    # "If the value of param_value is Boolean true, do not append '='" (section 4.1.1.2, step 4).
    return f";{key}" if value is True else f";{key}={_bare(value)}"


def _decimal(value: float) -> str:
    """At most three digits after the point, none of them trailing zeros (section 4.1.5)."""
    if not abs(value) < _MAX_DECIMAL:
        raise ValueError(f"{value} exceeds the 12 integer digits of a structured field decimal")
    whole, _, fraction = f"{value:.3f}".partition(".")
    return f"{whole}.{fraction.rstrip('0') or '0'}"


def _bare(value: BareItem) -> str:
    if isinstance(value, bool):
        return "?1" if value else "?0"
    if isinstance(value, int):
        if abs(value) > _MAX_INTEGER:
            raise ValueError(f"{value} exceeds the 15 digits of a structured field integer")
        return str(value)
    if isinstance(value, float):
        return _decimal(value)
    if isinstance(value, Token):
        if not _TOKEN.match(value):
            raise ValueError(f"{value!r} is no structured field token")
        return str(value)
    if not all(" " <= char <= "~" for char in value):
        raise ValueError(f"{value!r} holds characters a structured field string cannot")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
