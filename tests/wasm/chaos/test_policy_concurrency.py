"""Limits, leases and purges while many instances act at once, in the real store."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edgehost.keyvalue.sqlite import SqliteDatabase
from wasm.cases.table import Answer, Call
from wasm.chaos.stage import PATIENCE_S, Stage, classify, fresh_picture, raised, traffic

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


def await_held(stage: Stage, calls: int) -> None:
    """Return once the backend holds that many infer calls back."""
    deadline_s = time.monotonic() + PATIENCE_S
    while len(stage.backend.infer_calls()) < calls:
        assert time.monotonic() < deadline_s, f"{calls} calls do not reach the backend"
        time.sleep(0.005)


def test_concurrency_never_exceeds_the_limit_and_frees_its_slots(tmp_path: Path) -> None:
    def ask() -> Answer:
        return classify(stage.edge, None, "digits", **AUTH)

    with raised(tmp_path, keys(concurrency=2)) as stage, ThreadPoolExecutor(2) as pool:
        assert ask().status == 200  # the backend is known, and the ledger is there
        stage.edge.settle()
        asked = len(stage.backend.infer_calls())
        stage.backend.open.clear()
        holding = [pool.submit(ask) for _ in range(2)]
        await_held(stage, asked + 2)
        refused = [ask() for _ in range(4)]
        assert {answer.status for answer in refused} == {429}
        assert len(stage.backend.infer_calls()) == asked + 2
        stage.backend.open.set()
        assert [held.result(PATIENCE_S).status for held in holding] == [200, 200]
        for _ in range(6):
            stage.edge.settle()
            assert ask().status == 200


class CountedReads:
    """How often guests have begun to read the key-value store."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        connection = SqliteDatabase.connection

        def counted(database: SqliteDatabase) -> Any:
            self.begun += 1
            return connection(database)

        monkeypatch.setattr(SqliteDatabase, "connection", counted)

    def await_more(self, reads: int) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        wanted = self.begun + reads
        while self.begun < wanted:
            assert time.monotonic() < deadline_s, "nobody looks for the answer"
            time.sleep(0.001)


def test_twenty_identical_requests_ask_the_backend_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.traffic(2)  # the leases' keys exist, the backend's speed is known
    stage.edge.settle()
    picture = fresh_picture()
    before = len(stage.backend.infer_calls())
    stage.backend.open.clear()
    with ThreadPoolExecutor(20) as pool:
        leader = pool.submit(classify, stage.edge, picture)
        await_held(stage, before + 1)
        reads = CountedReads(monkeypatch)
        others = [pool.submit(classify, stage.edge, picture) for _ in range(19)]
        # Three threads are left. The fourth read is the second one of some guest: it has seen that
        # nothing is stored, and looks again.
        reads.await_more(4)
        stage.backend.open.set()
        answers = [asked.result(PATIENCE_S) for asked in [leader, *others]]
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
