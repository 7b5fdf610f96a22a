"""Threads for guests: bounds, order, expiry, the end."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edgehost.ports import Wakeup
from edgehost.run_gate import RunGate
from edgehost.workers import WorkerPool
from fakes.http_peers import WAIT_S, wait_until


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class OpenGate:
    def enter(self) -> None:
        pass

    def leave(self) -> None:
        pass


class Task:
    def __init__(self, work: Callable[[], None] = lambda: None) -> None:
        self._work = work
        self.started = threading.Event()
        self.done = threading.Event()
        self.expired = threading.Event()
        self.cancelled = threading.Event()

    def run(self) -> None:
        self.started.set()
        self._work()
        self.done.set()

    def expire(self) -> None:
        self.expired.set()

    def cancel(self) -> None:
        self.cancelled.set()


def blocked(release: threading.Event) -> Task:
    def work() -> None:
        assert release.wait(WAIT_S)

    return Task(work)


def test_jobs_run_at_once_up_to_the_limit_and_wait_beyond_it() -> None:
    release = threading.Event()
    pool = WorkerPool(2, 10, 10, OpenGate())
    tasks = [blocked(release) for _ in range(3)]
    assert all(pool.submit(task) for task in tasks)
    assert tasks[0].started.wait(WAIT_S)
    assert tasks[1].started.wait(WAIT_S)
    assert pool.waiting == 1
    assert not tasks[2].started.is_set()
    release.set()
    assert tasks[2].done.wait(WAIT_S)
    assert pool.close(WAIT_S)


def test_idle_thread_is_used_again() -> None:
    pool = WorkerPool(8, 10, 10, OpenGate())
    names = set()
    for _ in range(20):
        task = Task(lambda: names.add(threading.current_thread().name))
        assert pool.submit(task)
        assert task.done.wait(WAIT_S)
        wait_until(lambda: pool.running == 0, "the thread going idle")
    assert len(names) == 1
    assert pool.close(WAIT_S)


def test_full_queue_turns_a_job_away() -> None:
    release = threading.Event()
    pool = WorkerPool(1, 1, 10, OpenGate())
    first = blocked(release)
    assert pool.submit(first)
    assert first.started.wait(WAIT_S)
    assert pool.submit(Task())
    assert not pool.submit(Task())
    release.set()
    assert pool.close(WAIT_S)


def test_job_that_waited_too_long_expires_and_later_ones_stay() -> None:
    clock, release = Clock(), threading.Event()
    pool = WorkerPool(1, 10, 5, OpenGate(), clock=clock)
    first, second, third = blocked(release), Task(), Task()
    pool.submit(first)
    assert first.started.wait(WAIT_S)
    pool.submit(second)
    clock.now = 3
    pool.submit(third)
    clock.now = 6
    pool.expire()
    assert second.expired.is_set()
    assert not third.expired.is_set()
    release.set()
    assert third.done.wait(WAIT_S)
    assert not second.done.is_set()
    assert pool.close(WAIT_S)


def test_job_that_raises_does_not_cost_its_thread(caplog: object) -> None:
    def fail() -> None:
        raise RuntimeError("bug")

    pool = WorkerPool(1, 10, 10, OpenGate())
    pool.submit(Task(fail))
    after = Task()
    pool.submit(after)
    assert after.done.wait(WAIT_S)
    assert pool.close(WAIT_S)


def test_close_expires_what_waits_and_lets_the_running_job_end() -> None:
    release = threading.Event()
    pool = WorkerPool(1, 10, 10, OpenGate())
    running, waiting = blocked(release), Task()
    pool.submit(running)
    assert running.started.wait(WAIT_S)
    pool.submit(waiting)
    assert not pool.close(0.01)
    assert waiting.expired.is_set()
    assert not pool.submit(Task())
    pool.cancel_running()
    assert running.cancelled.is_set()
    release.set()
    assert running.done.wait(WAIT_S)
    assert pool.close(WAIT_S)


def test_burst_behind_a_shut_gate_takes_one_more_thread_than_runs() -> None:
    release = threading.Event()
    gate = RunGate(1, patience_s=1000)
    pool = WorkerPool(64, 100, 10, gate)
    tasks = [blocked(release) for _ in range(20)]
    for task in tasks:
        assert pool.submit(task)
    assert tasks[0].started.wait(WAIT_S)
    wait_until(lambda: gate.waiting == 1, "the next thread at the gate")
    assert (pool.running, pool.waiting, pool._threads) == (1, 19, 2)
    release.set()
    for task in tasks:
        assert task.done.wait(WAIT_S)
    assert pool.close(WAIT_S)


def test_jobs_that_sleep_make_way_for_others() -> None:
    gate = RunGate(1, patience_s=1000)
    pool = WorkerPool(8, 100, 10, gate)
    wakeups = [Wakeup() for _ in range(4)]

    def sleeper(wakeup: Wakeup) -> Task:
        wakeup.gate = gate
        return Task(lambda: assert_woken(wakeup))

    tasks = [sleeper(wakeup) for wakeup in wakeups]
    for task in tasks:
        assert pool.submit(task)
    for task in tasks:
        assert task.started.wait(WAIT_S)
    for wakeup in wakeups:
        wakeup.set()
    for task in tasks:
        assert task.done.wait(WAIT_S)
    assert pool.close(WAIT_S)


def assert_woken(wakeup: Wakeup) -> None:
    assert wakeup.wait(WAIT_S)


def test_job_that_expires_while_its_thread_is_at_the_gate_is_not_run() -> None:
    clock, gate = Clock(), RunGate(1, patience_s=1000)
    pool = WorkerPool(4, 100, 5, gate, clock=clock)
    gate.enter()
    late, after = Task(), Task()
    assert pool.submit(late)
    wait_until(lambda: gate.waiting == 1, "the thread at the gate")
    clock.now = 6
    pool.expire()
    assert late.expired.is_set()
    assert pool.submit(after)
    gate.leave()
    assert after.done.wait(WAIT_S)
    assert not late.started.is_set()
    assert pool.close(WAIT_S)
