"""wasi:clocks — monotonic and wall clock."""

from __future__ import annotations

import time
from typing import Final

from edgehost.abi.guest import Guest
from edgehost.abi.interfaces import HostInterface
from edgehost.wasi.io import Pollable

__all__ = ["INTERFACES"]

_NS: Final = 1_000_000_000

monotonic_clock = HostInterface("wasi:clocks/monotonic-clock@0.2")
wall_clock = HostInterface("wasi:clocks/wall-clock@0.2")


def _timer(guest: Guest, at: float) -> Pollable:
    clock = guest.clock
    return Pollable(lambda: clock() >= at, at)


@monotonic_clock.function("now")
def monotonic_now(guest: Guest) -> int:
    """Nanoseconds since some fixed moment."""
    return int(guest.clock() * _NS)


@monotonic_clock.function("resolution")
def monotonic_resolution(_guest: Guest) -> int:
    """Nanoseconds between two ticks."""
    return 1


@monotonic_clock.function("subscribe-instant")
def subscribe_instant(guest: Guest, when: int) -> Pollable:
    """Ready once `now` has reached `when`."""
    return _timer(guest, when / _NS)


@monotonic_clock.function("subscribe-duration")
def subscribe_duration(guest: Guest, duration: int) -> Pollable:
    """Ready after `duration` nanoseconds."""
    return _timer(guest, guest.clock() + duration / _NS)


@wall_clock.function("now")
def wall_now(_guest: Guest) -> tuple[int, int]:
    """Seconds and nanoseconds since 1970."""
    return divmod(time.time_ns(), _NS)


@wall_clock.function("resolution")
def wall_resolution(_guest: Guest) -> tuple[int, int]:
    """Seconds and nanoseconds between two ticks."""
    return 0, 1


INTERFACES = (monotonic_clock, wall_clock)
