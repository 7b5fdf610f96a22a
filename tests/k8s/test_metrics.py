"""Queries of alerts and autoscalers: valid, and about series that somebody really makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from fakes.backend_app import running_app
from gpu_backend.api.problems import STATUS
from k8s.rendered import COMBINATIONS, OVERLAYS, REPOSITORY, Objects, load

WATCHED = [
    name
    for name in (*OVERLAYS, *COMBINATIONS)
    if load(name).of_kind("PrometheusRule", "ScaledObject")
]
MODELS = REPOSITORY / "gpu-backend" / "models"
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}

# Added by Prometheus to whatever it scrapes.
TARGET_LABELS = {"namespace", "job", "pod", "instance"}

# Counted by Spin (crates/trigger-http: `spin.request_count`), and made by Prometheus itself.
OF_OTHERS: dict[str, set[str]] = {"spin_request_count_total": set(), "up": set()}


@dataclass(frozen=True)
class Selector:
    """A series that a query names, with the labels that it asks for."""

    query: str
    name: str
    labels: dict[str, str]


def rules(objects: Objects) -> list[dict[str, Any]]:
    return [
        rule
        for rules in objects.of_kind("PrometheusRule")
        for group in rules["spec"]["groups"]
        for rule in group["rules"]
    ]


def queries(objects: Objects) -> list[str]:
    """Every PromQL expression of rules and triggers."""
    found = [rule["expr"] for rule in rules(objects)]
    for scaled in objects.of_kind("ScaledObject"):
        found += [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    return found


def selectors(query: str) -> Iterator[Selector]:
    return _selectors(query, promql_parser.parse(query))


def _selectors(query: str, node: Any) -> Iterator[Selector]:
    if isinstance(node, promql_parser.VectorSelector):
        labels = {one.name: one.value for one in node.matchers.matchers}
        assert node.name is not None, f"a series without a name in {query}"
        yield Selector(query, node.name, labels)
    children = [getattr(node, name, None) for name in ("lhs", "rhs", "expr", "vector_selector")]
    for child in (*children, *getattr(node, "args", ())):
        if child is not None:
            yield from _selectors(query, child)


@pytest.fixture(scope="module")
def backend_series() -> dict[str, set[str]]:
    """Series of a real backend that has answered, each with its labels."""
    import asyncio

    return asyncio.run(_backend_series())


async def _backend_series() -> dict[str, set[str]]:
    image = {
        "name": "image",
        "shape": [1, 1, 8, 8],
        "datatype": "UINT8",
        "data": np.zeros((1, 1, 8, 8), np.uint8).ravel().tolist(),
    }
    async with running_app(MODELS) as backend:
        await backend.client.post("/v2/models/digits/infer", json={"inputs": [image]})
        text = (await backend.client.get("/metrics")).text
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for suffix in SUFFIXES.get(family.type, ()):
            found[f"{family.name}{suffix}"] = set()
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_backend_series_are_those_of_a_backend_at_work(backend_series: dict[str, set[str]]) -> None:
    assert backend_series["backend_requests_total"] == {"model", "outcome"}
    assert backend_series["backend_queue_duration_seconds_bucket"] == {"model", "le"}
    assert "backend_generations" in backend_series


@pytest.mark.parametrize("name", WATCHED)
def test_queries_name_series_that_somebody_makes(
    name: str, backend_series: dict[str, set[str]]
) -> None:
    objects = load(name)
    recorded = {rule["record"] for rule in rules(objects) if "record" in rule}
    made = {**backend_series, **OF_OTHERS, **{key: set[str]() for key in recorded}}
    asked = [one for query in queries(objects) for one in selectors(query)]
    assert {one.name for one in asked} - set(made) == set()
    for one in asked:
        known = made[one.name] | TARGET_LABELS
        assert not made[one.name] or set(one.labels) <= known, one
    assert recorded <= {one.name for one in asked}, "recorded, and nobody asks for it"


@pytest.mark.parametrize("name", WATCHED)
def test_queries_ask_for_outcomes_and_targets_that_there_are(name: str) -> None:
    objects = load(name)
    monitored = {
        one["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"]
        for one in objects.of_kind("ServiceMonitor")
    }
    for one in (one for query in queries(objects) for one in selectors(query)):
        outcomes = set(filter(None, one.labels.get("outcome", "").split("|")))
        assert outcomes <= {"ok", *STATUS}, one
        if one.name.startswith(("backend_", "spin_", "up")):
            assert one.labels["namespace"] == "inference-anywhere", one
        if "job" in one.labels:
            assert one.labels["job"] in monitored, one


@pytest.mark.parametrize(
    ("query", "series"),
    [
        ("sum(rate(backend_request_total[5m]))", "backend_request_total"),
        ("1 - backend_queue or vector(0)", "backend_queue"),
        (
            "histogram_quantile(0.9, sum by (le) (rate(backend_x_bucket[1m]))) > 1",
            "backend_x_bucket",
        ),
        ("up and on() absent(backend_gone == 1)", "backend_gone"),
    ],
)
def test_selectors_find_a_series_wherever_it_stands(
    query: str, series: str, backend_series: dict[str, set[str]]
) -> None:
    assert series in {one.name for one in selectors(query)}
    assert series not in backend_series


@pytest.mark.parametrize("name", WATCHED)
def test_alerts_say_how_bad_and_what_to_do(name: str) -> None:
    alerts = [rule for rule in rules(load(name)) if "alert" in rule]
    for alert in alerts:
        assert alert["labels"]["severity"] in ("warning", "critical"), alert["alert"]
        assert set(alert["annotations"]) == {"summary", "description"}, alert["alert"]
        assert alert["for"].endswith("m"), alert["alert"]
    assert len({alert["alert"] for alert in alerts}) == len(alerts)


def test_keda_scales_the_backend_by_its_queue_and_by_chats() -> None:
    triggers = load("production").get("ScaledObject", "gpu-backend")["spec"]["triggers"]
    asked = {
        trigger["name"]: {one.name for one in selectors(trigger["metadata"]["query"])}
        for trigger in triggers
    }
    assert asked["queue-depth"] == {"backend_queue_items"}
    assert asked["generations"] == {"backend_generations"}
    # A backend that is not there has neither: the edge's count wakes it.
    assert asked["requests"] == {"inference_anywhere:edge_requests:rate1m"}
    assert "activationThreshold" in triggers[0]["metadata"]


def test_collector_settings_use_only_what_they_declare() -> None:
    settings = load("production").generated("ConfigMap", "otel-collector-settings")
    config = yaml.safe_load(settings["data"]["config.yaml"])
    for pipeline in config["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(config[kind])
    assert set(config["service"]["extensions"]) <= set(config["extensions"])
