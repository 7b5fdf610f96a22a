"""Appends content hashes to generated names and follows every reference to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .field_paths import rewrite, split
from .generators import content_hash
from .resources import Resource, group_of

__all__ = ["FieldSpec", "TransformerConfig", "add_hashes"]

POD_SPECS: Mapping[str, str] = {
    "Deployment": "spec/template/spec",
    "StatefulSet": "spec/template/spec",
    "DaemonSet": "spec/template/spec",
    "Job": "spec/template/spec",
    "CronJob": "spec/jobTemplate/spec/template/spec",
    "Pod": "spec",
}
# Where a pod names a ConfigMap or a Secret. Source: the Kubernetes API reference, PodSpec.
POD_REFERENCES: Mapping[str, Sequence[str]] = {
    "ConfigMap": (
        "volumes/configMap/name",
        "volumes/projected/sources/configMap/name",
        *(
            f"{containers}/{path}"
            for containers in ("containers", "initContainers")
            for path in ("env/valueFrom/configMapKeyRef/name", "envFrom/configMapRef/name")
        ),
    ),
    "Secret": (
        "volumes/secret/secretName",
        "volumes/projected/sources/secret/name",
        "imagePullSecrets/name",
        *(
            f"{containers}/{path}"
            for containers in ("containers", "initContainers")
            for path in ("env/valueFrom/secretKeyRef/name", "envFrom/secretRef/name")
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """A field of a kind: kustomize's `fieldSpecs` entry."""

    path: str
    kind: str = ""
    group: str = ""

    def applies_to(self, resource: Resource) -> bool:
        """Say whether the field belongs to this kind of object."""
        return self.kind in ("", resource.kind) and self.group in (
            "",
            group_of(resource.api_version)[0],
        )


@dataclass(slots=True)
class TransformerConfig:
    """What `configurations:` files teach about custom resources."""

    images: list[FieldSpec] = field(default_factory=list)
    name_references: dict[str, list[FieldSpec]] = field(default_factory=dict)

    def extend(self, other: TransformerConfig) -> None:
        """Add what another kustomization's configuration teaches."""
        self.images += [spec for spec in other.images if spec not in self.images]
        for kind, specs in other.name_references.items():
            known = self.name_references.setdefault(kind, [])
            known += [spec for spec in specs if spec not in known]


def add_hashes(resources: Iterable[Resource], config: TransformerConfig) -> None:
    """Rename generated objects by their content and update everything that names them."""
    everything = list(resources)
    renamed: dict[tuple[str, str, str], str] = {}
    for resource in everything:
        if resource.needs_hash:
            old = resource.name
            resource.metadata["name"] = f"{old}-{content_hash(resource.manifest)}"
            renamed[resource.kind, resource.namespace, old] = resource.name
    if not renamed:
        return
    for resource in everything:
        for kind in ("ConfigMap", "Secret"):
            for path in _reference_paths(resource, kind, config):
                change = _Rename(renamed, kind, resource.namespace)
                rewrite(resource.manifest, split(path), change)


@dataclass(frozen=True, slots=True)
class _Rename:
    """Maps an old name to the new one, where the object it meant was renamed."""

    renamed: Mapping[tuple[str, str, str], str]
    kind: str
    namespace: str

    def __call__(self, name: Any) -> Any:
        return self.renamed.get((self.kind, self.namespace, str(name)), name)


def _reference_paths(resource: Resource, kind: str, config: TransformerConfig) -> Iterable[str]:
    if resource.kind in POD_SPECS:
        for path in POD_REFERENCES[kind]:
            yield f"{POD_SPECS[resource.kind]}/{path}"
    if kind == "Secret" and resource.kind == "Ingress":
        yield "spec/tls/secretName"
    if kind == "Secret" and resource.kind == "ServiceAccount":
        yield "imagePullSecrets/name"
    for spec in config.name_references.get(kind, ()):
        if spec.applies_to(resource):
            yield spec.path
