"""One generated answer over HTTP, whatever the protocol: parse, generate, write as it comes.

A protocol gives a `Dialect`: how a request is read, how chunks are written, how an error looks. The
rest is the same for all: nothing is sent before the first text is there, so that a refusal has its
own status; a failure after that is told in the stream, and never looks like an end; a client that
goes away ends its generation at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import orjson
from starlette.types import Receive, Scope, Send

from gpu_backend.api.fields import to_json
from gpu_backend.api.http import (
    ON_DISCONNECT,
    Fields,
    correlation,
    fields_of,
    json_object,
    must_close,
    read_plain_body,
    respond,
)
from gpu_backend.api.oip import read_deadline
from gpu_backend.errors import BackendError, InvalidInputError
from gpu_backend.llm.engine import (
    Chunk,
    Chunks,
    Finish,
    FinishReason,
    GenerateRequest,
    ModelCard,
    TokenScore,
    ToolCall,
    Usage,
)
from gpu_backend.llm.language_models import LanguageModels

__all__ = ["Call", "Dialect", "Generated", "GenerationRoute", "Preparation", "Writer", "parse_body"]

_log = logging.getLogger(__name__)

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Generated:
    """One complete text.

    Attributes:
        text: All of it.
        thinking: What a reasoning model does not count as its answer.
        scores: Of its tokens, where they were asked for.
        tool_calls: Complete ones.
        finish: Why it ended, and its usage.
    """

    text: str
    thinking: str
    scores: tuple[TokenScore, ...]
    tool_calls: tuple[ToolCall, ...]
    finish: Finish


class Writer(Protocol):
    """Writes the answer to one call."""

    def chunk(self, index: int, chunk: Chunk) -> bytes:
        """What a chunk of text number `index` adds to the stream."""
        ...

    def end(self, usages: Mapping[int, Usage]) -> bytes:
        """The end of the stream, after the last chunk of the last text; usage by text."""
        ...

    def error(self, error: BackendError) -> bytes:
        """A failure in mid-stream; nothing follows it."""
        ...

    def whole(self, texts: Sequence[Generated]) -> Document:
        """The answer that is not streamed."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """A request as read from its body.

    Attributes:
        model: That shall answer.
        requests: One per text of the answer.
        is_stream: Written as it comes.
        writer: Of the answer.
    """

    model: str
    requests: tuple[GenerateRequest, ...]
    is_stream: bool
    writer: Writer


@dataclass(frozen=True, slots=True)
class Preparation:
    """A request that generates nothing: its model is loaded, or unloaded.

    Attributes:
        model: That is meant.
        unloads: Instead of loading.
        answer: Body of the answer.
    """

    model: str
    unloads: bool
    answer: bytes


class Dialect(Protocol):
    """One route of a protocol."""

    @property
    def stream_type(self) -> bytes:
        """Content type of a stream."""
        ...

    def parse(self, document: Document) -> Call | Preparation:
        """The call that a body asks for.

        Raises:
            InvalidInputError: Names the field at fault.
        """
        ...

    def refuse(self, error: BackendError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Status, header fields and body that tell `error`."""
        ...


