"""Limits, leases and purges while many instances act at once, in the real store."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

from wasm.cases.table import Call
from wasm.chaos.conftest import Stage, classify, fresh_picture, raised, traffic

KEY = "the-key"
AUTH = {"authorization": f"Bearer {KEY}"}


def keys(**limits: object) -> dict[str, str]:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    tenant = {"keys": [digest], "scopes": ["infer", "admin"], **limits}
    return {"api_keys": json.dumps({"acme": tenant})}


def test_burst_of_requests_is_admitted_exactly_up_to_the_limit(tmp_path: Path) -> None:
    with raised(tmp_path, keys(rate_per_s=0.001, burst=10)) as stage:
        answers = traffic(lambda: classify(stage.edge, None, "digits", **AUTH), 30, clients=8)
    statuses = Counter(answer.status for answer in answers)
    assert statuses == {200: 10, 429: 20}
    refused = next(answer for answer in answers if answer.status == 429)
    assert int(refused.headers["retry-after"]) > 1
    assert '"rate";r=0' in refused.headers["ratelimit"]


def test_concurrency_never_exceeds_the_limit_and_frees_its_slots(tmp_path: Path) -> None:
    with raised(tmp_path, keys(concurrency=2)) as stage:
        stage.backend.delay_s = 0.15
        answers = traffic(lambda: classify(stage.edge, None, "digits", **AUTH), 16, clients=8)
        assert {answer.status for answer in answers} <= {200, 429}
        assert sum(answer.status == 429 for answer in answers) > 0
        stage.backend.delay_s = 0
        stage.edge.settle()
        later = [classify(stage.edge, None, "digits", **AUTH).status for _ in range(6)]
        assert later == [200] * 6


def test_twenty_identical_requests_ask_the_backend_once(stage: Stage) -> None:
    stage.traffic(2)  # the leases' keys exist, the backend's speed is known
    stage.backend.delay_s = 0.3
    picture = fresh_picture()
    before = len(stage.backend.infer_calls())
    answers = traffic(lambda: classify(stage.edge, picture), 20, clients=20)
    assert {answer.status for answer in answers} == {200}
    assert len({json.dumps(answer.json()["predictions"]) for answer in answers}) == 1
    assert len(stage.backend.infer_calls()) - before == 1
    states = Counter(
        "collapsed" if "collapsed" in answer.headers["cache-status"] else
        "hit" if "hit" in answer.headers["cache-status"] else "miss"
        for answer in answers
    )  # fmt: skip
    assert states["miss"] == 1
    assert states["collapsed"] >= 1


def test_purge_takes_effect_at_once_for_everybody(tmp_path: Path) -> None:
    with raised(tmp_path, keys()) as stage:
        picture = fresh_picture()
        classify(stage.edge, picture, "digits", **AUTH)
        stage.edge.settle()
        assert "hit" in classify(stage.edge, picture, "digits", **AUTH).headers["cache-status"]
        body = json.dumps({"model": "digits"}).encode()
        assert stage.edge.send(Call("POST", "/v1/cache/purge", AUTH, body)).status == 200
        assert "fwd=miss" in classify(stage.edge, picture, "digits", **AUTH).headers["cache-status"]


def test_no_key_is_401_and_another_scope_403(tmp_path: Path) -> None:
    with raised(tmp_path, keys()) as stage:
        assert classify(stage.edge).status == 401
        digest = hashlib.sha256(b"other").hexdigest()
    plain = {"api_keys": json.dumps({"beta": {"keys": [digest]}})}
    with raised(tmp_path / "second", plain) as stage:
        auth = {"authorization": "Bearer other"}
        purge = Call("POST", "/v1/cache/purge", auth, b'{"all": true}')
        assert stage.edge.send(purge).status == 403
