"""Looks for what pods need to be scheduled and scaled: GPUs, memory, storage, metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from kubernetes.utils import quantity

from deployment.cluster import Cluster
from deployment.objects import Ref
from kustomization import Manifest

from .findings import Check, Finding, Level, containers, fewest_replicas, of_kind, ok

__all__ = ["CHECKS"]

# Names with colons are made by recording rules.
# Source: Prometheus documentation, "Metric and label naming".
RECORDED = re.compile(r"\b[a-z_]+(?::[a-z0-9_]+)+\b")


def _check_gpus(cluster: Cluster, manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """GPUs that the pods ask for."""
    wanted = sum(
        int(container.get("resources", {}).get("limits", {}).get("nvidia.com/gpu", 0))
        * fewest_replicas(manifests, manifest)
        for manifest, container in containers(manifests)
    )
    asked = any(
        "nvidia.com/gpu" in container.get("resources", {}).get("limits", {})
        for _, container in containers(manifests)
    )
    if not asked:
        return
    allocatable = sum(
        int(node.get("status", {}).get("allocatable", {}).get("nvidia.com/gpu", 0))
        for node in cluster.select(Ref("v1", "Node", "", ""))
    )
    if allocatable == 0:
        fix = (
            "helm install gpu-operator gpu-operator --repo https://helm.ngc.nvidia.com/nvidia "
            "--namespace gpu-operator --create-namespace   (it brings the device plugin)"
        )
        yield Finding(Level.MISSING, "GPUs", "no node offers nvidia.com/gpu", fix)
    elif allocatable < wanted:
        message = f"{allocatable} in the cluster, {wanted} asked for"
        yield Finding(
            Level.WARNING, "GPUs", message, "add GPU nodes or lower the backend's replicas"
        )
    else:
        yield ok("GPUs", f"{allocatable} in the cluster, {max(wanted, 1)} asked for")


def _check_memory(cluster: Cluster, manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """Room for the pods' memory requests."""
    wanted = sum(
        _bytes(container.get("resources", {}).get("requests", {}).get("memory", "0"))
        * fewest_replicas(manifests, manifest)
        for manifest, container in containers(manifests)
    )
    wanted += sum(
        _bytes(one["spec"].get("resources", {}).get("requests", {}).get("memory", "0"))
        * fewest_replicas(manifests, one)
        for one in of_kind(manifests, "SpinApp")
    )
    offered = sum(
        _bytes(node.get("status", {}).get("allocatable", {}).get("memory", "0"))
        for node in cluster.select(Ref("v1", "Node", "", ""))
    )
    message = f"{wanted / 2**30:.1f} GiB asked for, {offered / 2**30:.1f} GiB in all nodes"
    if wanted > offered:
        yield Finding(
            Level.WARNING, "memory", message, "add nodes, or lower requests in your overlay"
        )
    else:
        yield ok("memory", message)


def _bytes(text: str) -> int:
    return int(quantity.parse_quantity(text))  # type: ignore[no-untyped-call]


def _check_metrics(cluster: Cluster, manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """Resource metrics, which autoscaling by CPU reads."""
    if not of_kind(manifests, "HorizontalPodAutoscaler"):
        return
    if cluster.serves(Ref("metrics.k8s.io/v1beta1", "PodMetrics", "", "")):
        yield ok("metrics-server", "serves metrics.k8s.io")
    else:
        fix = (
            "kubectl apply -f https://github.com/kubernetes-sigs/metrics-server/releases/latest/"
            "download/components.yaml"
        )
        yield Finding(Level.MISSING, "metrics-server", "metrics.k8s.io is not served", fix)


def _check_recorded_series(_cluster: Cluster, manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """Series that autoscaling follows and that this release itself must record."""
    asked = {
        series
        for scaled in of_kind(manifests, "ScaledObject")
        for trigger in scaled["spec"]["triggers"]
        for series in RECORDED.findall(trigger.get("metadata", {}).get("query", ""))
    }
    recorded = {
        rule.get("record")
        for rules in of_kind(manifests, "PrometheusRule")
        for group in rules["spec"]["groups"]
        for rule in group["rules"]
    }
    for series in sorted(asked - recorded):
        message = f"nobody records {series}: what is scaled to zero would never wake up"
        fix = "list the component observability beside autoscaling-keda"
        yield Finding(Level.MISSING, "autoscaling", message, fix)
    if asked and asked <= recorded:
        yield ok("autoscaling", f"follows {', '.join(sorted(asked))}")


def _check_storage(cluster: Cluster, manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """Storage for the claims that name no class."""
    claims = [one["spec"] for one in of_kind(manifests, "PersistentVolumeClaim")]
    for one in of_kind(manifests, "StatefulSet"):
        claims += [claim["spec"] for claim in one["spec"].get("volumeClaimTemplates", ())]
    if not any("storageClassName" not in claim for claim in claims):
        return
    classes = list(cluster.select(Ref("storage.k8s.io/v1", "StorageClass", "", "")))
    marker = "storageclass.kubernetes.io/is-default-class"
    default = [
        one for one in classes if (one["metadata"].get("annotations") or {}).get(marker) == "true"
    ]
    if not default:
        fix = f"kubectl annotate storageclass NAME {marker}=true"
        yield Finding(Level.MISSING, "storage", "no StorageClass is the default", fix)
        return
    name = default[0]["metadata"]["name"]
    yield ok("storage", f"default class {name} ({default[0].get('provisioner', '')})")
    if any("ReadWriteMany" in claim["accessModes"] for claim in claims):
        message = f"a claim wants ReadWriteMany: nothing tells whether {name} offers it"
        fix = "set storageClassName in your overlay to a class of a shared file system"
        yield Finding(Level.WARNING, "storage", message, fix)


CHECKS: Sequence[Check] = (
    _check_gpus,
    _check_memory,
    _check_metrics,
    _check_recorded_series,
    _check_storage,
)
