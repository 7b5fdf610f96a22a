"""Flows the deployment really makes, read off its objects, against what its policies open.

A flow is derived from what a program is told: a URL among its variables, its environment, its
runtime config; a route or a monitor that names a Service; a Job that pulls a model. Whatever
names a host also asks DNS. Policies are read as the Kubernetes API documents them: a pod that some
policy selects for a direction may do there only what a policy opens.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any
from urllib.parse import urlsplit

from k8s.rendered import SPINKUBE, Objects, pod_spec
from k8s.spin_operator import built_deployment, built_service
from kustomization import Manifest

__all__ = ["Flow", "Peer", "Pod", "flows", "needless_openings", "uncovered"]

NAMESPACE = "inference-anywhere"
DEFAULT_PORTS = {"http": 80, "https": 443, "redis": 6379}

# Whose pods stand behind what a route or a monitor only names.
INGRESS_CONTROLLERS = {
    "nginx": ("ingress-nginx", {"app.kubernetes.io/name": "ingress-nginx"}),
    "traefik": ("kube-system", {"app.kubernetes.io/name": "traefik"}),
}
PROMETHEUS = ("monitoring", {"app.kubernetes.io/name": "prometheus"})
CLUSTER_DNS = ("kube-system", {"k8s-app": "kube-dns"})

LARGEST_RANGE_OF_ONE_NAME = 16
"""Bits of the prefix: the addresses of one name's load balancers."""

# Private, shared, link-local (where a cloud has its metadata service).
# Source: RFC 6890.
PRIVATE_NETWORKS = (
    "10.0.0.0/8",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
)


@dataclass(frozen=True)
class Pod:
    """A pod of some workload."""

    workload: str
    namespace: str
    labels: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, workload: str, namespace: str, labels: Mapping[str, str]) -> Pod:
        return cls(workload, namespace, frozenset(labels.items()))


@dataclass(frozen=True)
class Peer:
    """Somebody outside the cluster: an address range stands for a name policies cannot state.

    Where one name is meant, the range is small; where nobody knows whose addresses will be (a
    registry and the storage behind it), it is every address outside private networks.
    """

    name: str
    one_name: bool = True


@dataclass(frozen=True)
class Flow:
    source: Pod
    target: Pod | Peer
    port: int
    protocol: str = "TCP"
    why: str = ""

    def __str__(self) -> str:
        source = self.source.workload
        target = self.target.workload if isinstance(self.target, Pod) else self.target.name
        return f"{source} -> {target}:{self.port}/{self.protocol} ({self.why})"


