"""Policies cover every flow the deployment makes, and open nothing else."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

from k8s.network import flows, needless_openings, uncovered
from k8s.rendered import COMBINATIONS, OVERLAYS, Objects, load
from kustomization import Manifest

EVERYTHING = ["base", *OVERLAYS, *COMBINATIONS]


@pytest.mark.parametrize("name", EVERYTHING)
def test_policies_rendered_cover_every_flow(name: str) -> None:
    assert uncovered(load(name)) == []


@pytest.mark.parametrize("name", EVERYTHING)
def test_policies_rendered_open_nothing_needless(name: str) -> None:
    assert needless_openings(load(name)) == []


@pytest.mark.parametrize("name", EVERYTHING)
def test_policies_deny_by_default(name: str) -> None:
    policy = load(name).get("NetworkPolicy", "default-deny")
    assert policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_flows_of_base_are_the_documented_ones() -> None:
    assert sorted(str(flow) for flow in flows(load("base"))) == [
        "inference-anywhere -> dns:53/TCP (DNS)",
        "inference-anywhere -> dns:53/UDP (DNS)",
        "inference-anywhere -> gpu-backend:8080/TCP (SPIN_VARIABLE_BACKEND_URL)",
        "inference-anywhere -> redis:6379/TCP (runtime-config.toml)",
    ]


def test_flows_of_production_include_telemetry_monitoring_and_the_gateway() -> None:
    found = {str(flow) for flow in flows(load("production"))}
    assert {
        "inference-anywhere -> otel-collector:4318/TCP (OTEL_EXPORTER_OTLP_ENDPOINT)",
        "prometheus -> gpu-backend:8080/TCP (ServiceMonitor)",
        "prometheus -> otel-collector:8889/TCP (ServiceMonitor)",
        "gateway -> inference-anywhere:80/TCP (HTTPRoute)",
    } <= found


def test_flows_of_a_site_with_a_far_cloud_leave_the_cluster() -> None:
    found = {str(flow) for flow in flows(load("k3s-edge"))}
    assert "inference-anywhere -> outside:443/TCP (SPIN_VARIABLE_CLOUD_URL)" in found
    assert "inference-anywhere -> gpu-backend:8080/TCP (SPIN_VARIABLE_BACKEND_URL)" in found


def test_flows_of_a_site_without_a_backend_know_only_the_far_cloud() -> None:
    found = {str(flow) for flow in flows(load("far-cloud-after-everything"))}
    assert "inference-anywhere -> outside:443/TCP (SPIN_VARIABLE_BACKEND_URL)" in found
    assert not any("gpu-backend" in flow for flow in found)


def rules(objects: Objects) -> Iterator[tuple[Manifest, str, int]]:
    for policy in objects.of_kind("NetworkPolicy"):
        for direction in ("ingress", "egress"):
            for index in range(len(policy["spec"].get(direction, ()))):
                yield policy, direction, index


@pytest.mark.parametrize("name", ["base", "production", "everything", "k3s-edge"])
def test_uncovered_any_rule_taken_away_is_missed(name: str) -> None:
    count = len(list(rules(load(name))))
    assert count > 3
    for number in range(count):
        objects = load(name)
        policy, direction, index = list(rules(objects))[number]
        removed = policy["spec"][direction].pop(index)
        # Two components may each bring the one opening that both need, as DNS for the backend.
        again = any(
            other["spec"]["podSelector"] == policy["spec"]["podSelector"]
            and other["spec"][where][position] == removed
            for other, where, position in rules(objects)
        )
        missed = bool(uncovered(objects))
        assert missed is not again, f"{policy['metadata']['name']}.{direction}[{index}]"


@pytest.mark.parametrize("name", ["base", "production", "everything", "k3s-edge"])
def test_needless_any_rule_made_wider_is_found(name: str) -> None:
    for number in range(len(list(rules(load(name))))):
        for widen in ("ports", "peers", "port-added"):
            objects = load(name)
            policy, direction, index = list(rules(objects))[number]
            rule = policy["spec"][direction][index]
            if widen == "port-added":
                rule["ports"].append({**copy.deepcopy(rule["ports"][0]), "port": 9999})
            else:
                peers = "to" if direction == "egress" else "from"
                del rule["ports" if widen == "ports" else peers]
            assert needless_openings(objects), f"{policy['metadata']['name']}.{direction}: {widen}"


def test_needless_policy_that_selects_nothing_is_found() -> None:
    objects = load("base")
    stale = copy.deepcopy(objects.get("NetworkPolicy", "redis"))
    stale["metadata"]["name"] = "stale"
    stale["spec"]["podSelector"]["matchLabels"] = {"app.kubernetes.io/component": "gone"}
    assert needless_openings(Objects((*objects.manifests, stale))) == ["stale: selects no pod"]
