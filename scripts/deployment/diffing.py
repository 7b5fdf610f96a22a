"""Shows what a change would do to an object, without noise and without secrets."""

from __future__ import annotations

import copy
import difflib
import hashlib
from collections.abc import Iterator
from typing import Any

import yaml

from kustomization import Manifest

__all__ = ["difference", "essence"]

CONTEXT_LINES = 2
# Written by the server or by controllers on every change, never by us.
SERVER_METADATA = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
)


def essence(manifest: Manifest | None) -> Manifest | None:
    """The object without what the server adds, its secret values as digests."""
    if manifest is None:
        return None
    kept = copy.deepcopy(manifest)
    kept.pop("status", None)
    for field in SERVER_METADATA:
        kept["metadata"].pop(field, None)
    if kept["kind"] == "Secret":
        for field in ("data", "stringData"):
            if field in kept:
                kept[field] = {key: _masked(value) for key, value in kept[field].items()}
    return kept


def _masked(value: str) -> str:
    digest = hashlib.sha256("".join(value.split()).encode()).hexdigest()
    return f"(secret, sha256 {digest[:12]})"


def difference(before: Manifest | None, after: Manifest | None) -> list[str]:
    """Lines of a unified diff between two objects, as YAML; empty where they are the same."""
    lines = difflib.unified_diff(
        _yaml_lines(essence(before)),
        _yaml_lines(essence(after)),
        n=CONTEXT_LINES,
        lineterm="",
    )
    return list(_without_header(lines))


def _yaml_lines(manifest: Manifest | None) -> list[str]:
    if manifest is None:
        return []
    text: str = yaml.dump(manifest, Dumper=_Dumper, sort_keys=True, width=10_000)
    return text.splitlines()


def _without_header(lines: Iterator[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        if number >= 2:
            yield "  ..." if line.startswith("@@") else line


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block, so that a diff shows the line that changed."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> Any:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
