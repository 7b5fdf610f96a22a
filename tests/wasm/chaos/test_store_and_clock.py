"""A key-value store that is slow, full or broken, and a clock that jumps: answers go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from edgehost.errors import StoreError
from edgehost.keyvalue.sqlite import SqliteDatabase
from edgehost.wasi import clocks
from fakes.inference_backend import Fault
from wasm.chaos.stage import PATIENCE_S, Stage, await_cluster, classify, fresh_picture


def break_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a full disk does, and a file that may only be read."""

    def writer(self: SqliteDatabase) -> Any:
        raise StoreError(f"{self.path}: the disk is full: free some space")

    monkeypatch.setattr(SqliteDatabase, "writer", writer)


def break_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a disk that is gone."""
    break_writes(monkeypatch)

    def connection(self: SqliteDatabase) -> Any:
        raise StoreError(f"{self.path}: the disk failed")

    monkeypatch.setattr(SqliteDatabase, "connection", connection)


def slow_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a disk under load: 20 ms per operation."""
    connection, writer = SqliteDatabase.connection, SqliteDatabase.writer

    def slow_connection(self: SqliteDatabase) -> Any:
        time.sleep(0.02)
        return connection(self)

    def slow_writer(self: SqliteDatabase) -> Any:
        time.sleep(0.02)
        return writer(self)

    monkeypatch.setattr(SqliteDatabase, "connection", slow_connection)
    monkeypatch.setattr(SqliteDatabase, "writer", slow_writer)


@pytest.mark.parametrize("damage", [break_writes, break_all, slow_down])
@pytest.mark.parametrize("fault", [Fault.NONE, Fault.RESET])
def test_store_that_fails_costs_no_answer(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[pytest.MonkeyPatch], None],
    fault: Fault,
) -> None:
    stage.traffic(2)
    damage(monkeypatch)
    stage.backend.fault = fault
    answers = stage.traffic(12)
    assert {answer.status for answer in answers} == {200}
    assert all(answer.json()["predictions"] for answer in answers)


def test_store_that_is_back_caches_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = fresh_picture()
    with monkeypatch.context() as patched:
        break_all(patched)
        assert "stored" not in classify(stage.edge, picture).headers["cache-status"]
        stage.edge.settle()
    classify(stage.edge, picture)
    stage.edge.settle()
    assert "hit" in classify(stage.edge, picture).headers["cache-status"]


def test_records_the_store_cannot_take_reach_the_backend_directly(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_writes(monkeypatch)
    stage.traffic(6)
    deadline_s = time.monotonic() + PATIENCE_S
    while stage.backend.book.summary().records < 6:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    assert stage.backend.book.summary().records == 6


class JumpingTime:
    """`time` as the host's clocks see it, moved by `offset_s`."""

    def __init__(self) -> None:
        self.offset_s = 0.0

    def time_ns(self) -> int:
        return time.time_ns() + round(self.offset_s * 1e9)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> JumpingTime:
    jumping = JumpingTime()
    monkeypatch.setattr(clocks, "time", jumping)
    return jumping


@pytest.mark.parametrize("jump_s", [86_400.0, -86_400.0, 3_600.0, -3_600.0, 400 * 86_400.0])
def test_clock_that_jumps_costs_no_answer(stage: Stage, wall: JumpingTime, jump_s: float) -> None:
    stage.traffic(4)
    stage.backend.fault = Fault.RESET
    stage.traffic(8)  # the breaker is open, leases and turns are taken
    wall.offset_s = jump_s
    assert {answer.status for answer in stage.traffic(8)} == {200}
    stage.backend.fault = Fault.NONE
    await_cluster(stage)  # a jump of the clock must not lock it out


def test_clock_set_back_makes_no_stored_answer_fresh(stage: Stage, wall: JumpingTime) -> None:
    picture = fresh_picture()
    classify(stage.edge, picture)
    stage.edge.settle()
    wall.offset_s = -7200
    assert "hit" not in classify(stage.edge, picture).headers["cache-status"]


def test_clock_set_forward_ends_freshness_and_nothing_else(stage: Stage, wall: JumpingTime) -> None:
    picture = fresh_picture()
    classify(stage.edge, picture)
    stage.edge.settle()
    wall.offset_s = 3600
    answer = classify(stage.edge, picture)
    assert answer.status == 200
    assert "fwd=stale" in answer.headers["cache-status"]
