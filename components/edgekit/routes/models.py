"""Which models there are, and what they are, for clients of OpenAI and of Ollama."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from edgekit.chat import catalogs
from edgekit.chat.generation import JSON_MEDIA_TYPE
from edgekit.chat.settings import Dialect, read_chat_settings
from edgekit.chat.upstream import ask, read_answer
from edgekit.errors import UpstreamUnavailableError
from edgekit.exchange import Exchange, Placement
from edgekit.http import Headers, Response
from edgekit.ports import UpstreamError
from edgekit.protocols.fields import parse_document
from edgekit.protocols.ollama import API_VERSION, check_show
from edgekit.routes.chat import error_style
from edgekit.routing import Route

__all__ = ["ROUTES"]


@dataclass(frozen=True, slots=True)
class Question:
    """What an engine is asked about models.

    Attributes:
        method: Upper case.
        target: Path, percent-encoded.
        body: Sent along.
        translate: Makes the client's answer of the engine's; may raise `UpstreamError`.
    """

    method: str
    target: str
    body: bytes = b""
    translate: Callable[[bytes], bytes] = lambda answer: answer


@dataclass(frozen=True, slots=True)
class CatalogRequest:
    """A call about models."""

    client: Dialect
    question: Callable[[Exchange, Dialect], Question | bytes]
    """What to ask an engine of a dialect; bytes are an answer that needs none."""

    def prepare(self, exchange: Exchange) -> CatalogCall:
        """Say it in the engine's words."""
        settings = read_chat_settings(exchange.ports.variables)
        return CatalogCall(self.question(exchange, settings.dialect_for(self.client)))


@dataclass(frozen=True, slots=True)
class CatalogCall:
    """A question in the engine's words, or its answer."""

    question: Question | bytes

    def call(self, exchange: Exchange) -> CatalogAnswer:
        """Ask the engine."""
        question = self.question
        if isinstance(question, bytes):
            exchange.placement = Placement("edge", "local", 0.0)
            return CatalogAnswer(question)
        settings = read_chat_settings(exchange.ports.variables)
        exchange.use_upstream(settings.engine)
        answer = ask(
            exchange,
            question.method,
            question.target,
            accept=JSON_MEDIA_TYPE,
            body=question.body,
        )
        content = read_answer(answer, exchange)
        exchange.placement = Placement("cluster", "passthrough", exchange.end_stage("backend"))
        try:
            return CatalogAnswer(question.translate(content))
        except UpstreamError as error:
            raise UpstreamUnavailableError(str(error)) from error


@dataclass(frozen=True, slots=True)
class CatalogAnswer:
    """An answer in the client's form."""

    body: bytes

    def respond(self, _exchange: Exchange) -> Response:
        """The response."""
        return Response(200, Headers([("content-type", JSON_MEDIA_TYPE)]), self.body)


def _models(_exchange: Exchange, dialect: Dialect) -> Question:
    if dialect is Dialect.OPENAI:
        return Question("GET", "/v1/models")
    return Question("GET", "/api/tags", translate=catalogs.models_from_tags)


def _model(name: str) -> Callable[[Exchange, Dialect], Question]:
    def question(_exchange: Exchange, dialect: Dialect) -> Question:
        if dialect is Dialect.OPENAI:
            return Question("GET", f"/v1/models/{quote(name, safe='')}")
        return Question(
            "GET", "/api/tags", translate=lambda body: catalogs.model_from_tags(body, name)
        )

    return question


def _listed(path: str) -> Callable[[Exchange, Dialect], Question]:
    def question(_exchange: Exchange, dialect: Dialect) -> Question:
        if dialect is Dialect.OLLAMA:
            return Question("GET", path)
        return Question("GET", "/v1/models", translate=catalogs.tags_from_models)

    return question


def _version(_exchange: Exchange, dialect: Dialect) -> Question | bytes:
    if dialect is Dialect.OLLAMA:
        return Question("GET", "/api/version")
    return catalogs.version_answer(API_VERSION)


def _show(exchange: Exchange, dialect: Dialect) -> Question:
    settings = read_chat_settings(exchange.ports.variables)
    body = exchange.request.read(settings.max_body_bytes)
    document = parse_document(body)
    check_show(document)
    if dialect is Dialect.OLLAMA:
        return Question("POST", "/api/show", body)
    name = document.get("model") or document["name"]
    target = f"/v1/models/{quote(name, safe='')}"
    return Question("GET", target, translate=catalogs.show_from_model)


def _parse_models(exchange: Exchange, _held: Sequence[str]) -> CatalogRequest:
    """The list, or one model, whose name may hold slashes."""
    name = "/".join(exchange.request.segments()[2:])
    return CatalogRequest(Dialect.OPENAI, _model(name) if name else _models)


def _route(
    path: str, method: str, question: Callable[[Exchange, Dialect], Question | bytes]
) -> Route:
    def parse(_exchange: Exchange, _held: Sequence[str]) -> CatalogRequest:
        return CatalogRequest(Dialect.OLLAMA, question)

    return Route(path, (method,), parse, error_style(Dialect.OLLAMA), kind="chat")


ROUTES = (
    Route("/v1/models/...", ("GET",), _parse_models, error_style(Dialect.OPENAI), kind="chat"),
    _route("/api/tags", "GET", _listed("/api/tags")),
    _route("/api/ps", "GET", _listed("/api/ps")),
    _route("/api/version", "GET", _version),
    _route("/api/show", "POST", _show),
)
