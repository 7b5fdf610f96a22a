"""Walks kustomize's field paths: `spec/variables/valueFrom`, through lists."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["rewrite", "split"]


def split(path: str) -> list[str]:
    """Return a path's segments; an escaped slash belongs to its segment, `[]` is dropped."""
    segments = re.split(r"(?<!\\)/", path)
    return [segment.replace("\\/", "/").removesuffix("[]") for segment in segments if segment]


def rewrite(node: Any, segments: Sequence[str], change: Callable[[Any], Any]) -> None:
    """Replace each value that the path reaches with `change(value)`; absent fields stay absent."""
    if isinstance(node, list):
        for item in node:
            rewrite(item, segments, change)
    elif isinstance(node, dict) and segments[0] in node:
        first, rest = segments[0], segments[1:]
        if rest:
            rewrite(node[first], rest, change)
        elif isinstance(node[first], list):
            node[first] = [change(item) for item in node[first]]
        else:
            node[first] = change(node[first])
