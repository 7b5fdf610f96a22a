"""What every workload promises: each rule a small function that names what breaks it.

A rule takes rendered objects and gives complaints, each with the object and the field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from k8s.network import flows
from k8s.rendered import Objects, pod_spec
from k8s.spin_operator import built_service
from kustomization import Manifest

__all__ = ["DEV_IMAGES", "OWN_IMAGES", "RULES", "services_lead_to_pods"]

OWN_IMAGES = "registry.example.com/inference-anywhere/"
DEV_IMAGES = "localhost:5001/inference-anywhere/"
APP = "inference-anywhere"
SPIN_HEALTH = "/.well-known/spin/health"
CLUSTER_SCOPED = ("Namespace", "RuntimeClass", "Shim")

Rule = Callable[[Objects], Iterator[str]]


def _pods(objects: Objects) -> Iterator[tuple[Manifest, dict[str, Any]]]:
    """Every built-in workload with its pod spec."""
    for manifest in objects:
        spec = pod_spec(manifest)
        if spec is not None:
            yield manifest, spec


def _containers(objects: Objects) -> Iterator[tuple[str, Manifest, dict[str, Any]]]:
    """Every container with its name for people and its workload."""
    for manifest, spec in _pods(objects):
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            yield f"{manifest['metadata']['name']}/{container['name']}", manifest, container


def _app(objects: Objects) -> dict[str, Any]:
    spec: dict[str, Any] = objects.get("SpinApp", APP)["spec"]
    return spec


def _differs(where: str, node: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    for field, value in expected.items():
        if node.get(field) != value:
            yield f"{where}.{field}: {node.get(field)!r} is not {value!r}"


def runs_restricted(objects: Objects) -> Iterator[str]:
    """Source: Kubernetes documentation, "Pod Security Standards", level Restricted."""
    for manifest, spec in _pods(objects):
        where = f"{manifest['metadata']['name']}.securityContext"
        security = spec.get("securityContext", {})
        seccomp = {"type": "RuntimeDefault"}
        yield from _differs(where, security, {"runAsNonRoot": True, "seccompProfile": seccomp})
        if not security.get("runAsUser", 0) > 0:
            yield f"{where}.runAsUser: {security.get('runAsUser')!r} is not above 0"
        for field in {"hostNetwork", "hostPID", "hostIPC"} & set(spec):
            yield f"{manifest['metadata']['name']}.{field}: is set"
        for volume in spec.get("volumes", ()):
            kinds = set(volume) - {"name"}
            if not kinds <= {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}:
                yield f"{manifest['metadata']['name']}.volumes.{volume['name']}: {sorted(kinds)}"
    for where, _, container in _containers(objects):
        yield from _container_security(f"{where}.securityContext", container)


def _container_security(where: str, container: Mapping[str, Any]) -> Iterator[str]:
    security = container.get("securityContext", {})
    expected = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    yield from _differs(where, security, expected)
    # Whatever else a container says would override what its pod says.
    for field in set(security) - set(expected):
        yield f"{where}.{field}: overrides the pod's"


def knows_nothing_of_the_cluster(objects: Objects) -> Iterator[str]:
    """No pod has a token, and there is no right that one could have."""
    accounts = {one["metadata"]["name"]: one for one in objects.of_kind("ServiceAccount")}
    for manifest, spec in _pods(objects):
        where = manifest["metadata"]["name"]
        unset = {"enableServiceLinks": False, "automountServiceAccountToken": False}
        yield from _differs(where, spec, unset)
        if spec.get("serviceAccountName") not in accounts:
            yield f"{where}.serviceAccountName: {spec.get('serviceAccountName')!r} is not ours"
    if _app(objects).get("serviceAccountName") not in accounts:
        yield f"SpinApp.serviceAccountName: {_app(objects).get('serviceAccountName')!r} is not ours"
    for name, account in accounts.items():
        yield from _differs(f"account {name}", account, {"automountServiceAccountToken": False})
    for one in objects.of_kind("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"):
        yield f"{one['kind']} {one['metadata']['name']}: nothing here needs rights"


def states_resources(objects: Objects) -> Iterator[str]:
    """Requests of CPU and memory and a limit of memory; never one of CPU, which throttles."""
    stated = {where: one.get("resources", {}) for where, _, one in _containers(objects)}
    stated["SpinApp"] = _app(objects).get("resources", {})
    for where, resources in stated.items():
        for name in {"cpu", "memory"} - set(resources.get("requests", {})):
            yield f"{where}.resources.requests.{name}: is missing"
        if "memory" not in resources.get("limits", {}):
            yield f"{where}.resources.limits.memory: is missing"
        if "cpu" in resources.get("limits", {}):
            yield f"{where}.resources.limits.cpu: throttles"
    if "memory" not in _app(objects).get("invocationLimits", {}):
        yield "SpinApp.invocationLimits.memory: one request may take the whole pod's"


def answers_probes(objects: Objects) -> Iterator[str]:
    """What serves has liveness and readiness probes, on ports that it has."""
    for where, manifest, container in _containers(objects):
        wanted = () if manifest["kind"] == "Job" else ("livenessProbe", "readinessProbe")
        for probe in wanted:
            if probe not in container:
                yield f"{where}.{probe}: is missing"
            elif "httpGet" in container[probe]:
                port = container[probe]["httpGet"]["port"]
                known = {key for one in container.get("ports", ()) for key in one.values()}
                if port not in known:
                    yield f"{where}.{probe}: there is no port {port}"
    checks = _app(objects).get("checks", {})
    for check in ("readiness", "liveness"):
        if check not in checks:
            yield f"SpinApp.checks.{check}: is missing"
        elif checks[check]["httpGet"]["path"] != SPIN_HEALTH:
            yield f"SpinApp.checks.{check}: asks {checks[check]['httpGet']['path']}"


def pins_images(objects: Objects) -> Iterator[str]:
    """Images of others by digest; ours by a tag that the release sets."""
    images = {where: one["image"] for where, _, one in _containers(objects)}
    images["SpinApp"] = _app(objects)["image"]
    ours = {key for key, one in images.items() if one.startswith((OWN_IMAGES, DEV_IMAGES))}
    if not ours:
        yield "no image is ours"
    for where, image in images.items():
        if where in ours and not re.search(r":(?!latest$)[\w.-]+$", image):
            yield f"{where}.image: {image} has no tag of a release"
        if where not in ours and not re.fullmatch(r"[^@]+:[^@:]+@sha256:[0-9a-f]{64}", image):
            yield f"{where}.image: {image} is not pinned by digest"


def is_labelled(objects: Objects) -> Iterator[str]:
    """Everything says whose it is and lives in one namespace, which enforces a standard."""
    for manifest in objects:
        metadata = manifest["metadata"]
        where = f"{manifest['kind']} {metadata['name']}"
        if metadata.get("labels", {}).get("app.kubernetes.io/part-of") != APP:
            yield f"{where}: is not labelled as part of {APP}"
        expected = None if manifest["kind"] in CLUSTER_SCOPED else APP
        if metadata.get("namespace") != expected:
            yield f"{where}: is in the namespace {metadata.get('namespace')!r}"
    for namespace in objects.of_kind("Namespace"):
        enforced = {
            "pod-security.kubernetes.io/enforce": "baseline",
            "pod-security.kubernetes.io/audit": "restricted",
        }
        yield from _differs("Namespace", namespace["metadata"]["labels"], enforced)


def opens_only_ports_in_use(objects: Objects) -> Iterator[str]:
    """Each port of a container has a Service or a probe; each of a Service has a caller."""
    called = {(flow.target, flow.port) for flow in flows(objects)}
    targets = {port for pod, port in called}
    for where, manifest, container in _containers(objects):
        probed = {
            container[probe]["httpGet"]["port"]
            for probe in ("livenessProbe", "readinessProbe")
            if "httpGet" in container.get(probe, {})
        }
        for port in container.get("ports", ()):
            number = port["containerPort"]
            if number < 1024:
                yield f"{where}.ports.{number}: needs privileges"
            if "hostPort" in port:
                yield f"{where}.ports.{number}: is open on the node"
            used = any(
                target.workload == manifest["metadata"]["name"]
                for target, one in called
                if one == number and hasattr(target, "workload")
            )
            if not used and port.get("name") not in probed:
                yield f"{where}.ports.{number}: nobody calls it"
    for service in objects.of_kind("Service"):
        where = f"Service {service['metadata']['name']}"
        if service["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"{where}.type: {service['spec']['type']} opens it to the outside"
        for port in service["spec"]["ports"]:
            if port["port"] not in targets:
                yield f"{where}.ports.{port['port']}: nobody calls it"


def services_lead_to_pods(objects: Objects) -> Iterator[str]:
    """Each Service selects the pods of one workload, by a port that they name."""
    for service in objects.of_kind("Service"):
        where = f"Service {service['metadata']['name']}"
        selector = service["spec"]["selector"]
        chosen = [
            spec
            for manifest, spec in _pods(objects)
            if selector.items() <= manifest["spec"]["template"]["metadata"]["labels"].items()
        ]
        if len(chosen) != 1:
            yield f"{where}.selector: selects {len(chosen)} workloads"
            continue
        names = {port.get("name") for one in chosen[0]["containers"] for port in one["ports"]}
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in names:
                yield f"{where}.ports: no pod names the port {port['targetPort']!r}"


def scales_by_one_hand(objects: Objects) -> Iterator[str]:
    """An autoscaler's target is there and has no replicas of its own; others have some."""
    scalers = objects.of_kind("HorizontalPodAutoscaler", "ScaledObject")
    targets = [one["spec"]["scaleTargetRef"]["name"] for one in scalers]
    for target in {one for one in targets if targets.count(one) > 1}:
        yield f"{target}: two autoscalers"
    workloads = {one["metadata"]["name"]: one for one in objects.of_kind("SpinApp", "Deployment")}
    for target in set(targets) - set(workloads):
        yield f"autoscaler: there is no {target}"
    for name, workload in workloads.items():
        if name in targets and "replicas" in workload["spec"]:
            yield f"{name}.replicas: is set beside an autoscaler"
        if name not in targets and not workload["spec"].get("replicas", 0) >= 1:
            yield f"{name}.replicas: nothing says how many"


