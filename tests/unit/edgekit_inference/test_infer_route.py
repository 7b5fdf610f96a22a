"""Policy applied: `POST /v2/models/{model}/infer`."""

from __future__ import annotations

import json
import struct

import pytest

from edgekit.http import Response
from fakes.edge_world import EdgeWorld, document, fail, placement_of, status_of
from fakes.inference_backend import Fault, problem_reply

HEADER_LENGTH = "inference-header-content-length"
PIXELS = bytes([255, *[0] * 63])


@pytest.fixture
def world() -> EdgeWorld:
    return EdgeWorld()


def send(world: EdgeWorld, body: bytes, path: str = "", **headers: str) -> Response:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    fields["content-length"] = str(len(body))
    return world.send("POST", path or "/v2/models/pixels/infer", body, fields)


def json_call(**more: object) -> bytes:
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 8, 8], "data": list(PIXELS)}
    return json.dumps({"inputs": [tensor], "outputs": [{"name": "logits"}], **more}).encode()


def send_binary(
    world: EdgeWorld, *, binary_output: bool = True, path: str = "", **headers: str
) -> Response:
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "image",
                    "datatype": "UINT8",
                    "shape": [1, 1, 8, 8],
                    "parameters": {"binary_data_size": 64},
                }
            ],
            "outputs": [{"name": "logits", "parameters": {"binary_data": binary_output}}],
        }
    ).encode()
    headers["inference_header_content_length"] = str(len(head))
    return send(world, head + PIXELS, path, **headers)


def test_json_and_binary_forms_of_one_tensor_share_an_entry(world: EdgeWorld) -> None:
    first = send(world, json_call())
    second = send_binary(world, binary_output=True)
    third = send_binary(world, binary_output=False)
    assert ["hit" in status_of(response) for response in (first, second, third)] == [
        False,
        True,
        True,
    ]
    logits = document(first)["outputs"][0]["data"]
    assert logits[0] == pytest.approx(10)
    assert isinstance(second.body, bytes)
    size = int(second.headers.get(HEADER_LENGTH) or 0)
    assert list(struct.unpack("<10f", second.body[size:])) == logits
    assert document(third)["outputs"][0]["data"] == logits
    assert world.infer_calls == 1


def test_id_of_each_client_is_repeated(world: EdgeWorld) -> None:
    assert document(send(world, json_call(id="one")))["id"] == "one"
    second = send(world, json_call(id="two"))
    assert "hit" in status_of(second)
    assert document(second)["id"] == "two"


def test_versions_are_kept_apart(world: EdgeWorld) -> None:
    send(world, json_call())
    response = send(world, json_call(), "/v2/models/pixels/versions/1/infer")
    assert "fwd=miss" in status_of(response)
    assert response.status == 200


def test_calls_with_state_are_not_cached(world: EdgeWorld) -> None:
    body = json_call(parameters={"sequence_id": 7})
    for _ in range(2):
        assert "fwd=bypass" in status_of(send(world, body))
    assert world.infer_calls == 2


def test_call_that_is_not_understood_is_passed_on_as_it_is(world: EdgeWorld) -> None:
    world.upstreams.cluster.override = lambda _: problem_reply(400, "inputs are missing")
    response = send(world, b'{"inputs": "none"}')
    assert response.status == 400
    assert document(response)["error"] == "inputs are missing"
    assert world.upstreams.cluster.received[-1].body == b'{"inputs": "none"}'


@pytest.mark.parametrize(
    "headers", [{"content-encoding": "gzip", "content-length": "9"}, {"content-length": "300000"}]
)
def test_large_and_compressed_calls_pass_through_untouched(headers: dict[str, str]) -> None:
    world = EdgeWorld(max_body_bytes="1000000")
    world.upstreams.cluster.override = lambda _: problem_reply(418, "as it is")
    body = bytes(int(headers["content-length"]))
    response = world.send("POST", "/v2/models/pixels/infer", body, headers)
    assert response.status == 418
    assert "cache-status" not in response.headers
    assert world.upstreams.cluster.received[0].body == body


def test_switched_off_every_call_passes_through(world: EdgeWorld) -> None:
    world = EdgeWorld(infer_cache_ttl_s="0")
    world.upstreams.cluster.override = lambda _: problem_reply(418, "as it is")
    response = send(world, json_call())
    assert response.status == 418
    assert (response.headers.get("inference-placement") or "").startswith("cluster;reason=pass")


def test_stored_answer_stands_in_for_a_failed_upstream(world: EdgeWorld) -> None:
    send(world, json_call())
    world.clock.advance(500)
    fail(world, Fault.HANG)
    response = send(world, json_call(id="late"))
    assert response.status == 200
    assert "detail=stale-if-error" in status_of(response)
    assert document(response)["id"] == "late"


def test_nothing_stored_and_no_upstream_is_503(world: EdgeWorld) -> None:
    fail(world)
    response = send(world, json_call())
    assert (response.status, document(response)["code"]) == (503, "exhausted")


def relaying_world(**variables: str) -> EdgeWorld:
    """Calls are passed through as they are: the cache is off."""
    return EdgeWorld(variables={"infer_cache_ttl_s": "0", **variables})


def test_relayed_call_keeps_to_where_its_data_may_go() -> None:
    world = relaying_world()
    refused = send_binary(world, inference_residency="edge")
    assert refused.status == 403
    assert "Inference-Residency" in document(refused)["param"]
    assert world.upstreams.requests == []
    assert send_binary(world, inference_residency="cluster").status == 200


def test_relayed_call_is_recorded_and_priced() -> None:
    world = relaying_world(records_enabled="true", model_prices='{"*": {"per_request": 0.5}}')
    response = send_binary(world)
    assert placement_of(response) == "cluster;reason=passthrough"
    [record] = world.records.records.values()
    assert (record["route"], record["model"]) == ("infer", "pixels")
    assert (record["tier"], record["status"], record["cache"]) == ("cluster", 200, "bypass")
    assert record["model_digest"].startswith("sha256:")
    assert record["cost_micro"] == 500_000


def test_relayed_call_that_the_backend_refuses_is_no_inference() -> None:
    world = relaying_world(records_enabled="true")
    assert send_binary(world, path="/v2/models/nobody/infer").status == 404
    assert world.records.records == {}
