"""Waiting, failing with a reason, going back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from k8s.conftest import World
from k8s.rendered import SPINKUBE, write_combination


@pytest.mark.parametrize(
    ("workload", "fault", "words"),
    [
        ("gpu-backend", "crash", ["CrashLoopBackOff", "ended with 1 (Error)", "4 restarts"]),
        ("gpu-backend", "image", ["ErrImagePull manifest for gpu-backend:0.1.0 not found"]),
        ("gpu-backend", "unschedulable", ["not scheduled: 0/3 nodes", "Insufficient nvidia.com"]),
        ("redis", "crash", ["StatefulSet/redis not ready after 20 s", "CrashLoopBackOff"]),
        ("inference-anywhere", "crash", ["SpinApp/inference-anywhere not ready after 20 s"]),
    ],
)
def test_apply_workload_that_breaks_is_reported_with_its_pods(
    world: World, workload: str, fault: str, words: list[str]
) -> None:
    world.controllers.broken[workload] = fault
    code, output = world.deploy("apply", "dev", "--timeout", "20")
    assert code == 1
    for word in words:
        assert word in output
    assert "`scripts/deploy.py rollback` goes back to what was good" in output.splitlines()[-1]


def test_apply_failing_pods_logs_and_events_are_shown(world: World) -> None:
    world.controllers.broken["gpu-backend"] = "crash"
    world.api.pod_logs["gpu-backend-abc12", "gpu-backend", True] = (
        "starting\nerror: BACKEND_MODLES: unknown setting; did you mean BACKEND_MODELS?\n"
    )
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "e1", "namespace": "inference-anywhere"},
        "type": "Warning",
        "reason": "BackOff",
        "message": "Back-off restarting failed container",
        "lastTimestamp": "2026-01-01T12:00:09Z",
        "involvedObject": {"kind": "Pod", "name": "gpu-backend-abc12"},
    }
    world.api.place(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "inference-anywhere"}}
    )
    world.api.place(event)
    code, output = world.deploy("apply", "dev", "--timeout", "20")
    assert code == 1
    assert "| error: BACKEND_MODLES: unknown setting; did you mean BACKEND_MODELS?" in output
    assert "event Warning BackOff Pod/gpu-backend-abc12: Back-off restarting" in output


def test_apply_deployment_past_its_deadline_fails_at_once(world: World) -> None:
    world.controllers.broken["gpu-backend"] = "deadline"
    code, output = world.deploy("apply", "dev")
    assert code == 1
    assert 'Deployment/gpu-backend failed: ReplicaSet "gpu-backend-1" has timed out' in output
    assert world.clock.elapsed_s < 60


def test_apply_without_a_running_operator_says_so(world: World) -> None:
    world.controllers.operator_runs = False
    code, output = world.deploy("apply", "dev", "--timeout", "20")
    assert code == 1
    assert "the Spin operator has not made its Deployment yet" in output


def test_apply_operator_that_lags_is_not_taken_for_ready(world: World) -> None:
    assert world.deploy("apply", "dev")[0] == 0
    world.controllers.operator_runs = False
    code, output = world.deploy(
        "apply", "dev", "--image", "edge=ghcr.io/me/edge:2", "--timeout", "9"
    )
    assert code == 1
    assert "the Spin operator has not taken the change yet" in output


def test_apply_api_server_that_stumbles_is_forgiven(world: World) -> None:
    class Stumbling(type(world.clock)):  # type: ignore[misc]
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if self.elapsed_s == 2:
                world.api.broken += [(503, "etcd leader changed"), (429, "too many requests")]

    world.clock = Stumbling(world.controllers)
    code, output = world.deploy("apply", "dev")
    assert code == 0, output


def test_apply_api_server_that_stays_away_ends_the_wait(world: World) -> None:
    class Dying(type(world.clock)):  # type: ignore[misc]
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            world.api.broken.append((503, "etcd has no leader"))

    world.clock = Dying(world.controllers)
    code, output = world.deploy("apply", "dev")
    assert code == 1
    assert "the cluster stopped answering" in output
    assert world.clock.elapsed_s < 60


def test_status_tells_revisions_workloads_and_warnings(world: World) -> None:
    world.deploy("apply", "dev")
    world.api.place(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "e1", "namespace": "inference-anywhere"},
            "type": "Warning",
            "reason": "FailedScheduling",
            "message": "0/1 nodes are available",
            "involvedObject": {"kind": "Pod", "name": "redis-0"},
        }
    )
    code, output = world.deploy("status")
    assert code == 0
    assert "1         deployed  2026-01-01 12:00:00  dev" in output
    assert "SpinApp/inference-anywhere  ready" in output
    assert "localhost:5001/inference-anywhere/edge:dev" in output
    assert "FailedScheduling Pod/redis-0: 0/1 nodes are available" in output


def test_status_of_nothing_says_so(world: World) -> None:
    code, output = world.deploy("status")
    assert code == 1
    assert output.strip() == "nothing was deployed to inference-anywhere by this program"


def test_status_of_a_broken_workload_is_not_ready(world: World) -> None:
    world.deploy("apply", "dev")
    world.controllers.broken["redis"] = "crash"
    world.controllers.tick()
    code, output = world.deploy("status")
    assert code == 1
    assert "StatefulSet/redis           waiting  0 of 1 pods ready" in output


def test_rollback_goes_to_the_last_good_revision(world: World) -> None:
    world.deploy("apply", "dev", "--image", "gpu-backend=me/backend:1")
    world.controllers.broken["gpu-backend"] = "image"
    code, _ = world.deploy("apply", "dev", "--image", "gpu-backend=me/backend:2", "--timeout", "9")
    assert code == 1
    world.controllers.broken.clear()
    code, output = world.deploy("rollback")
    assert code == 0, output
    assert "back to revision 1 (dev):" in output
    assert "revision 3 is deployed: as revision 1 was" in output
    spec = world.api.get_object("Deployment", "gpu-backend")["spec"]["template"]["spec"]
    assert spec["containers"][0]["image"] == "me/backend:1"
    _, status = world.deploy("status")
    assert "2         failed" in status


def test_rollback_to_a_number_restores_that_release(world: World) -> None:
    for number in (1, 2, 3):
        world.deploy("apply", "dev", "--image", f"edge=me/edge:{number}")
    code, output = world.deploy("rollback", "--to", "1")
    assert code == 0, output
    assert world.api.get_object("SpinApp", "inference-anywhere")["spec"]["image"] == "me/edge:1"


def test_rollback_removes_what_the_older_release_did_not_have(world: World) -> None:
    world.deploy("secrets", "spinkube/tests/smallest")
    images = ("--image", "edge=me/edge:1", "--image", "gpu-backend=me/backend:1")
    code, output = world.deploy("apply", "spinkube/tests/smallest", *images)
    assert code == 0, output
    world.api.install("prometheus-operator")
    code, output = world.deploy("apply", "dev")
    assert code == 0, output
    code, output = world.deploy("rollback")
    assert code == 0, output
    names = {one["metadata"]["name"] for one in world.api.of_kind("Secret")}
    assert not [name for name in names if name.startswith("redis-users-")]


def settings_of(world: World) -> set[str]:
    names = {one["metadata"]["name"] for one in world.api.of_kind("ConfigMap")}
    return {name for name in names if name.startswith("gpu-backend-settings-")}


def test_apply_that_fails_leaves_old_pods_their_settings_and_the_next_clears_them(
    world: World, tmp_path: Path
) -> None:
    def changed(setting: str) -> str:
        folder = tmp_path / setting
        folder.mkdir()
        (folder / "kustomization.yaml").write_text(
            f"resources: [{os.path.relpath(SPINKUBE / 'overlays/dev', folder)}]\n"
            "configMapGenerator: [{name: gpu-backend-settings, namespace: inference-anywhere, "
            f"behavior: merge, literals: [{setting}]}}]\n"
        )
        return str(folder)

    world.deploy("apply", "dev")
    (old,) = settings_of(world)
    world.controllers.broken["gpu-backend"] = "crash"
    code, _ = world.deploy("apply", changed("BACKEND_MAX_QUEUE=1"), "--timeout", "9")
    assert code == 1
    assert old in settings_of(world)
    assert len(settings_of(world)) == 2
    world.controllers.broken.clear()
    code, output = world.deploy("apply", changed("BACKEND_MAX_QUEUE=2"))
    assert code == 0, output
    # Both go: that of the release before the one that failed, and the failed one's own.
    assert len(settings_of(world)) == 1
    assert old not in settings_of(world)
    assert output.index("Deployment/gpu-backend ready") < output.index(f"- ConfigMap/{old} deleted")


def test_apply_without_an_autoscaler_takes_it_away_before_it_sets_replicas(
    world: World, tmp_path: Path
) -> None:
    images = ("--image", "edge=me/edge:1", "--image", "gpu-backend=me/backend:1")
    scaled = write_combination(tmp_path, ("shim-manual", "autoscaling-hpa"))
    world.deploy("secrets", str(scaled))
    code, output = world.deploy("apply", str(scaled), *images)
    assert code == 0, output
    code, output = world.deploy("apply", "spinkube/tests/smallest", *images)
    assert code == 0, output
    gone = output.index("- HorizontalPodAutoscaler/gpu-backend deleted")
    assert gone < output.index("~ Deployment/gpu-backend updated")


def test_rollback_with_nothing_before_says_so(world: World) -> None:
    code, output = world.deploy("rollback")
    assert code == 1
    assert "nothing was deployed to inference-anywhere" in output
    world.deploy("apply", "dev")
    code, output = world.deploy("rollback")
    assert code == 1
    assert "nothing good was deployed before revision 1" in output
    code, output = world.deploy("rollback", "--to", "9")
    assert code == 1
    assert "there is no revision 9; kept are 1" in output


def test_secrets_are_made_once_and_match_each_other(world: World) -> None:
    import base64
    import hashlib
    import re

    code, output = world.deploy("secrets", "production")
    assert code == 0, output
    assert "Secret/edge-runtime-config written" in output
    config = world.api.get_object("Secret", "edge-runtime-config")["data"]["runtime-config.toml"]
    users = world.api.get_object("Secret", "redis-users")["data"]["users.acl"]
    found = re.search(r"redis://edge:([^@]+)@redis:6379", base64.b64decode(config).decode())
    assert found is not None
    assert len(found[1]) >= 40
    assert found[1] not in output
    assert hashlib.sha256(found[1].encode()).hexdigest() in base64.b64decode(users).decode()
    code, output = world.deploy("secrets", "production")
    assert code == 0
    assert "the store's secrets are there" in output
    again = world.api.get_object("Secret", "edge-runtime-config")["data"]["runtime-config.toml"]
    assert again == config


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[]", "the API keys are no JSON object like"),
        ("{", "the API keys are no JSON object like"),
        ('{"acme": {}}', "KeyError: 'keys'"),
        ('{"acme": {"keys": ["sk-in-the-clear"]}}', "is kept as the SHA-256 of the key"),
        ('{"acme": {"keys": []}}', "is kept as the SHA-256 of the key"),
    ],
)
def test_secrets_api_keys_that_are_none_are_refused(
    world: World, tmp_path: Path, content: str, complaint: str
) -> None:
    (tmp_path / "keys.json").write_text(content)
    code, output = world.deploy("secrets", "dev", "--api-keys", str(tmp_path / "keys.json"))
    assert code == 1
    assert complaint in output
    assert "sk-in-the-clear" not in output
    assert world.api.of_kind("Secret") == []


def test_secrets_changed_api_keys_roll_the_edge(world: World, tmp_path: Path) -> None:
    images = ("--image", "edge=me/edge:1", "--image", "gpu-backend=me/backend:1")
    world.deploy("secrets", "spinkube/tests/smallest")
    assert world.deploy("apply", "spinkube/tests/smallest", *images)[0] == 0
    keys = tmp_path / "keys.json"
    keys.write_text('{"acme": {"keys": ["' + "a" * 64 + '"]}}')
    code, output = world.deploy("secrets", "spinkube/tests/smallest", "--api-keys", str(keys))
    assert code == 0, output
    code, output = world.deploy("plan", "spinkube/tests/smallest", *images)
    assert "~ SpinApp/inference-anywhere" in output
    assert "1 to update" in output


def test_secrets_half_there_are_not_guessed(world: World) -> None:
    world.deploy("secrets", "production")
    world.api.remove("Secret", "redis-users")
    code, output = world.deploy("secrets", "production")
    assert code == 1
    assert "only edge-runtime-config is there" in output
    code, output = world.deploy("secrets", "production", "--rotate")
    assert code == 0, output


def test_secrets_rotated_roll_the_pods_that_use_them(world: World) -> None:
    images = ("--image", "edge=me/edge:1", "--image", "gpu-backend=me/backend:1")
    world.deploy("secrets", "spinkube/tests/smallest")
    world.deploy("apply", "spinkube/tests/smallest", *images)
    app = world.api.get_object("SpinApp", "inference-anywhere")
    before = app["spec"]["podAnnotations"]["checksum/runtime-config"]
    assert before.startswith("sha256:")
    world.deploy("secrets", "spinkube/tests/smallest", "--rotate")
    code, output = world.deploy("plan", "spinkube/tests/smallest", *images)
    assert code == 0
    assert "~ SpinApp/inference-anywhere" in output
    assert "~ StatefulSet/redis" in output
    assert "~ Deployment/gpu-backend" not in output


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("edge-api-keys", ("--api-keys", "keys.json")),
        ("edge-chat-upstream", ("--chat-upstream-key", "token")),
        ("redis-users", ("--rotate",)),
    ],
)
def test_secrets_of_somebody_else_are_never_written(
    world: World, tmp_path: Path, name: str, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "keys.json").write_text('{"acme": {"keys": ["' + "a" * 64 + '"]}}')
    (tmp_path / "token").write_text("a-token")
    world.deploy("secrets", "spinkube/tests/smallest")
    world.api.remove("Secret", name)
    theirs = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "inference-anywhere"},
        "data": {"theirs": "eA=="},
    }
    world.api.place(theirs, manager="external-secrets")
    before = world.api.get_object("Secret", "edge-runtime-config")["data"]
    option, *file = arguments
    code, output = world.deploy(
        "secrets", "spinkube/tests/smallest", option, *(str(tmp_path / one) for one in file)
    )
    assert code == 1
    assert f"the Secret/{name} is not part of inference-anywhere" in output
    assert "(managed by external-secrets): change it where it is made" in output
    assert world.api.get_object("Secret", name)["data"] == {"theirs": "eA=="}
    assert world.api.get_object("Secret", "edge-runtime-config")["data"] == before


def test_secrets_key_of_the_chat_server_rolls_the_edge(world: World, tmp_path: Path) -> None:
    images = ("--image", "edge=me/edge:1", "--image", "gpu-backend=me/backend:1")
    world.deploy("secrets", "spinkube/tests/smallest")
    assert world.deploy("apply", "spinkube/tests/smallest", *images)[0] == 0
    token = tmp_path / "token"
    token.write_text("a-token\n")
    code, output = world.deploy(
        "secrets", "spinkube/tests/smallest", "--chat-upstream-key", str(token)
    )
    assert code == 0, output
    assert "a-token" not in output
    secret = world.api.get_object("Secret", "edge-chat-upstream")
    assert secret["data"] == {"chat_upstream_key": "YS10b2tlbg=="}
    code, output = world.deploy("plan", "spinkube/tests/smallest", *images)
    assert "~ SpinApp/inference-anywhere" in output
    assert "1 to update" in output


@pytest.mark.parametrize("content", ["", "\n", "two words", "two\nlines", "ä"])
def test_secrets_key_of_the_chat_server_that_is_none_is_refused(
    world: World, tmp_path: Path, content: str
) -> None:
    token = tmp_path / "token"
    token.write_text(content)
    code, output = world.deploy("secrets", "dev", "--chat-upstream-key", str(token))
    assert code == 1
    assert "the key of the chat server is no token" in output
    assert world.api.of_kind("Secret") == []
