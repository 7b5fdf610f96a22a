"""Whose an object is. What is not ours is never changed and never deleted.

An object is ours when it carries the deployment's `part-of` label. Kinds that a cluster shares (a
namespace, a runtime class, a shim) may be somebody else's and still serve: those are left as they
are if they already say what we need.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from kustomization import Manifest

from .cluster import FIELD_MANAGER

__all__ = ["PART_OF", "SHARED_KINDS", "Owner", "contains", "managers_of", "owner_of"]

PART_OF = ("app.kubernetes.io/part-of", "inference-anywhere")

SHARED_KINDS = frozenset({"Namespace", "RuntimeClass", "Shim"})


class Owner(Enum):
    """Whose an object is."""

    OURS = "ours"
    SHARED = "shared"
    """Not ours, of a kind that clusters share, and it already says what we need."""
    FOREIGN = "foreign"


def owner_of(live: Manifest, desired: Manifest) -> Owner:
    """Tell whose the live object is that stands where `desired` would go."""
    labels = live["metadata"].get("labels") or {}
    if labels.get(PART_OF[0]) == PART_OF[1]:
        return Owner.OURS
    if live["kind"] in SHARED_KINDS and contains(live, _substance(desired)):
        return Owner.SHARED
    return Owner.FOREIGN


def managers_of(live: Manifest) -> list[str]:
    """Field managers other than this program, for messages."""
    entries = live["metadata"].get("managedFields") or ()
    return sorted({entry["manager"] for entry in entries} - {FIELD_MANAGER})


def contains(live: Any, wanted: Any) -> bool:
    """Say whether `live` states everything that `wanted` states; it may state more."""
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(
            key in live and contains(live[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(live, list)
            and len(live) == len(wanted)
            and all(contains(one, other) for one, other in zip(live, wanted, strict=True))
        )
    return bool(live == wanted)


def _substance(desired: Manifest) -> Manifest:
    """What of a shared object matters to us: everything but labels and annotations."""
    return {key: value for key, value in desired.items() if key != "metadata"}
