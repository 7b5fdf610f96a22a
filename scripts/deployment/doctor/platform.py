"""Looks for what makes a cluster run Wasm: versions, kinds, the operator, the shim."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deployment.cluster import Cluster
from deployment.errors import MissingKindError
from deployment.objects import Ref
from kustomization import Manifest

from .findings import Check, Finding, Level, of_kind, ok

__all__ = ["CHECKS"]

OLDEST_KUBERNETES = (1, 30)
OPERATOR_VERSION = "0.6.1"
CERT_MANAGER_VERSION = "1.20.0"
SHIM_LABEL = ("spin", "true")


def _check_version(cluster: Cluster, _manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """Kubernetes version."""
    found = cluster.version()
    shown = ".".join(map(str, found))
    if found >= OLDEST_KUBERNETES:
        yield ok("Kubernetes", shown)
    else:
        oldest = ".".join(map(str, OLDEST_KUBERNETES))
        message = f"{shown} is older than {oldest}: pods cannot delay their stop"
        yield Finding(Level.MISSING, "Kubernetes", message, f"upgrade the cluster to {oldest}")


def _check_kinds(cluster: Cluster, manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """Custom resource definitions."""
    kinds = {(one["apiVersion"], one["kind"]): one for one in manifests if "." in one["apiVersion"]}
    for (api_version, kind), manifest in sorted(kinds.items()):
        if api_version.partition("/")[0].endswith("k8s.io") and "gateway" not in api_version:
            continue
        try:
            cluster.resource(Ref.of(manifest))
            yield ok(f"kind {kind}", api_version)
        except MissingKindError as exc:
            fact, _, source = str(exc).partition(". It comes with ")
            yield Finding(Level.MISSING, f"kind {kind}", fact, source)


def _check_cert_manager(cluster: Cluster, _manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """cert-manager, which the Spin operator's webhooks get their certificate from."""
    fix = (
        "kubectl apply -f https://github.com/cert-manager/cert-manager/releases/download/"
        f"v{CERT_MANAGER_VERSION}/cert-manager.yaml"
    )
    if not cluster.serves(Ref("cert-manager.io/v1", "Certificate", "", "")):
        yield Finding(Level.MISSING, "cert-manager", "is not installed", fix)
        return
    yield from _running(cluster, "cert-manager", "app.kubernetes.io/name=cert-manager", fix)


def _check_operator(cluster: Cluster, _manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """The Spin operator."""
    fix = (
        f"helm install spin-operator --namespace spin-operator --create-namespace --version "
        f"{OPERATOR_VERSION} --wait oci://ghcr.io/spinframework/charts/spin-operator"
    )
    yield from _running(cluster, "Spin operator", "app.kubernetes.io/name=spin-operator", fix)


def _running(cluster: Cluster, subject: str, labels: str, fix: str) -> Iterator[Finding]:
    found = list(cluster.select(Ref("apps/v1", "Deployment", "", ""), labels=labels))
    if not found:
        yield Finding(Level.MISSING, subject, "has no Deployment", fix)
    for one in found:
        metadata, available = one["metadata"], one.get("status", {}).get("availableReplicas", 0)
        where = f"{metadata['namespace']}/{metadata['name']}"
        if available:
            yield ok(subject, f"{where} runs")
        else:
            look = f"kubectl --namespace {metadata['namespace']} describe pods --selector {labels}"
            yield Finding(Level.MISSING, subject, f"{where} has no available pod", look)


def _check_runtime_class(cluster: Cluster, manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """The RuntimeClass that the executor names, and its handler."""
    for executor in of_kind(manifests, "SpinAppExecutor"):
        name = executor["spec"].get("deploymentConfig", {}).get("runtimeClassName")
        subject = f"RuntimeClass {name}"
        live = cluster.find(Ref("node.k8s.io/v1", "RuntimeClass", "", name))
        expected = _expected_handler(manifests, name)
        if live is None and expected is None:
            fix = "list shim-manual or shim-rcm among the overlay's components"
            yield Finding(Level.MISSING, subject, "neither there nor in this overlay", fix)
        elif live is None:
            yield ok(subject, f"comes with this overlay (handler {expected})")
        elif expected is not None and live["handler"] != expected:
            message = f"has the handler {live['handler']!r}, this overlay expects {expected!r}"
            fix = "list your installer's component: shim-manual (spin) or shim-rcm (spin-v2)"
            yield Finding(Level.MISSING, subject, message, fix)
        else:
            yield ok(subject, f"handler {live['handler']}")


def _expected_handler(manifests: Sequence[Manifest], name: str) -> str | None:
    for one in of_kind(manifests, "RuntimeClass"):
        if one["metadata"]["name"] == name:
            return str(one["handler"])
    for one in of_kind(manifests, "Shim"):
        if one["spec"]["runtimeClass"]["name"] == name:
            return str(one["spec"]["runtimeClass"]["handler"])
    return None


def _check_shim_nodes(cluster: Cluster, manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """Nodes on which Wasm may run."""
    key, value = SHIM_LABEL
    selects = [one["spec"].get("nodeSelector") for one in of_kind(manifests, "Shim")]
    selects += [
        one.get("scheduling", {}).get("nodeSelector") for one in of_kind(manifests, "RuntimeClass")
    ]
    if not any(selector == {key: value} for selector in selects):
        message = (
            "every node must have containerd-shim-spin; nothing in the API tells whether it has"
        )
        fix = "put the shim on them (docs/deploy.md), or let runtime-class-manager do it: shim-rcm"
        yield Finding(Level.WARNING, "Wasm nodes", message, fix)
        return
    nodes = list(cluster.select(Ref("v1", "Node", "", ""), labels=f"{key}={value}"))
    if nodes:
        yield ok("Wasm nodes", f"{len(nodes)} labelled {key}={value}")
    else:
        message = f"no node is labelled {key}={value}"
        yield Finding(
            Level.MISSING, "Wasm nodes", message, f"kubectl label node NODE {key}={value}"
        )


CHECKS: Sequence[Check] = (
    _check_version,
    _check_kinds,
    _check_cert_manager,
    _check_operator,
    _check_runtime_class,
    _check_shim_nodes,
)
