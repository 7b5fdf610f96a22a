"""One object on its way through a kustomization, and how patches choose it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from .errors import KustomizationError
from .loading import Manifest, only_fields

__all__ = ["Resource", "Selector", "group_of"]


def group_of(api_version: str) -> tuple[str, str]:
    """Return (group, version) of an apiVersion; the core group is the empty string."""
    group, _, version = api_version.rpartition("/")
    return group, version


@dataclass(slots=True)
class Resource:
    """An object, and what the renderer must remember about it until the end."""

    manifest: Manifest
    needs_hash: bool = False
    earlier_namespaces: set[str] = field(default_factory=set)
    """Those it had before a kustomization moved it: a patch may name it by any of them."""

    @property
    def kind(self) -> str:
        """The object's kind."""
        return str(self.manifest.get("kind", ""))

    @property
    def api_version(self) -> str:
        """Group and version, as written."""
        return str(self.manifest.get("apiVersion", ""))

    @property
    def metadata(self) -> dict[str, Any]:
        """The object's metadata, to read and to write."""
        metadata: dict[str, Any] = self.manifest.setdefault("metadata", {})
        return metadata

    @property
    def name(self) -> str:
        """The object's name so far; hashes come last."""
        return str(self.metadata.get("name", ""))

    @property
    def namespace(self) -> str:
        """The namespace, empty where none is written."""
        return str(self.metadata.get("namespace", ""))

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """Group, kind, namespace and name: what the API server holds unique."""
        return group_of(self.api_version)[0], self.kind, self.namespace, self.name

    def move_to(self, namespace: str) -> None:
        """Put it into a namespace, and remember where it was."""
        self.earlier_namespaces.add(self.namespace)
        self.metadata["namespace"] = namespace

    def was_in(self, namespace: str) -> bool:
        """Say whether this is, or was, its namespace; none is the one called `default`."""
        known = {self.namespace, *self.earlier_namespaces}
        return (namespace or "default") in {one or "default" for one in known}

    @classmethod
    def parse(cls, document: Any, where: Path) -> Resource:
        """Raises `KustomizationError` where the document is no Kubernetes object."""
        if not isinstance(document, dict):
            raise KustomizationError(where, "holds a document that is no mapping")
        for name in ("apiVersion", "kind"):
            if not isinstance(document.get(name), str):
                raise KustomizationError(where, f"holds an object without `{name}`")
        if not (document.get("metadata") or {}).get("name"):
            raise KustomizationError(where, f"holds a {document['kind']} without `metadata.name`")
        return cls(document)


@dataclass(frozen=True, slots=True)
class Selector:
    """Chooses resources by regular expressions that must match whole fields, and by labels.

    An empty field chooses everything, as an absent one does.
    """

    fields: Mapping[str, str]

    ID_FIELDS = ("group", "version", "kind", "name", "namespace")
    LABEL_FIELDS: ClassVar = {"labelSelector": "labels", "annotationSelector": "annotations"}

    @classmethod
    def parse(cls, entry: Any, where: Path) -> Selector:
        """Read a patch's `target`. Raises `UnsupportedFieldError` for a field it cannot have."""
        return cls(only_fields(where, entry, "target", (*cls.ID_FIELDS, *cls.LABEL_FIELDS)))

    def matches(self, resource: Resource) -> bool:
        """Say whether every field that the selector states fits the resource."""
        group, version = group_of(resource.api_version)
        actual = {
            "group": group,
            "version": version,
            "kind": resource.kind,
            "name": resource.name,
            "namespace": resource.namespace,
        }
        return all(
            re.fullmatch(self.fields[field], value) is not None
            for field, value in actual.items()
            if self.fields.get(field)
        ) and all(
            _labels_match(self.fields[field], resource.metadata.get(source) or {})
            for field, source in self.LABEL_FIELDS.items()
            if self.fields.get(field)
        )


def _labels_match(selector: str, labels: Mapping[str, str]) -> bool:
    """Evaluate an equality-based label selector: `a=b,c!=d,e`."""
    for term in filter(None, (part.strip() for part in selector.split(","))):
        if "!=" in term:
            key, _, value = term.partition("!=")
            if labels.get(key.strip()) == value.strip():
                return False
        elif "=" in term:
            key, _, value = term.partition("=")
            if labels.get(key.strip()) != value.strip().removeprefix("="):
                return False
        elif term not in labels:
            return False
    return True
