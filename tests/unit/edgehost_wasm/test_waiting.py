"""The one place a guest waits: conditions, timers, deadlines, cancellation."""

from __future__ import annotations

from typing import Any

import pytest

from edgehost.abi.guest import CANCEL_POLL_S, Cancellation, Guest
from edgehost.errors import GuestCancelledError, GuestTimeoutError, GuestTrapError
from edgehost.ports import Wakeup
from edgehost.wasi import clocks, io
from edgehost.wasi.io import Pollable


def never() -> bool:
    return False


def test_wait_for_what_is_ready_does_not_sleep(guest: Guest, wakeup: Any) -> None:
    guest.wait(lambda: True)

    assert wakeup.sleeps == []


def test_wait_ends_when_the_condition_becomes_true(guest: Guest, wakeup: Any) -> None:
    state: list[int] = []
    wakeup.planned = [lambda: None, lambda: state.append(1)]

    guest.wait(lambda: bool(state))

    assert len(wakeup.sleeps) == 2


def test_wait_past_the_deadline_times_out(guest: Guest, wakeup: Any) -> None:
    with pytest.raises(GuestTimeoutError, match="ran longer than 30 s"):
        guest.wait(never)

    assert wakeup.sleeps == [30.0]


def test_timer_later_than_the_deadline_never_fires(guest: Guest) -> None:
    timer = clocks.subscribe_duration(guest, 3600 * 10**9)

    with pytest.raises(GuestTimeoutError):
        io.pollable_block(guest, timer)


def test_timer_wakes_exactly_at_its_time(guest: Guest, wakeup: Any) -> None:
    timer = clocks.subscribe_duration(guest, 2_500_000_000)
    assert not io.pollable_ready(guest, timer)

    io.pollable_block(guest, timer)

    assert wakeup.now == 102.5
    assert io.pollable_ready(guest, timer)


def test_instant_in_the_past_is_ready(guest: Guest) -> None:
    assert io.pollable_ready(guest, clocks.subscribe_instant(guest, 1))


def test_poll_names_all_that_are_ready(guest: Guest) -> None:
    ready, waiting = Pollable(lambda: True), Pollable(never)

    assert io.poll_many(guest, [waiting, ready, waiting, ready]) == [1, 3]


def test_poll_sleeps_until_the_first_timer(guest: Guest, wakeup: Any) -> None:
    late = clocks.subscribe_duration(guest, 5_000_000_000)
    early = clocks.subscribe_duration(guest, 1_000_000_000)

    assert io.poll_many(guest, [late, Pollable(never), early]) == [2]
    assert wakeup.now == 101.0


def test_poll_of_nothing_traps(guest: Guest) -> None:
    with pytest.raises(GuestTrapError, match="empty poll list"):
        io.poll_many(guest, [])


def test_plain_cancel_function_is_asked_regularly(guest: Guest, wakeup: Any) -> None:
    answers = [False, False, True]
    guest.cancelled = lambda: answers.pop(0)

    with pytest.raises(GuestCancelledError):
        guest.wait(never)

    assert wakeup.sleeps == [CANCEL_POLL_S, CANCEL_POLL_S]


def test_cancellation_wakes_what_it_is_bound_to() -> None:
    cancellation, wakeup = Cancellation(), Wakeup()
    cancellation.bind(wakeup)
    assert not cancellation()

    cancellation.cancel()

    assert cancellation()
    assert wakeup.wait(0)


def test_cancellation_without_a_guest_is_kept() -> None:
    cancellation = Cancellation()
    cancellation.bind(None)

    cancellation.cancel()

    assert cancellation()


def test_spinning_on_ready_meets_the_deadline(guest: Guest, wakeup: Any) -> None:
    wakeup.now = 131.0

    with pytest.raises(GuestTimeoutError):
        io.pollable_ready(guest, Pollable(never))
