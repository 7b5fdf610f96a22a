"""The thread that generates: admits texts as slots get free, and steps all of them together.

One iteration reads a piece of one prompt and then draws a token for every text that has its prompt
read. A text that arrives late waits for one iteration, not for the others to end; a long prompt
holds up the others by one piece at a time; a text whose reader left is gone before the next step.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Sequence as Items
from typing import Protocol

from gpu_backend.errors import BackendError, ExecutionFailedError
from gpu_backend.llm.engine import Chunk
from gpu_backend.llm.sequence import Drawn, Sequence

__all__ = ["DecodeLoop", "StepDecoder"]

_log = logging.getLogger(__name__)


class StepDecoder(Protocol):
    """A model in memory, driven step by step on one thread."""

    @property
    def max_streams(self) -> int:
        """Texts that can be generated at a time."""
        ...

    def prefill(self, sequence: Sequence) -> Drawn | None:
        """Read the next piece of the prompt of `sequence`; its first token once all is read.

        The first call takes a slot. One prompt is read at a time.
        """
        ...

    def decode(self, sequences: Items[Sequence]) -> list[Drawn | None]:
        """The next token of each; None for one of which the runtime says that it has ended."""
        ...

    def release(self, sequence: Sequence) -> None:
        """Free the slot of `sequence`, whatever state it is in."""
        ...

    def interrupt(self) -> None:
        """Make a `prefill` that runs fail soon. Called from another thread, at any time."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


class DecodeLoop:
    """Runs a decoder on a thread of its own. All methods are for the event loop.

    Args:
        decoder: Driven by the thread, which closes it at the end.
        loop: That readers run on.
        name: Of the thread.
    """

    def __init__(self, decoder: StepDecoder, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._decoder = decoder
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
                self._decoder.interrupt()
            self._wakeup.notify()

    async def close(self) -> None:
        """End the thread and free the model; texts on their way end with an error."""
        with self._wakeup:
            self._is_closing = True
            self._decoder.interrupt()
            self._wakeup.notify()
        await asyncio.to_thread(self._thread.join)

    # -- on the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._await_work():
                self._iterate()
        except BaseException as exc:  # whatever it is, readers must not wait for ever
            _log.exception("%s ended", self._thread.name)
            self._fail_all(ExecutionFailedError(f"the engine failed: {exc}"))
        finally:
            with self._wakeup:
                self._is_closing = True
            self._fail_all(ExecutionFailedError("the model was unloaded"))
            self._decoder.close()

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

    def _iterate(self) -> None:
        self._drop_cancelled()
        news: list[tuple[Sequence, Chunk | Exception]] = []
        was_active = list(self._active)
        first = self._read_prompt(news)
        if was_active:
            self._step(was_active, news)
        if first is not None:
            self._active.append(first)
        if news:
            self._loop.call_soon_threadsafe(_deliver, news)

    def _drop_cancelled(self) -> None:
        if any(sequence.is_cancelled for sequence in self._waiting):
            self._waiting = deque(s for s in self._waiting if not s.is_cancelled)
        for sequence in [s for s in self._active if s.is_cancelled]:
            self._active.remove(sequence)
            self._decoder.release(sequence)
        reading = self._reading
        if reading is not None and reading.is_cancelled:
            self._stop_reading(reading)

    def _read_prompt(self, news: list[tuple[Sequence, Chunk | Exception]]) -> Sequence | None:
        """Read a piece of a prompt; the text that goes on to be generated, once it is read."""
        sequence = self._reading
        if sequence is None:
            if not self._waiting or len(self._active) >= self._decoder.max_streams:
                return None
            sequence = self._waiting.popleft()
            sequence.admit()
            with self._wakeup:
                self._reading = sequence
        try:
            drawn = self._decoder.prefill(sequence)
        except Exception as exc:
            self._stop_reading(sequence)
            if not sequence.is_cancelled:
                news.append((sequence, _as_error(exc)))
            return None
        if drawn is None:
            return None
        with self._wakeup:
            self._reading = None
        return sequence if self._accept(sequence, drawn, news) else None

    def _stop_reading(self, sequence: Sequence) -> None:
        with self._wakeup:
            self._reading = None
        self._decoder.release(sequence)

    def _step(
        self, sequences: list[Sequence], news: list[tuple[Sequence, Chunk | Exception]]
    ) -> None:
        """One more token for each of `sequences`."""
        try:
            drawn = self._decoder.decode(sequences)
        except Exception as exc:  # a step is one execution: it fails for all of them
            _log.exception("a step of %d texts failed", len(sequences))
            error = _as_error(exc)
            for sequence in sequences:
                self._active.remove(sequence)
                self._decoder.release(sequence)
                news.append((sequence, error))
            return
        for sequence, token in zip(sequences, drawn, strict=True):
            if not self._accept(sequence, token, news):
                self._active.remove(sequence)

    def _accept(
        self,
        sequence: Sequence,
        drawn: Drawn | None,
        news: list[tuple[Sequence, Chunk | Exception]],
    ) -> bool:
        """False when `sequence` has ended; its slot is free then."""
        chunk = sequence.end() if drawn is None else sequence.accept(drawn)
        if chunk is not None:
            news.append((sequence, chunk))
            if chunk.finish is not None:
                self._decoder.release(sequence)
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
        news: list[tuple[Sequence, Chunk | Exception]] = [(sequence, error) for sequence in left]
        if news and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_deliver, news)


def _deliver(news: list[tuple[Sequence, Chunk | Exception]]) -> None:
    for sequence, item in news:
        if not sequence.is_cancelled:
            sequence.outlet.put(item)


def _as_error(exc: Exception) -> BackendError:
    if isinstance(exc, BackendError):
        return exc
    return ExecutionFailedError(f"the runtime failed while generating: {exc}")
