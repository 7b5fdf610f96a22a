"""Chat, completions, responses and embeddings, for clients of OpenAI and of Ollama.

One family of steps serves every call of both protocols; `edgekit.chat.operations` says how each
reaches the engine, and its answer the client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from edgekit.chat.caching import Capture, ChatCache, open_cache, replay
from edgekit.chat.ollama_writer import load_answer
from edgekit.chat.operations import OPERATIONS, Operation, Way
from edgekit.chat.prompts import PromptReport, apply_rules
from edgekit.chat.settings import ChatSettings, Dialect, read_chat_settings
from edgekit.chat.streaming import StreamCodec, stream_answer
from edgekit.chat.upstream import ask, read_answer
from edgekit.chat.writing import AnswerFrame, compact
from edgekit.errors import (
    DeadlineExceededError,
    ModelNotReadyError,
    OverloadedError,
    UnsupportedMediaTypeError,
    UpstreamUnavailableError,
)
from edgekit.exchange import Exchange, Placement
from edgekit.http import Headers, Response
from edgekit.policy.cache_entry import StoredAnswer
from edgekit.policy.structured import Token, serialize_list
from edgekit.ports import UpstreamError, UpstreamResponse
from edgekit.protocols.fields import parse_document
from edgekit.protocols.ndjson import NDJSON_MEDIA_TYPE
from edgekit.protocols.problems import ErrorStyle
from edgekit.protocols.sse import SSE_MEDIA_TYPE
from edgekit.routing import Route

__all__ = ["ROUTES", "error_style"]

JSON_MEDIA_TYPE = "application/json"
STREAM_MEDIA_TYPES = {Dialect.OPENAI: SSE_MEDIA_TYPE, Dialect.OLLAMA: NDJSON_MEDIA_TYPE}
RELAYED_FIELDS = ("inference-model", "server-timing")
IDENTIFIER_BYTES = 12

FAILURES = (
    DeadlineExceededError,
    ModelNotReadyError,
    OverloadedError,
    UpstreamUnavailableError,
)
"""Errors that a stored answer may stand in for."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A call whose body has not been transferred."""

    operation: Operation

    def prepare(self, exchange: Exchange) -> ChatCall | LocalAnswer:
        """Receive the request, judge it, apply the prompt rules, say it in the engine's words."""
        settings = read_chat_settings(exchange.ports.variables)
        operation = self.operation
        body = _receive(exchange, settings)
        exchange.end_stage("receive")
        document = parse_document(body)
        operation.check(document)
        dialect = settings.dialect_for(operation.dialect)
        if operation.is_local(dialect, document):
            return LocalAnswer(_load_answer(exchange, operation, document))
        report = apply_rules(document, operation.path, settings.prompts)
        cache = open_cache(exchange, operation.path, document, dialect.value)
        stored = None if cache is None else cache.find()
        if stored is not None:
            return LocalAnswer(_stored_answer(exchange, report, stored), "cache-hit")
        way = operation.way(dialect, document)
        streamed = way.stream is not None and operation.streams(document)
        if way.request is not None:
            body = compact(way.request(document))
        elif streamed and dialect is Dialect.OPENAI:
            body = _asking_for_usage(body, document, changed=report.changed)
        elif report.changed:
            body = compact(document)
        exchange.end_stage("prompt")
        return ChatCall(operation, settings, way, document, report, body, streamed, cache)


