"""`plan` and `apply` against a cluster: what they change, wait for, and leave alone."""

from __future__ import annotations

import os
import re
from pathlib import Path

from k8s.conftest import World
from k8s.rendered import SPINKUBE

IMAGES = ("--image", "edge=ghcr.io/me/edge:1", "--image", "gpu-backend=ghcr.io/me/gpu-backend:1")


def applied(world: World) -> str:
    code, output = world.deploy("apply", "dev")
    assert code == 0, output
    return output


def test_plan_of_an_empty_cluster_creates_everything_and_changes_nothing(world: World) -> None:
    code, output = world.deploy("plan", "dev")
    assert code == 0
    assert "+ Namespace/inference-anywhere" in output
    assert "+ SpinApp/inference-anywhere" in output
    assert output.splitlines()[-1] == "23 to create"
    assert world.api.of_kind("Namespace") == []


def test_apply_creates_all_and_waits_until_ready(world: World) -> None:
    output = applied(world)
    assert world.api.get_object("SpinApp", "inference-anywhere")
    assert world.api.get_object("Deployment", "inference-anywhere")["status"]["readyReplicas"] == 1
    for workload in ("SpinApp/inference-anywhere", "Deployment/gpu-backend", "StatefulSet/redis"):
        assert f"{workload} ready" in output
    assert "revision 1 is deployed" in output


def test_apply_orders_objects_so_that_what_others_need_comes_first(world: World) -> None:
    output = applied(world)
    lines = re.findall(r"^  \+ (\w+)/\S+ created$", output, re.MULTILINE)
    for first, second in (
        ("Namespace", "Secret"),
        ("Secret", "Deployment"),
        ("ConfigMap", "StatefulSet"),
        ("SpinAppExecutor", "SpinApp"),
        ("NetworkPolicy", "Deployment"),
    ):
        assert lines.index(first) < lines.index(second)


def test_plan_after_apply_finds_nothing_to_do(world: World) -> None:
    applied(world)
    code, output = world.deploy("plan", "dev", "--exit-code")
    assert code == 0, output
    assert output.strip() == "23 unchanged"


def test_plan_shows_a_change_made_elsewhere_and_apply_puts_it_right(world: World) -> None:
    applied(world)
    live = world.api.get_object("Deployment", "gpu-backend")
    live["spec"]["template"]["spec"]["containers"][0]["image"] = "evil/backend:1"
    code, output = world.deploy("plan", "dev", "--exit-code")
    assert code == 3
    assert "~ Deployment/gpu-backend" in output
    assert "-        image: evil/backend:1" in output
    assert "+        image: localhost:5001/inference-anywhere/gpu-backend:dev" in output
    applied(world)
    spec = world.api.get_object("Deployment", "gpu-backend")["spec"]["template"]["spec"]
    assert spec["containers"][0]["image"] == "localhost:5001/inference-anywhere/gpu-backend:dev"


def test_plan_never_shows_secret_values(world: World) -> None:
    applied(world)
    secret = next(
        one for one in world.api.of_kind("Secret") if "runtime-config.toml" in one["data"]
    )
    old = secret["data"]["runtime-config.toml"]
    secret["data"]["runtime-config.toml"] = "b3RoZXI="
    code, output = world.deploy("plan", "dev")
    assert code == 0
    assert output.count("(secret, sha256 ") == 2
    assert old not in output
    assert "b3RoZXI=" not in output


