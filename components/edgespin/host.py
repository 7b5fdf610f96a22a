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


SETTINGS = "settings"
"""A variable that holds all the others, where the manifest has one: `name=value`, each ended by
`SEPARATOR`. A call to the host costs a guest some 10 µs, and a request reads some 50 variables."""

SEPARATOR = "\x1e"


class AppVariables:
    """`edgekit.ports.Variables` over `fermyon:spin/variables`; made for one request."""

    def __init__(self) -> None:
        self._known: dict[str, str] | None = None

    def get(self, name: str) -> str:
        """The value; empty when it is undefined or its provider fails."""
        if self._known is None:
            self._known = _split(_ask(SETTINGS))
        found = self._known.get(name)
        return _ask(name) if found is None else found


def _ask(name: str) -> str:
    try:
        return variables.get(name)
    except Err:
        return ""


def _split(settings: str) -> dict[str, str]:
    entries = (entry.partition("=") for entry in settings.split(SEPARATOR))
    return {name.strip(): value for name, equals, value in entries if equals}


def log_to_stderr(message: str) -> None:
    """One line for the operator."""
    print(message, file=sys.stderr, flush=True)
