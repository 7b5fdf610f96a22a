"""GenAI's own engine on a folder built for paged attention: continuous batching on accelerators.

The library schedules by itself: one run reads pieces of prompts and draws a token for every text
that has its prompt read, with keys and values in blocks of one pool. Two things are left to us. It
never takes a block back from a text, so texts that fill the pool together would wait for each other
for ever: a text is started only when the blocks of its longest form are free. And after a failed
execution the engine is lost: the thread ends, and the next request loads the model again.

Known of version 0.18: folders without paged attention are batched statically and refuse seeds, so
they have other decoders; no probabilities are told; there are no penalties but that on repetition.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from gpu_backend.errors import (
    BackendError,
    ExecutionFailedError,
    InvalidInputError,
    ModelInvalidError,
    OverloadedError,
)
from gpu_backend.llm.genai import guidance
from gpu_backend.llm.genai_folder import GenAIFolder
from gpu_backend.llm.generation_thread import Decoder, GenerationThread, News, as_error
from gpu_backend.llm.sequence import Drawn, Sequence, Task

__all__ = ["Drawing", "EngineDecoder", "EngineLoop", "EngineLostError", "PagedDecoder"]

_log = logging.getLogger(__name__)

_RETRY_S = 1.0

_SEED_BITS = (1 << 63) - 1

Drawing = tuple[Sequence, Drawn | BackendError | None]
"""What one run gave a text: a token, why it failed, or None when the library says it has ended."""


class EngineLostError(ExecutionFailedError):
    """The library's engine can do nothing more; the model has to be loaded anew."""


class EngineDecoder(Decoder, Protocol):
    """A model in memory that schedules the texts it was given by itself."""

    def open(self) -> None:
        """Called first, on the thread that calls everything else.

        Raises:
            ModelInvalidError: The model cannot be used.
        """
        ...

    def has_room(self, sequence: Sequence) -> bool:
        """`sequence` can be started now and will come to its end."""
        ...

    def start(self, sequence: Sequence) -> None:
        """Take `sequence` in.

        Raises:
            InvalidInputError: The library refuses what is asked.
        """
        ...

    def run(self) -> list[Drawing]:
        """One execution for every text that can go on.

        Raises:
            EngineLostError: It failed.
        """
        ...