def test_apply_leaves_fields_of_other_managers(world: World) -> None:
    applied(world)
    live = world.api.get_object("Deployment", "gpu-backend")
    live["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "7"}
    applied(world)
    live = world.api.get_object("Deployment", "gpu-backend")
    assert live["metadata"]["annotations"] == {"deployment.kubernetes.io/revision": "7"}


def test_apply_conflicting_manager_is_named_and_force_takes_over(world: World) -> None:
    applied(world)
    live = world.api.get_object("PodDisruptionBudget", "edge")
    live["spec"]["maxUnavailable"] = 5
    key = next(key for key, one in world.api.stored.items() if one is live)
    world.api.owners[key] = {"kubectl-edit": {("spec", "maxUnavailable")}}
    code, output = world.deploy("apply", "dev")
    assert code == 1
    assert "nothing was changed, because" in output
    assert 'conflict with "kubectl-edit": .spec.maxUnavailable' in output
    assert world.api.get_object("PodDisruptionBudget", "edge")["spec"]["maxUnavailable"] == 5
    code, output = world.deploy("apply", "dev", "--force-conflicts")
    assert code == 0, output
    assert world.api.get_object("PodDisruptionBudget", "edge")["spec"]["maxUnavailable"] == 1


def test_apply_foreign_object_is_left_alone_until_adopted(world: World) -> None:
    world.api.place(namespace())
    world.api.place(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "redis", "namespace": "inference-anywhere"},
            "spec": {"selector": {"app": "theirs"}, "ports": [{"port": 6379}]},
        },
        manager="helm",
    )
    code, output = world.deploy("apply", "dev")
    assert code == 1
    assert "Service/redis: exists and is not part of inference-anywhere (managed by helm)" in output
    assert world.api.of_kind("SpinApp") == []
    assert world.api.get_object("Service", "redis")["spec"]["selector"] == {"app": "theirs"}
    code, output = world.deploy("apply", "dev", "--adopt")
    assert code == 0, output
    selector = world.api.get_object("Service", "redis")["spec"]["selector"]
    assert selector["app.kubernetes.io/name"] == "redis"


def namespace() -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "inference-anywhere"}}


def test_apply_shared_objects_that_already_serve_are_kept(world: World) -> None:
    world.api.place(namespace())
    world.api.place(
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": "wasmtime-spin-v2"},
            "handler": "spin",
        }
    )
    before = world.api.get_object("RuntimeClass", "wasmtime-spin-v2")["metadata"]["resourceVersion"]
    output = applied(world)
    assert "· RuntimeClass/wasmtime-spin-v2  (not ours, and as we need it)" in output
    after = world.api.get_object("RuntimeClass", "wasmtime-spin-v2")["metadata"]["resourceVersion"]
    assert after == before


def test_apply_shared_object_of_another_kind_blocks(world: World) -> None:
    world.api.place(
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": "wasmtime-spin-v2"},
            "handler": "spin-v2",
        }
    )
    code, output = world.deploy("apply", "dev")
    assert code == 1
    assert "RuntimeClass/wasmtime-spin-v2: exists and is not part of" in output


def test_apply_prunes_what_an_overlay_no_longer_wants_and_nothing_else(world: World) -> None:
    applied(world)
    world.api.install("prometheus-operator")
    stray = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "a-neighbour", "namespace": "inference-anywhere"},
    }
    world.api.place(stray)
    code, output = world.deploy("secrets", "gpu", *IMAGES[:2])
    assert code == 0, output
    # The smallest combination has neither dev's generated Secrets nor its image names.
    code, output = world.deploy("apply", "spinkube/tests/smallest", *IMAGES)
    assert code == 0, output
    assert "- Secret/edge-runtime-config-" in output
    left = {one["metadata"]["name"] for one in world.api.of_kind("Secret")}
    assert {"edge-runtime-config", "redis-users"} <= left
    assert not [name for name in left if name.startswith("edge-runtime-config-")]
    assert world.api.get_object("ConfigMap", "a-neighbour")


def test_apply_never_prunes_data_or_namespaces(world: World) -> None:
    world.deploy("secrets", "spinkube/tests/smallest")
    images = (*IMAGES[:2], "--image", "gpu-backend-cuda=ghcr.io/me/gpu-backend:1")
    world.api.install("runtime-class-manager")
    world.api.place(namespace())
    code, output = world.deploy("apply", "spinkube/tests/gpu-ollama-rcm", *images)
    assert code == 0, output
    code, output = world.deploy("apply", "spinkube/tests/smallest", *IMAGES)
    assert code == 0, output
    assert "· PersistentVolumeClaim/ollama-models  (no longer wanted; it holds data" in output
    assert world.api.get_object("PersistentVolumeClaim", "ollama-models")
    assert world.api.find_object("Deployment", "ollama") is None


