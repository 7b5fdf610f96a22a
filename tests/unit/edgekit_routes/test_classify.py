"""`edgekit.routes.classify`: what the case table cannot show from outside."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edgekit.http import Headers, Request, Response
from fakes.edge_ports import FakeClock, InProcessClient, LogLines, MemoryStore, make_ports
from fakes.inference_backend import FakeBackend, Received, Reply
from predict.app import PIPELINE


class World:
    """One edge over memory."""

    def __init__(self) -> None:
        self.backend = FakeBackend()
        self.client = InProcessClient(self.backend)
        self.store = MemoryStore()
        self.log = LogLines()
        self.clock = FakeClock()

    def classify(self, query: str = "width=8&height=8", **headers: str) -> Response:
        ports = make_ports(client=self.client, store=self.store, log=self.log, clock=self.clock)
        fields = Headers([("content-type", "application/octet-stream"), *headers.items()])
        request = Request("POST", "/v1/classify/pixels", query, fields, b"\xff" + bytes(63))
        response = PIPELINE(request, ports)
        for step in response.after:
            step()
        return response


def member(response: Response, name: str) -> object:
    assert isinstance(response.body, bytes)
    return json.loads(response.body)[name]


@pytest.fixture
def world() -> World:
    return World()


def test_classify_two_requests_use_one_read_and_one_write_of_the_store(world: World) -> None:
    world.classify()
    assert world.store.calls == ["get_many", "set_many"]
    world.classify()
    assert world.store.calls == ["get_many", "set_many"] * 2


def test_classify_store_that_fails_costs_one_more_call_and_no_answer(world: World) -> None:
    world.store.broken = True
    assert world.classify().status == 200
    assert world.classify().status == 200
    assert len(world.backend.metadata_calls()) == 2


def test_classify_bad_picture_costs_no_call(world: World) -> None:
    assert world.classify("width=9&height=8").status == 400
    assert world.backend.received == []


def test_classify_forwards_no_credentials_of_the_client(world: World) -> None:
    world.classify(authorization="Bearer secret", cookie="a=b")
    for received in world.backend.received:
        assert "authorization" not in received.headers
        assert "cookie" not in received.headers


def test_classify_every_call_is_bounded_by_the_settings(world: World) -> None:
    world.classify()
    for request in world.client.requests:
        assert request.timeouts.connect_s == 1.0
        assert request.timeouts.first_byte_s == 2.0
        assert request.timeouts.between_bytes_s == 3.0


def test_classify_address_of_the_backend_is_for_the_log_alone(world: World) -> None:
    world.backend.override = lambda received: Reply(500, [], b"")
    response = world.classify()
    assert isinstance(response.body, bytes)
    assert b"backend.test" not in response.body
    assert "http://backend.test:8080" in world.log.text()


def test_classify_refusal_of_fresh_metadata_is_not_asked_again(world: World) -> None:
    refuse = Reply(400, [], b'{"error": "no"}')
    world.backend.override = lambda call: refuse if call.target.endswith("/infer") else None
    assert world.classify().status == 400
    assert len(world.backend.infer_calls()) == 1


def test_classify_refusal_of_unchanged_model_is_the_answer(world: World) -> None:
    world.classify()
    refuse = Reply(400, [], b'{"error": "no"}')
    world.backend.override = lambda call: refuse if call.target.endswith("/infer") else None
    assert world.classify().status == 400
    assert len(world.backend.infer_calls()) == 2
    assert len(world.backend.metadata_calls()) == 2


def test_classify_model_that_keeps_changing_is_not_ready(world: World) -> None:
    world.classify()

    def change(call: Received) -> None:
        """Every infer call finds a newer model than its metadata told of."""
        model = world.backend.models["pixels"]
        if call.target.endswith("/infer"):
            version = str(int(model.version) + 1)
            image = {**model.image, "range": [0, 100 + int(version)]}
            world.backend.models["pixels"] = replace(
                model, version=version, digest=f"sha256:{version}", image=image
            )
            call.headers["pinned"] = "yes"

    def override(call: Received) -> Reply | None:
        change(call)
        if "/versions/" in call.target and call.target.endswith("/infer"):
            unpinned = replace(call, target="/v2/models/pixels/infer")
            return world.backend._route(unpinned)
        return None

    world.backend.override = override
    response = world.classify()
    assert response.status == 503
    assert member(response, "code") == "model_not_ready"
    assert response.headers.get("retry-after") == "1"


def test_classify_second_question_names_the_version_it_was_prepared_for(world: World) -> None:
    world.classify()
    model = world.backend.models["pixels"]
    image = {**model.image, "range": [0, 100]}
    world.backend.models["pixels"] = replace(model, version="2", digest="sha256:b", image=image)
    assert world.classify().status == 200
    assert [call.target for call in world.backend.received[-3:]] == [
        "/v2/models/pixels/infer",
        "/v2/models/pixels/versions/2",
        "/v2/models/pixels/versions/2/infer",
    ]


def without_identity(world: World) -> None:
    """The backend is one of another make: no `Inference-Model`."""

    def override(call: Received) -> Reply | None:
        if not call.target.endswith("/infer"):
            return None
        reply = world.backend._route(call)
        reply.headers = [line for line in reply.headers if line[0] != "inference-model"]
        return reply

    world.backend.override = override


def test_classify_backend_without_identity_is_told_apart_by_version(world: World) -> None:
    without_identity(world)
    world.classify()
    model = world.backend.models["pixels"]
    world.backend.models["pixels"] = replace(model, version="2", labels=["new"] * 10)
    predictions = member(world.classify(), "predictions")
    assert isinstance(predictions, list)
    assert predictions[0]["label"] == "new"


def test_classify_backend_without_identity_is_believed(world: World) -> None:
    without_identity(world)
    response = world.classify()
    assert response.status == 200
    assert member(response, "runtime") == "onnxruntime/CPUExecutionProvider"
    assert response.headers.get("inference-model") == (
        'pixels;version="1";provider="CPUExecutionProvider"'
    )


def test_classify_model_without_labels_names_classes_by_number(world: World) -> None:
    world.backend.models["pixels"].labels = []
    predictions = member(world.classify("width=8&height=8&top_k=1"), "predictions")
    assert predictions == [{"class_id": 0, "label": "0", "confidence": 0.999592}]


def test_classify_probabilities_are_taken_as_they_are(world: World) -> None:
    model = world.backend.models["pixels"]
    model.output_kind = "probabilities"
    model.scores = lambda pixels: [0.75, 0.25] + [0.0] * 8  # type: ignore[method-assign]
    predictions = member(world.classify("width=8&height=8&top_k=2"), "predictions")
    assert isinstance(predictions, list)
    assert [item["confidence"] for item in predictions] == [0.75, 0.25]


def test_classify_latency_is_measured_from_accept_to_answer(world: World) -> None:
    world.clock.tick_s = 0.002
    response = world.classify()
    timing = response.headers.get("server-timing") or ""
    stages = dict(part.split(";dur=") for part in timing.split(", ")[1:])
    total_ms = sum(float(value) for name, value in stages.items() if name != "total")
    latency_ms = member(response, "latency_ms")
    assert isinstance(latency_ms, float)
    assert total_ms <= latency_ms <= float(stages["total"])


@pytest.mark.parametrize(
    ("method", "target", "query"),
    [
        ("POST", "/v1/classify/pixels", "top_k=0"),
        ("GET", "/v1/classify/pixels", ""),
        ("POST", "/v1/unknown", ""),
        ("DELETE", "/v2/models/pixels", ""),
    ],
)
def test_request_refused_by_its_head_transfers_no_body(
    method: str, target: str, query: str
) -> None:
    body = iter([b"x"])
    response = PIPELINE(Request(method, target, query, body=body), make_ports())
    assert 400 <= response.status < 500
    assert next(body) == b"x"
