"""A guest without an instance, whose clock moves only when it sleeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgehost.abi.guest import Guest
from edgehost.abi.output import GuestOutput
from edgehost.ports import ComponentSpec
from fakes.edgehost_http import NoOutbound


class SleepingWakeup:
    """Stands in for `Wakeup`: sleeping moves the clock, and may set off what a test planned."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sleeps: list[float] = []
        self.planned: list[Any] = []

    def set(self) -> None:
        pass

    def wait(self, timeout_s: float) -> bool:
        self.sleeps.append(timeout_s)
        assert len(self.sleeps) < 100, "the guest waits in circles"
        if self.planned:
            self.planned.pop(0)()
            return True
        self.now += timeout_s
        return False


@pytest.fixture
def wakeup() -> SleepingWakeup:
    return SleepingWakeup()


@pytest.fixture
def guest(wakeup: SleepingWakeup) -> Guest:
    made = Guest(
        ComponentSpec("unit", Path("unit.wasm")),
        NoOutbound(),
        GuestOutput(lambda _line: None),
        GuestOutput(lambda _line: None),
        clock=lambda: wakeup.now,
    )
    made.wakeup = wakeup  # type: ignore[assignment]
    made.deadline = 130.0
    return made