def test_apply_changed_job_is_replaced(world: World) -> None:
    world.api.install("runtime-class-manager")
    world.deploy("secrets", "spinkube/tests/gpu-ollama-rcm")
    images = (*IMAGES[:2], "--image", "gpu-backend-cuda=ghcr.io/me/gpu-backend:1")
    code, output = world.deploy("apply", "spinkube/tests/gpu-ollama-rcm", *images)
    assert code == 0, output
    uid = world.api.get_object("Job", "ollama-pull-model")["metadata"]["uid"]
    code, output = world.deploy(
        "apply", "spinkube/tests/gpu-ollama-rcm", *images, "--image", "ollama=ollama/ollama:9"
    )
    assert code == 0, output
    assert "± Job/ollama-pull-model replaced" in output
    assert world.api.get_object("Job", "ollama-pull-model")["metadata"]["uid"] != uid


def test_apply_missing_crds_says_what_brings_them(world: World) -> None:
    code, output = world.deploy("apply", "spinkube/tests/keda-observed-gateway", *IMAGES)
    assert code == 1
    assert "does not know the kind ScaledObject (keda.sh/v1alpha1). It comes with KEDA" in output
    assert "does not know the kind HTTPRoute" in output
    assert "does not know the kind ServiceMonitor" in output
    assert world.api.of_kind("Namespace") == []


def test_apply_missing_secrets_says_the_command(world: World) -> None:
    code, output = world.deploy("apply", "spinkube/tests/smallest", *IMAGES)
    assert code == 1
    assert "the Secret edge-runtime-config does not exist in inference-anywhere" in output
    assert "`scripts/deploy.py secrets OVERLAY`" in output


def test_apply_example_values_are_refused(world: World) -> None:
    world.deploy("secrets", "k3s-edge")
    code, output = world.deploy("apply", "k3s-edge", *IMAGES[:2])
    assert code == 1
    assert "Ingress/edge: spec.rules[0].host is still 'inference.example.com'" in output
    assert "spec.egress[0].to[0].ipBlock.cidr is still '203.0.113.0/24'" in output
    assert "spec.image" not in output


def test_apply_invalid_object_is_refused_before_anything_is_applied(
    world: World, tmp_path: Path
) -> None:
    applied(world)
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{os.path.relpath(SPINKUBE / 'overlays/dev', tmp_path)}]\n"
        "patches:\n"
        "  - target: {kind: Deployment}\n"
        "    patch: |\n"
        "      - {op: add, path: /spec/replica, value: 2}\n"
    )
    code, output = world.deploy("apply", str(tmp_path))
    assert code == 1
    assert "Deployment/gpu-backend: Deployment in version is invalid: spec: Additional" in output


def test_apply_two_at_once_the_second_is_refused(world: World) -> None:
    applied(world)
    revision = world.api.get_object("Secret", "inference-anywhere.revision-1")
    revision["data"]["state"] = "YXBwbHlpbmc="  # applying
    code, output = world.deploy("apply", "dev")
    assert code == 1
    assert "revision 1 is being applied since 12:00:0" in output


def test_apply_abandoned_revision_holds_nobody_up(world: World) -> None:
    applied(world)
    revision = world.api.get_object("Secret", "inference-anywhere.revision-1")
    revision["data"]["state"] = "YXBwbHlpbmc="  # applying
    world.clock.elapsed_s += 3600
    assert "revision 2 is deployed" in applied(world)


def test_apply_keeps_ten_revisions(world: World) -> None:
    for _ in range(12):
        applied(world)
    names = {one["metadata"]["name"] for one in world.api.of_kind("Secret")}
    kept = {name for name in names if "revision" in name}
    assert kept == {f"inference-anywhere.revision-{number}" for number in range(3, 13)}