@dataclass(frozen=True, slots=True)
class LocalAnswer:
    """An answer that no engine is needed for.

    Attributes:
        response: It.
        reason: Why there was none, for `Inference-Placement`.
    """

    response: Response
    reason: str = "local"

    def call(self, _exchange: Exchange) -> LocalAnswer:
        """Nothing is called."""
        return self

    def respond(self, exchange: Exchange) -> Response:
        """The response, as it is."""
        exchange.placement = Placement("edge", self.reason)
        return self.response


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A request in the engine's words.

    Attributes:
        operation: What the client called.
        settings: Where the engine is.
        way: How to reach it.
        document: The client's request, the prompt rules applied.
        report: What they did.
        body: For the engine.
        streamed: Whether the answer is.
        cache: Where the answer may be kept; None for one that is not.
    """

    operation: Operation
    settings: ChatSettings
    way: Way
    document: dict[str, Any]
    report: PromptReport
    body: bytes
    streamed: bool
    cache: ChatCache | None

    def call(self, exchange: Exchange) -> ChatAnswer | LocalAnswer:
        """Ask the engine and wait for the head of its answer."""
        try:
            return self._ask(exchange)
        except FAILURES:
            stored = None if self.cache is None else self.cache.find_for_error()
            if stored is None:
                raise
            return LocalAnswer(_stored_answer(exchange, self.report, stored), "cache-stale")

    def _ask(self, exchange: Exchange) -> ChatAnswer:
        dialect = self.settings.dialect_for(self.operation.dialect)
        accept = STREAM_MEDIA_TYPES[dialect] if self.streamed else JSON_MEDIA_TYPE
        answer = ask(
            exchange, self.settings, "POST", self.way.target, accept=accept, body=self.body
        )
        waited_ms = exchange.end_stage("backend")
        reason = "passthrough" if self.way.request is None else "translated"
        exchange.placement = Placement("cluster", reason, waited_ms)
        return ChatAnswer(self, answer)


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """The engine's answer, its body still arriving."""

    asked: ChatCall
    answer: UpstreamResponse

    def respond(self, exchange: Exchange) -> Response:
        """The client's form of it, as it comes where it is streamed."""
        headers = _headers(self.asked.report, self.answer.headers)
        if self.asked.streamed:
            return self._stream(exchange, headers)
        headers.set("content-type", JSON_MEDIA_TYPE)
        body = self._whole(exchange)
        capture = self._capture(exchange)
        if capture is not None:
            capture.add(body)
            self._keep(JSON_MEDIA_TYPE, capture)
        return Response(200, headers, body)

    def _stream(self, exchange: Exchange, headers: Headers) -> Response:
        asked = self.asked
        headers.set("content-type", STREAM_MEDIA_TYPES[asked.operation.dialect])
        # Proxies in front of the edge are to pass tokens on as they come.
        headers.set("x-accel-buffering", "no")
        assert asked.way.stream is not None
        codec = asked.way.stream(_frame(exchange, asked.document), asked.document)
        capture = self._capture(exchange)
        body = stream_answer(
            self.answer,
            codec,
            log=exchange.log,
            check=partial(exchange.deadline.check, "receiving the answer"),
            done=partial(self._finish, exchange, codec, capture),
        )
        return Response(200, headers, body if capture is None else capture.through(body))

    def _whole(self, exchange: Exchange) -> bytes:
        asked = self.asked
        content = read_answer(self.answer, exchange)
        frame = _frame(exchange, asked.document)
        try:
            body, usage = asked.way.whole(content, asked.document, frame)
        except UpstreamError as error:
            exchange.log(f"the engine's answer makes no sense: {error}")
            raise UpstreamUnavailableError(str(error)) from error
        tokens = asked.report.input_tokens if usage is None else usage.total_tokens
        exchange.facts = replace(exchange.facts, tokens=tokens)
        exchange.end_stage("answer")
        return body

    def _capture(self, exchange: Exchange) -> Capture | None:
        if self.asked.cache is None or not self.asked.cache.keeps:
            return None
        return Capture(exchange.settings.policy.cache.max_entry_bytes)

    def _keep(self, media_type: str, capture: Capture) -> None:
        assert self.asked.cache is not None
        self.asked.cache.keep(self.answer.headers, media_type, capture)

    def _finish(self, exchange: Exchange, codec: StreamCodec, capture: Capture | None) -> None:
        """Tokens are charged after the response; of a stream cut short, as far as it came."""
        if capture is not None and codec.complete:
            self._keep(STREAM_MEDIA_TYPES[self.asked.operation.dialect], capture)
        if codec.usage is not None:
            tokens = codec.usage.total_tokens
        else:
            tokens = self.asked.report.input_tokens + codec.pieces
        exchange.facts = replace(exchange.facts, tokens=tokens)


def error_style(dialect: Dialect) -> ErrorStyle:
    """How clients of `dialect` read errors."""
    return ErrorStyle.OBJECT if dialect is Dialect.OPENAI else ErrorStyle.TEXT


def _receive(exchange: Exchange, settings: ChatSettings) -> bytes:
    request = exchange.request
    coding = (request.headers.get("content-encoding") or "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedMediaTypeError(
            f"content-encoding is {coding[:32]!r}: send the JSON uncompressed"
        )
    return request.read(settings.max_body_bytes)


def _asking_for_usage(body: bytes, document: dict[str, Any], *, changed: bool) -> bytes:
    """The request with `stream_options.include_usage`, for tokens to be counted."""
    options = document.get("stream_options")
    if options is None and not changed:
        # The object has members, so this needs no parsing and no writing.
        return b'{"stream_options":{"include_usage":true},' + body.lstrip()[1:]
    if options is not None and options.get("include_usage") and not changed:
        return body
    asking = {**(options or {}), "include_usage": True}
    return compact({**document, "stream_options": asking})


def _frame(exchange: Exchange, document: dict[str, Any]) -> AnswerFrame:
    ports = exchange.ports
    return AnswerFrame(
        model=document["model"],
        identifier=ports.random.token_bytes(IDENTIFIER_BYTES).hex(),
        created_s=ports.clock.now_s() - exchange.elapsed_ms() / 1000,
        elapsed_ns=lambda: int(exchange.elapsed_ms() * 1e6),
    )


def _load_answer(exchange: Exchange, operation: Operation, document: dict[str, Any]) -> Response:
    keep_alive = document.get("keep_alive")
    unload = keep_alive == 0 or (isinstance(keep_alive, str) and keep_alive.strip("0smh.") == "")
    body = load_answer(
        _frame(exchange, document),
        chat=operation.path == "/api/chat",
        unload=keep_alive is not None and unload,
    )
    media_type = NDJSON_MEDIA_TYPE if operation.streams(document) else JSON_MEDIA_TYPE
    return Response(200, Headers([("content-type", media_type)]), body)


def _stored_answer(exchange: Exchange, report: PromptReport, stored: StoredAnswer) -> Response:
    fields, body = replay(stored, exchange)
    headers = _headers(report, Headers())
    for name, value in fields:
        headers.set(name, value)
    return Response(200, headers, body)


def _headers(report: PromptReport, fields: Headers) -> Headers:
    """What the answer says about the model, and about what was done to the prompt."""
    headers = Headers()
    for name in RELAYED_FIELDS:
        value = fields.get(name)
        if value is not None:
            headers.set(name, value)
    if report.redactions:
        found = [(Token(name), {"count": count}) for name, count in report.redactions.items()]
        headers.set("inference-redactions", serialize_list(found))
    if report.capped:
        headers.set("inference-output", "capped")
    return headers


def _route(operation: Operation) -> Route:
    def parse(_exchange: Exchange, _held: Sequence[str]) -> ChatRequest:
        return ChatRequest(operation)

    return Route(operation.path, ("POST",), parse, error_style(operation.dialect), kind="chat")


ROUTES = tuple(map(_route, OPERATIONS))
