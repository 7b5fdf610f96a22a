"""Policy applied: what is stored, and when it is served."""

from __future__ import annotations

import json

import pytest

from fakes.edge_world import (
    EdgeWorld,
    document,
    fail,
    placement_of,
    status_of,
)
from fakes.inference_backend import FakeModel, Reply, problem_reply


@pytest.fixture
def world() -> EdgeWorld:
    return EdgeWorld()


def test_second_request_is_a_hit_with_age_and_the_same_predictions(world: EdgeWorld) -> None:
    first = world.classify()
    world.clock.advance(7)
    second = world.classify()
    assert status_of(first).startswith("edge;fwd=miss;fwd-status=200;ttl=300;stored;key=")
    assert status_of(second).startswith("edge;hit;ttl=293;key=")
    assert second.headers.get("age") == "7"
    assert placement_of(second) == "edge;reason=cache-hit"
    assert document(second)["predictions"] == document(first)["predictions"]
    assert second.headers.get("inference-model") == first.headers.get("inference-model")
    assert world.infer_calls == 1


def test_hit_tells_its_own_latency(world: EdgeWorld) -> None:
    world.upstreams.takes_s = 0.5
    assert document(world.classify())["latency_ms"] >= 500
    assert document(world.classify())["latency_ms"] < 500


def test_another_picture_or_query_is_a_miss(world: EdgeWorld) -> None:
    world.classify(3)
    assert "fwd=miss" in status_of(world.classify(4))
    body = bytes(64)
    headers = {"content-type": "application/octet-stream"}
    target = "/v1/classify/pixels?width=8&height=8&top_k=1"
    assert "fwd=miss" in status_of(world.send("POST", target, body, headers))


def test_json_bodies_that_mean_the_same_share_an_entry(world: EdgeWorld) -> None:
    headers = {"content-type": "application/json"}
    pixels = [[0.0] * 8 for _ in range(8)]
    for body in (
        json.dumps({"pixels": pixels, "width": 8}),
        json.dumps({"width": 8, "pixels": [[0] * 8] * 8}, indent=2),
    ):
        world.send("POST", "/v1/classify/pixels", body.encode(), headers)
    assert world.infer_calls <= 1


def test_stale_answer_is_fetched_anew_once_its_windows_are_over(world: EdgeWorld) -> None:
    world.classify()
    world.clock.advance(331)
    response = world.classify()
    assert "fwd=stale" in status_of(response)
    assert "age" not in response.headers
    assert world.infer_calls == 2


def test_stale_while_revalidate_answers_at_once_and_refreshes_afterwards(world: EdgeWorld) -> None:
    world.classify()
    world.clock.advance(290)
    world.classify(9)  # keeps the model's digest known
    world.clock.advance(20)
    response = world.classify(finish=False)
    assert status_of(response).startswith("edge;hit;ttl=-10")
    assert placement_of(response) == "edge;reason=cache-stale"
    assert world.infer_calls == 2
    world.finish(response)
    assert world.infer_calls == 3
    assert "hit;ttl=300" in status_of(world.classify())


def test_refresh_that_fails_leaves_the_stale_answer(world: EdgeWorld) -> None:
    world.classify()
    world.clock.advance(290)
    world.classify(9)
    world.clock.advance(20)
    fail(world)
    world.classify()
    assert "was not refreshed" in world.log.text()
    assert "hit;ttl=-10" in status_of(world.classify())


@pytest.mark.parametrize(
    ("directive", "expected"),
    [
        ("no-cache", "fwd=request"),
        ("max-age=0", "hit"),
        ("max-age=5", "hit"),
        ("min-fresh=301", "fwd=request"),
        ("only-if-cached", "hit"),
    ],
)
def test_request_directives_decide_on_a_fresh_answer(
    world: EdgeWorld, directive: str, expected: str
) -> None:
    world.classify()
    assert expected in status_of(world.classify(cache_control=directive))


def test_no_store_is_answered_but_never_stored(world: EdgeWorld) -> None:
    assert "stored" not in status_of(world.classify(cache_control="no-store"))
    assert "fwd=miss" in status_of(world.classify())


def test_only_if_cached_without_entry_is_504_and_asks_nobody(world: EdgeWorld) -> None:
    response = world.classify(cache_control="only-if-cached")
    assert response.status == 504
    assert document(response)["code"] == "not_cached"
    assert world.upstreams.requests == []


def test_errors_are_not_stored(world: EdgeWorld) -> None:
    world.upstreams.cluster.override = lambda _: problem_reply(400, "no")
    assert world.classify().status == 400
    world.upstreams.cluster.override = None
    assert world.classify().status == 200


def test_upstream_that_forbids_storing_is_obeyed(world: EdgeWorld) -> None:
    def forbid(call: object) -> Reply | None:
        world.upstreams.cluster.override = None
        reply = world.upstreams.cluster._route(call)  # type: ignore[arg-type]
        world.upstreams.cluster.override = forbid
        reply.headers.append(("cache-control", "no-store"))
        return reply

    world.upstreams.cluster.override = forbid
    assert "stored" not in status_of(world.classify())


def test_etag_of_a_stored_answer_gives_304_without_body(world: EdgeWorld) -> None:
    tag = world.classify().headers.get("etag")
    assert tag is not None
    assert tag.startswith('W/"')
    again = world.classify(if_none_match=tag)
    assert (again.status, again.body) == (304, b"")
    assert again.headers.get("etag") == tag
    assert "hit" in status_of(again)
    assert "content-type" not in again.headers
    assert world.classify(if_none_match='"other"').status == 200


def test_answer_says_what_it_varies_by_and_how_long_it_is_fresh(world: EdgeWorld) -> None:
    response = world.classify()
    assert "Authorization" in (response.headers.get("vary") or "")
    assert response.headers.get("cache-control") == "private, max-age=300"


def test_cache_switched_off_is_a_bypass() -> None:
    world = EdgeWorld(classify_cache_ttl_s="0")
    world.classify()
    response = world.classify()
    assert status_of(response) == "edge;fwd=bypass;fwd-status=200"
    assert response.headers.get("cache-control") == "no-store"
    assert "etag" not in response.headers


def test_new_model_never_serves_an_old_answer_once_it_is_known(world: EdgeWorld) -> None:
    world.classify(3)
    world.upstreams.cluster.models["pixels"] = FakeModel(version="2", digest="sha256:new")
    world.classify(4)  # this one finds out
    response = world.classify(3)
    assert "fwd=miss" in status_of(response)
    assert document(response)["model_version"] == "2"


def test_digest_is_verified_when_it_was_not_seen_for_its_time(world: EdgeWorld) -> None:
    world.classify()
    world.upstreams.cluster.models["pixels"] = FakeModel(version="2", digest="sha256:new")
    world.clock.advance(61)
    response = world.classify()
    assert "fwd=stale" in status_of(response)
    assert document(response)["model_version"] == "2"


def test_clock_set_back_makes_no_answer_fresh_for_longer(world: EdgeWorld) -> None:
    world.classify()
    world.clock.wall_s -= 100_000
    assert "hit" not in status_of(world.classify())
