"""What a check finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from deployment.cluster import Cluster
from deployment.objects import pod_template
from kustomization import Manifest

__all__ = ["Check", "Finding", "Level", "containers", "fewest_replicas", "of_kind", "ok"]


class Level(Enum):
    """How much a finding matters; the value is its sign."""

    OK = "ok"
    WARNING = "warn"
    MISSING = "MISSING"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    subject: str
    message: str
    fix: str = ""
    """The command, or the step, that mends it."""


Check = Callable[[Cluster, Sequence[Manifest]], Iterator[Finding]]
"""Looks at a cluster with a release's needs in mind; the first words of its docstring name it."""


def ok(subject: str, message: str) -> Finding:
    """Something is as it should be."""
    return Finding(Level.OK, subject, message)


def of_kind(manifests: Sequence[Manifest], *kinds: str) -> list[Manifest]:
    """The objects of some kinds."""
    return [one for one in manifests if one["kind"] in kinds]


def containers(manifests: Sequence[Manifest]) -> Iterator[tuple[Manifest, dict[str, Any]]]:
    """Every container of the built-in workloads, with its workload."""
    for manifest in manifests:
        template = pod_template(manifest)
        for container in template["spec"]["containers"] if template else ():
            yield manifest, container


def fewest_replicas(manifests: Sequence[Manifest], workload: Manifest) -> int:
    """Replicas a workload starts with: its own, or the least its autoscaler allows."""
    if "replicas" in workload["spec"]:
        return int(workload["spec"]["replicas"])
    for one in of_kind(manifests, "HorizontalPodAutoscaler", "ScaledObject"):
        if one["spec"]["scaleTargetRef"]["name"] == workload["metadata"]["name"]:
            return int(one["spec"].get("minReplicas", one["spec"].get("minReplicaCount", 1)))
    return 1
