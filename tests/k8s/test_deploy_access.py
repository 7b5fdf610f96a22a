"""No cluster, no rights, wrong credentials: the message says what to do."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployment.cluster import Cluster
from deployment.errors import AccessError, NoClusterError, NotFoundError, UnavailableError
from deployment.objects import Ref
from k8s.conftest import World, write_kubeconfig
from k8s.rendered import REPOSITORY


def run(world: World, kubeconfig: Path, *arguments: str) -> tuple[int, str]:
    world.kubeconfig = kubeconfig
    return world.deploy(*arguments)


def test_kubeconfig_absent_says_how_to_get_one(world: World, tmp_path: Path) -> None:
    code, output = run(world, tmp_path / "absent", "status")
    assert code == 1
    assert "no usable kubeconfig" in output
    assert "set KUBECONFIG, pass --kubeconfig FILE, or make a cluster" in output


@pytest.mark.parametrize("content", ["", "{", "just text", "clusters: []"])
def test_kubeconfig_malformed_says_so(world: World, tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken"
    path.write_text(content)
    code, output = run(world, path, "status")
    assert code == 1
    assert "no usable kubeconfig" in output


def test_kubeconfig_unknown_context_says_so(world: World) -> None:
    code, output = world.deploy("--context", "elsewhere", "status")
    assert code == 1
    assert "elsewhere" in output


def test_cluster_that_does_not_listen_is_named(world: World, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    code, output = run(world, write_kubeconfig(tmp_path / "config", url), "status")
    assert code == 1
    assert f"the cluster at {url} does not answer" in output


def test_cluster_that_does_not_know_the_token_says_log_in(world: World, tmp_path: Path) -> None:
    url = "http" + world.kubeconfig.read_text().partition("server: http")[2].partition("\n")[0]
    path = write_kubeconfig(tmp_path / "config", url, token="expired")
    code, output = run(world, path, "status")
    assert code == 1
    assert "the cluster does not know these credentials (Unauthorized): log in again" in output


def test_apply_without_rights_names_the_right(world: World) -> None:
    world.api.forbidden.add(("patch", "networkpolicies"))
    world.api.place(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "inference-anywhere"}}
    )
    code, output = world.deploy("apply", "dev")
    assert code == 1
    assert 'networkpolicies is forbidden: User "test" cannot patch' in output
    assert world.api.of_kind("SpinApp") == []


@pytest.fixture
def cluster(world: World) -> Iterator[Cluster]:
    connected = Cluster.connect(str(world.kubeconfig))
    yield connected
    connected.close()


def test_cluster_pages_through_long_lists(world: World, cluster: Cluster) -> None:
    for number in range(1201):
        world.api.stored["v1/configmaps", "many", f"c{number:04}"] = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"c{number:04}", "namespace": "many"},
        }
    found = list(cluster.select(Ref("v1", "ConfigMap", "many", "")))
    assert len(found) == 1201
    assert {one["kind"] for one in found} == {"ConfigMap"}


@pytest.mark.parametrize(
    ("status", "error"), [(503, UnavailableError), (429, UnavailableError), (500, UnavailableError)]
)
def test_cluster_translates_statuses(
    world: World, cluster: Cluster, status: int, error: type[Exception]
) -> None:
    world.api.broken.append((status, "not now"))
    with pytest.raises(error, match="not now"):
        cluster.find(Ref("v1", "Namespace", "", "x"))


def test_cluster_absent_object_is_none_and_its_deletion_is_well(cluster: Cluster) -> None:
    ref = Ref("v1", "ConfigMap", "somewhere", "absent")
    assert cluster.find(ref) is None
    cluster.delete(ref)
    with pytest.raises(NotFoundError, match='configmaps "absent" not found'):
        cluster.request("GET", cluster.path(ref))


def test_cluster_forbidden_look_is_an_access_error(world: World, cluster: Cluster) -> None:
    world.api.forbidden.add(("get", "secrets"))
    with pytest.raises(AccessError, match="secrets is forbidden"):
        cluster.find(Ref("v1", "Secret", "somewhere", "x"))


def test_cluster_connect_reads_the_version(cluster: Cluster) -> None:
    assert cluster.version() == (1, 37)


def test_connect_error_is_ours(tmp_path: Path) -> None:
    with pytest.raises(NoClusterError):
        Cluster.connect(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("apply", "devel"), "no overlay 'devel': give a directory or one of dev, gpu, k3s-edge"),
        (("render", "dev", "--image", "edge"), "--image edge: write NAME=REFERENCE"),
        (
            ("render", "dev", "--image", "chat=x:1"),
            "--image chat: no such image here; there are edge, gpu-backend, valkey",
        ),
    ],
)
def test_wrong_arguments_are_explained(
    world: World, arguments: tuple[str, ...], message: str
) -> None:
    code, output = world.deploy(*arguments)
    assert code == 1
    assert message in output


def test_command_line_help_runs_as_a_script() -> None:
    command = [sys.executable, "scripts/deploy.py", "--help"]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
    )
    commands = ("doctor", "plan", "apply", "status", "rollback", "smoke", "secrets", "render")
    assert all(f"    {command} " in done.stdout for command in commands)