class EngineLoop(GenerationThread):
    """Drives an `EngineDecoder`: starts what there is room for, and hands out what a run drew.

    Args:
        decoder: Driven by the thread, which closes it at the end.
        loop: That readers run on.
        name: Of the thread.
    """

    def __init__(self, decoder: EngineDecoder, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._decoder = decoder
        self._opened: asyncio.Future[None] = loop.create_future()
        super().__init__(decoder, loop, name)

    async def opened(self) -> None:
        """Wait until texts can be taken.

        Raises:
            ModelInvalidError: They never can.
        """
        await self._opened

    def _run(self) -> None:
        try:
            self._decoder.open()
        except Exception as exc:
            self._is_closing = True
            self._loop.call_soon_threadsafe(self._opened.set_exception, exc)
            return
        self._loop.call_soon_threadsafe(self._opened.set_result, None)
        super()._run()

    def _iterate(self, news: News) -> None:
        self._start_waiting(news)
        if not self._active:
            return
        lost: EngineLostError | None = None
        for sequence, drawn in self._decoder.run():
            if sequence not in self._active:
                continue
            if isinstance(drawn, BackendError):
                lost = drawn if isinstance(drawn, EngineLostError) else lost
                self._decoder.release(sequence)
                news.append((sequence, drawn))
            elif self._accept(sequence, drawn, news):
                continue
            self._active.remove(sequence)
        if lost is not None:
            raise lost

    def _start_waiting(self, news: News) -> None:
        """In the order they came: a long text is not overtaken for ever by short ones."""
        while self._waiting and self._decoder.has_room(self._waiting[0]):
            sequence = self._waiting.popleft()
            sequence.admit()
            try:
                self._decoder.start(sequence)
            except Exception as exc:
                self._decoder.release(sequence)
                news.append((sequence, as_error(exc)))
            else:
                self._active.append(sequence)


class PagedDecoder:
    """`og.Engine` of one folder.

    Args:
        folder: Built for paged attention; its own provider is used.
        max_streams: Texts at a time; the folder may allow fewer.
    """

    def __init__(self, folder: GenAIFolder, max_streams: int) -> None:
        self._folder = folder
        self.max_streams = max_streams
        self.context_length = folder.context_length
        self._pool = _BlockPool(folder)
        self._requests: dict[Sequence, tuple[Any, int]] = {}
        """Request and number of its turn, oldest first."""
        self._sequences: dict[Any, Sequence] = {}

    def open(self) -> None:
        """Load the model; the library's engine belongs to the thread that makes it."""
        import onnxruntime_genai as genai

        self._genai = genai
        folder = self._folder
        try:
            self._model = genai.Model(str(folder.path))
            self._engine = genai.Engine(self._model)
        except RuntimeError as exc:
            raise ModelInvalidError(f"GenAI cannot load {folder.path}: {exc}") from exc
        bounds = self._engine.get_capabilities()
        self.max_streams = min(self.max_streams, bounds.configured_max_batch_size)
        longest = min(bounds.max_request_length or folder.context_length, folder.context_length)
        self.context_length = self._pool.longest(longest)
        # A run tells at most a token and an end for each text, and that it is blocked.
        self._events = self._engine.create_event_buffer(2 * self.max_streams + 1)

    def has_room(self, sequence: Sequence) -> bool:
        """A row is free, and blocks for the whole of `sequence`."""
        return len(self._requests) < self.max_streams and self._pool.has_room(_length(sequence))

    def start(self, sequence: Sequence) -> None:
        """Take `sequence` in; its prompt is read by the next runs."""
        task = sequence.task
        try:
            options = self._genai.RequestOptions()
            options.set_max_session_tokens(_length(sequence))
            request = self._engine.create_request(options=options)
        except RuntimeError as exc:
            raise InvalidInputError(f"GenAI refuses the request: {exc}") from exc
        try:
            turn = request.begin_turn(task.prompt, self._turn_options(request, task))
        except RuntimeError as exc:
            request.close()
            raise InvalidInputError(f"GenAI refuses the request: {exc}") from exc
        self._requests[sequence] = (request, turn)
        self._sequences[request] = sequence
        self._pool.take(sequence, _length(sequence))

    def run(self) -> list[Drawing]:
        """One execution for every text that can go on."""
        try:
            events = list(self._engine.run(self._events))
        except RuntimeError as exc:
            raise EngineLostError(f"GenAI failed: {exc}") from exc
        drawn: list[Drawing] = []
        is_blocked = False
        for event in events:
            sequence = self._sequences.get(event.request)
            if sequence is None:
                is_blocked = is_blocked or self._tells(event, "CAPACITY_BLOCKED")
            else:
                drawn += [(sequence, each) for each in self._drawings(event)]
        if is_blocked and not drawn and self._requests:
            # Nobody can go on, and nobody will: the one that came last makes room.
            drawn.append((next(reversed(self._requests)), self._full()))
        return drawn

    def release(self, sequence: Sequence) -> None:
        """Give back the row and the blocks."""
        found = self._requests.pop(sequence, None)
        if found is None:
            return
        request, turn = found
        del self._sequences[request]
        self._pool.give_back(sequence)
        try:
            request.cancel_turn(turn)  # False when it has ended
            request.close()
        except RuntimeError:
            _log.debug("a request of an engine that is lost was not closed", exc_info=True)

    def interrupt(self) -> None:
        """Nothing: a run is a step, and reads no more than a piece of a prompt."""

    def close(self) -> None:
        """Free the model; requests go before their engine."""
        for sequence in list(self._requests):
            self.release(sequence)
        del self._events, self._engine, self._model

    def _turn_options(self, request: Any, task: Task) -> Any:
        options = self._genai.TurnOptions(request)
        choice = task.choice
        options.set_max_generated_tokens(task.limit)
        options.set_do_sample(not choice.is_greedy)
        if not choice.is_greedy:
            options.set_temperature(choice.temperature)
            options.set_top_k(max(choice.top_k, 0))
            options.set_top_p(choice.top_p)
            if choice.seed is not None:
                options.set_seed(choice.seed & _SEED_BITS)
        if choice.repetition_penalty != 1.0:
            options.set_repetition_penalty(choice.repetition_penalty)
        if task.format is not None:
            options.set_guidance(*guidance(task.format))
        return options

    def _drawings(self, event: Any) -> list[Drawn | BackendError | None]:
        """The token and the end that an event tells, either alone or both."""
        if self._tells(event, "FAILED"):
            return [self._failure(event)]
        found: list[Drawn | BackendError | None] = []
        if self._tells(event, "TOKEN"):
            found.append(Drawn(int(event.token)))
        if self._tells(event, "TURN_FINISHED"):
            found.append(None)
        return found

    def _tells(self, event: Any, flag: str) -> bool:
        return bool(event.flags & getattr(self._genai.EngineEventFlags, flag))

    def _failure(self, event: Any) -> BackendError:
        codes = self._genai.EngineErrorCode
        if event.error_code == codes.REQUEST_UNSERVICEABLE:
            return InvalidInputError(
                "prompt and text do not fit the engine's cache; shorten the prompt",
                param="messages",
            )
        if event.error_code in (codes.CAPACITY_DEFERRED, codes.EXECUTION_CAPACITY_EXCEEDED):
            return self._full()
        if event.error_code == codes.RETRYABLE_EXECUTION:
            return ExecutionFailedError("an execution failed; the request may be sent again")
        return EngineLostError(f"GenAI's engine failed: {event.error_code.name}")

    @staticmethod
    def _full() -> OverloadedError:
        return OverloadedError("the engine's cache is full", retry_after_s=_RETRY_S)


class _BlockPool:
    """Blocks of the folder's cache, as far as `genai_config.json` tells how many there are."""

    def __init__(self, folder: GenAIFolder) -> None:
        self._block = folder.block_size
        self._free = folder.blocks
        self._is_known = bool(folder.blocks and folder.block_size)
        self._taken: dict[Sequence, int] = {}

    def longest(self, context_length: int) -> int:
        """Tokens of one text: the context, or what all blocks hold."""
        return min(context_length, self._free * self._block) if self._is_known else context_length

    def has_room(self, tokens: int) -> bool:
        return not self._is_known or self._needs(tokens) <= self._free

    def take(self, sequence: Sequence, tokens: int) -> None:
        if self._is_known:
            self._taken[sequence] = self._needs(tokens)
            self._free -= self._taken[sequence]

    def give_back(self, sequence: Sequence) -> None:
        self._free += self._taken.pop(sequence, 0)

    def _needs(self, tokens: int) -> int:
        return -(-tokens // self._block)


def _length(sequence: Sequence) -> int:
    """Tokens of prompt and text at their longest."""
    return len(sequence.task.prompt) + sequence.task.limit
