"""Checks objects as an API server with strict field validation would.

Built-in kinds against the JSON schemas of `kubernetes-validate`, custom kinds against their real
definitions in `spinkube/schemas`; an unknown field is an error in both.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from importlib import resources
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry, Resource

from k8s.rendered import SPINKUBE
from kustomization import Manifest

__all__ = ["KUBERNETES_VERSIONS", "faults"]

# The oldest whose preStop `sleep` is on by default, and the newest that the schemas know.
KUBERNETES_VERSIONS = ("1.30.0", "1.37.0")

_DEFINITIONS = "https://kubernetes.io/api/_definitions.json"
_METADATA = f"{_DEFINITIONS}#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


def faults(manifest: Manifest, version: str) -> list[str]:
    """What is wrong with an object, each fault with its path; empty where nothing is."""
    validator = _validator(manifest["apiVersion"], manifest["kind"], version)
    return [_describe(error) for error in _leaves(validator.iter_errors(manifest))]


def _leaves(errors: Iterator[ValidationError]) -> Iterator[ValidationError]:
    for error in errors:
        if error.validator == "anyOf" and error.context:
            yield from _leaves(iter(error.context))
        else:
            yield error


def _describe(error: ValidationError) -> str:
    path = ".".join(str(part) for part in error.absolute_path)
    return f"{path or 'the object'}: {error.message[:300]}"


@functools.cache
def _validator(api_version: str, kind: str, version: str) -> Draft202012Validator:
    custom = _custom_schemas().get((api_version, kind))
    if custom is not None:
        return Draft202012Validator(custom, registry=_registry(version))
    group, _, rest = api_version.rpartition("/")
    prefix = f"{group.partition('.')[0]}-" if group else ""
    schema = json.loads(_core_file(version, f"{kind.lower()}-{prefix}{rest}.json"))
    return Draft202012Validator(schema, registry=_registry(version))


def _core_file(version: str, name: str) -> str:
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema"
    return (folder / f"v{version}-local-strict" / name).read_text(encoding="utf-8")


@functools.cache
def _registry(version: str) -> Registry[Any]:
    definitions = json.loads(_core_file(version, "_definitions.json"))
    registry: Registry[Any] = Registry().with_resource(
        _DEFINITIONS, Resource.from_contents(definitions)
    )
    return registry


@functools.cache
def _custom_schemas() -> dict[tuple[str, str], dict[str, Any]]:
    found = {}
    for path in sorted((SPINKUBE / "schemas").glob("*.yaml")):
        definition = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        spec = definition["spec"]
        for version in spec["versions"]:
            schema = _strict(version["schema"]["openAPIV3Schema"])
            # The API server replaces what a definition says of these three by its own.
            schema["properties"]["metadata"] = {"$ref": _METADATA}
            key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            found[key] = schema
    return found


def _strict(schema: Any) -> Any:
    """Turn a structural schema into JSON Schema that refuses fields it does not name.

    Source:
        Kubernetes documentation, "Extend the Kubernetes API with CustomResourceDefinitions":
        structural schemas, pruning, x-kubernetes-int-or-string.
    """
    if not isinstance(schema, dict):
        return schema
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "patternProperties"):
            result[key] = {name: _strict(inner) for name, inner in value.items()}
        elif key in ("allOf", "anyOf", "oneOf"):
            # These only constrain: what fields exist is said beside them.
            result[key] = value
        elif key in ("items", "additionalProperties", "not"):
            result[key] = _strict(value)
        elif key not in ("description", "default", "example"):
            result[key] = value
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("type", None)
        result["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if schema.get("nullable") and "type" in result:
        result["type"] = [result["type"], "null"]
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields")
    if schema.get("type") == "object" and "properties" in schema and not open_ended:
        result.setdefault("additionalProperties", False)
    return result