def lets_nodes_drain(objects: Objects) -> Iterator[str]:
    """A disruption budget never blocks the drain of a node."""
    for budget in objects.of_kind("PodDisruptionBudget"):
        if not budget["spec"].get("maxUnavailable", 0) >= 1:
            yield f"PodDisruptionBudget {budget['metadata']['name']}: blocks every drain"


def keeps_its_state_outside_the_pod(objects: Objects) -> Iterator[str]:
    """The edge's store is shared, and a changed configuration is a changed pod."""
    spec = _app(objects)
    if not spec.get("runtimeConfig", {}).get("loadFromSecret"):
        yield "SpinApp.runtimeConfig.loadFromSecret: the store would be one per pod"
    if "checksum/runtime-config" not in spec.get("podAnnotations", {}):
        yield "SpinApp.podAnnotations: a changed runtime config would go unnoticed"


def speaks_tls_outside(objects: Objects) -> Iterator[str]:
    """Each host of an Ingress has a certificate, and leads to the edge alone."""
    edge = built_service(objects.get("SpinApp", APP))["metadata"]["name"]
    for ingress in objects.of_kind("Ingress"):
        where = f"Ingress {ingress['metadata']['name']}"
        covered = {host for one in ingress["spec"].get("tls", ()) for host in one["hosts"]}
        for rule in ingress["spec"]["rules"]:
            if rule.get("host") not in covered:
                yield f"{where}: {rule.get('host')!r} has no certificate"
            for path in rule["http"]["paths"]:
                if path["backend"]["service"]["name"] != edge:
                    yield f"{where}: leads to {path['backend']['service']['name']}"
    for route in objects.of_kind("HTTPRoute"):
        for rule in route["spec"]["rules"]:
            for reference in rule["backendRefs"]:
                if reference["name"] != edge:
                    yield f"HTTPRoute {route['metadata']['name']}: leads to {reference['name']}"


RULES: tuple[Rule, ...] = (
    runs_restricted,
    knows_nothing_of_the_cluster,
    states_resources,
    answers_probes,
    pins_images,
    is_labelled,
    opens_only_ports_in_use,
    services_lead_to_pods,
    scales_by_one_hand,
    lets_nodes_drain,
    keeps_its_state_outside_the_pod,
    speaks_tls_outside,
)
