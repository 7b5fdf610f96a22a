"""Reads YAML as Kubernetes does, and kustomization files with unknown fields refused.

PyYAML speaks YAML 1.1, where `on`, `yes` and `2026-01-01` are not strings. Kubernetes' parser
takes them for strings, so the loader here knows only what that parser knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .errors import KustomizationError, UnsupportedFieldError

__all__ = ["Manifest", "find_kustomization", "load_documents", "read_kustomization"]

Manifest = dict[str, Any]
"""One Kubernetes object: JSON values under string keys."""

FILE_NAMES = ("kustomization.yaml", "kustomization.yml", "Kustomization")

SUPPORTED_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "apiVersion": str,
    "kind": str,
    "metadata": dict,
    "namespace": str,
    "labels": list,
    "commonAnnotations": dict,
    "configurations": list,
    "resources": list,
    "components": list,
    "patches": list,
    "images": list,
    "replicas": list,
    "configMapGenerator": list,
    "secretGenerator": list,
    "generatorOptions": dict,
}


class _KubernetesLoader(yaml.SafeLoader):
    """Resolves plain scalars as the YAML 1.2 core schema does."""


_KubernetesLoader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_KubernetesLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def load_documents(path: Path) -> list[Any]:
    """Return the non-empty YAML documents of a file, in order.

    Raises:
        KustomizationError: The file is absent, or not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise KustomizationError(path, f"cannot be read: {exc.strerror}") from exc
    return parse_documents(text, path)


def parse_documents(text: str, where: Path | str) -> list[Any]:
    """Return the non-empty documents of YAML or JSON text."""
    try:
        # A subclass of SafeLoader: builds plain values only.
        documents = list(yaml.load_all(text, Loader=_KubernetesLoader))
    except yaml.YAMLError as exc:
        raise KustomizationError(where, f"is not valid YAML: {exc}") from exc
    return [document for document in documents if document is not None]


def find_kustomization(directory: Path) -> Path:
    """Return the kustomization file of a directory.

    Raises:
        KustomizationError: There is none, or more than one.
    """
    found = [directory / name for name in FILE_NAMES if (directory / name).is_file()]
    if len(found) != 1:
        problem = "no kustomization.yaml" if not found else "more than one kustomization file"
        raise KustomizationError(directory, f"{problem} in this directory")
    return found[0]


def read_kustomization(path: Path) -> Mapping[str, Any]:
    """Return a kustomization's fields, known ones only and of the right shape.

    Raises:
        UnsupportedFieldError: A field belongs to a part of kustomize that is not rendered here.
        KustomizationError: The file is not one mapping, or a field has another type.
    """
    documents = load_documents(path)
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise KustomizationError(path, "must hold exactly one YAML mapping")
    fields: dict[str, Any] = documents[0]
    for name, value in fields.items():
        expected = SUPPORTED_FIELDS.get(name)
        if expected is None:
            raise UnsupportedFieldError(path, name)
        if not isinstance(value, expected):
            raise KustomizationError(path, f"`{name}` has the wrong type: {type(value).__name__}")
    return fields


def check_inside(path: Path, kustomization: Path) -> None:
    """Hold kustomize's rule that a kustomization reads files only in or below its own folder.

    Raises:
        KustomizationError: The path leads elsewhere.
    """
    if not path.resolve().is_relative_to(kustomization.parent.resolve()):
        raise KustomizationError(kustomization, f"{path} is not in or below this folder")


def only_fields(where: Path, entry: Any, what: str, allowed: Sequence[str]) -> dict[str, Any]:
    """Return `entry` as a mapping that has only `allowed` fields.

    Raises:
        KustomizationError: It is no mapping.
        UnsupportedFieldError: It has another field.
    """
    if not isinstance(entry, dict):
        raise KustomizationError(where, f"each entry of `{what}` must be a mapping, not {entry!r}")
    for name in entry:
        if name not in allowed:
            raise UnsupportedFieldError(where, f"{what}.{name}")
    return entry
