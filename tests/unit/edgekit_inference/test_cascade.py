"""Policy applied: the edge model answers first."""

from __future__ import annotations

import pytest

from edgekit.http import Response
from fakes.edge_world import (
    EdgeWorld,
    document,
    fail,
    placement_of,
)


@pytest.fixture
def world() -> EdgeWorld:
    return EdgeWorld()


def digit_two() -> bytes:
    rows = ["........", ".#####..", ".....##.", "....##..", "...##...", "..##....", ".######.",
            "........"]  # fmt: skip
    return bytes(255 if cell == "#" else 0 for row in rows for cell in row)


def cascade_world() -> EdgeWorld:
    return EdgeWorld(classify_cascade="true")


def send_pixels(world: EdgeWorld, pixels: bytes, **headers: str) -> Response:
    fields = {"content-type": "application/octet-stream", **headers}
    return world.send("POST", "/v1/classify/digits?width=8&height=8", pixels, fields)


def test_cascade_confident_edge_answer_is_final() -> None:
    world = cascade_world()
    response = send_pixels(world, digit_two())
    assert document(response)["predictions"][0]["label"] == "2"
    assert placement_of(response).startswith("edge;reason=cascade-confident")
    assert world.infer_calls == 0


def doubtful_pixels() -> bytes:
    return bytes((n * 37) % 256 for n in range(64))


def test_cascade_doubtful_edge_answer_goes_to_the_cluster() -> None:
    world = cascade_world()
    response = send_pixels(world, doubtful_pixels())
    assert placement_of(response).startswith("cluster;reason=cascade-doubtful")
    assert world.infer_calls == 1


def test_cascade_doubtful_edge_answer_has_to_do_when_the_cluster_is_away() -> None:
    world = cascade_world()
    fail(world)
    response = send_pixels(world, doubtful_pixels())
    assert response.status == 200
    assert placement_of(response).startswith("edge;reason=cascade-doubtful")
