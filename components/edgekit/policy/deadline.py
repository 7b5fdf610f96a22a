"""One latency budget from the first byte of the request to the last one of the answer.

Every wait of a request draws on the same budget: outbound timeouts, waiting for another instance,
pauses before retries. The backend is told what is left of it, so that no hop starts a new one.
"""

from __future__ import annotations

import math

from edgekit.errors import DeadlineExceededError, InvalidInputError
from edgekit.http import Headers
from edgekit.ports import Clock, Timeouts

__all__ = ["DEADLINE_HEADER", "Deadline", "parse_budget_ms"]

DEADLINE_HEADER = "inference-deadline-ms"

_UNLIMITED = Timeouts(math.inf, math.inf, math.inf)

_LEAST_S = 0.001
"""The resolution in which hosts take timeouts; 0 would mean none."""

_RETURN_MS = 2
"""Kept back from the forwarded budget for the way back and the post-processing."""


def parse_budget_ms(headers: Headers, *, default_ms: int, maximum_ms: int) -> int:
    """The client's budget, at most `maximum_ms`; `default_ms` when it names none.

    Raises:
        InvalidInputError: The field is not a positive integer.
    """
    field = headers.get(DEADLINE_HEADER)
    if field is None:
        return min(default_ms, maximum_ms)
    value = field.strip()
    if not (value.isascii() and value.isdigit()) or not value.strip("0"):
        raise InvalidInputError(
            f"Inference-Deadline-Ms: {value[:32]!r} is not a positive number of milliseconds",
            param="Inference-Deadline-Ms",
        )
    return min(int(value.lstrip("0")[:10]), maximum_ms)


class Deadline:
    """The budget of one request.

    Args:
        clock: Monotonic time.
        budget_ms: Milliseconds in all.
        started_s: When it began; now, when None.
    """

    __slots__ = ("_clock", "_ends_s", "_started_s", "budget_ms")

    def __init__(self, clock: Clock, budget_ms: int, started_s: float | None = None) -> None:
        self._clock = clock
        self._started_s = clock.monotonic_s() if started_s is None else started_s
        self._ends_s = self._started_s + budget_ms / 1000
        self.budget_ms = budget_ms

    def elapsed_ms(self) -> float:
        """Milliseconds since the request began."""
        return (self._clock.monotonic_s() - self._started_s) * 1000

    def remaining_s(self) -> float:
        """Seconds left; never negative."""
        return max(0.0, self._ends_s - self._clock.monotonic_s())

    def remaining_ms(self) -> float:
        """Milliseconds left; never negative."""
        return self.remaining_s() * 1000

    def check(self, doing: str) -> None:
        """Return while time is left.

        Raises:
            DeadlineExceededError: None is.
        """
        if self.remaining_s() <= 0:
            raise DeadlineExceededError(
                f"the budget of {self.budget_ms} ms ran out while {doing}; "
                "send a larger Inference-Deadline-Ms",
                param="Inference-Deadline-Ms",
            )

    def timeouts(self, most: Timeouts = _UNLIMITED, *, reserve_s: float = 0.0) -> Timeouts:
        """Limits of an outbound call that starts now. Raises `DeadlineExceededError` as `check`.

        Args:
            most: Limits that hold in any case.
            reserve_s: Time to keep for what is tried should the call run into its limit.
        """
        self.check("calling the upstream")
        left_s = max(self.remaining_s() - reserve_s, _LEAST_S)
        return Timeouts(
            connect_s=min(most.connect_s, left_s),
            first_byte_s=min(most.first_byte_s, left_s),
            between_bytes_s=min(most.between_bytes_s, left_s),
            total_s=min(most.total_s, left_s),
        )

    def forward_to(self, headers: Headers) -> None:
        """Tell the next hop what is left, less the way back."""
        headers.set(DEADLINE_HEADER, str(max(1, int(self.remaining_ms()) - _RETURN_MS)))
