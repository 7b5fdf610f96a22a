"""Looks for what stands between pods, people and each other: network, entry, secrets, rights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deployment.cluster import Cluster
from deployment.credentials import API_KEYS
from deployment.errors import AccessError
from deployment.objects import Ref, secret_command, secret_names
from deployment.ownership import SHARED_KINDS, Owner, owner_of
from deployment.release import namespace_of
from kustomization import Manifest

from .findings import Check, Finding, Level, of_kind, ok

__all__ = ["CHECKS"]

# Network plugins that enforce NetworkPolicies, by the names of their DaemonSets.
POLICY_ENFORCERS = ("calico-node", "cilium", "kindnet", "kube-router", "antrea-agent", "weave-net")
APPLY_VERBS = ("get", "create", "patch", "delete")
LOOKED_AT = ("pods", "pods/log", "events")
LOOK_VERBS = ("get", "list")


def _check_network_policies(cluster: Cluster, manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """Somebody who enforces NetworkPolicies."""
    if not of_kind(manifests, "NetworkPolicy"):
        return
    sets = cluster.select(Ref("apps/v1", "DaemonSet", "kube-system", ""))
    found = [one["metadata"]["name"] for one in sets]
    known = [name for name in found if name in POLICY_ENFORCERS]
    versions = [
        node.get("status", {}).get("nodeInfo", {}).get("kubeletVersion", "")
        for node in cluster.select(Ref("v1", "Node", "", ""))
    ]
    if known or any("+k3s" in version for version in versions):
        yield ok("network policies", f"enforced by {', '.join(known) or 'k3s'}")
    else:
        message = "no network plugin known to enforce them: they may be silently ignored"
        fix = "install Calico or Cilium, or check your provider's setting for network policies"
        yield Finding(Level.WARNING, "network policies", message, fix)


def _check_entry(cluster: Cluster, manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """The IngressClass or Gateway in front."""
    for ingress in of_kind(manifests, "Ingress"):
        name = ingress["spec"].get("ingressClassName", "")
        if cluster.find(Ref("networking.k8s.io/v1", "IngressClass", "", name)) is not None:
            yield ok(f"IngressClass {name}", "is there")
        else:
            fix = "install the controller, or set ingressClassName in your overlay"
            yield Finding(Level.MISSING, f"IngressClass {name}", "is not there", fix)
    for route in of_kind(manifests, "HTTPRoute"):
        for parent in route["spec"].get("parentRefs", ()):
            namespace = parent.get("namespace", route["metadata"]["namespace"])
            ref = Ref("gateway.networking.k8s.io/v1", "Gateway", namespace, parent["name"])
            subject = f"Gateway {namespace}/{parent['name']}"
            if cluster.serves(ref) and cluster.find(ref) is not None:
                yield ok(subject, "is there")
            else:
                fix = "make it, or name yours in the route's parentRefs"
                yield Finding(Level.MISSING, subject, "is not there", fix)


def _check_secrets(cluster: Cluster, manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """Secrets that no file holds."""
    rendered = {one["metadata"]["name"] for one in of_kind(manifests, "Secret")}
    wanted = {
        (manifest["metadata"]["namespace"], name)
        for manifest in manifests
        for name in secret_names(manifest)
        if name not in rendered
    }
    for namespace, name in sorted(wanted):
        if cluster.find(Ref("v1", "Secret", namespace, name)) is not None:
            yield ok(f"Secret {name}", "is there")
        else:
            fix = secret_command(name)
            yield Finding(Level.MISSING, f"Secret {name}", f"is not in {namespace}", fix)


def _check_api_keys(cluster: Cluster, manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """API keys."""
    for app in of_kind(manifests, "SpinApp"):
        if API_KEYS not in set(secret_names(app, optional=True)) - set(secret_names(app)):
            continue
        if cluster.find(Ref("v1", "Secret", app["metadata"]["namespace"], API_KEYS)) is None:
            message = "there are none: the edge is open to everybody who reaches it"
            yield Finding(Level.WARNING, "API keys", message, secret_command(API_KEYS))


def _check_rights(cluster: Cluster, manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """What this user may do, asked of the API server."""
    namespace = namespace_of(manifests)
    wanted: dict[tuple[str, str, str], tuple[str, ...]] = {}
    for manifest in manifests:
        ref = Ref.of(manifest)
        if cluster.serves(ref):
            key = ref.group, cluster.resource(ref).plural, ref.namespace
            wanted[key] = _verbs_for(cluster, manifest)
    # Revisions are Secrets; the rest is looked at when something does not become ready.
    wanted["", "secrets", namespace] = ("list", *APPLY_VERBS)
    for plural in LOOKED_AT:
        wanted["", plural, namespace] = LOOK_VERBS
    refused = [
        f"{verb} {plural}{f'.{group}' if group else ''}"
        for (group, plural, where), verbs in wanted.items()
        for verb in verbs
        if not _may(cluster, verb, group, plural, where)
    ]
    if refused:
        message = f"this user may not {', '.join(refused)}"
        fix = "ask for the rights in docs/deploy.md, section Permissions"
        yield Finding(Level.MISSING, "rights", message, fix)
    else:
        yield ok("rights", f"all {len(wanted)} resources may be read and written")


def _verbs_for(cluster: Cluster, manifest: Manifest) -> tuple[str, ...]:
    """What is done to an object of a release: one that others share is never deleted."""
    if manifest["kind"] not in SHARED_KINDS:
        return APPLY_VERBS
    try:
        live = cluster.find(Ref.of(manifest))
    except AccessError:
        live = None
    if live is not None and owner_of(live, manifest) is Owner.SHARED:
        return ("get",)
    return ("get", "create", "patch")


def _may(cluster: Cluster, verb: str, group: str, plural: str, namespace: str) -> bool:
    resource, _, subresource = plural.partition("/")
    attributes = {
        "verb": verb,
        "group": group,
        "resource": resource,
        "subresource": subresource,
        "namespace": namespace,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    answer = cluster.request("POST", path, body=review)
    return bool(answer["status"]["allowed"])


CHECKS: Sequence[Check] = (
    _check_network_policies,
    _check_entry,
    _check_secrets,
    _check_api_keys,
    _check_rights,
)
