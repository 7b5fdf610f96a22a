"""Strategic merge patches, as the API server and kustomize apply them.

Rules: mappings merge key by key; `null` deletes; a list with a merge key merges item by item, and
items of the patch come first, as kustomize orders them; every other list is replaced whole.
`$patch: delete` and `$patch: replace` say otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

__all__ = ["strategic_merge"]

# Source: `x-kubernetes-patch-merge-key` in the Kubernetes API's OpenAPI document, for the fields of
# a pod template, a Service and a ServiceAccount. A custom resource has none: lists are replaced.
POD_MERGE_KEYS: Mapping[str, str] = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
MERGE_KEYS: Mapping[str, Mapping[str, str]] = {
    **{
        kind: {**POD_MERGE_KEYS, "ports": "containerPort"}
        for kind in ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Pod")
    },
    "Service": {"ports": "port"},
    "ServiceAccount": {"secrets": "name", "imagePullSecrets": "name"},
}
DIRECTIVE = "$patch"


def strategic_merge(target: dict[str, Any], patch: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return `target` with `patch` applied, or None where the patch deletes the object.

    Args:
        target: An object; not changed.
        patch: A partial object of the same kind.
    """
    keys = MERGE_KEYS.get(str(target.get("kind")), {})
    merged = _merge(copy.deepcopy(target), patch, keys)
    return None if merged is _DELETED else merged


class _Deleted:
    """Marks a mapping that the patch deletes."""


_DELETED = _Deleted()


def _merge(target: Any, patch: Any, keys: Mapping[str, str]) -> Any:
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    directive = patch.get(DIRECTIVE)
    if directive == "delete":
        return _DELETED
    content = {name: value for name, value in patch.items() if name != DIRECTIVE}
    if directive == "replace" or not isinstance(target, dict):
        return _merge_fields({}, content, keys)
    return _merge_fields(target, content, keys)


def _merge_fields(
    target: dict[str, Any], patch: Mapping[str, Any], keys: Mapping[str, str]
) -> dict[str, Any]:
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, list) and name in keys:
            target[name] = _merge_list(target.get(name) or [], value, keys[name], keys)
        else:
            merged = _merge(target.get(name), value, keys)
            if merged is _DELETED:
                target.pop(name, None)
            else:
                target[name] = merged
    return target


def _merge_list(
    target: list[Any], patch: list[Any], merge_key: str, keys: Mapping[str, str]
) -> list[Any]:
    if {DIRECTIVE: "replace"} in patch:
        return [copy.deepcopy(item) for item in patch if item != {DIRECTIVE: "replace"}]
    by_key = {item[merge_key]: item for item in target}
    result = []
    for item in patch:
        merged = _merge(by_key.pop(item[merge_key], None), item, keys)
        if merged is not _DELETED:
            result.append(merged)
    return result + [item for item in target if item[merge_key] in by_key]
