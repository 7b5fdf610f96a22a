"""Every variable that a manifest names exists in the program that reads it."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gpu_backend.llm.manifest import read_language_manifest
from gpu_backend.settings import Settings, read_settings
from k8s.rendered import COMBINATIONS, OVERLAYS, REPOSITORY, Objects, load, pod_spec
from k8s.spin_operator import built_service

EVERYTHING = ["base", *OVERLAYS, *COMBINATIONS]


@pytest.fixture(scope="module")
def spin_manifest() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "spin.toml").read_text())


def bound(objects: Objects) -> dict[str, str]:
    """Application variables of the SpinApp, with the values the cluster would give them."""
    values = {}
    for variable in objects.get("SpinApp", "inference-anywhere")["spec"]["variables"]:
        if "value" in variable:
            values[variable["name"]] = variable["value"]
        elif "configMapKeyRef" in variable["valueFrom"]:
            reference = variable["valueFrom"]["configMapKeyRef"]
            config = objects.get("ConfigMap", reference["name"])
            values[variable["name"]] = config["data"][reference["key"]]
        else:
            values[variable["name"]] = ""
    return values


@pytest.mark.parametrize("name", EVERYTHING)
def test_spinapp_variables_exist_in_the_manifest(name: str, spin_manifest: dict[str, Any]) -> None:
    assert set(bound(load(name))) <= set(spin_manifest["variables"])


@pytest.mark.parametrize("name", EVERYTHING)
def test_spinapp_binds_every_key_of_its_config_map(name: str) -> None:
    objects = load(name)
    settings = objects.generated("ConfigMap", "edge-variables")
    variables = objects.get("SpinApp", "inference-anywhere")["spec"]["variables"]
    references = [one["valueFrom"].get("configMapKeyRef", {}) for one in variables]
    keys = {one["key"] for one in references if one.get("name") == settings["metadata"]["name"]}
    assert keys == set(settings["data"])


@pytest.mark.parametrize("name", EVERYTHING)
def test_backend_settings_are_accepted_by_the_backend(name: str) -> None:
    objects = load(name)
    if objects.find("Deployment", "gpu-backend") is None:
        pytest.skip("this site has no backend of its own")
    environment = objects.generated("ConfigMap", "gpu-backend-settings")["data"]
    settings = read_settings(environment)
    assert settings.listen.host == "0.0.0.0"
    assert settings.listen.port == 8080


@pytest.mark.parametrize("name", EVERYTHING)
def test_backend_models_lie_in_the_image_or_on_a_volume(name: str) -> None:
    objects = load(name)
    deployment = objects.find("Deployment", "gpu-backend")
    if deployment is None:
        pytest.skip("this site has no backend of its own")
    environment = objects.generated("ConfigMap", "gpu-backend-settings")["data"]
    shipped, *others = read_settings(environment).models
    mounts = deployment["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert str(shipped) == "/opt/inference-anywhere/models"
    assert {str(path) for path in others} <= {mount["mountPath"] for mount in mounts}


def test_ollama_manifest_is_one_that_the_backend_reads(tmp_path: Path) -> None:
    objects = load("everything")
    text = objects.generated("ConfigMap", "ollama-model")["data"]["model.toml"]
    folder = tmp_path / "ollama"
    folder.mkdir()
    (folder / "model.toml").write_text(text)
    manifest = read_language_manifest(folder)
    assert manifest.upstream is not None
    assert manifest.upstream.url == "http://ollama:11434"
    container = objects.get("Deployment", "gpu-backend")["spec"]["template"]["spec"]["containers"][
        0
    ]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert f"/models/{manifest.name}/model.toml" in mounts


@pytest.mark.parametrize("name", EVERYTHING)
def test_records_are_delivered_only_where_one_backend_keeps_them(name: str) -> None:
    objects = load(name)
    enabled = bound(objects)["records_enabled"]
    backend = objects.find("Deployment", "gpu-backend")
    if backend is None:
        assert enabled == "false"
        return
    environment = objects.generated("ConfigMap", "gpu-backend-settings")["data"]
    kept = read_settings(environment).records
    assert enabled == ("true" if kept is not None else "false")
    if kept is not None:
        spec = backend["spec"]
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
        mounts = spec["template"]["spec"]["containers"][0]["volumeMounts"]
        assert str(kept.parent) in {mount["mountPath"] for mount in mounts}


@pytest.mark.parametrize("name", EVERYTHING)
def test_service_links_never_look_like_settings(name: str) -> None:
    """A SpinApp's pods cannot switch service links off: no Service may collide with a variable."""
    objects = load(name)
    services = [one["metadata"]["name"] for one in objects.of_kind("Service")]
    services.append(built_service(objects.get("SpinApp", "inference-anywhere"))["metadata"]["name"])
    prefixes = [name.upper().replace("-", "_") for name in services]
    assert not [one for one in prefixes if one.startswith(("SPIN_", "OTEL_EXPORTER", "BACKEND"))]


def test_backend_settings_all_have_an_environment_name() -> None:
    """The names this test relies on: BACKEND_ and the field in capitals."""
    fields = {field.name for field in dataclasses.fields(Settings)}
    environment = load("production").generated("ConfigMap", "gpu-backend-settings")["data"]
    assert {key.removeprefix("BACKEND_").lower() for key in environment} <= fields


@pytest.mark.parametrize("name", EVERYTHING)
def test_config_and_secret_references_resolve(name: str) -> None:
    objects = load(name)
    maps = {one["metadata"]["name"] for one in objects.of_kind("ConfigMap")}
    claims = {one["metadata"]["name"] for one in objects.of_kind("PersistentVolumeClaim")}
    for manifest in objects:
        spec = pod_spec(manifest)
        for volume in spec.get("volumes", ()) if spec else ():
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
        for container in spec["containers"] if spec else ():
            for source in container.get("envFrom", ()):
                assert source["configMapRef"]["name"] in maps
