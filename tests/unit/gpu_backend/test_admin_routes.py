"""Health, metadata, configuration, statistics, repository and metrics over HTTP."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fakes.backend_app import Backend, running_app
from fakes.onnx_models import classifier, write_model


def infer_body(rows: int = 1) -> bytes:
    pixels = np.zeros(64 * rows, dtype=int).tolist()
    tensor = {"name": "image", "datatype": "UINT8", "shape": [rows, 1, 8, 8], "data": pixels}
    return json.dumps({"inputs": [tensor]}).encode()


async def test_metadata_has_what_the_edge_needs(backend: Backend) -> None:
    document = (await backend.client.get("/v2/models/digits/versions/1")).json()
    provider = document["parameters"].pop("execution_provider")
    digest = document["parameters"].pop("digest")
    assert document == {
        "name": "digits",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 1, 8, 8]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
        "parameters": {
            "version": "1",
            "task": "image-classification",
            "image": {
                "input": "image",
                "layout": "NCHW",
                "width": 8,
                "height": 8,
                "color": "gray",
                "range": [0, 255],
                "mean": None,
                "std": None,
                "fit": "stretch",
            },
            "output": {"name": "logits", "kind": "logits"},
            "text": None,
            "labels": [f"digit {n}" for n in range(10)],
        },
    }
    assert digest.startswith("sha256:")
    assert len(digest) == 71
    assert provider["requested"] == "auto"
    assert provider["active"] == "CPUExecutionProvider"
    assert "CPUExecutionProvider" in provider["available"]
    assert provider["reason"]
    assert provider["degraded"] is False
    assert provider["nodes"] == {"CPUExecutionProvider": 3}
    assert provider["fallback_nodes"] == 0


async def test_metadata_of_a_model_without_manifest_has_the_protocols_members(
    backend: Backend,
) -> None:
    parameters = (await backend.client.get("/v2/models/lookup")).json()["parameters"]
    assert parameters["image"] is None
    assert parameters["output"] is None
    assert parameters["labels"] == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2", 200),
        ("/v2/", 200),
        ("/v2/health/live", 200),
        ("/v2/health/ready", 200),
        ("/v2/models/digits/ready", 200),
        ("/v2/models/digits/versions/1/ready", 200),
        ("/v2/models/digits/config", 200),
        ("/v2/models/digits/stats", 200),
        ("/v2/models/stats", 200),
        ("/metrics", 200),
        ("/v2/models/nobody", 404),
        ("/v2/models/nobody/ready", 404),
        ("/v2/models/nobody/stats", 404),
        ("/v2/models/digits/versions/2", 404),
        ("/v3", 404),
        ("/v1", 404),
        ("/v2/repository/index", 405),
    ],
)
async def test_get_answers_with_the_right_status(backend: Backend, path: str, status: int) -> None:
    response = await backend.client.get(path)
    assert response.status_code == status
    if status != 200:
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["error"] == response.json()["detail"]


async def test_config_tells_batching_and_provider(backend: Backend) -> None:
    config = (await backend.client.get("/v2/models/digits/config")).json()
    assert config["max_batch_size"] == 64
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 0
    assert config["execution_provider"]["active"] == "CPUExecutionProvider"
    assert config["instance_group"] == [{"name": "digits", "kind": "KIND_CPU", "count": 1}]


async def test_config_of_a_model_without_batches_says_so(backend: Backend) -> None:
    config = (await backend.client.get("/v2/models/fixed/config")).json()
    assert config["max_batch_size"] == 0
    assert config["input"][0]["dims"] == [1, 4]
    assert "dynamic_batching" not in config


async def test_statistics_count_requests_rows_and_failures(backend: Backend) -> None:
    await backend.client.post("/v2/models/digits/infer", content=infer_body(3))
    await backend.client.post("/v2/models/digits/infer", content=b"{}")
    document = (await backend.client.get("/v2/models/digits/stats")).json()
    (statistics,) = document["model_stats"]
    assert statistics["inference_count"] == 3
    assert statistics["execution_count"] == 1
    assert statistics["inference_stats"]["success"]["count"] == 1
    assert statistics["inference_stats"]["fail"]["count"] == 1
    assert statistics["batch_stats"] == [{"batch_size": 4, "compute_infer": {"count": 1, "ns": 0}}]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"ready": true}', b"  "])
async def test_index_takes_every_body_that_clients_send(backend: Backend, body: bytes) -> None:
    response = await backend.client.post("/v2/repository/index", content=body)
    entries = {entry["name"]: entry for entry in response.json()}
    assert entries["digits"] == {
        "name": "digits",
        "version": "1",
        "state": "READY",
        "reason": "",
    }


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/v2/repository/index", b"[", "the body is not JSON"),
        ("/v2/repository/index", b"[]", "the body is a JSON object"),
        ("/v2/repository/index", b'{"ready": 1}', "ready is true or false"),
        ("/v2/repository/models/digits/load", b'{"parameters": 1}', "parameters is a JSON object"),
        (
            "/v2/repository/models/digits/load",
            b'{"parameters": {"config": "{}"}}',
            "parameter 'config' is not supported",
        ),
    ],
)
async def test_bad_repository_request_is_refused(
    backend: Backend, path: str, body: bytes, text: str
) -> None:
    response = await backend.client.post(path, content=body)
    assert response.status_code == 400
    assert text in response.json()["error"]


async def test_load_of_a_broken_model_is_told_and_stays_in_the_index(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m", classifier())
    async with running_app(tmp_path) as backend:
        (folder / "1" / "model.onnx").write_bytes(b"garbage")
        response = await backend.client.post("/v2/repository/models/m/load")
        assert response.status_code == 400
        assert response.json()["code"] == "model_invalid"
        (entry,) = (await backend.client.post("/v2/repository/index")).json()
        assert entry["state"] == "READY"
        assert "refused" in entry["reason"]
        infer = await backend.client.post("/v2/models/m/infer", content=infer_body())
        assert infer.status_code == 200


async def test_repository_control_can_be_switched_off(models: Path) -> None:
    async with running_app(models, repository_control=False) as backend:
        for action in ("load", "unload"):
            response = await backend.client.post(f"/v2/repository/models/digits/{action}")
            assert response.status_code == 403
            assert response.json()["code"] == "access_denied"
        assert (await backend.client.post("/v2/repository/index")).status_code == 200


async def test_readiness_stays_and_names_the_model_that_failed(tmp_path: Path) -> None:
    write_model(tmp_path, "good", classifier())
    folder = write_model(tmp_path, "bad", classifier())
    (folder / "1" / "model.onnx").write_bytes(b"garbage")
    async with running_app(tmp_path) as backend:
        ready = await backend.client.get("/v2/health/ready")
        assert ready.status_code == 200
        assert ready.json()["status"] == "degraded"
        assert "model bad: version 1: cannot load" in ready.json()["reasons"][0]
        model_ready = await backend.client.get("/v2/models/bad/ready")
        assert model_ready.status_code == 503
        assert model_ready.json()["code"] == "model_not_ready"


async def test_readiness_fails_while_shutting_down(backend: Backend) -> None:
    backend.dataplane.is_stopping = True
    ready = await backend.client.get("/v2/health/ready")
    assert ready.status_code == 503
    assert ready.json()["reasons"] == ["the backend is shutting down"]
    assert (await backend.client.get("/v2/health/live")).status_code == 200


async def degrade(backend: Backend) -> None:
    """As if `auto` had meant to use a GPU that turned out to be missing."""
    model = await backend.repository.get("digits")
    model.session.status = replace(
        model.session.status, degraded=True, reason="auto: CUDA is offered, its libraries are not"
    )


async def test_readiness_is_degraded_when_the_accelerator_is_missing(backend: Backend) -> None:
    await degrade(backend)
    ready = await backend.client.get("/v2/health/ready")
    assert ready.status_code == 200
    assert ready.json() == {
        "ready": True,
        "status": "degraded",
        "reasons": ["model digits: auto: CUDA is offered, its libraries are not"],
    }
    metadata = (await backend.client.get("/v2/models/digits")).json()
    assert metadata["parameters"]["execution_provider"]["degraded"] is True
    metrics = await backend.client.get("/metrics")
    assert 'backend_provider_degraded{model="digits"} 1.0' in metrics.text


async def test_readiness_fails_without_the_accelerator_where_it_is_required(
    backend: Backend,
) -> None:
    backend.dataplane._require_provider = True
    assert (await backend.client.get("/v2/health/ready")).status_code == 200
    await degrade(backend)
    assert (await backend.client.get("/v2/health/ready")).status_code == 503


async def test_readiness_fails_when_an_execution_hangs(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = await backend.repository.get("digits")
    monkeypatch.setattr(model.batcher, "stuck_for", lambda: 61.0)
    ready = await backend.client.get("/v2/health/ready")
    assert ready.status_code == 503
    assert ready.json()["reasons"] == ["model digits: an execution hangs for 61 s"]


async def test_metrics_have_names_units_and_bounded_labels(backend: Backend) -> None:
    await backend.client.post("/v2/models/digits/infer", content=infer_body(2))
    await backend.client.post("/v2/models/from-a-stranger/infer", content=infer_body())
    response = await backend.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    assert "stranger" not in response.text

    def value(name: str, **labels: str) -> Any:
        family = families[name.removesuffix("_total").removesuffix("_count")]
        return next(
            sample.value
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    assert value("backend_requests_total", model="digits", outcome="ok") == 1
    assert value("backend_rows_total", model="digits") == 2
    assert value("backend_executions_total", model="digits") == 1
    assert value("backend_batch_rows_count", model="digits") == 1
    assert value("backend_request_duration_seconds_count", model="digits") == 1
    assert value("backend_provider_degraded", model="digits") == 0
    assert value("backend_nodes", model="digits", provider="CPUExecutionProvider") == 3
    assert value("backend_model_info", model="digits", provider="CPUExecutionProvider") == 1
    assert value("backend_queue_items", model="digits") == 0
    assert "process_resident_memory_bytes" in families


async def test_histogram_buckets_grow_to_the_count(backend: Backend) -> None:
    for _ in range(3):
        await backend.client.post("/v2/models/digits/infer", content=infer_body())
    text = (await backend.client.get("/metrics")).text
    buckets = [
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith("backend_request_duration_seconds_bucket") and 'model="digits"' in line
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 3
