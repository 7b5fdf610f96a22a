"""What another server lists: asked for by one request for all, and remembered for a while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter

from gpu_backend.errors import BackendError, ExecutionFailedError, UpstreamUnavailableError
from gpu_backend.llm.engine import ModelCard

__all__ = ["ModelList"]

_log = logging.getLogger(__name__)

_KNOWN_FOR_S = 10.0

_FAILED_FOR_S = 2.0
"""A server that is down costs its time limit once in so long, not at every request."""

_WITHIN_S = 5.0


class ModelList:
    """The models of one server.

    Args:
        name: Of its manifest, for messages.
        ask: The server.
        clock: Monotonic seconds; for tests.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[[], Awaitable[Sequence[ModelCard]]],
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._name = name
        self._ask = ask
        self._clock = clock
        self._failure: BackendError | None = None
        self._until = clock()
        self._asking: asyncio.Task[None] | None = None
        self.known: tuple[ModelCard, ...] = ()
        """As the server said last, however long ago."""

    def refresh(self) -> None:
        """Ask in the background, when it is time again."""
        if self._asking is None and self._clock() >= self._until:
            self._asking = asyncio.create_task(self._renew())

    async def fresh(self) -> tuple[ModelCard, ...]:
        """As the server said a moment ago.

        Raises:
            BackendError: It cannot be asked.
        """
        self.refresh()
        if self._asking is not None:
            await asyncio.shield(self._asking)
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        return self.known

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _renew(self) -> None:
        try:
            async with asyncio.timeout(_WITHIN_S):
                self.known = tuple(await self._ask())
            self._failure = None
        except TimeoutError:
            self._failure = UpstreamUnavailableError(f"{self._name} does not list its models")
        except BackendError as exc:
            self._failure = exc
        except Exception as exc:
            _log.exception("%s cannot be asked for its models", self._name)
            self._failure = ExecutionFailedError(f"{self._name} cannot be asked: {exc}")
        finally:
            kept_s = _KNOWN_FOR_S if self._failure is None else _FAILED_FOR_S
            self._until = self._clock() + kept_s
            self._asking = None
