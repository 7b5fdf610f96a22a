"""Policy applied: keys, limits, purges and pages of other origins."""

from __future__ import annotations

import json

import pytest

from fakes.edge_world import (
    ACME,
    BETA,
    KEYS,
    EdgeWorld,
    document,
    status_of,
)


def keyed_world() -> EdgeWorld:
    return EdgeWorld(api_keys=KEYS)


def test_no_key_is_401_before_anything_happens() -> None:
    world = keyed_world()
    response = world.classify()
    assert response.status == 401
    assert response.headers.get("www-authenticate") == "Bearer"
    assert world.keyed.spent() == []
    assert world.upstreams.requests == []


def test_tenants_never_share_answers() -> None:
    world = keyed_world()
    world.classify(auth=ACME)
    assert "fwd=miss" in status_of(world.classify(auth=BETA))
    assert "hit" in status_of(world.classify(auth=ACME))


def test_limits_hold_on_hits_too() -> None:
    config = {"acme": {**json.loads(KEYS)["acme"], "daily_requests": 2}}
    world = EdgeWorld(api_keys=json.dumps(config))
    world.classify(auth=ACME)
    assert "hit" in status_of(world.classify(auth=ACME))
    response = world.classify(auth=ACME)
    assert response.status == 429
    assert int(response.headers.get("retry-after") or 0) > 0
    assert 'daily-requests";r=0' in (response.headers.get("ratelimit") or "")
    assert "cache-status" not in response.headers


def test_answer_tells_what_is_left() -> None:
    world = keyed_world()
    response = world.classify(auth=ACME)
    assert '"rate";q=100;w=1' in (response.headers.get("ratelimit-policy") or "")
    assert '"rate";r=99;t=1' in (response.headers.get("ratelimit") or "")


def test_slot_at_the_upstream_is_given_back_after_the_response() -> None:
    world = keyed_world()
    responses = [world.classify(lit, finish=False, auth=ACME) for lit in range(4)]
    assert world.classify(9, auth=ACME).status == 429
    world.finish(responses[0])
    assert world.classify(9, auth=ACME).status == 200


def test_passed_through_calls_are_limited_as_well() -> None:
    config = {"acme": {**json.loads(KEYS)["acme"], "daily_requests": 1}}
    world = EdgeWorld(api_keys=json.dumps(config))
    assert world.send("GET", "/v2/models/pixels").status == 401
    assert world.send("GET", "/v2/models/pixels", headers=ACME).status == 200
    assert world.send("GET", "/v2/models/pixels", headers=ACME).status == 429
    assert world.send("GET", "/v2/health/ready").status == 200


def test_key_of_the_edge_is_not_told_to_the_backend() -> None:
    world = keyed_world()
    world.send("GET", "/v2/models/pixels", headers=ACME)
    assert all("authorization" not in call.headers for call in world.upstreams.cluster.received)


def test_purge_needs_the_scope_and_works() -> None:
    world = keyed_world()
    world.classify(auth=ACME)
    body = b'{"model": "pixels"}'
    assert world.send("POST", "/v1/cache/purge", body, BETA).status == 403
    assert world.send("POST", "/v1/cache/purge", body, ACME).status == 200
    assert "fwd=miss" in status_of(world.classify(auth=ACME))


def test_purge_by_the_key_that_cache_status_names() -> None:
    world = keyed_world()
    key = status_of(world.classify(auth=ACME)).partition('key="')[2].rstrip('"')
    response = world.send("POST", "/v1/cache/purge", json.dumps({"key": key}).encode(), ACME)
    assert document(response) == {"purged": {"key": key}, "found": True}
    assert "fwd=miss" in status_of(world.classify(auth=ACME))


@pytest.mark.parametrize("target", [{"tenant": "acme"}, {"all": True}])
def test_purge_of_a_tenant_or_all(target: dict[str, object]) -> None:
    world = keyed_world()
    world.classify(auth=ACME)
    assert world.send("POST", "/v1/cache/purge", json.dumps(target).encode(), ACME).status == 200
    assert "fwd=miss" in status_of(world.classify(auth=ACME))


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"model":"a","tenant":"b"}', b'{"key":"xyz"}', b'{"all":false}',
     b'{"models":"a"}', b'{"tenant":""}', b'{"model":7}'],
)  # fmt: skip
def test_purge_of_nothing_sensible_is_refused(body: bytes) -> None:
    assert keyed_world().send("POST", "/v1/cache/purge", body, ACME).status == 400


def test_purge_without_store_says_so() -> None:
    world = keyed_world()
    world.store.broken = True
    response = world.send("POST", "/v1/cache/purge", b'{"all": true}', ACME)
    assert response.status == 429
    assert document(response)["code"] == "overloaded"


def test_page_of_an_allowed_origin_may_read_the_answer() -> None:
    world = EdgeWorld(cors_origins="https://app.test")
    ask = {"origin": "https://app.test", "access-control-request-method": "POST"}
    assert world.send("OPTIONS", "/v1/classify/pixels", headers=ask).status == 204
    response = world.classify(origin="https://app.test")
    assert response.headers.get("access-control-allow-origin") == "https://app.test"
    assert world.send("OPTIONS", "/v1/classify/pixels").status == 405
