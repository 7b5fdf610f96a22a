"""`doctor`: each thing a cluster may lack is found, with the command that fixes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from k8s.conftest import World
from k8s.rendered import write_combination

IMAGES = ("--image", "edge=ghcr.io/me/edge:1", "--image", "gpu-backend=ghcr.io/me/gpu-backend:1")


def deployment(namespace: str, name: str, available: int = 1) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/name": name},
        },
        "spec": {"template": {"spec": {"containers": []}}},
        "status": {"availableReplicas": available},
    }


def node(name: str, **allocatable: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"spin": "true"}},
        "status": {
            "allocatable": {"memory": "64Gi", **allocatable},
            "nodeInfo": {"kubeletVersion": "v1.37.0"},
        },
    }


@pytest.fixture
def api_keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"acme": {"keys": [sha256(b"a key").hexdigest()]}}))
    return path


@pytest.fixture
def healthy(world: World) -> World:
    """A cluster in which nothing is missing for any overlay."""
    api = world.api
    api.install("runtime-class-manager", "keda", "prometheus-operator", "gateway-api")
    api.place(deployment("spin-operator", "spin-operator"))
    api.place(deployment("cert-manager", "cert-manager"))
    api.place(node("one", **{"nvidia.com/gpu": "3"}))
    api.place(
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "cilium", "namespace": "kube-system"},
        }
    )
    api.place(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": "local-path",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "rancher.io/local-path",
        }
    )
    for name in ("nginx", "traefik"):
        api.place(
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "IngressClass",
                "metadata": {"name": name},
            }
        )
    api.place(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "public", "namespace": "gateway-system"},
        }
    )
    return world


@pytest.mark.parametrize("overlay", ["dev", "gpu", "k3s-edge", "production"])
def test_doctor_of_a_healthy_cluster_finds_nothing_missing(
    healthy: World, overlay: str, api_keys: Path
) -> None:
    healthy.deploy("secrets", overlay, "--api-keys", str(api_keys))
    code, output = healthy.deploy("doctor", overlay)
    assert code == 0, output
    assert output.rstrip().endswith("nothing is missing")


def test_doctor_of_a_bare_cluster_lists_everything_at_once(world: World) -> None:
    unserved("spinkube")(world)
    code, output = world.deploy("doctor", "production")
    assert code == 1
    for subject in (
        "kind SpinApp",
        "kind SpinAppExecutor",
        "kind Shim",
        "kind ScaledObject",
        "kind ServiceMonitor",
        "kind HTTPRoute",
        "Spin operator",
        "Wasm nodes",
        "GPUs",
        "storage",
        "Gateway gateway-system/public",
        "Secret edge-runtime-config",
        "Secret redis-users",
    ):
        assert f"MISSING {subject}" in output
    assert output.count("        -> ") >= output.count("MISSING ")


def without(kind: str, name: str) -> Callable[[World], None]:
    return lambda world: world.api.remove(kind, name)


def unserved(fragment: str) -> Callable[[World], None]:
    def remove(world: World) -> None:
        world.api.kinds = {
            name: kind for name, kind in world.api.kinds.items() if fragment not in name
        }
        for resource in list(world.api.resources):
            if fragment in str(resource):
                del world.api.resources[resource]

    return remove


def forbidden(verb: str, plural: str) -> Callable[[World], None]:
    return lambda world: world.api.forbidden.add((verb, plural))


def old(world: World) -> None:
    world.api.version = (1, 28)


def stopped(namespace: str, name: str) -> Callable[[World], None]:
    return lambda world: world.api.get_object("Deployment", name, namespace).update(status={})


def other_handler(world: World) -> None:
    world.api.place(
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": "wasmtime-spin-v2"},
            "handler": "spin-v2",
        }
    )


def small_node(world: World) -> None:
    world.api.get_object("Node", "one")["status"]["allocatable"]["memory"] = "1Gi"


def one_gpu(world: World) -> None:
    world.api.get_object("Node", "one")["status"]["allocatable"]["nvidia.com/gpu"] = "1"


@pytest.mark.parametrize(
    ("overlay", "spoil", "finding", "fix"),
    [
        ("gpu", old, "MISSING Kubernetes: 1.28 is older than 1.30", "upgrade the cluster to 1.30"),
        (
            "gpu",
            unserved("cert-manager.io"),
            "MISSING cert-manager: is not installed",
            "kubectl apply -f https://github.com/cert-manager/cert-manager/releases/download/v1.20",
        ),
        (
            "gpu",
            without("Deployment", "spin-operator"),
            "MISSING Spin operator: has no Deployment",
            "helm install spin-operator --namespace spin-operator --create-namespace",
        ),
        (
            "gpu",
            stopped("spin-operator", "spin-operator"),
            "MISSING Spin operator: spin-operator/spin-operator has no available pod",
            "kubectl --namespace spin-operator describe pods",
        ),
        (
            "gpu",
            other_handler,
            "MISSING RuntimeClass wasmtime-spin-v2: has the handler 'spin-v2', this overlay",
            "list your installer's component",
        ),
        (
            "production",
            without("Node", "one"),
            "MISSING Wasm nodes: no node is labelled spin=true",
            "kubectl label node NODE spin=true",
        ),
        (
            "gpu",
            without("Node", "one"),
            "MISSING GPUs: no node offers nvidia.com/gpu",
            "helm install gpu-operator",
        ),
        ("gpu", one_gpu, "warn    GPUs: 1 in the cluster, 3 asked for", "add GPU nodes or lower"),
        ("gpu", small_node, "warn    memory: ", "add nodes, or lower requests"),
        (
            "gpu",
            unserved("metrics.k8s.io"),
            "MISSING metrics-server: metrics.k8s.io is not served",
            "kubectl apply -f https://github.com/kubernetes-sigs/metrics-server",
        ),
        (
            "gpu",
            without("StorageClass", "local-path"),
            "MISSING storage: no StorageClass is the default",
            "kubectl annotate storageclass NAME",
        ),
        (
            "gpu",
            without("DaemonSet", "cilium"),
            "warn    network policies: no network plugin known to enforce them",
            "install Calico or Cilium",
        ),
        (
            "gpu",
            without("IngressClass", "nginx"),
            "MISSING IngressClass nginx: is not there",
            "install the controller, or set ingressClassName",
        ),
        (
            "production",
            without("Gateway", "public"),
            "MISSING Gateway gateway-system/public: is not there",
            "make it, or name yours",
        ),
        (
            "gpu",
            without("Secret", "redis-users"),
            "MISSING Secret redis-users: is not in inference-anywhere",
            "scripts/deploy.py secrets OVERLAY",
        ),
        (
            "gpu",
            without("Secret", "edge-api-keys"),
            "warn    API keys: there are none: the edge is open to everybody who reaches it",
            "scripts/deploy.py secrets OVERLAY --api-keys FILE",
        ),
        (
            "production",
            without("Secret", "edge-api-keys"),
            "MISSING Secret edge-api-keys: is not in inference-anywhere",
            "scripts/deploy.py secrets OVERLAY --api-keys FILE",
        ),
        (
            "gpu",
            forbidden("patch", "deployments"),
            "MISSING rights: this user may not patch deployments.apps",
            "docs/deploy.md, section Permissions",
        ),
        (
            "gpu",
            forbidden("list", "secrets"),
            "MISSING rights: this user may not list secrets",
            "docs/deploy.md, section Permissions",
        ),
        (
            "gpu",
            forbidden("list", "nodes"),
            "warn    GPUs that the pods ask for: cannot be looked at: nodes is forbidden",
            "",
        ),
    ],
)
def test_doctor_one_thing_spoilt_is_found_with_its_fix(
    healthy: World,
    overlay: str,
    spoil: Callable[[World], None],
    finding: str,
    fix: str,
    api_keys: Path,
) -> None:
    healthy.deploy("secrets", overlay, "--api-keys", str(api_keys))
    spoil(healthy)
    code, output = healthy.deploy("doctor", overlay)
    assert finding in output
    assert fix in output
    assert code == (1 if "MISSING" in finding else 0)


def test_doctor_executor_without_a_runtime_class_anywhere(healthy: World) -> None:
    code, output = healthy.deploy("doctor", "spinkube/base")
    assert code == 1
    assert "MISSING RuntimeClass wasmtime-spin-v2: neither there nor in this overlay" in output


def test_doctor_autoscaler_without_the_series_that_it_follows(
    healthy: World, tmp_path: Path
) -> None:
    blind = write_combination(tmp_path, ("shim-manual", "autoscaling-keda"))
    code, output = healthy.deploy("doctor", str(blind))
    assert code == 1
    assert "MISSING autoscaling: nobody records inference_anywhere:edge_requests:rate1m" in output
    assert "-> list the component observability beside autoscaling-keda" in output
    seeing = write_combination(tmp_path, ("shim-manual", "observability", "autoscaling-keda"))
    _, output = healthy.deploy("doctor", str(seeing))
    assert "ok      autoscaling: follows inference_anywhere:edge_requests:rate1m" in output


def test_doctor_changes_nothing(healthy: World) -> None:
    before = {key: one["metadata"]["resourceVersion"] for key, one in healthy.api.stored.items()}
    healthy.deploy("doctor", "production")
    after = {key: one["metadata"]["resourceVersion"] for key, one in healthy.api.stored.items()}
    assert after == before
