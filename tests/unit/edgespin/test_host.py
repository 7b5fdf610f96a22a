"""`edgespin.host`: clock, randomness, variables and log."""

from __future__ import annotations

import time

import pytest
from spin_sdk.wit.imports import variables
from spin_sdk.wit.types import Err

from edgespin.host import AppVariables, HostClock, HostRandom, log_to_stderr


def test_clock_reads_both_clocks_and_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "time", lambda: 12.5)
    monkeypatch.setattr(time, "monotonic", lambda: 3.25)
    monkeypatch.setattr(time, "sleep", slept.append)
    clock = HostClock()
    assert (clock.now_s(), clock.monotonic_s()) == (12.5, 3.25)
    clock.sleep(0.1)
    assert slept == [0.1]


def test_random_is_of_the_length_asked_for_and_never_the_same() -> None:
    random = HostRandom()
    assert len(random.token_bytes(24)) == 24
    assert random.token_bytes(24) != random.token_bytes(24)


def test_random_numbers_stay_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.urandom", lambda count: b"\xff" * count)
    assert HostRandom().random() < 1.0
    monkeypatch.setattr("os.urandom", bytes)
    assert HostRandom().random() == 0.0


def test_variables_undefined_or_failing_are_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(name: str) -> str:
        if name == "known":
            return "value"
        raise Err(variables.Error_Undefined(name))

    monkeypatch.setattr(variables, "get", get)
    assert AppVariables().get("known") == "value"
    assert AppVariables().get("unknown") == ""


def test_variables_that_come_together_are_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def get(name: str) -> str:
        asked.append(name)
        if name == "settings":
            return '\nurl=http://x/?a=b\x1e\nempty=\x1e\nkeys={"a":\n1}\x1e\n'
        raise Err(variables.Error_Undefined(name))

    monkeypatch.setattr(variables, "get", get)
    found = AppVariables()
    values = [found.get(name) for name in ("url", "empty", "keys", "other")]
    assert values == ["http://x/?a=b", "", '{"a":\n1}', ""]
    assert asked == ["settings", "other"]


def test_log_writes_one_line_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("hello")
    assert capsys.readouterr() == ("", "hello\n")
