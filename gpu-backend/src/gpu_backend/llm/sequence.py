"""One text on its way through an embedded engine: from tokens to chunks, until it ends.

A sequence is changed by the engine's thread alone; chunks reach the event loop by its outlet.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from time import perf_counter

from gpu_backend.llm.engine import Chunk, Finish, FinishReason, Format, TokenScore, Usage
from gpu_backend.llm.sampling import Choice
from gpu_backend.llm.stops import StopFilter
from gpu_backend.llm.token_bytes import TextDecoder
from gpu_backend.llm.tokenizer import TokenIds

__all__ = ["Drawn", "Outlet", "Sequence", "Task"]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token that was chosen; `score` where scores were asked for."""

    token: int
    score: TokenScore | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be generated, with every default filled in.

    Attributes:
        prompt: At least one token.
        limit: Of generated tokens, at least one; prompt and limit fit the context.
        choice: How tokens are chosen.
        eos_tokens: Each ends the text.
        stops: The text ends before the first of them.
        top_logprobs: None asks for no scores.
        format: The form that the text must have.
    """

    prompt: TokenIds
    limit: int
    choice: Choice
    eos_tokens: frozenset[int]
    stops: tuple[str, ...] = ()
    top_logprobs: int | None = None
    format: Format | None = None


class Outlet:
    """Chunks for the one who reads a stream; everything here happens on the event loop."""

    __slots__ = ("_items", "_waiter")

    def __init__(self) -> None:
        self._items: deque[Chunk | Exception] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: Chunk | Exception) -> None:
        """Hand over a chunk, or what ends the stream."""
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> Chunk:
        """What has come since the last call, as one chunk: a slow reader costs no more than that.

        Raises:
            Exception: What ended the stream.
        """
        items = self._items
        while not items:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        item = items.popleft()
        if isinstance(item, Exception):
            raise item
        while items and isinstance(following := items[0], Chunk):
            item = Chunk(
                text=item.text + following.text,
                scores=item.scores + following.scores,
                finish=following.finish,
            )
            items.popleft()
        return item


class Sequence:
    """State of one text.

    Args:
        task: What is to be generated.
        decoder: Fresh, for this text.
        load_s: Seconds that its request waited for the model to load.
    """

    def __init__(self, task: Task, decoder: TextDecoder, load_s: float = 0.0) -> None:
        self.task = task
        self.outlet = Outlet()
        self.is_cancelled = False
        """Set from the event loop, read by the engine's thread."""
        self.generated = 0
        self._decoder = decoder
        self._stops = StopFilter(task.stops)
        self._scores: list[tuple[int, TokenScore]] = []
        """Not passed on yet, each with the place in the text where its token begins."""
        self._written = 0
        self._passed = 0
        self._load_s = load_s
        self._submitted_at = perf_counter()
        self._admitted_at = 0.0
        self._first_at = 0.0

    def admit(self) -> None:
        """The engine begins to work on it."""
        self._admitted_at = perf_counter()

    def accept(self, drawn: Drawn) -> Chunk | None:
        """What the next token adds to the stream; None while it adds nothing to be read."""
        if not self._first_at:
            self._first_at = perf_counter()
        if drawn.token in self.task.eos_tokens:
            return self._end(FinishReason.STOP, self._flush())
        self.generated += 1
        text = self._decoder.push(drawn.token)
        if drawn.score is not None:
            self._scores.append((self._written, drawn.score))
        self._written += len(text)
        passed = self._stops.push(text)
        if self._stops.matched is not None:
            return self._end(FinishReason.STOP, passed)
        if self.generated >= self.task.limit:
            return self._end(FinishReason.LENGTH, passed + self._flush())
        if not passed:
            return None
        return Chunk(text=passed, scores=self._take_scores(passed, is_last=False))

    def end(self) -> Chunk:
        """The runtime says that nothing more comes, though no token did."""
        return self._end(FinishReason.STOP, self._flush())

    def _flush(self) -> str:
        """Everything held back; the last part of a character may still complete a stop."""
        text = self._stops.push(self._decoder.flush())
        return text if self._stops.matched is not None else text + self._stops.flush()

    def _end(self, reason: FinishReason, text: str) -> Chunk:
        now = perf_counter()
        if self._stops.matched is not None:
            reason = FinishReason.STOP
        scores = self._take_scores(text, is_last=self._stops.matched is None)
        usage = Usage(
            prompt_tokens=len(self.task.prompt),
            completion_tokens=self.generated,
            prompt_s=self._first_at - self._admitted_at,
            completion_s=now - self._first_at,
            load_s=self._load_s,
            queue_s=self._admitted_at - self._submitted_at,
        )
        return Chunk(text=text, scores=scores, finish=Finish(reason, usage))

    def _take_scores(self, text: str, *, is_last: bool) -> tuple[TokenScore, ...]:
        """Scores of the tokens that begin in `text`; all that are left when nothing follows."""
        self._passed += len(text)
        taken = [entry for at, entry in self._scores if at < self._passed or is_last]
        self._scores = [] if is_last else [e for e in self._scores if e[0] >= self._passed]
        return tuple(taken)
