"""One call of a language model, as policy sees it.

The cache holds whole answers and streams apart, each in the form its client gets. Only what is
deterministic is looked up without being asked for: temperature 0, a seed, or embeddings. A stream
is stored once its terminal event has passed, in the chunks it was sent in, usage included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgekit.backend import Upstream
from edgekit.chat.arriving import ArrivingAnswer
from edgekit.chat.operations import Operation, Way
from edgekit.chat.prompts import PromptReport, apply_rules
from edgekit.chat.settings import ChatSettings, Dialect
from edgekit.chat.upstream import ask, read_answer
from edgekit.chat.writing import AnswerFrame, compact
from edgekit.errors import ModelNotFoundError, UpstreamUnavailableError
from edgekit.exchange import Exchange
from edgekit.http import Headers, Response
from edgekit.inference.contract import Answer, Inference
from edgekit.inference.upstreams import with_cloud
from edgekit.models.document import EdgeModel
from edgekit.policy.cache_control import parse_response_directives
from edgekit.policy.cache_key import canonical_json
from edgekit.policy.placement import Tier
from edgekit.policy.structured import Token, serialize_list
from edgekit.ports import UpstreamError, UpstreamResponse
from edgekit.protocols.inference_headers import ModelIdentity, parse_model_identity
from edgekit.protocols.ndjson import NDJSON_MEDIA_TYPE
from edgekit.protocols.sse import SSE_MEDIA_TYPE

__all__ = ["JSON_MEDIA_TYPE", "Generation", "answer_frame", "is_deterministic"]

JSON_MEDIA_TYPE = "application/json"
STREAM_MEDIA_TYPES = {Dialect.OPENAI: SSE_MEDIA_TYPE, Dialect.OLLAMA: NDJSON_MEDIA_TYPE}
IDENTIFIER_BYTES = 12

INDIFFERENT = ("user", "metadata", "keep_alive", "store", "safety_identifier", "prompt_cache_key")
"""Members of a request that do not decide on its answer."""

EMBEDDINGS = ("/v1/embeddings", "/api/embed", "/api/embeddings")


def is_deterministic(path: str, document: Mapping[str, Any]) -> bool:
    """True when the same request to the same model has the same answer."""
    if path in EMBEDDINGS:
        return True
    sampling = (document.get("options") or {}) if path.startswith("/api/") else document
    return sampling.get("temperature") == 0 or sampling.get("seed") is not None


def answer_frame(exchange: Exchange, document: Mapping[str, Any]) -> AnswerFrame:
    """What a written answer says of the request, and of the time."""
    ports = exchange.ports
    return AnswerFrame(
        model=document["model"],
        identifier=ports.random.token_bytes(IDENTIFIER_BYTES).hex(),
        created_s=ports.clock.now_s() - exchange.elapsed_ms() / 1000,
        elapsed_ns=lambda: int(exchange.elapsed_ms() * 1e6),
    )


@dataclass(frozen=True, slots=True)
class Wording:
    """A request in the words of one protocol.

    Attributes:
        dialect: The protocol.
        way: How the engine is asked, and its answer read.
        body: Of the request.
    """

    dialect: Dialect
    way: Way
    body: bytes


class Generation(Inference):
    """A request whose document has been checked.

    Args:
        operation: What the client called.
        settings: Where the engines are, and what is done to prompts.
        document: The request; the prompt rules change it.
        body: The same, as it came.
    """

    kind = "chat"
    version = None
    edge_model: EdgeModel | None = None

    def __init__(
        self, operation: Operation, settings: ChatSettings, document: dict[str, Any], body: bytes
    ) -> None:
        self._operation = operation
        self._settings = settings
        self._document = document
        self._body = body
        self._report = PromptReport()
        self._wordings: dict[Dialect, Wording] = {}
        self._upstream_timing: str | None = None

    @property
    def model(self) -> str:
        """Model name."""
        return str(self._document["model"])

    @property
    def streamed(self) -> bool:
        """Whether the client wants the answer as it grows."""
        return self._operation.streams(self._document)

    @property
    def deterministic(self) -> bool:
        """See `is_deterministic`."""
        return is_deterministic(self._operation.path, self._document)

    def upstreams(self, exchange: Exchange) -> Mapping[Tier, Upstream]:
        """The engine, and a backend in the cloud where there is one."""
        return with_cloud(self._settings.engine, exchange.settings, name="chat-cloud")

    def canonical(self, exchange: Exchange) -> Sequence[bytes]:
        """Route, engine's protocol and request, as the prompt rules leave it.

        Raises:
            InvalidInputError: The prompt is too long.
            AccessDeniedError: It meets the deny-list.
        """
        path, document = self._operation.path, self._document
        self._report = apply_rules(document, path, self._settings.prompts)
        exchange.end_stage("prompt")
        decisive = {name: value for name, value in document.items() if name not in INDIFFERENT}
        dialect = self._settings.dialect_for(self._operation.dialect)
        return [path.encode(), dialect.value.encode(), canonical_json(decisive)]

    def understand(self, _exchange: Exchange) -> None:
        """Say it in the engine's words. Raises `InvalidInputError` where it has none."""
        self._wording(self._settings.dialect_for(self._operation.dialect))

    def ask(self, exchange: Exchange) -> Answer:
        """The engine's answer in the client's form; of a streamed one the begin."""
        wording = self._wording(self._dialect_of(exchange.upstream))
        streamed = self.streamed
        accept = STREAM_MEDIA_TYPES[wording.dialect] if streamed else JSON_MEDIA_TYPE
        raw = ask(exchange, "POST", wording.way.target, accept=accept, body=wording.body)
        exchange.end_stage("backend")
        media_type = STREAM_MEDIA_TYPES[self._operation.dialect] if streamed else JSON_MEDIA_TYPE
        head = Answer(
            headers=Headers([("content-type", media_type)]),
            body=b"",
            identity=parse_model_identity(raw.headers.last("inference-model"))
            or ModelIdentity(self.model),
            directives=parse_response_directives(raw.headers),
        )
        given = self._begun if streamed else self._whole
        answer = given(exchange, wording, raw, head)
        self._upstream_timing = raw.headers.get("server-timing")
        return answer

    def answer_at_edge(self, _exchange: Exchange) -> Answer:
        """No model of this component writes."""
        raise ModelNotFoundError("language models run in the cluster alone")

    def respond(self, _exchange: Exchange, answer: Answer) -> Response:
        """The answer as it is stored, or as it comes; and what was done to the prompt."""
        headers = Headers(answer.headers)
        if self._upstream_timing is not None:
            headers.set("server-timing", self._upstream_timing)
        if self._report.redactions:
            counts = self._report.redactions.items()
            found = [(Token(name), {"count": count}) for name, count in counts]
            headers.set("inference-redactions", serialize_list(found))
        if self._report.capped:
            headers.set("inference-output", "capped")
        if not self.streamed:
            return Response(200, headers, answer.body)
        # Proxies in front of the edge are to pass tokens on as they come.
        headers.set("x-accel-buffering", "no")
        arriving = answer.arriving
        return Response(200, headers, answer.chunks() if arriving is None else arriving.chunks())

    # --- in an engine's words -------------------------------------------------------------------

    def _dialect_of(self, upstream: Upstream) -> Dialect:
        """A backend in the cloud speaks both protocols, whatever the engine here does."""
        if upstream.name == self._settings.engine.name:
            return self._settings.dialect_for(self._operation.dialect)
        return self._operation.dialect

    def _wording(self, dialect: Dialect) -> Wording:
        if dialect not in self._wordings:
            way = self._operation.way(dialect, self._document)
            self._wordings[dialect] = Wording(dialect, way, self._said(dialect, way))
        return self._wordings[dialect]

    def _said(self, dialect: Dialect, way: Way) -> bytes:
        if way.request is not None:
            return compact(way.request(self._document))
        changed = self._report.changed
        if self.streamed and dialect is Dialect.OPENAI:
            return _asking_for_usage(self._body, self._document, changed=changed)
        return compact(self._document) if changed else self._body

    # --- its answer -----------------------------------------------------------------------------

    def _begun(
        self, exchange: Exchange, wording: Wording, raw: UpstreamResponse, head: Answer
    ) -> Answer:
        assert wording.way.stream is not None
        frame = answer_frame(exchange, self._document)
        codec = wording.way.stream(frame, self._document)
        arriving = ArrivingAnswer(
            exchange, raw, codec, head, input_tokens=self._report.input_tokens
        )
        return replace(head, arriving=arriving)

    def _whole(
        self, exchange: Exchange, wording: Wording, raw: UpstreamResponse, head: Answer
    ) -> Answer:
        frame = answer_frame(exchange, self._document)
        try:
            content = read_answer(raw, exchange)
            body, usage = wording.way.whole(content, self._document, frame)
        except UpstreamError as error:
            exchange.log(f"the engine's answer makes no sense: {error}")
            failure = UpstreamUnavailableError(str(error))
            failure.upstream_status = raw.status
            raise failure from error
        exchange.end_stage("answer")
        if usage is None:
            return replace(head, body=body, tokens=self._report.input_tokens)
        return replace(
            head,
            body=body,
            tokens=usage.total_tokens,
            output_tokens=usage.completion_tokens,
        )


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
