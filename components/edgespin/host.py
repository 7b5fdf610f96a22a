"""The rest of what a component gets from its host: clock, randomness, variables, log."""

from __future__ import annotations

import os
import sys
import time

from spin_sdk.wit.imports import variables
from spin_sdk.wit.types import Err

__all__ = ["AppVariables", "HostClock", "HostRandom", "log_to_stderr"]


class HostClock:
    """`edgekit.ports.Clock` over the WASI clocks."""

    def now_s(self) -> float:
        """Seconds since the Unix epoch."""
        return time.time()

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start; never goes back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait; the caller has checked it against its deadline."""
        time.sleep(seconds)


class HostRandom:
    """`edgekit.ports.RandomSource` over `wasi:random`.

    The `random` module is of no use here: its state is part of the build's snapshot, so every
    request would see the same numbers.
    """

    def random(self) -> float:
        """Uniform in [0, 1), with the 53 bits a float holds."""
        return (int.from_bytes(os.urandom(7), "big") >> 3) / (1 << 53)

    def token_bytes(self, count: int) -> bytes:
        """Cryptographically strong bytes."""
        return os.urandom(count)


class AppVariables:
    """`edgekit.ports.Variables` over `fermyon:spin/variables`."""

    def get(self, name: str) -> str:
        """The value; empty when it is undefined or its provider fails."""
        try:
            return variables.get(name)
        except Err:
            return ""


def log_to_stderr(message: str) -> None:
    """One line for the operator."""
    print(message, file=sys.stderr, flush=True)
