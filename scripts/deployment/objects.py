"""Names of objects, their order, and what they refer to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kustomization import Manifest

__all__ = ["Ref", "in_order", "pod_template", "secret_command", "secret_names"]

# What others stand on comes first; what must find everything in place comes last.
KIND_ORDER = (
    "Namespace",
    "RuntimeClass",
    "Shim",
    "ServiceAccount",
    "Secret",
    "ConfigMap",
    "PersistentVolumeClaim",
    "NetworkPolicy",
    "Service",
    "StatefulSet",
    "Deployment",
    "SpinAppExecutor",
    "SpinApp",
    "Job",
    "PodDisruptionBudget",
    "HorizontalPodAutoscaler",
    "ScaledObject",
)


@dataclass(frozen=True, slots=True)
class Ref:
    """An object's coordinates; `namespace` is empty for cluster-scoped kinds."""

    api_version: str
    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Ref:
        """Read the coordinates of an object."""
        metadata = manifest["metadata"]
        return cls(
            manifest["apiVersion"],
            manifest["kind"],
            metadata.get("namespace", ""),
            metadata["name"],
        )

    @property
    def group(self) -> str:
        """The API group, empty for the core one."""
        return self.api_version.rpartition("/")[0]

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


def in_order(manifests: Iterable[Manifest]) -> list[Manifest]:
    """Sort objects so that what others need is applied first."""
    return sorted(manifests, key=lambda one: (_rank(one["kind"]), one["metadata"]["name"]))


def _rank(kind: str) -> int:
    return KIND_ORDER.index(kind) if kind in KIND_ORDER else len(KIND_ORDER)


def pod_template(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The pod template of a built-in workload; None for other kinds."""
    if manifest["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
        template: dict[str, Any] = manifest["spec"]["template"]
        return template
    return None


def secret_command(name: str) -> str:
    """The command that creates one of the Secrets that no file holds."""
    option = {
        "edge-api-keys": " --api-keys FILE",
        "edge-chat-upstream": " --chat-upstream-key FILE",
    }
    return f"scripts/deploy.py secrets OVERLAY{option.get(name, '')}"


def secret_names(manifest: Mapping[str, Any], *, optional: bool = False) -> Iterator[str]:
    """Names of the Secrets without which an object's pods do not start.

    Args:
        manifest: Any object.
        optional: Name those too without which its pods start.
    """
    if manifest["kind"] == "SpinApp":
        spec = manifest["spec"]
        if name := spec.get("runtimeConfig", {}).get("loadFromSecret"):
            yield name
        yield from (one["name"] for one in spec.get("imagePullSecrets", ()))
        yield from _referenced(spec.get("variables", ()), optional=optional)
    if (template := pod_template(manifest)) is not None:
        spec = template["spec"]
        for volume in spec.get("volumes", ()):
            if "secret" in volume and (optional or not volume["secret"].get("optional")):
                yield volume["secret"]["secretName"]
        yield from (one["name"] for one in spec.get("imagePullSecrets", ()))
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            yield from _referenced(container.get("env", ()), optional=optional)
            for source in container.get("envFrom", ()):
                reference = source.get("secretRef")
                if reference and (optional or not reference.get("optional")):
                    yield reference["name"]


def _referenced(variables: Iterable[Mapping[str, Any]], *, optional: bool) -> Iterator[str]:
    for variable in variables:
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        if reference and (optional or not reference.get("optional")):
            yield reference["name"]
