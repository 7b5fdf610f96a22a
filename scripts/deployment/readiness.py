"""Tells from an object's status whether it is ready, still on its way, or lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from kustomization import Manifest

from .cluster import Cluster
from .objects import Ref
from .ownership import contains

__all__ = ["WATCHED_KINDS", "Readiness", "Stage", "readiness"]


class Stage(Enum):
    """How far an object is."""

    READY = "ready"
    WAITING = "waiting"
    FAILED = "failed"
    """Waiting longer would not help."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """An object's stage, in words for people."""

    stage: Stage
    message: str


def readiness(cluster: Cluster, ref: Ref) -> Readiness:
    """Say how far an object is, by its live status.

    Raises:
        DeploymentError: The API server cannot be asked.
    """
    live = cluster.find(ref)
    if live is None:
        return Readiness(Stage.WAITING, "not there yet")
    return WATCHED_KINDS[ref.kind](cluster, live)


def _deployment(_cluster: Cluster, live: Manifest) -> Readiness:
    """Source: kubectl's rollout status for Deployments."""
    status, spec = live.get("status", {}), live["spec"]
    conditions = _conditions(status)
    if conditions.get("Progressing", {}).get("reason") == "ProgressDeadlineExceeded":
        return Readiness(Stage.FAILED, conditions["Progressing"].get("message", "no progress"))
    if status.get("observedGeneration", 0) < live["metadata"].get("generation", 0):
        return Readiness(Stage.WAITING, "the change is not seen yet")
    wanted = spec.get("replicas", 1)
    updated, total = status.get("updatedReplicas", 0), status.get("replicas", 0)
    available = status.get("availableReplicas", 0)
    if updated < wanted:
        return Readiness(Stage.WAITING, f"{updated} of {wanted} new pods started")
    if total > updated:
        return Readiness(Stage.WAITING, f"{total - updated} old pods are leaving")
    if available < updated:
        return Readiness(Stage.WAITING, f"{available} of {updated} pods available")
    return Readiness(Stage.READY, f"{available} of {wanted} pods available")


def _stateful_set(_cluster: Cluster, live: Manifest) -> Readiness:
    status, wanted = live.get("status", {}), live["spec"].get("replicas", 1)
    if status.get("observedGeneration", 0) < live["metadata"].get("generation", 0):
        return Readiness(Stage.WAITING, "the change is not seen yet")
    updated, ready = status.get("updatedReplicas", 0), status.get("readyReplicas", 0)
    current = status.get("currentRevision") == status.get("updateRevision") or updated >= wanted
    if not current or updated < wanted or ready < wanted:
        return Readiness(Stage.WAITING, f"{min(updated, ready)} of {wanted} pods ready")
    return Readiness(Stage.READY, f"{ready} of {wanted} pods ready")


def _job(_cluster: Cluster, live: Manifest) -> Readiness:
    conditions = _conditions(live.get("status", {}))
    for name in ("Failed", "FailureTarget"):
        if conditions.get(name, {}).get("status") == "True":
            message = conditions[name].get("message") or conditions[name].get("reason", "failed")
            return Readiness(Stage.FAILED, message)
    if conditions.get("Complete", {}).get("status") == "True":
        return Readiness(Stage.READY, "complete")
    active = live.get("status", {}).get("active", 0)
    return Readiness(Stage.WAITING, f"{active} pods at work")


def _spin_app(cluster: Cluster, live: Manifest) -> Readiness:
    """A SpinApp is as ready as the Deployment that the operator makes of it, once that is current.

    Its own status has no generation: it may still speak of the release before.
    """
    metadata, spec = live["metadata"], live["spec"]
    built = cluster.find(Ref("apps/v1", "Deployment", metadata["namespace"], metadata["name"]))
    if built is None:
        return Readiness(Stage.WAITING, "the Spin operator has not made its Deployment yet")
    if not _is_current(spec, built["spec"]["template"]):
        return Readiness(Stage.WAITING, "the Spin operator has not taken the change yet")
    return _deployment(cluster, built)


def _is_current(spec: Mapping[str, Any], template: Mapping[str, Any]) -> bool:
    (container,) = template["spec"]["containers"]
    variables = [
        {**one, "name": f"SPIN_VARIABLE_{one['name'].upper()}"} for one in spec.get("variables", ())
    ]
    environment = {one["name"]: one for one in container.get("env", ())}
    return (
        container["image"] == spec["image"]
        and contains(template["metadata"].get("annotations") or {}, spec.get("podAnnotations", {}))
        and all(contains(environment.get(one["name"]), one) for one in variables)
    )


def _conditions(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {one["type"]: one for one in status.get("conditions") or ()}


WATCHED_KINDS: Mapping[str, Callable[[Cluster, Manifest], Readiness]] = {
    "Deployment": _deployment,
    "StatefulSet": _stateful_set,
    "Job": _job,
    "SpinApp": _spin_app,
}
"""Kinds whose objects take time to become ready."""
