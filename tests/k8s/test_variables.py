"""Every variable that a manifest names exists in the program that reads it."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gpu_backend.llm.manifest import read_language_manifest
from gpu_backend.settings import Settings, read_settings
from k8s.rendered import COMBINATIONS, OVERLAYS, REPOSITORY, Objects, load, pod_spec
from k8s.spin_operator import built_service
from kustomization import Manifest

EVERYTHING = ["base", *OVERLAYS, *COMBINATIONS]


@pytest.fixture(scope="module")
def spin_manifest() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "spin.toml").read_text())


def variables(objects: Objects) -> dict[str, dict[str, Any]]:
    """The SpinApp's variables by name, each with where its value comes from."""
    listed = objects.get("SpinApp", "inference-anywhere")["spec"]["variables"]
    found = {one["name"]: one["valueFrom"] for one in listed}
    assert len(found) == len(listed), "a variable is bound twice"
    return found


def bound(objects: Objects) -> dict[str, str]:
    """Application variables that the cluster sets, with their values."""
    values = {}
    for name, source in variables(objects).items():
        if reference := source.get("configMapKeyRef"):
            data = objects.get("ConfigMap", reference["name"])["data"]
            if reference["key"] in data or not reference.get("optional"):
                values[name] = data[reference["key"]]
    return values


@pytest.mark.parametrize("name", EVERYTHING)
def test_spinapp_binds_every_variable_of_the_manifest_and_no_other(
    name: str, spin_manifest: dict[str, Any]
) -> None:
    """A variable that is new in spin.toml needs a line in spinkube/base/edge.yaml."""
    assert set(variables(load(name))) == set(spin_manifest["variables"])


@pytest.mark.parametrize("name", EVERYTHING)
def test_spinapp_takes_secret_variables_from_secrets_and_others_from_its_config_map(
    name: str, spin_manifest: dict[str, Any]
) -> None:
    objects = load(name)
    settings = objects.generated("ConfigMap", "edge-variables")["metadata"]["name"]
    for variable, source in variables(objects).items():
        (kind,) = source
        secret = bool(spin_manifest["variables"][variable].get("secret"))
        assert kind == ("secretKeyRef" if secret else "configMapKeyRef"), variable
        assert source[kind]["key"] == variable
        assert secret or source[kind]["name"] == settings, variable


@pytest.mark.parametrize("name", EVERYTHING)
def test_spinapp_binds_every_key_of_its_config_map(name: str) -> None:
    """A misspelt key would be ignored without a word: every reference to it is optional."""
    objects = load(name)
    settings = objects.generated("ConfigMap", "edge-variables")["data"]
    assert set(settings) <= set(variables(objects))
    assert set(settings) == set(bound(objects))


@pytest.mark.parametrize("name", EVERYTHING)
def test_url_variables_are_never_empty(name: str, spin_manifest: dict[str, Any]) -> None:
    """One that resolves to nothing would deny the component all outbound calls."""
    values = {
        **{key: one["default"] for key, one in spin_manifest["variables"].items()},
        **bound(load(name)),
    }
    urls = {key: value for key, value in values.items() if key.endswith("_url")}
    assert len(urls) >= 3
    for key, value in urls.items():
        parts = urlsplit(value)
        assert parts.scheme in ("http", "https"), key
        assert parts.hostname, key
        assert parts.path == "", key


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
def test_service_links_never_look_like_settings(name: str, spin_manifest: dict[str, Any]) -> None:
    """A SpinApp's pods cannot switch service links off, and the shim takes them for variables.

    Source:
        containerd-shim-spin, utils.rs: an environment variable NAME overrides
        SPIN_VARIABLE_NAME of an application variable `name`.
        Kubernetes documentation, "Service": environment variables.
    """
    objects = load(name)
    services = [*objects.of_kind("Service")]
    services.append(built_service(objects.get("SpinApp", "inference-anywhere")))
    links = {link for service in services for link in service_links(service)}
    assert "REDIS_SERVICE_PORT" in links
    settings = {variable.upper() for variable in spin_manifest["variables"]}
    assert links & settings == set()
    assert not [one for one in links if one.startswith(("SPIN_", "OTEL_EXPORTER_", "BACKEND_"))]


def service_links(service: Manifest) -> set[str]:
    """Names of the environment variables that the kubelet makes of a Service."""
    prefix = service["metadata"]["name"].upper().replace("-", "_")
    found = {f"{prefix}_SERVICE_HOST", f"{prefix}_SERVICE_PORT", f"{prefix}_PORT"}
    for port in service["spec"]["ports"]:
        if "name" in port:
            found.add(f"{prefix}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}")
        base = f"{prefix}_PORT_{port['port']}_{port.get('protocol', 'TCP')}"
        found |= {base, f"{base}_PROTO", f"{base}_PORT", f"{base}_ADDR"}
    return found


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
