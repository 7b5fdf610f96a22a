"""What a kustomization does to every object: namespace, labels, annotations, images, replicas."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .field_paths import rewrite, split
from .loading import only_fields
from .references import POD_SPECS, TransformerConfig
from .resources import Resource

__all__ = ["annotate", "label", "set_images", "set_namespace", "set_replicas"]

# Kinds that live outside namespaces, of those a project like this one can meet. Kustomize takes an
# unknown kind for a namespaced one, and so does this.
CLUSTER_SCOPED = frozenset(
    {
        "Namespace",
        "Node",
        "PersistentVolume",
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "StorageClass",
        "RuntimeClass",
        "PriorityClass",
        "IngressClass",
        "ValidatingWebhookConfiguration",
        "MutatingWebhookConfiguration",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "APIService",
    }
)
POD_TEMPLATE_METADATA: Mapping[str, Sequence[str]] = {
    "Deployment": ("spec/template/metadata",),
    "DaemonSet": ("spec/template/metadata",),
    "StatefulSet": ("spec/template/metadata",),
    "Job": ("spec/template/metadata",),
    "CronJob": ("spec/jobTemplate/metadata", "spec/jobTemplate/spec/template/metadata"),
}
# [registry[:port]/]name[:tag][@digest]; a colon before the last slash belongs to the registry.
_IMAGE = re.compile(r"(?P<name>[^@]*?)(?P<tag>:[^/:@]+)?(?P<digest>@.+)?")


def set_namespace(resources: Iterable[Resource], namespace: str) -> None:
    """Put every namespaced object into `namespace`, and role bindings' subjects with it."""
    for resource in resources:
        if resource.kind == "Namespace":
            resource.metadata["name"] = namespace
        elif resource.kind not in CLUSTER_SCOPED:
            resource.move_to(namespace)
        if resource.kind in ("RoleBinding", "ClusterRoleBinding"):
            for subject in resource.manifest.get("subjects") or ():
                if subject.get("kind") == "ServiceAccount" and subject.get("name") == "default":
                    subject["namespace"] = namespace


def label(resources: Iterable[Resource], entry: Any, where: Path) -> None:
    """Add labels to objects, and to pod templates where the entry says so."""
    fields = only_fields(where, entry, "labels", ("pairs", "includeTemplates"))
    for resource in resources:
        resource.metadata.setdefault("labels", {}).update(fields["pairs"])
        if not fields.get("includeTemplates"):
            continue
        for path in POD_TEMPLATE_METADATA.get(resource.kind, ()):
            metadata = _descend(resource.manifest, split(path))
            metadata.setdefault("labels", {}).update(fields["pairs"])
        if resource.kind == "StatefulSet":
            for claim in resource.manifest["spec"].get("volumeClaimTemplates", ()):
                claim.setdefault("metadata", {}).setdefault("labels", {}).update(fields["pairs"])


def annotate(resources: Iterable[Resource], annotations: Mapping[str, str]) -> None:
    """Add annotations to objects and their pod templates."""
    for resource in resources:
        resource.metadata.setdefault("annotations", {}).update(annotations)
        for path in POD_TEMPLATE_METADATA.get(resource.kind, ()):
            metadata = _descend(resource.manifest, split(path))
            metadata.setdefault("annotations", {}).update(annotations)


def set_images(
    resources: Iterable[Resource], entry: Any, config: TransformerConfig, where: Path
) -> None:
    """Replace name, tag or digest of an image in every container and configured field."""
    fields = only_fields(where, entry, "images", ("name", "newName", "newTag", "digest"))
    for resource in resources:
        paths = [spec.path for spec in config.images if spec.applies_to(resource)]
        if resource.kind in POD_SPECS:
            pod = POD_SPECS[resource.kind]
            paths += [f"{pod}/containers/image", f"{pod}/initContainers/image"]
        for path in paths:
            rewrite(resource.manifest, split(path), lambda image: replace_image(image, fields))


def replace_image(image: str, change: Mapping[str, str]) -> str:
    """Return the image reference with the change applied, if it is the image the change names."""
    parts = _IMAGE.fullmatch(image)
    if parts is None or parts["name"] != change["name"]:
        return image
    tag, digest = parts["tag"] or "", parts["digest"] or ""
    if "newTag" in change or "digest" in change:
        tag = f":{change['newTag']}" if "newTag" in change else ""
        digest = f"@{change['digest']}" if "digest" in change else ""
    return change.get("newName", parts["name"]) + tag + digest


def set_replicas(resources: Iterable[Resource], entry: Any, where: Path) -> None:
    """Set the replica count of the workload that the entry names."""
    fields = only_fields(where, entry, "replicas", ("name", "count"))
    for resource in resources:
        if resource.name == fields["name"] and resource.kind in ("Deployment", "StatefulSet"):
            resource.manifest["spec"]["replicas"] = fields["count"]


def _descend(node: Any, segments: Sequence[str]) -> dict[str, Any]:
    for segment in segments:
        node = node.setdefault(segment, {})
    result: dict[str, Any] = node
    return result
