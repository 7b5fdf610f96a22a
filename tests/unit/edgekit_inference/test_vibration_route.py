"""Policy applied: `POST /v1/detect/vibration`."""

from __future__ import annotations

import json

import pytest

from fakes.edge_world import (
    EdgeWorld,
    document,
    placement_of,
)


@pytest.fixture
def world() -> EdgeWorld:
    return EdgeWorld()


def samples() -> list[float]:
    return [((n * 7919) % 1000) / 1000 - 0.5 for n in range(2048)]


def test_vibration_is_answered_at_the_edge_without_any_upstream(world: EdgeWorld) -> None:
    body = json.dumps({"samples": samples(), "sample_rate_hz": 12000}).encode()
    response = world.send(
        "POST", "/v1/detect/vibration", body, {"content-type": "application/json"}
    )
    answer = document(response)
    assert response.status == 200
    assert answer["model"] == "vibration"
    assert 0 <= answer["score"] <= 1
    assert answer["anomaly"] == (answer["score"] > answer["threshold"])
    assert set(answer["features"]) >= {"rms", "kurtosis", "crest_factor"}
    assert placement_of(response) == "edge;reason=edge-only"
    assert world.upstreams.requests == []


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"samples": "x", "sample_rate_hz": 1}', "application/json", 400),
        (b'{"samples": [true], "sample_rate_hz": 1}', "application/json", 400),
        (b'{"samples": [], "sample_rate_hz": "1"}', "application/json", 400),
        (b'{"samples": [], "sample_rate_hz": true}', "application/json", 400),
        (b'{"samples": [], "rate": 1}', "application/json", 400),
        (b'{"samples": [1], "sample_rate_hz": 12000}', "application/json", 400),
        (b"123", "application/octet-stream", 400),
        (bytes(8192), "application/octet-stream", 400),
        (b"x", "text/csv", 415),
        (bytes(262_145), "application/octet-stream", 413),
    ],
)
def test_vibration_bad_input_is_refused(body: bytes, content_type: str, status: int) -> None:
    world = EdgeWorld(max_body_bytes="1000000")
    headers = {"content-type": content_type}
    assert world.send("POST", "/v1/detect/vibration", body, headers).status == status
