"""Field paths of objects, as server-side apply counts them.

An item of a keyed list is one step of a path, `("name", "edge")`; every other list is one value.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

__all__ = ["FieldPath", "leaves", "names_an_item", "put", "take", "value_at"]

FieldPath = tuple[Any, ...]

# Lists whose items merge by these keys.
# Source: `x-kubernetes-list-map-keys` in the Kubernetes API's OpenAPI document.
LIST_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "topologySpreadConstraints": "topologyKey",
}


def leaves(node: Any, path: FieldPath = ()) -> Iterator[tuple[FieldPath, Any]]:
    """Paths that an applied object owns, with their values."""
    if path[:1] == ("metadata",) and path[1:2] in (("name",), ("namespace",)):
        yield path, node
    elif isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    elif isinstance(node, list) and _list_key(path) is not None:
        for item in node:
            step = (_list_key(path), item[_list_key(path)])
            yield from leaves(item, (*path, step))
    else:
        yield path, node


def _list_key(path: FieldPath) -> str | None:
    return LIST_KEYS.get(str(path[-1])) if path else None


def names_an_item(path: FieldPath) -> bool:
    """Say whether a path is the key of an item of a keyed list."""
    return len(path) > 1 and isinstance(path[-2], tuple) and path[-2][0] == path[-1]


def value_at(node: Any, path: FieldPath) -> Any:
    for step in path:
        if isinstance(step, tuple):
            key, value = step
            found = [item for item in node or () if item.get(key) == value]
            node = found[0] if found else None
        else:
            node = node.get(step) if isinstance(node, dict) else None
        if node is None:
            return None
    return node


def put(node: Any, path: FieldPath, value: Any) -> None:
    for step, following in pairwise(path):
        empty: Any = [] if isinstance(following, tuple) else {}
        node = _descend(node, step, empty)
    last = path[-1]
    if isinstance(last, tuple):
        _descend(node, last, {})
    else:
        node[last] = copy.deepcopy(value)


def _descend(node: Any, step: Any, empty: Any) -> Any:
    if not isinstance(step, tuple):
        return node.setdefault(step, empty)
    key, value = step
    for item in node:
        if item.get(key) == value:
            return item
    item = {key: value}
    node.append(item)
    return item


def take(node: Any, path: FieldPath) -> None:
    parent = value_at(node, path[:-1])
    if isinstance(parent, dict):
        parent.pop(path[-1], None)
        if not parent and len(path) > 1:
            _drop_empty(node, path[:-1])


def _drop_empty(node: Any, path: FieldPath) -> None:
    parent, last = value_at(node, path[:-1]), path[-1]
    if isinstance(last, tuple) and isinstance(parent, list):
        parent[:] = [item for item in parent if item]
    elif isinstance(parent, dict):
        parent.pop(last, None)
