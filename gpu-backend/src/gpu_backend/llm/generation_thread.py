"""The thread that an embedded engine generates on: texts come in, chunks go out, until the end.

What one iteration does is up to the subclass. A text whose reader left is gone before the next one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from typing import Protocol

from gpu_backend.errors import BackendError, ExecutionFailedError
from gpu_backend.llm.engine import Chunk
from gpu_backend.llm.sequence import Drawn, Sequence

__all__ = ["Decoder", "GenerationThread", "News", "as_error"]

_log = logging.getLogger(__name__)

News = list[tuple[Sequence, Chunk | Exception]]
"""What one iteration has for the readers."""


class Decoder(Protocol):
    """A model in memory, driven on one thread."""

    @property
    def max_streams(self) -> int:
        """Texts that can be generated at a time."""
        ...

    def release(self, sequence: Sequence) -> None:
        """Free the slot of `sequence`, whatever state it is in."""
        ...

    def interrupt(self) -> None:
        """Make the reading of a prompt fail soon. Called from another thread, at any time."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


class GenerationThread(ABC):
    """Runs a decoder on a thread of its own. All public methods are for the event loop.

    Args:
        decoder: Driven by the thread, which closes it at the end.
        loop: That readers run on.
        name: Of the thread.
    """

    def __init__(self, decoder: Decoder, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._owned = decoder
        self._loop = loop
        self._wakeup = threading.Condition()
        self._arrived: deque[Sequence] = deque()
        self._is_closing = False
        self._waiting: deque[Sequence] = deque()
        self._reading: Sequence | None = None
        self._active: list[Sequence] = []
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """False once it was closed, or ended by a fault; it takes no more texts then."""
        return not self._is_closing

    @property
    def active(self) -> int:
        """Texts that hold a slot now."""
        return len(self._active) + (self._reading is not None)

    def submit(self, sequence: Sequence) -> None:
        """Queue `sequence`; its chunks come out of its outlet."""
        with self._wakeup:
            if self._is_closing:
                raise ExecutionFailedError("the model is being unloaded")
            self._arrived.append(sequence)
            self._wakeup.notify()

    def cancel(self, sequence: Sequence) -> None:
        """Nobody reads `sequence` any more: its slot is free before the next step."""
        sequence.is_cancelled = True
        with self._wakeup:
            if self._reading is sequence:
                self._owned.interrupt()
            self._wakeup.notify()

    async def close(self) -> None:
        """End the thread and free the model; texts on their way end with an error."""
        with self._wakeup:
            self._is_closing = True
            self._owned.interrupt()
            self._wakeup.notify()
        await asyncio.to_thread(self._thread.join)

    # -- on the thread ---------------------------------------------------------------------------

    @abstractmethod
    def _iterate(self, news: News) -> None:
        """One round of work; what the readers get for it is added to `news`."""

    def _run(self) -> None:
        try:
            while self._await_work():
                self._drop_cancelled()
                news: News = []
                try:
                    self._iterate(news)
                finally:  # who has ended hears of it, whatever happened to the others
                    if news:
                        self._loop.call_soon_threadsafe(_deliver, news)
        except BaseException as exc:  # whatever it is, readers must not wait for ever
            _log.exception("%s ended", self._thread.name)
            self._fail_all(ExecutionFailedError(f"the engine failed: {exc}"))
        finally:
            with self._wakeup:
                self._is_closing = True
            self._fail_all(ExecutionFailedError("the model was unloaded"))
            self._owned.close()

    def _await_work(self) -> bool:
        """Take what arrived; sleep while there is nothing to do. False at the end."""
        with self._wakeup:
            while not (self._arrived or self._waiting or self._reading or self._active):
                if self._is_closing:
                    return False
                self._wakeup.wait()
            self._waiting.extend(self._arrived)
            self._arrived.clear()
            return not self._is_closing

    def _drop_cancelled(self) -> None:
        if any(sequence.is_cancelled for sequence in self._waiting):
            self._waiting = deque(s for s in self._waiting if not s.is_cancelled)
        for sequence in [s for s in self._active if s.is_cancelled]:
            self._active.remove(sequence)
            self._owned.release(sequence)
        reading = self._reading
        if reading is not None and reading.is_cancelled:
            self._stop_reading(reading)

    def _stop_reading(self, sequence: Sequence) -> None:
        with self._wakeup:
            self._reading = None
        self._owned.release(sequence)

    def _accept(self, sequence: Sequence, drawn: Drawn | None, news: News) -> bool:
        """False when `sequence` has ended; its slot is free then."""
        chunk = sequence.end() if drawn is None else sequence.accept(drawn)
        if chunk is not None:
            news.append((sequence, chunk))
            if chunk.finish is not None:
                self._owned.release(sequence)
                return False
        return True

    def _fail_all(self, error: BackendError) -> None:
        with self._wakeup:
            left = [*self._arrived, *self._waiting, *self._active]
            if self._reading is not None:
                left.append(self._reading)
            self._arrived.clear()
            self._waiting.clear()
            self._active.clear()
            self._reading = None
        news: News = [(sequence, error) for sequence in left]
        if news and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_deliver, news)


def _deliver(news: News) -> None:
    for sequence, item in news:
        if not sequence.is_cancelled:
            sequence.outlet.put(item)


def as_error(exc: Exception) -> BackendError:
    """`exc`, where it is ours; else what the readers are told of it."""
    if isinstance(exc, BackendError):
        return exc
    return ExecutionFailedError(f"the runtime failed while generating: {exc}")