class GenerationRoute:
    """An ASGI endpoint.

    Args:
        models: That generate.
        dialect: Of the route.
        max_body_bytes: Of a request, before and after decompression.
    """

    def __init__(self, models: LanguageModels, dialect: Dialect, max_body_bytes: int) -> None:
        self._models = models
        self._dialect = dialect
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every failure is an answer."""
        fields = fields_of(scope)
        left = _leave_with_client(scope)
        try:
            await self._answer(scope, receive, send, fields)
        except BackendError as exc:
            status, headers, body = self._dialect.refuse(exc)
            if exc.code == "payload_too_large" and must_close(fields, self._max_body_bytes):
                headers.append((b"connection", b"close"))
            await respond(scope, send, status, headers + correlation(fields), body)
        except asyncio.CancelledError:
            # Cancelled because nobody reads the answer: the server has nothing to report.
            if not left.is_set():
                raise
        finally:
            scope.pop(ON_DISCONNECT, None)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, fields: Fields) -> None:
        arrived = perf_counter()
        body = await read_plain_body(receive, fields, self._max_body_bytes)
        call = self._dialect.parse(parse_body(body))
        deadline = read_deadline(fields, {}, arrived)
        if isinstance(call, Preparation):
            card = await self._prepare(call)
            headers = [(b"content-type", b"application/json"), *_about(card, fields)]
            await respond(scope, send, 200, headers, call.answer)
            return
        async with AsyncExitStack() as stack:
            streams: list[Chunks] = []
            for request in call.requests:
                card, chunks = await stack.enter_async_context(
                    self._models.generate(call.model, request, deadline)
                )
                streams.append(chunks)
            if call.is_stream:
                await self._stream(send, call, card, streams, fields)
            else:
                texts = await _gather(streams)
                headers = [(b"content-type", b"application/json"), *_about(card, fields)]
                headers.append((b"server-timing", _timing(texts)))
                await respond(scope, send, 200, headers, to_json(call.writer.whole(texts)))

    async def _prepare(self, call: Preparation) -> ModelCard:
        if call.unloads:
            return await self._models.unload(call.model)
        return await self._models.load(call.model)

    async def _stream(
        self, send: Send, call: Call, card: ModelCard, streams: list[Chunks], fields: Fields
    ) -> None:
        """Write chunks as they come; the first one decides whether there is an answer at all."""
        writer = call.writer
        async with aclosing(_merge(streams)) as merged:
            first = await anext(merged)
            # No `cache-control`: caches on the way keep no answer to a POST unasked (RFC 9111,
            # section 3), and the edge is to keep deterministic ones.
            headers = [(b"content-type", self._dialect.stream_type), *_about(card, fields)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            usages: dict[int, Usage] = {}
            try:
                await _send(send, _write(writer, *first, usages))
                async for index, chunk in merged:
                    await _send(send, _write(writer, index, chunk, usages))
                await _send(send, writer.end(usages), is_last=True)
            except BackendError as exc:
                _log.info("a stream of %s broke off: %s", card.name, exc.message)
                await _send(send, writer.error(exc), is_last=True)


def parse_body(body: bytes) -> Document:
    """The JSON object in `body`.

    Raises:
        InvalidInputError: It is something else.
    """
    try:
        return json_object(orjson.loads(body), "the body")
    except orjson.JSONDecodeError as exc:
        raise InvalidInputError(f"the body is not JSON: {exc}") from exc


def _leave_with_client(scope: Scope) -> asyncio.Event:
    """Cancel this task when the client goes away; the event tells that it did."""
    left = asyncio.Event()
    task = asyncio.current_task()

    def leave() -> None:
        left.set()
        if task is not None:
            task.cancel()

    scope[ON_DISCONNECT] = leave
    return left


def _write(writer: Writer, index: int, chunk: Chunk, usages: dict[int, Usage]) -> bytes:
    if chunk.finish is not None:
        usages[index] = chunk.finish.usage
    return writer.chunk(index, chunk)


async def _send(send: Send, body: bytes, *, is_last: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not is_last})


async def _merge(streams: list[Chunks]) -> AsyncGenerator[tuple[int, Chunk], None]:
    """Chunks of all streams as they come, each with the number of its stream."""
    if len(streams) == 1:
        async for chunk in streams[0]:
            yield 0, chunk
        return
    # One place per stream: a client that reads slowly holds up all of them, and memory stays flat.
    queue: asyncio.Queue[tuple[int, Chunk | Exception]] = asyncio.Queue(maxsize=len(streams))
    tasks = [
        asyncio.create_task(_pump(index, stream, queue)) for index, stream in enumerate(streams)
    ]
    try:
        running = len(streams)
        while running:
            index, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            running -= item.finish is not None
            yield index, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(
    index: int, stream: Chunks, queue: asyncio.Queue[tuple[int, Chunk | Exception]]
) -> None:
    try:
        async for chunk in stream:
            await queue.put((index, chunk))
    except Exception as exc:
        await queue.put((index, exc))


async def _gather(streams: list[Chunks]) -> list[Generated]:
    if len(streams) == 1:
        return [await _collect(streams[0])]
    # A group, so that one failure ends the others instead of letting them generate for nobody.
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_collect(stream)) for stream in streams]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]


async def _collect(chunks: Chunks) -> Generated:
    """The complete text of a stream."""
    texts: list[str] = []
    thoughts: list[str] = []
    scores: list[TokenScore] = []
    calls: dict[int, ToolCall] = {}
    finish = Finish(FinishReason.STOP, Usage())
    async for chunk in chunks:
        texts.append(chunk.text)
        thoughts.append(chunk.thinking)
        scores += chunk.scores
        for call in chunk.tool_calls:
            known = calls.get(call.index)
            calls[call.index] = call if known is None else known.joined(call)
        if chunk.finish is not None:
            finish = chunk.finish
    return Generated(
        "".join(texts), "".join(thoughts), tuple(scores), tuple(calls.values()), finish
    )


def _about(card: ModelCard, fields: Fields) -> list[tuple[bytes, bytes]]:
    return [(b"inference-model", card.identity.encode("latin-1", "replace")), *correlation(fields)]


def _timing(texts: Sequence[Generated]) -> bytes:
    """`Server-Timing` of the slowest text, where its engine tells."""
    parts = []
    for name, attribute in (("load", "load_s"), ("queue", "queue_s"), ("prompt", "prompt_s")):
        seconds = [getattr(text.finish.usage, attribute) for text in texts]
        known = [value for value in seconds if value is not None]
        if known:
            parts.append(f"{name};dur={max(known) * 1e3:.3f}")
    generated = [text.finish.usage.completion_s or 0.0 for text in texts]
    return ", ".join([*parts, f"generate;dur={max(generated) * 1e3:.3f}"]).encode()
