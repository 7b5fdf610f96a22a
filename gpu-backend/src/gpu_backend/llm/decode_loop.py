"""Text by steps: slots are taken as they get free, and one step draws for all of them together.

One iteration reads a piece of one prompt and then draws a token for every text that has its prompt
read. A text that arrives late waits for one iteration, not for the others to end; a long prompt
holds up the others by one piece at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence as Items
from typing import Protocol

from gpu_backend.llm.generation_thread import Decoder, GenerationThread, News, as_error
from gpu_backend.llm.sequence import Drawn, Sequence

__all__ = ["DecodeLoop", "StepDecoder"]

_log = logging.getLogger(__name__)


class StepDecoder(Decoder, Protocol):
    """A model in memory, driven step by step on one thread."""

    def prefill(self, sequence: Sequence) -> Drawn | None:
        """Read the next piece of the prompt of `sequence`; its first token once all is read.

        The first call takes a slot. One prompt is read at a time.
        """
        ...

    def decode(self, sequences: Items[Sequence]) -> list[Drawn | None]:
        """The next token of each; None for one of which the runtime says that it has ended."""
        ...


class DecodeLoop(GenerationThread):
    """Drives a `StepDecoder`.

    Args:
        decoder: Driven by the thread, which closes it at the end.
        loop: That readers run on.
        name: Of the thread.
    """

    def __init__(self, decoder: StepDecoder, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._decoder = decoder
        super().__init__(decoder, loop, name)

    def _iterate(self, news: News) -> None:
        was_active = list(self._active)
        first = self._read_prompt(news)
        if was_active:
            self._step(was_active, news)
        if first is not None:
            self._active.append(first)

    def _read_prompt(self, news: News) -> Sequence | None:
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
                news.append((sequence, as_error(exc)))
            return None
        if drawn is None:
            return None
        with self._wakeup:
            self._reading = None
        return sequence if self._accept(sequence, drawn, news) else None

    def _step(self, sequences: list[Sequence], news: News) -> None:
        """One more token for each of `sequences`."""
        try:
            drawn = self._decoder.decode(sequences)
        except Exception as exc:  # a step is one execution: it fails for all of them
            _log.exception("a step of %d texts failed", len(sequences))
            error = as_error(exc)
            for sequence in sequences:
                self._active.remove(sequence)
                self._decoder.release(sequence)
                news.append((sequence, error))
            return
        for sequence, token in zip(sequences, drawn, strict=True):
            if not self._accept(sequence, token, news):
                self._active.remove(sequence)
