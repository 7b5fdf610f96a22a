"""What the Spin operator does with a SpinApp, restated: its admission rules and what it builds.

Source:
    spinframework/spin-operator v0.6.1: internal/webhook/spinapp_validating.go,
    internal/controller/{spinapp_controller,deployment,service}.go, pkg/spinapp/spinapp.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from kubernetes.utils import quantity

from kustomization import Manifest

__all__ = ["admission_faults", "built_deployment", "built_service"]

HTTP_PORT = 80
LONGEST_NAME = 52


def admission_faults(app: Manifest, executors: Iterable[Manifest]) -> list[str]:
    """Why the operator's webhook, or the API server behind it, would refuse a SpinApp."""
    spec, metadata = app["spec"], app["metadata"]
    found = []
    # The label `core.spinkube.dev/app.<name>.status` may have 63 characters after the slash.
    if len(metadata["name"]) > LONGEST_NAME:
        found.append(f"metadata.name: longer than {LONGEST_NAME} characters")
    namesakes = [
        one
        for one in executors
        if one["metadata"]["name"] == spec.get("executor")
        and one["metadata"].get("namespace") == metadata.get("namespace")
    ]
    if not namesakes:
        found.append(f"spec.executor: {spec.get('executor')!r} does not exist in namespace")
    replicas = spec.get("replicas", 0)
    if spec.get("enableAutoscaling") and replicas:
        found.append("spec.replicas: cannot be set when autoscaling is enabled")
    if not spec.get("enableAutoscaling") and replicas < 1:
        found.append("spec.replicas: must be > 0")
    annotated = spec.get("podAnnotations") or spec.get("deploymentAnnotations")
    if namesakes and annotated and not namesakes[0]["spec"].get("createDeployment"):
        found.append("spec.podAnnotations: the executor makes no Deployment")
    found += _memory_faults(spec)
    return found


def _memory_faults(spec: Mapping[str, Any]) -> list[str]:
    invocation = spec.get("invocationLimits", {}).get("memory")
    if invocation is None:
        return []
    try:
        wanted = _amount(invocation)
    except ValueError:
        return [f"spec.invocationLimits.memory: {invocation!r} is no quantity"]
    resources = spec.get("resources", {})
    for kind in ("limits", "requests"):
        bound = resources.get(kind, {}).get("memory")
        if bound is not None:
            if wanted > _amount(bound):
                return [
                    f"spec.invocationLimits.memory: {invocation} is above the {kind[:-1]} {bound}"
                ]
            break
    return []


def _amount(text: str) -> Decimal:
    """The number that a quantity like `256Mi` stands for."""
    amount: Decimal = quantity.parse_quantity(text)  # type: ignore[no-untyped-call]
    return amount


def built_deployment(app: Manifest, executor: Manifest) -> Manifest:
    """The Deployment that the operator makes of a SpinApp."""
    spec, metadata = app["spec"], app["metadata"]
    name, config = metadata["name"], executor["spec"]["deploymentConfig"]
    ready = {
        "core.spinkube.dev/app-name": name,
        f"core.spinkube.dev/app.{name}.status": "ready",
    }
    volumes, mounts = _runtime_config(spec)
    container = {
        "name": name,
        "image": spec["image"],
        "command": ["/"],
        "ports": [{"name": "http-app", "containerPort": HTTP_PORT}],
        "env": _environment(spec, config),
        "resources": spec.get("resources", {}),
        "volumeMounts": mounts,
    }
    for check, probe in (("readiness", "readinessProbe"), ("liveness", "livenessProbe")):
        if check in spec.get("checks", {}):
            container[probe] = {
                **spec["checks"][check],
                "httpGet": {"path": spec["checks"][check]["httpGet"]["path"], "port": HTTP_PORT},
            }
    template = {
        "metadata": {
            "labels": {**spec.get("podLabels", {}), **ready},
            "annotations": dict(spec.get("podAnnotations", {})),
        },
        "spec": {
            "runtimeClassName": config["runtimeClassName"],
            "serviceAccountName": spec.get("serviceAccountName", "default"),
            "containers": [container],
            "volumes": volumes,
        },
    }
    deployment: Manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "labels": {"core.spinkube.dev/app-name": name},
        },
        "spec": {"selector": {"matchLabels": ready}, "template": template},
    }
    if not spec.get("enableAutoscaling"):
        deployment["spec"]["replicas"] = spec["replicas"]
    return deployment


def built_service(app: Manifest) -> Manifest:
    """The Service that the operator makes of a SpinApp."""
    name = app["metadata"]["name"]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": app["metadata"]["namespace"],
            "labels": {"core.spinkube.dev/app-name": name},
        },
        "spec": {
            "type": "ClusterIP",
            "selector": {f"core.spinkube.dev/app.{name}.status": "ready"},
            "ports": [{"protocol": "TCP", "port": HTTP_PORT, "targetPort": "http-app"}],
        },
    }


def _runtime_config(spec: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    secret = spec.get("runtimeConfig", {}).get("loadFromSecret")
    if not secret:
        return [], []
    item = {"key": "runtime-config.toml", "path": "runtime-config.toml"}
    volume = {
        "name": "spin-runtime-config",
        "secret": {"secretName": secret, "optional": True, "items": [item]},
    }
    mount = {
        "name": "spin-runtime-config",
        "readOnly": True,
        "mountPath": "/runtime-config.toml",
        "subPath": "runtime-config.toml",
    }
    return [volume], [mount]


def _environment(spec: Mapping[str, Any], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    environment: list[dict[str, Any]] = []
    for variable in spec.get("variables", ()):
        source = {key: value for key, value in variable.items() if key != "name"}
        environment.append({"name": f"SPIN_VARIABLE_{variable['name'].upper()}", **source})
    environment.append({"name": "SPIN_HTTP_LISTEN_ADDR", "value": f"0.0.0.0:{HTTP_PORT}"})
    for field, value in config.get("otel", {}).items():
        environment.append({"name": f"OTEL_{field.upper()}", "value": value})
    memory = spec.get("invocationLimits", {}).get("memory")
    if memory is not None:
        value = str(int(_amount(memory)))
        environment.append({"name": "SPIN_MAX_INSTANCE_MEMORY", "value": value})
    return environment
