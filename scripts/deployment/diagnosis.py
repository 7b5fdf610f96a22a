"""Says why a workload is not ready: its pods' states, the last words in their logs, the events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kustomization import Manifest

from .cluster import Cluster
from .errors import DeploymentError
from .objects import Ref

__all__ = ["diagnose", "warnings_of"]

LOG_LINES = 15
MAX_PODS = 3
MAX_EVENTS = 8


def diagnose(cluster: Cluster, ref: Ref) -> list[str]:
    """Lines for people about a workload that is not ready; never raises for what it cannot see."""
    try:
        return list(_diagnose(cluster, ref))
    except DeploymentError as exc:
        return [f"(its pods cannot be looked at: {exc})"]


def _diagnose(cluster: Cluster, ref: Ref) -> Iterator[str]:
    workload = ref
    if ref.kind == "SpinApp":
        workload = Ref("apps/v1", "Deployment", ref.namespace, ref.name)
    pods = _pods(cluster, workload)
    troubled = [pod for pod in pods if not _is_ready(pod)]
    for pod in troubled[:MAX_PODS]:
        yield from _describe_pod(cluster, pod)
    if len(troubled) > MAX_PODS:
        yield f"and {len(troubled) - MAX_PODS} pods more"
    if not pods:
        yield "it has no pods"
    names = {ref.name, workload.name, *(pod["metadata"]["name"] for pod in troubled)}
    for event in _events(cluster, ref.namespace, names)[-MAX_EVENTS:]:
        about = event.get("involvedObject", {})
        yield (
            f"event {event.get('type', '')} {event.get('reason', '')} "
            f"{about.get('kind', '')}/{about.get('name', '')}: {event.get('message', '').strip()}"
        )


def _pods(cluster: Cluster, workload: Ref) -> list[Manifest]:
    live = cluster.find(workload)
    if live is None:
        return []
    selector = live["spec"].get("selector", {}).get("matchLabels") or {}
    labels = ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
    like = Ref("v1", "Pod", workload.namespace, "")
    return list(cluster.select(like, labels=labels)) if labels else []


def _is_ready(pod: Manifest) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _describe_pod(cluster: Cluster, pod: Manifest) -> Iterator[str]:
    metadata, status = pod["metadata"], pod.get("status", {})
    name = metadata["name"]
    yield f"pod {name}: {status.get('phase', 'unknown')}"
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            yield f"  not scheduled: {condition.get('message', '')}"
    containers = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    for container in containers:
        if container.get("ready"):
            continue
        yield f"  container {container['name']}: {_container_state(container)}"
        yield from _last_words(cluster, metadata["namespace"], name, container)


def _container_state(container: Mapping[str, Any]) -> str:
    state, last = container.get("state", {}), container.get("lastState", {})
    words = []
    if waiting := state.get("waiting"):
        words.append(f"{waiting.get('reason', 'waiting')} {waiting.get('message', '')}".strip())
    words += [
        f"ended with {ended.get('exitCode')} ({ended.get('reason', '')})"
        for ended in (state.get("terminated"), last.get("terminated"))
        if ended
    ]
    if "running" in state:
        words.append("running, not ready")
    if container.get("restartCount"):
        words.append(f"{container['restartCount']} restarts")
    return ", ".join(words) or "no state yet"


def _last_words(
    cluster: Cluster, namespace: str, pod: str, container: Mapping[str, Any]
) -> Iterator[str]:
    started = "running" in container.get("state", {}) or "terminated" in container.get("state", {})
    previous = not started and bool(container.get("restartCount"))
    if not started and not previous:
        return
    try:
        text = cluster.logs(namespace, pod, container["name"], lines=LOG_LINES, previous=previous)
    except DeploymentError as exc:
        yield f"    (no log: {exc})"
        return
    for line in text.splitlines()[-LOG_LINES:]:
        yield f"    | {line}"


def _events(cluster: Cluster, namespace: str, names: set[str]) -> list[Manifest]:
    like = Ref("v1", "Event", namespace, "")
    found = [
        one
        for one in cluster.select(like)
        # A ReplicaSet's and a pod's name begin with their workload's.
        if any(
            str(one.get("involvedObject", {}).get("name", "")).startswith(name) for name in names
        )
    ]
    return sorted(found, key=_when)


def _when(event: Manifest) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")


def warnings_of(cluster: Cluster, namespace: str) -> list[Manifest]:
    """Warning events of a namespace, oldest first."""
    like = Ref("v1", "Event", namespace, "")
    return sorted(cluster.select(like, fields="type=Warning"), key=_when)
