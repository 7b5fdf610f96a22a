"""JSON Patch (RFC 6902) over JSON values, with RFC 6901 pointers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["JsonPatchError", "apply_json_patch"]


class JsonPatchError(Exception):
    """A patch operation does not fit the document; the message names the operation and the path."""


def apply_json_patch(document: Any, operations: Sequence[Mapping[str, Any]]) -> Any:
    """Return `document` with the operations applied in order; the argument is not changed.

    Raises:
        JsonPatchError: An unknown operation, a path that is not there, or a failed `test`.
    """
    result = copy.deepcopy(document)
    for operation in operations:
        try:
            result = _apply(result, operation)
        except (KeyError, IndexError, ValueError, TypeError) as exc:
            raise JsonPatchError(
                f"cannot {operation.get('op')} {operation.get('path')!r}: no such path ({exc})"
            ) from exc
    return result


def _apply(document: Any, operation: Mapping[str, Any]) -> Any:
    # RFC 6902, section 4: each operation has one `op` and one `path`.
    op, path = operation.get("op"), _tokens(str(operation["path"]))
    if op == "add":
        return _add(document, path, copy.deepcopy(operation["value"]))
    if op == "remove":
        return _remove(document, path)
    if op == "replace":
        if path:
            _value_at(document, path)
            document = _remove(document, path)
        return _add(document, path, copy.deepcopy(operation["value"]))
    if op in ("move", "copy"):
        source = _tokens(str(operation["from"]))
        value = copy.deepcopy(_value_at(document, source))
        return _add(_remove(document, source) if op == "move" else document, path, value)
    if op == "test":
        if _value_at(document, path) != operation["value"]:
            raise JsonPatchError(f"test failed at {operation['path']!r}")
        return document
    raise JsonPatchError(f"unknown operation {op!r}")


def _tokens(pointer: str) -> list[str]:
    if pointer == "":
        return []
    if not pointer.startswith("/"):
        raise JsonPatchError(f"{pointer!r} is no JSON pointer: it must start with '/'")
    # RFC 6901, section 4: `~1` first, then `~0`.
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer[1:].split("/")]


def _value_at(document: Any, path: Sequence[str]) -> Any:
    for token in path:
        key: str | int = _index(document, token) if isinstance(document, list) else token
        document = document[key]
    return document


def _add(document: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    parent, last = _value_at(document, path[:-1]), path[-1]
    if isinstance(parent, list):
        parent.insert(len(parent) if last == "-" else _index(parent, last, inserting=True), value)
    else:
        parent[last] = value
    return document


def _remove(document: Any, path: Sequence[str]) -> Any:
    if not path:
        return None
    parent, last = _value_at(document, path[:-1]), path[-1]
    if isinstance(parent, list):
        del parent[_index(parent, last)]
    else:
        del parent[last]
    return document


def _index(items: Sequence[Any], token: str, *, inserting: bool = False) -> int:
    index = int(token)
    if not 0 <= index < len(items) + inserting:
        raise IndexError(f"index {index} of {len(items)}")
    return index
