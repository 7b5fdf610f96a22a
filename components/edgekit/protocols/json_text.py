"""JSON as RFC 8259 has it: UTF-8, no NaN, no nesting without end."""

from __future__ import annotations

import json
from typing import Any, NoReturn

__all__ = ["parse_json"]


def parse_json(data: bytes) -> Any:
    """The document in `data`.

    `json.loads` would guess among UTF-8, 16 and 32 (a guess that ends in a LookupError in Wasm,
    where those codecs do not exist), and would read NaN and Infinity.

    Raises:
        ValueError: Not UTF-8, not JSON, or nested deeper than the stack.
    """
    try:
        return _DECODER.decode(data.decode())
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
