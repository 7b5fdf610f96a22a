"""Every fault that somebody may put into the manifests is noticed, and by the right check.

Each case takes sound objects, spoils one thing, and names the complaint that must follow.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from k8s.network import needless_openings, uncovered
from k8s.object_schemas import KUBERNETES_VERSIONS, faults
from k8s.rendered import COMBINATIONS, OVERLAYS, Objects, load
from k8s.spin_operator import admission_faults, built_deployment, built_service
from k8s.workload_rules import RULES, services_lead_to_pods
from kustomization import Manifest

EVERYTHING = ["base", *OVERLAYS, *COMBINATIONS]
Spoil = Callable[[Objects], None]


def complaints(objects: Objects) -> list[str]:
    """What all checks together say about a release."""
    (app,) = objects.of_kind("SpinApp")
    executors = objects.of_kind("SpinAppExecutor")
    found = [f"operator: {one}" for one in admission_faults(app, executors)]
    built = []
    if not found:
        executor = next(one for one in executors if one["metadata"]["name"] == named(app))
        built = [built_deployment(app, executor), built_service(app)]
    for manifest in (*objects, *built):
        which = f"{manifest['kind']} {manifest['metadata']['name']}"
        for version in KUBERNETES_VERSIONS:
            found += [f"schema: {which}: {one}" for one in faults(manifest, version)]
    found += [f"services_lead_to_pods: {one}" for one in services_lead_to_pods(objects)]
    if found:
        # Nothing more can be said about objects that the API server would not take, or that do not
        # find each other.
        return found
    found += [f"blocked: {one}" for one in uncovered(objects)]
    found += [f"needless: {one}" for one in needless_openings(objects)]
    for rule in RULES:
        found += [f"{rule.__name__}: {one}" for one in rule(objects)]
    return found


def named(app: Manifest) -> str:
    return str(app["spec"].get("executor"))


@pytest.mark.parametrize("name", EVERYTHING)
def test_complaints_there_are_none_about_what_is_rendered(name: str) -> None:
    assert complaints(load(name)) == []


def at(kind: str, name: str, path: str) -> Callable[[Objects], tuple[Any, Any]]:
    """The parent of a field and its last step; numbers in the path are places in lists."""

    def find(objects: Objects) -> tuple[Any, Any]:
        node: Any = objects.get(kind, name)
        *steps, last = (int(one) if one.isdigit() else one for one in path.split("."))
        for step in steps:
            node = node[step] if isinstance(step, int) else node.setdefault(step, {})
        return node, last

    return find


def put(kind: str, name: str, path: str, value: Any) -> Spoil:
    def spoil(objects: Objects) -> None:
        node, last = at(kind, name, path)(objects)
        node[last] = value

    return spoil


def drop(kind: str, name: str, path: str) -> Spoil:
    def spoil(objects: Objects) -> None:
        node, last = at(kind, name, path)(objects)
        del node[last]

    return spoil


def more(kind: str, name: str, path: str, value: Any) -> Spoil:
    def spoil(objects: Objects) -> None:
        node, last = at(kind, name, path)(objects)
        node.setdefault(last, []).append(value)

    return spoil


def misspell(kind: str, name: str, path: str) -> Spoil:
    """Write a field as somebody in a hurry would: without its last letter."""

    def spoil(objects: Objects) -> None:
        node, last = at(kind, name, path)(objects)
        node[last[:-1]] = node.pop(last)

    return spoil


APP = partial(put, "SpinApp", "inference-anywhere")
BACKEND = "spec.template.spec"
CONTAINER = f"{BACKEND}.containers.0"

# Fault, overlay, how, what must be said. In the order in which an operator meets them.
MUTANTS: dict[str, tuple[str, Spoil, str]] = {
    # A field that nobody knows.
    "spinapp-field": (
        "base",
        misspell("SpinApp", "inference-anywhere", "spec.invocationLimits"),
        "schema: SpinApp inference-anywhere: spec: Additional properties",
    ),
    "spinapp-variable-field": (
        "base",
        misspell("SpinApp", "inference-anywhere", "spec.variables.0.valueFrom.secretKeyRef"),
        "schema: SpinApp inference-anywhere: spec.variables.0.valueFrom: Additional properties",
    ),
    "executor-field": (
        "base",
        misspell(
            "SpinAppExecutor", "containerd-shim-spin", "spec.deploymentConfig.installDefaultCACerts"
        ),
        "schema: SpinAppExecutor containerd-shim-spin: spec.deploymentConfig: Additional",
    ),
    "deployment-field": (
        "base",
        misspell("Deployment", "gpu-backend", f"{CONTAINER}.readinessProbe"),
        "schema: Deployment gpu-backend: spec.template.spec.containers.0: Additional properties",
    ),
    "stateful-set-field": (
        "base",
        misspell("StatefulSet", "redis", "spec.volumeClaimTemplates"),
        "schema: StatefulSet redis: spec: Additional properties",
    ),
    "network-policy-field": (
        "base",
        misspell("NetworkPolicy", "redis", "spec.policyTypes"),
        "schema: NetworkPolicy redis: spec: Additional properties",
    ),
    "scaled-object-field": (
        "production",
        misspell("ScaledObject", "edge", "spec.fallback.replicas"),
        "schema: ScaledObject edge: spec.fallback",
    ),
    "service-monitor-field": (
        "production",
        misspell("ServiceMonitor", "gpu-backend", "spec.endpoints.0.interval"),
        "schema: ServiceMonitor gpu-backend: spec.endpoints.0: Additional properties",
    ),
    "rule-field": (
        "production",
        misspell("PrometheusRule", "gpu-backend", "spec.groups.0.rules.0.annotations"),
        "schema: PrometheusRule gpu-backend: spec.groups.0.rules.0: Additional properties",
    ),
    "route-field": (
        "production",
        misspell("HTTPRoute", "edge", "spec.hostnames"),
        "schema: HTTPRoute edge: spec: Additional properties",
    ),
    "shim-field": (
        "production",
        misspell("Shim", "spin-v2", "spec.nodeSelector"),
        "schema: Shim spin-v2: spec: Additional properties",
    ),
    "autoscaler-field": (
        "gpu",
        misspell("HorizontalPodAutoscaler", "edge", "spec.behavior"),
        "schema: HorizontalPodAutoscaler edge: spec: Additional properties",
    ),
    "runtime-class-field": (
        "gpu",
        misspell("RuntimeClass", "wasmtime-spin-v2", "scheduling"),
        "schema: RuntimeClass wasmtime-spin-v2: the object: Additional properties",
    ),
    "value-of-a-wrong-type": (
        "base",
        APP("spec.checks.readiness.periodSeconds", "2"),
        "schema: SpinApp inference-anywhere: spec.checks.readiness.periodSeconds: '2'",
    ),
    # What the operator refuses, or builds wrongly.
    "replicas-and-autoscaling": (
        "base",
        APP("spec.enableAutoscaling", True),
        "operator: spec.replicas: cannot be set when autoscaling is enabled",
    ),
    "neither-replicas-nor-autoscaling": (
        "base",
        drop("SpinApp", "inference-anywhere", "spec.replicas"),
        "operator: spec.replicas: must be > 0",
    ),
    "executor-missing": (
        "base",
        put("SpinAppExecutor", "containerd-shim-spin", "metadata.name", "other"),
        "operator: spec.executor: 'containerd-shim-spin' does not exist in namespace",
    ),
    "executor-elsewhere": (
        "base",
        put("SpinAppExecutor", "containerd-shim-spin", "metadata.namespace", "spin-operator"),
        "operator: spec.executor: 'containerd-shim-spin' does not exist in namespace",
    ),
    "memory-limit-below-one-request": (
        "base",
        APP("spec.resources.limits.memory", "128Mi"),
        "operator: spec.invocationLimits.memory: 256Mi is above the limit 128Mi",
    ),
    "name-too-long": (
        "base",
        APP("metadata.name", "x" * 53),
        "operator: metadata.name: longer than 52 characters",
    ),
    "store-per-pod": (
        "base",
        drop("SpinApp", "inference-anywhere", "spec.runtimeConfig"),
        "keeps_its_state_outside_the_pod: SpinApp.runtimeConfig.loadFromSecret",
    ),
    "checksum-forgotten": (
        "base",
        APP("spec.podAnnotations", {"other": "annotation"}),
        "keeps_its_state_outside_the_pod: SpinApp.podAnnotations",
    ),
    # Probes and resources.
    "readiness-missing": (
        "base",
        drop("Deployment", "gpu-backend", f"{CONTAINER}.readinessProbe"),
        "answers_probes: gpu-backend/gpu-backend.readinessProbe: is missing",
    ),
    "liveness-missing": (
        "base",
        drop("StatefulSet", "redis", f"{CONTAINER}.livenessProbe"),
        "answers_probes: redis/redis.livenessProbe: is missing",
    ),
    "probe-of-no-port": (
        "base",
        put("Deployment", "gpu-backend", f"{CONTAINER}.livenessProbe.httpGet.port", "https"),
        "answers_probes: gpu-backend/gpu-backend.livenessProbe: there is no port https",
    ),
    "check-missing": (
        "base",
        drop("SpinApp", "inference-anywhere", "spec.checks.liveness"),
        "answers_probes: SpinApp.checks.liveness: is missing",
    ),
    "check-elsewhere": (
        "base",
        APP("spec.checks.readiness.httpGet.path", "/health"),
        "answers_probes: SpinApp.checks.readiness: asks /health",
    ),
    "memory-unlimited": (
        "base",
        drop("Deployment", "gpu-backend", f"{CONTAINER}.resources.limits"),
        "states_resources: gpu-backend/gpu-backend.resources.limits.memory: is missing",
    ),
    "request-missing": (
        "base",
        drop("SpinApp", "inference-anywhere", "spec.resources.requests.cpu"),
        "states_resources: SpinApp.resources.requests.cpu: is missing",
    ),
    "request-without-bound": (
        "base",
        drop("SpinApp", "inference-anywhere", "spec.invocationLimits"),
        "states_resources: SpinApp.invocationLimits.memory: one request may take",
    ),
    "cpu-throttled": (
        "base",
        APP("spec.resources.limits.cpu", "1"),
        "states_resources: SpinApp.resources.limits.cpu: throttles",
    ),
    # Privileges.
    "root": (
        "base",
        put("Deployment", "gpu-backend", f"{BACKEND}.securityContext.runAsUser", 0),
        "runs_restricted: gpu-backend.securityContext.runAsUser: 0 is not above 0",
    ),
    "root-admitted": (
        "base",
        drop("StatefulSet", "redis", f"{BACKEND}.securityContext.runAsNonRoot"),
        "runs_restricted: redis.securityContext.runAsNonRoot: None is not True",
    ),
    "root-by-a-container": (
        "base",
        put("Deployment", "gpu-backend", f"{CONTAINER}.securityContext.runAsUser", 0),
        "runs_restricted: gpu-backend/gpu-backend.securityContext.runAsUser: overrides",
    ),
    "privileged": (
        "base",
        put("Deployment", "gpu-backend", f"{CONTAINER}.securityContext.privileged", True),
        "runs_restricted: gpu-backend/gpu-backend.securityContext.privileged: overrides",
    ),
    "capability": (
        "base",
        put(
            "Deployment",
            "gpu-backend",
            f"{CONTAINER}.securityContext.capabilities.add",
            ["NET_ADMIN"],
        ),
        "runs_restricted: gpu-backend/gpu-backend.securityContext.capabilities: ",
    ),
    "writable-root": (
        "production",
        drop("Deployment", "otel-collector", f"{CONTAINER}.securityContext.readOnlyRootFilesystem"),
        "runs_restricted: otel-collector/otel-collector.securityContext.readOnlyRootFilesystem",
    ),
    "no-seccomp": (
        "gpu",
        drop("Job", "ollama-pull-model", f"{BACKEND}.securityContext.seccompProfile"),
        "runs_restricted: ollama-pull-model.securityContext.seccompProfile: None",
    ),
    "init-container-of-root": (
        "base",
        put(
            "Deployment",
            "gpu-backend",
            f"{BACKEND}.initContainers",
            [{"name": "chown", "image": f"docker.io/busybox:1@sha256:{'a' * 64}"}],
        ),
        "runs_restricted: gpu-backend/chown.securityContext.capabilities: None",
    ),
    "host-network": (
        "base",
        put("Deployment", "gpu-backend", f"{BACKEND}.hostNetwork", True),
        "runs_restricted: gpu-backend.hostNetwork: is set",
    ),
    "host-path": (
        "base",
        more(
            "Deployment",
            "gpu-backend",
            f"{BACKEND}.volumes",
            {"name": "host", "hostPath": {"path": "/"}},
        ),
        "runs_restricted: gpu-backend.volumes.host: ['hostPath']",
    ),
    "standard-lowered": (
        "base",
        put(
            "Namespace",
            "inference-anywhere",
            "metadata.labels",
            {"app.kubernetes.io/part-of": "inference-anywhere"},
        ),
        "is_labelled: Namespace.pod-security.kubernetes.io/enforce: None",
    ),
    "token": (
        "base",
        put("Deployment", "gpu-backend", f"{BACKEND}.automountServiceAccountToken", True),
        "knows_nothing_of_the_cluster: gpu-backend.automountServiceAccountToken: True",
    ),
    "token-of-the-edge": (
        "base",
        drop("ServiceAccount", "edge", "automountServiceAccountToken"),
        "knows_nothing_of_the_cluster: account edge.automountServiceAccountToken: None",
    ),
    "default-account": (
        "base",
        drop("SpinApp", "inference-anywhere", "spec.serviceAccountName"),
        "knows_nothing_of_the_cluster: SpinApp.serviceAccountName: None is not ours",
    ),
    "service-links": (
        "base",
        drop("Deployment", "gpu-backend", f"{BACKEND}.enableServiceLinks"),
        "knows_nothing_of_the_cluster: gpu-backend.enableServiceLinks: None",
    ),
    # Images.
    "image-by-tag": (
        "base",
        put("StatefulSet", "redis", f"{CONTAINER}.image", "docker.io/valkey/valkey:8.1-alpine"),
        "pins_images: redis/redis.image: docker.io/valkey/valkey:8.1-alpine is not pinned",
    ),
    "image-latest": (
        "base",
        APP("spec.image", "registry.example.com/inference-anywhere/edge:latest"),
        "pins_images: SpinApp.image: registry.example.com/inference-anywhere/edge:latest",
    ),
    "image-without-a-tag": (
        "base",
        APP("spec.image", "registry.example.com/inference-anywhere/edge"),
        "pins_images: SpinApp.image: registry.example.com/inference-anywhere/edge has no tag",
    ),
    # Openings.
    "container-port": (
        "base",
        more("Deployment", "gpu-backend", f"{CONTAINER}.ports", {"containerPort": 9999}),
        "opens_only_ports_in_use: gpu-backend/gpu-backend.ports.9999: nobody calls it",
    ),
    "host-port": (
        "base",
        put("Deployment", "gpu-backend", f"{CONTAINER}.ports.0.hostPort", 8080),
        "opens_only_ports_in_use: gpu-backend/gpu-backend.ports.8080: is open on the node",
    ),
    "service-port": (
        "base",
        more(
            "Service",
            "redis",
            "spec.ports",
            {"name": "bus", "port": 16379, "targetPort": "redis"},
        ),
        "opens_only_ports_in_use: Service redis.ports.16379: nobody calls it",
    ),
    "load-balancer": (
        "base",
        put("Service", "gpu-backend", "spec.type", "LoadBalancer"),
        "opens_only_ports_in_use: Service gpu-backend.type: LoadBalancer opens it",
    ),
    "policy-port": (
        "base",
        more("NetworkPolicy", "redis", "spec.ingress.0.ports", {"protocol": "TCP", "port": 16379}),
        "needless: redis: redis Ingress",
    ),
    "policy-peer": (
        "base",
        more("NetworkPolicy", "redis", "spec.ingress.0.from", {"podSelector": {}}),
        "needless: redis: redis Ingress also gpu-backend",
    ),
    "policy-namespace": (
        "production",
        put("NetworkPolicy", "edge", "spec.egress.1.to.0.namespaceSelector", {}),
        "needless: edge: inference-anywhere Egress also any namespace",
    ),
    "policy-missing": (
        "base",
        put("NetworkPolicy", "edge", "spec.egress", []),
        "blocked: inference-anywhere -> redis:6379/TCP",
    ),
    "port-moved": (
        "base",
        put("Deployment", "gpu-backend", f"{CONTAINER}.ports.0.containerPort", 8081),
        "blocked: inference-anywhere -> gpu-backend:8081/TCP",
    ),
    "cloud-anywhere": (
        "k3s-edge",
        put("NetworkPolicy", "edge-to-cloud", "spec.egress.0.to.0.ipBlock.cidr", "0.0.0.0/0"),
        "needless: edge-to-cloud: inference-anywhere Egress",
    ),
    "cloud-inside": (
        "k3s-edge",
        put("NetworkPolicy", "edge-to-cloud", "spec.egress.0.to.0.ipBlock.cidr", "10.0.0.0/16"),
        "needless: edge-to-cloud: inference-anywhere Egress",
    ),
    "metadata-service-open": (
        "gpu",
        drop("NetworkPolicy", "ollama-pull", "spec.egress.0.to.0.ipBlock.except.2"),
        "needless: ollama-pull: ollama-pull-model Egress",
    ),
    "no-certificate": (
        "gpu",
        drop("Ingress", "edge", "spec.tls"),
        "speaks_tls_outside: Ingress edge: 'inference.example.com' has no certificate",
    ),
    "backend-outside": (
        "production",
        put(
            "HTTPRoute", "edge", "spec.rules.0.backendRefs.0", {"name": "gpu-backend", "port": 8080}
        ),
        "speaks_tls_outside: HTTPRoute edge: leads to gpu-backend",
    ),
    # Things that must find each other.
    "service-without-pods": (
        "base",
        put("Service", "redis", "spec.selector", {"app": "valkey"}),
        "services_lead_to_pods: Service redis.selector: selects 0 workloads",
    ),
    "service-without-a-port": (
        "production",
        put("Service", "otel-collector", "spec.ports.1.targetPort", "prometheus"),
        "services_lead_to_pods: Service otel-collector.ports: no pod names the port 'prometheus'",
    ),
    "autoscaler-of-nothing": (
        "gpu",
        put("HorizontalPodAutoscaler", "edge", "spec.scaleTargetRef.name", "edge"),
        "scales_by_one_hand: autoscaler: there is no edge",
    ),
    "autoscaler-and-replicas": (
        "gpu",
        put("Deployment", "gpu-backend", "spec.replicas", 2),
        "scales_by_one_hand: gpu-backend.replicas: is set beside an autoscaler",
    ),
    "drains-blocked": (
        "base",
        put("PodDisruptionBudget", "edge", "spec", {"minAvailable": 2}),
        "lets_nodes_drain: PodDisruptionBudget edge: blocks every drain",
    ),
    "label-missing": (
        "base",
        put("Service", "redis", "metadata.labels", {}),
        "is_labelled: Service redis: is not labelled as part of inference-anywhere",
    ),
    "another-namespace": (
        "base",
        put("PodDisruptionBudget", "edge", "metadata.namespace", "default"),
        "is_labelled: PodDisruptionBudget edge: is in the namespace 'default'",
    ),
}


@pytest.mark.parametrize("fault", MUTANTS)
def test_complaints_fault_put_in_is_found(fault: str) -> None:
    overlay, spoil, expected = MUTANTS[fault]
    objects = load(overlay)
    spoil(objects)
    found = complaints(objects)
    assert any(one.startswith(expected) for one in found), found


@pytest.mark.parametrize("kind", ["Role", "ClusterRoleBinding"])
def test_complaints_right_that_nobody_needs_is_found(kind: str) -> None:
    objects = load("base")
    stray = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": "stray"},
    }
    found = [one for rule in RULES for one in rule(Objects((*objects.manifests, stray)))]
    assert f"{kind} stray: nothing here needs rights" in found
