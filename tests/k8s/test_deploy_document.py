"""docs/deploy.md says what the manifests say."""

from __future__ import annotations

import base64
import contextlib
import re
import shlex
from typing import Any

import pytest
import yaml

from deployment.cluster import Cluster
from deployment.objects import Ref, secret_names
from k8s.conftest import World
from k8s.network import Pod, flows
from k8s.object_schemas import KUBERNETES_VERSIONS, faults
from k8s.rendered import COMBINATIONS, COMPONENTS, OVERLAYS, REPOSITORY, SPINKUBE, load
from k8s.spin_operator import admission_faults, built_deployment, built_service

TEXT = (REPOSITORY / "docs" / "deploy.md").read_text(encoding="utf-8")
EVERYTHING = ["base", *OVERLAYS, *COMBINATIONS]


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/deploy.md has no section {title}"
    return found[1]


def rows(title: str) -> dict[str, str]:
    """The rows of a section's first table, by the first name in backticks of each."""
    found: dict[str, str] = {}
    for line in section(title).splitlines():
        name = re.match(r"\| [^|`]*`([\w.-]+)`", line)
        if name:
            found.setdefault(name[1], line)
    return found


@pytest.mark.parametrize("name", EVERYTHING)
def test_table_names_every_port_of_every_flow(name: str) -> None:
    table = rows("Ports, secrets and permissions")
    for flow in flows(load(name)):
        if flow.port == 53:
            assert "DNS" in table[flow.source.workload], flow
            continue
        if flow.source.workload in table:
            assert str(flow.port) in table[flow.source.workload], flow
        if isinstance(flow.target, Pod):
            assert str(flow.port) in table[flow.target.workload], flow


@pytest.mark.parametrize("name", EVERYTHING)
def test_table_names_every_secret_and_account(name: str) -> None:
    table = rows("Ports, secrets and permissions")
    for manifest in load(name):
        which = manifest["metadata"]["name"]
        for secret in secret_names(manifest, optional=True):
            plain = re.sub(r"-[a-z0-9]{10}$", "", secret)
            assert f"`{plain}`" in table[which], (which, secret)
        if manifest["kind"] == "Ingress":
            assert manifest["spec"]["tls"][0]["secretName"] in table["inference-anywhere"]
        if manifest["kind"] == "ServiceAccount":
            assert any(f"(`{which}`)" in row for row in table.values()), which


def test_table_names_every_listening_port_and_user() -> None:
    table = rows("Ports, secrets and permissions")
    for manifest in load("everything").of_kind("Deployment", "StatefulSet", "Job"):
        row = table[manifest["metadata"]["name"]]
        spec = manifest["spec"]["template"]["spec"]
        assert f"| {spec['securityContext']['runAsUser']}, " in row
        for container in spec["containers"]:
            for port in container.get("ports", ()):
                assert str(port["containerPort"]) in row


def test_role_covers_every_kind_that_is_applied() -> None:
    found = re.search(r"```yaml\n(apiVersion: rbac.*?)```", TEXT, re.DOTALL)
    assert found is not None
    (rule, *_) = yaml.safe_load(found[1])["rules"]
    cluster_wide = {"Namespace", "RuntimeClass", "Shim"}
    for name in EVERYTHING:
        for manifest in load(name):
            if manifest["kind"] in cluster_wide:
                continue
            plural = manifest["kind"].lower()
            plural = plural.removesuffix("y") + "ies" if plural.endswith("y") else plural + "s"
            plural = plural.replace("ingresss", "ingresses")
            assert plural in rule["resources"], manifest["kind"]
            assert manifest["apiVersion"].rpartition("/")[0] in rule["apiGroups"]


