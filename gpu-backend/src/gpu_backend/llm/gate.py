"""How many requests one model takes at a time, and when to come back to a full one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gpu_backend.errors import OverloadedError

__all__ = ["Gate"]

_SMOOTHING = 0.2

_MIN_RETRY_S, _MAX_RETRY_S = 1.0, 60.0


class Gate:
    """Permits for one model.

    Args:
        name: Of the model, for messages.
        streams: That are generated at a time.
        queue: That may wait beside them.
    """

    def __init__(self, name: str, streams: int, queue: int) -> None:
        self._name = name
        self._streams = streams
        self._limit = streams + queue
        self._mean_s = 1.0
        self.inside = 0

    @contextmanager
    def permit(self) -> Iterator[None]:
        """A place for one request.

        Raises:
            OverloadedError: There is none.
        """
        if self.inside >= self._limit:
            waits = (self.inside - self._streams + 1) / self._streams
            raise OverloadedError(
                f"model {self._name!r} generates or queues {self.inside} texts, its limit",
                retry_after_s=min(_MAX_RETRY_S, max(_MIN_RETRY_S, waits * self._mean_s)),
            )
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def observe(self, seconds: float) -> None:
        """A generation took `seconds` from its first token to its end."""
        self._mean_s += _SMOOTHING * (seconds - self._mean_s)