class _Cluster:
    """Pods and Services of the deployment, the operator's included."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        app = objects.get("SpinApp", "inference-anywhere")
        executor = objects.get("SpinAppExecutor", app["spec"]["executor"])
        self.workloads = [one for one in objects if pod_spec(one) is not None]
        self.workloads.append(built_deployment(app, executor))
        self.services = [*objects.of_kind("Service"), built_service(app)]
        self.app = app

    def pod(self, workload: Manifest) -> Pod:
        labels = workload["spec"]["template"]["metadata"]["labels"]
        return Pod.of(workload["metadata"]["name"], workload["metadata"]["namespace"], labels)

    def behind(self, service_name: str, port: int | str) -> Iterator[tuple[Pod, int]]:
        """The pods and container port that a Service's port (number or name) leads to."""
        for service in self.services:
            if service["metadata"]["name"] != service_name:
                continue
            chosen = [
                one for one in service["spec"]["ports"] if port in (one["port"], one.get("name"))
            ]
            assert len(chosen) == 1, f"{service_name} has no port {port}"
            selector = service["spec"]["selector"].items()
            for workload in self.workloads:
                labels = workload["spec"]["template"]["metadata"]["labels"]
                if selector <= labels.items():
                    yield self.pod(workload), _container_port(workload, chosen[0]["targetPort"])

    def urls(self, workload: Manifest) -> Iterator[tuple[str, str]]:
        """URLs that a workload's programs are told, each with where it is told."""
        spec = workload["spec"]["template"]["spec"]
        for container in spec["containers"]:
            for variable in container.get("env", ()):
                value = self._value(variable)
                if "://" in value:
                    yield value, variable["name"]
            for source in container.get("envFrom", ()):
                config = self.objects.get("ConfigMap", source["configMapRef"]["name"])
                for key, value in config["data"].items():
                    if "://" in value:
                        yield value, key
        yield from self._mounted_urls(spec)

    def _mounted_urls(self, spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for volume in spec.get("volumes", ()):
            # A model's manifest may name another server.
            if "configMap" in volume:
                config = self.objects.get("ConfigMap", volume["configMap"]["name"])
                for name, text in config["data"].items():
                    if name == "model.toml":
                        yield tomllib.loads(text)["upstream"]["url"], name
        if any(volume["name"] == "spin-runtime-config" for volume in spec.get("volumes", ())):
            template = (SPINKUBE / "secrets" / "runtime-config.toml").read_text()
            for store in tomllib.loads(template)["key_value_store"].values():
                yield store["url"], "runtime-config.toml"

    def _value(self, variable: Mapping[str, Any]) -> str:
        reference = variable.get("valueFrom", {}).get("configMapKeyRef")
        if reference is None:
            return str(variable.get("value", ""))
        data = self.objects.get("ConfigMap", reference["name"])["data"]
        if reference.get("optional") and reference["key"] not in data:
            return ""
        return str(data[reference["key"]])


def _container_port(workload: Manifest, target: int | str) -> int:
    if isinstance(target, int):
        return target
    for container in workload["spec"]["template"]["spec"]["containers"]:
        for port in container.get("ports", ()):
            if port.get("name") == target:
                number: int = port["containerPort"]
                return number
    raise AssertionError(f"{workload['metadata']['name']} has no port {target}")


def flows(objects: Objects) -> set[Flow]:
    """Every connection that the deployment's own configuration makes it open or accept."""
    cluster = _Cluster(objects)
    found: set[Flow] = set()
    for workload in cluster.workloads:
        found |= set(_outgoing(cluster, workload))
    for source, target in _incoming(cluster):
        service, port, why = target
        for pod, number in cluster.behind(service, port):
            found.add(Flow(source, pod, number, why=why))
    return found


def _outgoing(cluster: _Cluster, workload: Manifest) -> Iterator[Flow]:
    source, named = cluster.pod(workload), False
    for url, why in cluster.urls(workload):
        parts = urlsplit(url)
        assert parts.hostname is not None
        if parts.hostname.endswith(".invalid"):
            # Such a host means none.
            continue
        port, named = parts.port or DEFAULT_PORTS[parts.scheme], True
        if "." in parts.hostname:
            yield Flow(source, Peer("outside"), port, why=why)
        for pod, number in cluster.behind(parts.hostname, port):
            yield Flow(source, pod, number, why=why)
    if "ollama pull" in " ".join(
        workload["spec"]["template"]["spec"]["containers"][0].get("command", ())
    ):
        named = True
        yield Flow(source, Peer("outside", one_name=False), 443, why="ollama pull")
    if named:
        for protocol in ("UDP", "TCP"):
            yield Flow(source, Pod.of("dns", CLUSTER_DNS[0], CLUSTER_DNS[1]), 53, protocol, "DNS")


def _incoming(cluster: _Cluster) -> Iterator[tuple[Pod, tuple[str, int | str, str]]]:
    objects = cluster.objects
    for ingress in objects.of_kind("Ingress"):
        namespace, labels = INGRESS_CONTROLLERS[ingress["spec"]["ingressClassName"]]
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                service = path["backend"]["service"]
                yield (
                    Pod.of("ingress", namespace, labels),
                    (service["name"], service["port"]["number"], "Ingress"),
                )
    for route in objects.of_kind("HTTPRoute"):
        for parent in route["spec"]["parentRefs"]:
            for rule in route["spec"]["rules"]:
                for reference in rule["backendRefs"]:
                    yield (
                        Pod.of("gateway", parent["namespace"], {}),
                        (reference["name"], reference["port"], "HTTPRoute"),
                    )
    for monitor in objects.of_kind("ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        for service in objects.of_kind("Service"):
            if wanted <= service["metadata"]["labels"].items():
                for endpoint in monitor["spec"]["endpoints"]:
                    target = (service["metadata"]["name"], endpoint["port"], "ServiceMonitor")
                    yield Pod.of("prometheus", PROMETHEUS[0], PROMETHEUS[1]), target


def uncovered(objects: Objects) -> list[str]:
    """Flows that some policy stands in the way of."""
    policies = objects.of_kind("NetworkPolicy")
    return sorted(str(flow) for flow in flows(objects) if not _allowed(policies, flow))


def _allowed(policies: Iterable[Manifest], flow: Flow) -> bool:
    return _open(policies, flow, "Egress") and _open(policies, flow, "Ingress")


def _open(policies: Iterable[Manifest], flow: Flow, direction: str) -> bool:
    subject = flow.source if direction == "Egress" else flow.target
    if isinstance(subject, Peer) or subject.namespace != NAMESPACE:
        return True
    selecting = [
        policy
        for policy in policies
        if direction in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], subject)
    ]
    if not selecting:
        return True
    return any(
        _rule_allows(rule, flow, direction)
        for policy in selecting
        for rule in _rules(policy, direction)
    )


