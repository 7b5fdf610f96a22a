"""The Spin operator admits every SpinApp that is rendered, and what it builds of it is sound."""

from __future__ import annotations

from typing import Any

import pytest

from k8s.object_schemas import faults
from k8s.rendered import COMBINATIONS, OVERLAYS, load
from k8s.spin_operator import admission_faults, built_deployment, built_service

EVERYTHING = ["base", *OVERLAYS, *COMBINATIONS]


@pytest.mark.parametrize("name", EVERYTHING)
def test_spinapp_rendered_is_admitted(name: str) -> None:
    objects = load(name)
    apps = objects.of_kind("SpinApp")
    assert [one["metadata"]["name"] for one in apps] == ["inference-anywhere"]
    assert admission_faults(apps[0], objects.of_kind("SpinAppExecutor")) == []


@pytest.mark.parametrize("name", EVERYTHING)
def test_spinapp_built_objects_are_valid(name: str) -> None:
    objects = load(name)
    app = objects.get("SpinApp", "inference-anywhere")
    executor = objects.get("SpinAppExecutor", app["spec"]["executor"])
    built = [built_deployment(app, executor), built_service(app)]
    assert [fault for one in built for fault in faults(one, "1.37.0")] == []


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"enableAutoscaling": True}, "spec.replicas: cannot be set"),
        ({"replicas": 0}, "spec.replicas: must be > 0"),
        ({"executor": "spintainer"}, "spec.executor: 'spintainer' does not exist"),
        ({"invocationLimits": {"memory": "2Gi"}}, "spec.invocationLimits.memory: 2Gi is above"),
        ({"invocationLimits": {"memory": "lots"}}, "spec.invocationLimits.memory: 'lots'"),
    ],
)
def test_admission_broken_spinapp_is_refused(changes: dict[str, Any], complaint: str) -> None:
    objects = load("base")
    app = objects.get("SpinApp", "inference-anywhere")
    app["spec"].update(changes)
    found = admission_faults(app, objects.of_kind("SpinAppExecutor"))
    assert len(found) == 1
    assert found[0].startswith(complaint)


def test_admission_executor_of_another_namespace_is_not_found() -> None:
    objects = load("base")
    executor = objects.get("SpinAppExecutor", "containerd-shim-spin")
    executor["metadata"]["namespace"] = "elsewhere"
    found = admission_faults(objects.get("SpinApp", "inference-anywhere"), [executor])
    assert found == ["spec.executor: 'containerd-shim-spin' does not exist in namespace"]


def test_admission_name_of_53_characters_is_refused() -> None:
    objects = load("base")
    app = objects.get("SpinApp", "inference-anywhere")
    app["metadata"]["name"] = "x" * 53
    found = admission_faults(app, objects.of_kind("SpinAppExecutor"))
    assert found == ["metadata.name: longer than 52 characters"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_runtime_class_has_the_handler_of_its_installer(name: str) -> None:
    objects = load(name)
    executor = objects.get("SpinAppExecutor", "containerd-shim-spin")
    wanted = executor["spec"]["deploymentConfig"]["runtimeClassName"]
    handlers = {
        (one["metadata"]["name"], one["handler"]) for one in objects.of_kind("RuntimeClass")
    } | {
        (one["spec"]["runtimeClass"]["name"], one["spec"]["runtimeClass"]["handler"])
        for one in objects.of_kind("Shim")
    }
    expected = "spin-v2" if objects.of_kind("Shim") else "spin"
    assert handlers == {(wanted, expected)}


def test_runtime_config_generated_secret_changes_the_pod() -> None:
    objects = load("dev")
    secret = objects.generated("Secret", "edge-runtime-config")["metadata"]["name"]
    spec = objects.get("SpinApp", "inference-anywhere")["spec"]
    assert spec["runtimeConfig"]["loadFromSecret"] == secret
    assert spec["podAnnotations"]["checksum/runtime-config"] == secret