class OnlyDocumented(set[tuple[str, str]]):
    """Forbids what the document does not grant."""

    def __init__(self) -> None:
        found = re.search(r"```yaml\n(apiVersion: rbac.*?)```", TEXT, re.DOTALL)
        assert found is not None
        self.granted = {
            (verb, resource)
            for rule in yaml.safe_load(found[1])["rules"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
        # "Cluster-wide: get, create, patch on …"
        for resource in ("namespaces", "runtimeclasses", "shims"):
            assert f"`{resource}`" in section("Ports, secrets and permissions")
            self.granted |= {(verb, resource) for verb in ("get", "create", "patch")}
        # Every user may ask what they may (the ClusterRole system:basic-user).
        self.granted.add(("create", "selfsubjectaccessreviews"))

    def __contains__(self, wanted: object) -> bool:
        return wanted not in self.granted


@pytest.mark.parametrize("overlay", ["dev", "spinkube/tests/gpu-ollama-rcm"])
def test_rights_documented_suffice_for_every_command(world: World, overlay: str) -> None:
    world.api.install("runtime-class-manager")
    world.api.forbidden = OnlyDocumented()
    images = ["edge=me/edge", "gpu-backend=me/backend", "gpu-backend-cuda=me/backend"]
    names = images[:2] if overlay == "dev" else [images[0], images[2]]
    for version in (1, 2):
        chosen = [word for name in names for word in ("--image", f"{name}:{version}")]
        for command in ("secrets", "plan", "apply"):
            code, output = world.deploy(command, overlay, *chosen)
            assert code == 0, output
    for command in ("status", "rollback"):
        code, output = world.deploy(command)
        assert code == 0, output
    _, output = world.deploy("doctor", overlay, *chosen)
    assert "ok      rights: all " in output


def test_overlays_and_components_are_all_described() -> None:
    text = section("Overlays and components")
    for name in (*OVERLAYS, *COMPONENTS):
        assert f"`{name}`" in text
    for overlay in OVERLAYS:
        fields = yaml.safe_load(
            (SPINKUBE / "overlays" / overlay / "kustomization.yaml").read_text()
        )
        listed = [path.rpartition("/")[2] for path in fields["components"]]
        row = next(line for line in text.splitlines() if line.startswith(f"| `{overlay}`"))
        assert row.rpartition("|")[0].rpartition("| ")[2].strip() == ", ".join(listed)


def test_links_inside_the_document_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in TEXT.splitlines()
        if line.startswith("#")
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= headings


def scaffolded(arguments: list[str]) -> list[dict[str, Any]]:
    """What `spin kube scaffold` writes.

    Source:
        spinframework/spin-plugin-kube, pkg/cmd/scaffold.go, restated for the options in use here.
    """
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    image = options.pop("--from")
    name = image.rpartition("/")[2].partition(":")[0]
    variable, _, value = options.pop("--variable").partition("=")
    config = (REPOSITORY / options.pop("--runtime-config-file")).read_bytes()
    app = {
        "apiVersion": "core.spinkube.dev/v1alpha1",
        "kind": "SpinApp",
        "metadata": {"name": name},
        "spec": {
            "image": image,
            "executor": "containerd-shim-spin",
            "replicas": int(options.pop("--replicas")),
            "variables": [{"name": variable, "value": value}],
            "resources": {
                "limits": {"memory": options.pop("--memory-limit")},
                "requests": {
                    "cpu": options.pop("--cpu-request"),
                    "memory": options.pop("--memory-request"),
                },
            },
            "runtimeConfig": {"loadFromSecret": f"{name}-runtime-config"},
        },
    }
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"{name}-runtime-config"},
        "type": "Opaque",
        "data": {"runtime-config.toml": base64.b64encode(config).decode()},
    }
    assert options == {}
    return [app, secret]


def test_scaffold_writes_what_the_document_shows_and_a_cluster_would_take_it() -> None:
    text = section("`spin kube`")
    (command,) = re.findall(r"^spin kube scaffold (.*)$", text, re.MULTILINE)
    (shown,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    app, secret = scaffolded(shlex.split(command))
    documented = list(yaml.safe_load_all(shown))
    cut = documented[1]["data"]["runtime-config.toml"]
    assert secret["data"]["runtime-config.toml"].startswith(cut.removesuffix("…"))
    documented[1]["data"] = secret["data"]
    assert documented == [app, secret]
    for one in (app, secret):
        one["metadata"]["namespace"] = "inference-anywhere"
    executor = load("dev").get("SpinAppExecutor", "containerd-shim-spin")
    assert admission_faults(app, [executor]) == []
    built = [built_deployment(app, executor), built_service(app)]
    for one in (app, secret, *built):
        assert faults(one, KUBERNETES_VERSIONS[-1]) == []


def test_scaffold_lacks_exactly_what_the_document_says() -> None:
    text = section("`spin kube`")
    (command,) = re.findall(r"^spin kube scaffold (.*)$", text, re.MULTILINE)
    ours = load("dev").get("SpinApp", "inference-anywhere")["spec"]
    missing = set(ours) - set(scaffolded(shlex.split(command))[0]["spec"])
    _, _, said = text.partition("What `spinkube/base/edge.yaml` adds:")
    named = set(re.findall(r"`(\w+)`", said)) & set(ours)
    assert named == missing | {"variables"}


def test_spin_kube_deploy_changes_the_image_and_leaves_the_rest(world: World) -> None:
    assert world.deploy("apply", "dev")[0] == 0
    before = world.api.get_object("SpinApp", "inference-anywhere")["spec"]["variables"]
    # Source: spinframework/spin-plugin-kube, pkg/cmd/deploy.go and pkg/kube: a forced apply.
    spec = {"image": "localhost:5001/inference-anywhere:try", "replicas": 1}
    theirs = {
        "apiVersion": "core.spinkube.dev/v1alpha1",
        "kind": "SpinApp",
        "metadata": {"name": "inference-anywhere", "namespace": "inference-anywhere"},
        "spec": {**spec, "executor": "containerd-shim-spin"},
    }
    with contextlib.closing(Cluster.connect(str(world.kubeconfig))) as cluster:
        cluster.request(
            "PATCH",
            cluster.path(Ref.of(theirs)),
            query={"fieldManager": "spin-plugin-kube", "force": "true"},
            body=theirs,
            content_type="application/apply-patch+yaml",
        )
    live = world.api.get_object("SpinApp", "inference-anywhere")["spec"]
    assert (live["image"], live["variables"]) == (spec["image"], before)
    code, output = world.deploy("apply", "dev")
    assert code == 1
    assert 'conflict with "spin-plugin-kube": .spec.image' in output
    code, output = world.deploy("apply", "dev", "--force-conflicts")
    assert code == 0, output
    live = world.api.get_object("SpinApp", "inference-anywhere")["spec"]
    assert live["image"] == "localhost:5001/inference-anywhere/edge:dev"
