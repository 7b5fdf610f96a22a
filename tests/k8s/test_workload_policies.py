"""What every workload promises: probes, limits, no privileges, nothing unpinned."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from typing import Any

import pytest

from k8s.rendered import (
    COMBINATIONS,
    OVERLAYS,
    REPOSITORY,
    SPINKUBE,
    Objects,
    load,
)
from k8s.workload_rules import OWN_IMAGES, RULES

EVERYTHING = ["base", *OVERLAYS, *COMBINATIONS]
SIZES = ("cache_sets", "cache_max_entry_bytes", "records_capacity")
# Measured records have a few hundred; the store adds its own overhead per key.
RECORD_BYTES = 2048


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", EVERYTHING)
def test_workloads_rendered_keep_the_rule(name: str, rule: Callable[[Objects], Any]) -> None:
    assert list(rule(load(name))) == []


@pytest.mark.parametrize("name", EVERYTHING)
def test_backend_grace_period_covers_stop_delay_and_drain(name: str) -> None:
    from gpu_backend.settings import Settings

    objects = load(name)
    deployment = objects.find("Deployment", "gpu-backend")
    if deployment is None:
        assert "edge-only" in (SPINKUBE / _folder(name) / "kustomization.yaml").read_text()
        return
    pod = deployment["spec"]["template"]["spec"]
    delay_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    settings = objects.generated("ConfigMap", "gpu-backend-settings")["data"]
    drain_s = float(settings.get("BACKEND_DRAIN_TIMEOUT_S", Settings().drain_timeout_s))
    assert pod["terminationGracePeriodSeconds"] >= delay_s + drain_s + 10


def _folder(name: str) -> str:
    return next(
        str(path.relative_to(SPINKUBE))
        for path in (SPINKUBE / "overlays" / name, SPINKUBE / "tests" / name)
        if path.is_dir()
    )


def test_secret_values_are_rendered_for_development_only() -> None:
    with_secrets = [name for name in EVERYTHING if load(name).of_kind("Secret")]
    assert with_secrets == ["dev"]


def test_development_secrets_are_the_templates_with_a_public_password() -> None:
    from hashlib import sha256

    values = {
        "password": "dev-only",
        "password_sha256": sha256(b"dev-only").hexdigest(),
    }
    for name in ("runtime-config.toml", "users.acl"):
        template = (SPINKUBE / "secrets" / name).read_text()
        assert (SPINKUBE / "overlays/dev/secrets" / name).read_text() == template.format(**values)


def test_runtime_config_is_toml_with_the_default_store_on_redis() -> None:
    template = (SPINKUBE / "secrets" / "runtime-config.toml").read_text()
    config = tomllib.loads(template.format(password="p"))
    assert config["key_value_store"]["default"] == {
        "type": "redis",
        "url": "redis://edge:p@redis:6379",
    }
    # Without it the table's presence would switch pooling off.
    assert config["outbound_http"]["connection_pooling"] is True


def test_gpu_backend_asks_for_one_gpu_and_tolerates_its_taint() -> None:
    spec = load("gpu").get("Deployment", "gpu-backend")["spec"]["template"]["spec"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert spec["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    assert spec["containers"][0]["image"] == f"{OWN_IMAGES}gpu-backend-cuda:0.1.0"


def test_gpu_ollama_has_a_gpu_and_its_model_comes_to_the_same_node() -> None:
    objects = load("gpu")
    spec = objects.get("Deployment", "ollama")["spec"]["template"]["spec"]
    resources = spec["containers"][0]["resources"]
    assert resources["limits"] == {"memory": "8Gi", "nvidia.com/gpu": "1"}
    job = objects.get("Job", "ollama-pull-model")["spec"]["template"]["spec"]
    assert job["tolerations"] == spec["tolerations"]
    (affinity,) = job["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    labels = objects.get("Deployment", "ollama")["spec"]["template"]["metadata"]["labels"]
    assert affinity["labelSelector"]["matchLabels"].items() <= labels.items()
    assert "nvidia.com/gpu" not in job["containers"][0]["resources"]["limits"]


def test_store_holds_the_largest_cache_and_spool_that_the_edge_may_keep() -> None:
    """A full store refuses writes: the edge's own bounds must fit into it with room to spare."""
    variables = tomllib.loads((REPOSITORY / "spin.toml").read_text())["variables"]
    bound = {name: int(variables[name]["default"]) for name in SIZES}
    cache = bound["cache_sets"] * 4 * bound["cache_max_entry_bytes"]
    spool = bound["records_capacity"] * RECORD_BYTES
    settings = load("base").generated("ConfigMap", "redis-settings")["data"]["valkey.conf"]
    found = re.search(r"^maxmemory (\d+)mb$", settings, re.MULTILINE)
    assert found is not None
    assert cache + spool < int(found[1]) * 2**20 * 0.8


def test_production_edge_does_not_start_without_api_keys() -> None:
    def keys(name: str) -> dict[str, Any]:
        variables = load(name).get("SpinApp", "inference-anywhere")["spec"]["variables"]
        (one,) = [one for one in variables if one["name"] == "api_keys"]
        reference: dict[str, Any] = one["valueFrom"]["secretKeyRef"]
        return reference

    assert keys("base")["optional"] is True
    assert keys("production")["optional"] is False


def test_gpu_keeps_wasm_on_labelled_nodes_with_either_installer() -> None:
    runtime_class = load("gpu").get("RuntimeClass", "wasmtime-spin-v2")
    assert runtime_class["scheduling"]["nodeSelector"] == {"spin": "true"}
    assert load("production").get("Shim", "spin-v2")["spec"]["nodeSelector"] == {"spin": "true"}


def test_keda_scales_the_backend_to_zero_and_never_the_edge() -> None:
    objects = load("production")
    assert objects.get("ScaledObject", "gpu-backend")["spec"]["minReplicaCount"] == 0
    assert objects.get("ScaledObject", "edge")["spec"]["minReplicaCount"] >= 1
