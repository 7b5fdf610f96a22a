"""How many guests compute at once."""

from __future__ import annotations

import threading

from edgehost.ports import Wakeup
from edgehost.run_gate import RunGate
from fakes.http_peers import WAIT_S, wait_until


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Runner:
    """A thread that enters the gate, stays until told, and leaves."""

    def __init__(self, gate: RunGate) -> None:
        self.inside = threading.Event()
        self._leave = threading.Event()
        self._gate = gate
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def leave(self) -> None:
        self._leave.set()
        self._thread.join(WAIT_S)

    def _run(self) -> None:
        self._gate.enter()
        self.inside.set()
        self._leave.wait(WAIT_S)
        self._gate.leave()


def test_threads_enter_up_to_the_limit_and_then_in_order() -> None:
    gate = RunGate(2, patience_s=1000)
    first, second = Runner(gate), Runner(gate)
    assert first.inside.wait(WAIT_S)
    assert second.inside.wait(WAIT_S)
    third = Runner(gate)
    wait_until(lambda: gate.waiting == 1, "the third in line")
    fourth = Runner(gate)
    wait_until(lambda: gate.waiting == 2, "the fourth in line")
    first.leave()
    assert third.inside.wait(WAIT_S)
    assert not fourth.inside.is_set()
    for runner in (second, third, fourth):
        runner.leave()
    assert gate.running == 0


def test_thread_that_runs_for_long_counts_no_more() -> None:
    clock = Clock()
    gate = RunGate(1, patience_s=0.05, clock=clock)
    slow = Runner(gate)
    assert slow.inside.wait(WAIT_S)
    quick = Runner(gate)
    wait_until(lambda: gate.waiting == 1, "the second in line")
    assert not quick.inside.is_set()
    clock.now = 0.06
    assert quick.inside.wait(WAIT_S)
    assert gate.running == 2
    quick.leave()
    slow.leave()


def test_sleeping_guest_leaves_the_gate_and_enters_it_again() -> None:
    gate = RunGate(1, patience_s=1000)
    wakeup = Wakeup()
    wakeup.gate = gate
    asleep = threading.Event()
    woken = threading.Event()

    def guest() -> None:
        gate.enter()
        asleep.set()
        wakeup.wait(WAIT_S)
        woken.set()
        gate.leave()

    thread = threading.Thread(target=guest, daemon=True)
    thread.start()
    assert asleep.wait(WAIT_S)
    other = Runner(gate)
    assert other.inside.wait(WAIT_S)
    wakeup.set()
    wait_until(lambda: gate.waiting == 1, "the guest wanting back in")
    assert not woken.is_set()
    other.leave()
    assert woken.wait(WAIT_S)
    thread.join(WAIT_S)


def test_wait_that_is_over_already_keeps_the_place() -> None:
    gate = RunGate(1, patience_s=1000)
    wakeup = Wakeup()
    wakeup.gate = gate
    gate.enter()
    other = Runner(gate)
    wait_until(lambda: gate.waiting == 1, "the other in line")
    wakeup.set()
    assert wakeup.wait(WAIT_S)
    assert not other.inside.is_set()
    gate.leave()
    assert other.inside.wait(WAIT_S)
    other.leave()
