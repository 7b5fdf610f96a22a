"""Every rendered object is what the real API would accept, unknown fields refused."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

import pytest

from k8s.object_schemas import KUBERNETES_VERSIONS, faults
from k8s.rendered import (
    COMBINATIONS,
    OVERLAYS,
    SPINKUBE,
    component_pairs,
    load,
    write_combination,
)
from kustomization import render

SOURCES = tomllib.loads((SPINKUBE / "schemas" / "SOURCES.toml").read_text())["schema"]


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("name", ["base", *OVERLAYS, *COMBINATIONS])
def test_objects_rendered_are_valid(name: str, version: str) -> None:
    found = {f"{one['kind']} {one['metadata']['name']}": faults(one, version) for one in load(name)}
    assert {which: what for which, what in found.items() if what} == {}


@pytest.mark.parametrize("pair", component_pairs(), ids="+".join)
def test_objects_of_component_pair_are_valid(pair: tuple[str, ...], tmp_path: Path) -> None:
    manifests = render(write_combination(tmp_path, pair))
    version = KUBERNETES_VERSIONS[-1]
    assert [fault for manifest in manifests for fault in faults(manifest, version)] == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source["file"]))
def test_schema_copied_has_the_recorded_digest(source: dict[str, str]) -> None:
    content = (SPINKUBE / "schemas" / source["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == source["sha256"]


def test_schema_sources_name_every_file() -> None:
    present = {path.name for path in (SPINKUBE / "schemas").glob("*.yaml")}
    assert {source["file"] for source in SOURCES} == present


@pytest.mark.parametrize(
    ("kind", "name", "path", "value", "complaint"),
    [
        ("SpinApp", "inference-anywhere", ("spec", "env"), [], "spec: Additional properties"),
        ("SpinApp", "inference-anywhere", ("spec", "replicas"), "2", "spec.replicas: '2' is not"),
        ("SpinApp", "inference-anywhere", ("spec", "components"), [], "spec.components: []"),
        (
            "SpinAppExecutor",
            "containerd-shim-spin",
            ("spec", "deploymentConfig", "runtimeClass"),
            "x",
            "spec.deploymentConfig: Additional properties",
        ),
        ("Deployment", "gpu-backend", ("spec", "replica"), 1, "spec: Additional properties"),
        ("Deployment", "gpu-backend", ("metadata", "label"), {}, "metadata: Additional"),
        ("Service", "redis", ("spec", "ports"), "6379", "spec.ports: '6379' is not"),
    ],
)
def test_faults_broken_object_are_found(
    kind: str, name: str, path: tuple[str, ...], value: Any, complaint: str
) -> None:
    manifest = load("base").get(kind, name)
    parent = manifest
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    assert any(fault.startswith(complaint) for fault in faults(manifest, "1.37.0"))


def test_faults_missing_required_field_is_found() -> None:
    manifest = load("base").get("SpinApp", "inference-anywhere")
    del manifest["spec"]["image"]
    assert faults(manifest, "1.37.0") == ["spec: 'image' is a required property"]
