"""Executions that take virtual time: hours of load in a second, the same every time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from fakes.backend_clock import FakeClock
from gpu_backend.errors import ExecutionFailedError
from gpu_backend.execution.datatypes import Array
from gpu_backend.execution.session import Feeds

__all__ = ["LoopExecutor", "VirtualRunner", "settle"]

_ROUNDS = 6
"""Of the event loop, from the end of an execution to the start of the next."""


class LoopExecutor:
    """Runs each execution on the event loop, once the results of the one before are told."""

    def submit(self, job: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, job)

    def close(self) -> None:
        pass


class VirtualRunner:
    """Gives `x` back after `base_s` + rows x `row_s`, on the clock that it moves on.

    Args:
        clock: What comes due on it meanwhile, happens meanwhile.
        base_s: Seconds of every execution.
        row_s: Seconds of each row.
        noise: Standard deviation of the logarithm of an execution's duration.
        poison: Executions with one of these values fail, after their time.
    """

    output_names = ["y"]  # noqa: RUF012  # a session has an instance attribute of this name

    def __init__(
        self,
        clock: FakeClock,
        base_s: float,
        row_s: float,
        noise: float = 0.0,
        poison: frozenset[float] = frozenset(),
    ) -> None:
        self.executions: list[tuple[float, Array]] = []
        """When each began, and its `x`."""
        self._clock = clock
        self._base_s, self._row_s = base_s, row_s
        self._noise = noise
        self._poison = poison
        self._random = Random(5)

    def seconds(self, rows: int) -> float:
        """Of an execution, without the noise."""
        return self._base_s + rows * self._row_s

    def run(self, feeds: Feeds) -> list[Array]:
        x = feeds["x"]
        self.executions.append((self._clock.now(), x))
        factor = self._random.lognormvariate(0.0, self._noise)
        self._clock.advance(self.seconds(len(x)) * factor)
        if self._poison & set(x[:, 0].tolist()):
            raise ExecutionFailedError("poison")
        return [x]


async def settle() -> None:
    """Let the event loop do what is due now."""
    for _ in range(_ROUNDS):
        await asyncio.sleep(0)
