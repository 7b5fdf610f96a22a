"""Which execution provider ran which nodes, read from ONNX Runtime's own profile.

A session that reports CUDA may still run half of its nodes on the CPU, each with a copy to and
fro. Only the profile tells.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Placement", "count_nodes"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Nodes that ran, by execution provider (ONNX Runtime's names)."""

    nodes: Mapping[str, int]

    def off_target(self, active: str) -> int:
        """Nodes that ran anywhere but on `active`."""
        return sum(count for name, count in self.nodes.items() if name != active)


def count_nodes(profile: Path) -> Placement:
    """Count each node once, however often it ran.

    Args:
        profile: File written by `InferenceSession.end_profiling`. One that is missing or cannot
            be read counts as no nodes: a broken profile must not keep a model from serving.
    """
    try:
        events = json.loads(profile.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Placement({})
    providers: dict[str, str] = {}
    for event in events:
        provider = event.get("args", {}).get("provider")
        if event.get("cat") == "Node" and provider:
            providers[event["name"]] = provider
    return Placement(dict(Counter(providers.values())))