def _rules(policy: Manifest, direction: str) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = policy["spec"].get(direction.lower(), [])
    return rules


def _rule_allows(rule: Mapping[str, Any], flow: Flow, direction: str) -> bool:
    ports = rule.get("ports")
    if ports is not None and not any(
        port.get("protocol", "TCP") == flow.protocol and port.get("port") in (None, flow.port)
        for port in ports
    ):
        return False
    peers = rule.get("to" if direction == "Egress" else "from")
    other = flow.target if direction == "Egress" else flow.source
    return peers is None or any(_is_peer(peer, other) for peer in peers)


def _is_peer(peer: Mapping[str, Any], other: Pod | Peer) -> bool:
    if isinstance(other, Peer):
        return "ipBlock" in peer and _is_range_for(peer["ipBlock"], other)
    if "ipBlock" in peer:
        return False
    if "namespaceSelector" in peer:
        labels = {"kubernetes.io/metadata.name": other.namespace}
        if not peer["namespaceSelector"].get("matchLabels", {}).items() <= labels.items():
            return False
    elif other.namespace != NAMESPACE:
        return False
    return "podSelector" not in peer or _selects(peer["podSelector"], other)


def _is_range_for(block: Mapping[str, Any], other: Peer) -> bool:
    """Say whether a range is no wider than it must be, and open to nothing inside."""
    whole = IPv4Network(block["cidr"])
    if other.one_name and whole.prefixlen < LARGEST_RANGE_OF_ONE_NAME:
        return False
    excepted = [IPv4Network(one) for one in block.get("except", ())]
    return all(
        any(inside.subnet_of(one) for one in excepted)
        for inside in map(IPv4Network, PRIVATE_NETWORKS)
        if inside.overlaps(whole)
    )


def _selects(selector: Mapping[str, Any], pod: Pod) -> bool:
    assert set(selector) <= {"matchLabels"}, "expressions are not read here"
    return set(selector.get("matchLabels", {}).items()) <= pod.labels


def needless_openings(objects: Objects) -> list[str]:
    """Openings (policy, peer, port) wider than any flow needs, and policies that select no pod."""
    cluster = _Cluster(objects)
    pods = [cluster.pod(workload) for workload in cluster.workloads]
    needed = flows(objects)
    ends = {end for flow in needed for end in (flow.source, flow.target) if isinstance(end, Pod)}
    found = []
    for policy in objects.of_kind("NetworkPolicy"):
        name, selector = policy["metadata"]["name"], policy["spec"]["podSelector"]
        subjects = [pod for pod in pods if _selects(selector, pod)]
        if not subjects:
            found.append(f"{name}: selects no pod")
        for direction in policy["spec"]["policyTypes"]:
            for rule in _rules(policy, direction):
                for subject in subjects:
                    where = f"{name}: {subject.workload} {direction}"
                    for single in _single_openings(rule, direction):
                        users = [one for one in needed if _uses(one, subject, single, direction)]
                        if not users:
                            found.append(f"{where} {single}")
                        strangers = _strangers(single, users, ends | set(pods), direction)
                        found += [f"{where} also {stranger}" for stranger in strangers]
    return sorted(found)


def _strangers(
    opening: Mapping[str, Any], users: Iterable[Flow], pods: Iterable[Pod], direction: str
) -> Iterator[str]:
    """Pods that an opening lets in or reaches beside those that need it."""
    if None in opening.values():
        return
    (peer,) = opening["to" if direction == "Egress" else "from"]
    if peer.get("namespaceSelector") == {}:
        yield "any namespace"
    others = {one.target if direction == "Egress" else one.source for one in users}
    yield from sorted({pod.workload for pod in pods if _is_peer(peer, pod) and pod not in others})


def _single_openings(rule: Mapping[str, Any], direction: str) -> Iterator[dict[str, Any]]:
    """A rule taken apart: one peer and one port each; an absent list opens everything."""
    side = "to" if direction == "Egress" else "from"
    for peer in rule.get(side) or [None]:
        for port in rule.get("ports") or [None]:
            yield {
                side: None if peer is None else [peer],
                "ports": None if port is None else [port],
            }


def _uses(flow: Flow, subject: Pod, opening: Mapping[str, Any], direction: str) -> bool:
    own = flow.source if direction == "Egress" else flow.target
    unbounded = None in opening.values()
    return own == subject and not unbounded and _rule_allows(opening, flow, direction)
