"""Renders a kustomization: what `kubectl kustomize` prints, without kubectl.

Order, as kustomize has it: resources, components, generators; then patches, namespace, labels,
annotations, replicas, images. A component works on everything gathered before it. Hashes of
generated objects are computed once, at the very end, so that merges count.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import transformers
from .errors import KustomizationError
from .generators import generate
from .json_patch import JsonPatchError, apply_json_patch
from .loading import (
    Manifest,
    check_inside,
    find_kustomization,
    load_documents,
    only_fields,
    parse_documents,
    read_kustomization,
)
from .references import FieldSpec, TransformerConfig, add_hashes
from .resources import Resource, Selector, group_of
from .strategic_merge import strategic_merge

__all__ = ["render"]

MAX_DEPTH = 20


def render(directory: Path) -> list[Manifest]:
    """Return the objects of a kustomization directory.

    Raises:
        KustomizationError: A file is wrong; the message names it.
        UnsupportedFieldError: It uses a part of kustomize that is left to kubectl.
    """
    build = _Build()
    build.accumulate(directory.resolve(), depth=0)
    add_hashes(build.resources, build.config)
    return [resource.manifest for resource in build.resources]


class _Build:
    """Objects gathered so far, and what `configurations` taught."""

    def __init__(self) -> None:
        self.resources: list[Resource] = []
        self.config = TransformerConfig()

    def accumulate(self, directory: Path, depth: int) -> None:
        """Add a kustomization's objects and apply its changes to all gathered so far."""
        if depth > MAX_DEPTH:
            raise KustomizationError(directory, f"nested more than {MAX_DEPTH} deep: a cycle?")
        path = find_kustomization(directory)
        fields = read_kustomization(path)
        for entry in fields.get("resources", ()):
            self._add_resource(directory / entry, path, depth)
        for entry in fields.get("components", ()):
            self._check_is_component(directory / entry, path)
            self.accumulate((directory / entry).resolve(), depth + 1)
        for entry in fields.get("configurations", ()):
            check_inside(directory / entry, path)
            self.config.extend(_read_configuration(directory / entry))
        for kind in ("ConfigMap", "Secret"):
            for entry in fields.get(f"{kind[0].lower()}{kind[1:]}Generator", ()):
                self._generate(kind, entry, fields.get("generatorOptions", {}), path)
        self._transform(fields, path)

    def _transform(self, fields: Mapping[str, Any], path: Path) -> None:
        for entry in fields.get("patches", ()):
            self._patch(entry, path)
        if "namespace" in fields:
            transformers.set_namespace(self.resources, fields["namespace"])
        for entry in fields.get("labels", ()):
            transformers.label(self.resources, entry, path)
        if "commonAnnotations" in fields:
            transformers.annotate(self.resources, fields["commonAnnotations"])
        for entry in fields.get("replicas", ()):
            transformers.set_replicas(self.resources, entry, path)
        for entry in fields.get("images", ()):
            transformers.set_images(self.resources, entry, self.config, path)

    def _add_resource(self, source: Path, path: Path, depth: int) -> None:
        if source.is_dir():
            # A base is complete in itself before it meets its siblings.
            nested = _Build()
            nested.accumulate(source.resolve(), depth + 1)
            self.config.extend(nested.config)
            found = nested.resources
        else:
            check_inside(source, path)
            found = [Resource.parse(document, source) for document in load_documents(source)]
        for resource in found:
            self._add(resource, path)

    def _add(self, resource: Resource, path: Path) -> None:
        if any(known.identity == resource.identity for known in self.resources):
            raise KustomizationError(
                path, f"{resource.kind} {resource.name!r} is already there: names must be unique"
            )
        self.resources.append(resource)

    def _check_is_component(self, source: Path, path: Path) -> None:
        if not source.is_dir():
            raise KustomizationError(path, f"the component {source} is no directory")
        kind = read_kustomization(find_kustomization(source)).get("kind")
        if kind != "Component":
            raise KustomizationError(path, f"{source} is a {kind!r}: `components` takes Components")

    def _generate(
        self, kind: str, entry: Mapping[str, Any], options: Mapping[str, Any], path: Path
    ) -> None:
        manifest, needs_hash = generate(kind, entry, options, path)
        behavior = entry.get("behavior", "create")
        if behavior == "create":
            self._add(Resource(manifest, needs_hash), path)
            return
        name = entry["name"]
        known = [one for one in self.resources if one.kind == kind and one.name == name]
        if behavior not in ("merge", "replace") or len(known) != 1:
            raise KustomizationError(path, f"cannot {behavior} {kind} {name!r}: {len(known)} found")
        target = known[0].manifest
        for field in ("data", "binaryData"):
            old = target.pop(field, {})
            merged = {**(old if behavior == "merge" else {}), **manifest.get(field, {})}
            if merged:
                target[field] = merged
        for field in ("labels", "annotations"):
            if field in manifest["metadata"]:
                known[0].metadata.setdefault(field, {}).update(manifest["metadata"][field])

    def _patch(self, entry: Any, path: Path) -> None:
        fields = only_fields(path, entry, "patches", ("path", "patch", "target"))
        if ("path" in fields) == ("patch" in fields):
            raise KustomizationError(path, "a patch has either `path` or `patch`")
        where = path.parent / fields["path"] if "path" in fields else path
        if "path" in fields:
            check_inside(where, path)
            documents = load_documents(where)
        else:
            documents = parse_documents(fields["patch"], where)
        for document in documents:
            if isinstance(document, list):
                self._json_patch(document, fields, where)
            else:
                self._strategic_patch(document, fields, where)

    def _json_patch(self, operations: list[Any], fields: Mapping[str, Any], where: Path) -> None:
        if "target" not in fields:
            raise KustomizationError(where, "a JSON patch needs a `target`")
        selector = Selector.parse(fields["target"], where)
        for resource in self.resources:
            if selector.matches(resource):
                try:
                    resource.manifest = apply_json_patch(resource.manifest, operations)
                except JsonPatchError as exc:
                    problem = f"{resource.kind} {resource.name}: {exc}"
                    raise KustomizationError(where, problem) from exc

    def _strategic_patch(self, patch: Any, fields: Mapping[str, Any], where: Path) -> None:
        if not isinstance(patch, dict):
            raise KustomizationError(where, "a patch is a mapping or a list of operations")
        if "target" in fields:
            selector = Selector.parse(fields["target"], where)
            chosen = [one for one in self.resources if selector.matches(one)]
        else:
            chosen = self._patched_object(patch, where)
        for resource in chosen:
            # A patch may be written for one name and aimed at several: it never renames.
            content = {**patch, "apiVersion": resource.api_version, "kind": resource.kind}
            content["metadata"] = {**patch.get("metadata", {}), "name": resource.name}
            merged = strategic_merge(resource.manifest, content)
            if merged is None:
                self.resources.remove(resource)
            else:
                resource.manifest = merged

    def _patched_object(self, patch: Mapping[str, Any], where: Path) -> list[Resource]:
        identity = Resource.parse(dict(patch), where)
        found = [
            one
            for one in self.resources
            if one.kind == identity.kind
            and one.name == identity.name
            and group_of(one.api_version)[0] == group_of(identity.api_version)[0]
            and one.was_in(identity.namespace)
        ]
        if len(found) != 1:
            which = f"{identity.kind} {identity.name!r}"
            if identity.namespace:
                which += f" in {identity.namespace!r}"
            problem = f"the patch names {which}: {len(found)} such objects"
            raise KustomizationError(where, problem)
        return found


def _read_configuration(path: Path) -> TransformerConfig:
    documents = load_documents(path)
    if len(documents) != 1:
        raise KustomizationError(path, "must hold exactly one YAML mapping")
    fields = only_fields(path, documents[0], "configurations", ("images", "nameReference"))
    config = TransformerConfig()
    config.images += [_field_spec(entry, path) for entry in fields.get("images", ())]
    for reference in fields.get("nameReference", ()):
        only_fields(path, reference, "nameReference", ("kind", "version", "group", "fieldSpecs"))
        config.name_references[reference["kind"]] = [
            _field_spec(entry, path) for entry in reference["fieldSpecs"]
        ]
    return config


def _field_spec(entry: Any, path: Path) -> FieldSpec:
    fields = only_fields(path, entry, "fieldSpecs", ("path", "kind", "group"))
    return FieldSpec(**fields)
