"""Chat, completions, responses and embeddings, for clients of OpenAI and of Ollama.

`edgekit.chat.operations` says how each call of both protocols reaches the engine, and its answer
the client; `edgekit.chat.generation` is what policy is applied to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from edgekit.chat.generation import JSON_MEDIA_TYPE, Generation, answer_frame
from edgekit.chat.ollama_writer import load_answer
from edgekit.chat.operations import OPERATIONS, Operation
from edgekit.chat.settings import ChatSettings, Dialect, read_chat_settings
from edgekit.errors import UnsupportedMediaTypeError
from edgekit.exchange import Exchange, Placement
from edgekit.http import Headers, Response
from edgekit.protocols.fields import parse_document
from edgekit.protocols.ndjson import NDJSON_MEDIA_TYPE
from edgekit.protocols.problems import ErrorStyle
from edgekit.routing import Route

__all__ = ["ROUTES", "error_style"]


@dataclass(frozen=True, slots=True)
class LoadCall:
    """A call to load or unload a model, at an engine that does so by itself."""

    operation: Operation
    document: dict[str, Any]

    def prepare(self, _exchange: Exchange) -> LoadCall:
        """Nothing is left to prepare."""
        return self

    def call(self, exchange: Exchange) -> LoadCall:
        """No engine is asked."""
        exchange.placement = Placement("edge", "local", 0.0)
        return self

    def respond(self, exchange: Exchange) -> Response:
        """What an Ollama server says to it."""
        keep_alive = self.document.get("keep_alive")
        unload = keep_alive == 0 or (isinstance(keep_alive, str) and not keep_alive.strip("0smh."))
        body = load_answer(
            answer_frame(exchange, self.document),
            chat=self.operation.path == "/api/chat",
            unload=keep_alive is not None and unload,
        )
        streamed = self.operation.streams(self.document)
        media_type = NDJSON_MEDIA_TYPE if streamed else JSON_MEDIA_TYPE
        return Response(200, Headers([("content-type", media_type)]), body)


def error_style(dialect: Dialect) -> ErrorStyle:
    """How clients of `dialect` read errors."""
    return ErrorStyle.OBJECT if dialect is Dialect.OPENAI else ErrorStyle.TEXT


def _parse(operation: Operation, exchange: Exchange, _held: Sequence[str]) -> Generation | LoadCall:
    settings = read_chat_settings(exchange.ports.variables)
    body = _receive(exchange, settings)
    exchange.end_stage("receive")
    document = parse_document(body)
    operation.check(document)
    if operation.is_local(settings.dialect_for(operation.dialect), document):
        return LoadCall(operation, document)
    return Generation(operation, settings, document, body)


def _receive(exchange: Exchange, settings: ChatSettings) -> bytes:
    request = exchange.request
    coding = (request.headers.get("content-encoding") or "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedMediaTypeError(
            f"content-encoding is {coding[:32]!r}: send the JSON uncompressed"
        )
    return request.read(settings.max_body_bytes)


def _route(operation: Operation) -> Route:
    style = error_style(operation.dialect)
    return Route(operation.path, ("POST",), partial(_parse, operation), style, kind="chat")


ROUTES = tuple(map(_route, OPERATIONS))
