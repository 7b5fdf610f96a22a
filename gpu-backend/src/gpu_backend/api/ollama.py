"""Ollama's protocol: its clients find here what they expect of a server of their own.

A stream is one JSON object per line, the last one with ``done: true``. One that fails ends with
``{"error": "…"}`` instead.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gpu_backend.api.fields import Members, to_json
from gpu_backend.api.generation import (
    Call,
    Document,
    Generated,
    GenerationRoute,
    Preparation,
    parse_body,
)
from gpu_backend.api.http import fields_of, json_object, read_plain_body
from gpu_backend.api.oip import read_deadline
from gpu_backend.api.ollama_requests import read_chat, read_generate
from gpu_backend.api.problems import problem
from gpu_backend.errors import BackendError, InvalidInputError, UpstreamUnavailableError
from gpu_backend.llm.engine import (
    Chunk,
    Finish,
    FinishReason,
    GenerateRequest,
    ModelCard,
    TokenScore,
    ToolCall,
    Usage,
)
from gpu_backend.llm.language_models import LanguageModels

__all__ = ["OllamaRoutes"]

API_VERSION = "0.12.6"
"""Of Ollama, whose routes and members these are; clients ask for it before they use new ones."""

_MAX_EMBEDDINGS = 2048

_NEVER = "0001-01-01T00:00:00Z"
"""Ollama's way to write that a model stays in memory."""


class OllamaRoutes:
    """Endpoints under ``/api``, and the greeting at ``/``.

    Args:
        models: That generate.
        max_body_bytes: Of a request.
    """

    def __init__(self, models: LanguageModels, max_body_bytes: int) -> None:
        self._models = models
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[Route]:
        """Every route, for Starlette."""
        generate = self._text_route(_GenerateWriter, read_generate)
        chat = self._text_route(_ChatWriter, read_chat)
        return [
            Route("/", self.greet),
            Route("/api/version", self.version),
            Route("/api/tags", self.tags),
            Route("/api/ps", self.loaded),
            Route("/api/show", self.show, methods=["POST"]),
            Route("/api/generate", generate, methods=["POST"]),
            Route("/api/chat", chat, methods=["POST"]),
            Route("/api/embed", self.embed, methods=["POST"]),
            Route("/api/embeddings", self.embed_one, methods=["POST"]),
        ]

    def _text_route(
        self, writer: type[_LineWriter], read: Callable[[Members], GenerateRequest | None]
    ) -> GenerationRoute:
        return GenerationRoute(self._models, _Text(writer, read), self._max_body_bytes)

    async def greet(self, _: Request) -> Response:
        """What clients look for to see that somebody is there."""
        return PlainTextResponse("Ollama is running")

    async def version(self, _: Request) -> Response:
        """Of the protocol."""
        return _json({"version": API_VERSION})

    async def tags(self, _: Request) -> Response:
        """Every language model."""
        cards = await self._models.cards()
        return _json({"models": [_tag(card) for card in cards]})

    async def loaded(self, _: Request) -> Response:
        """Models in memory here; other servers' memory is not ours to tell."""
        entries = []
        for served in self._models.served():
            if served.manifest.upstream is None and served.engine.is_loaded:
                for card in await served.engine.cards():
                    more = {"expires_at": _NEVER, "size_vram": 0}
                    entries.append({**_tag(card), **more, "context_length": card.context_length})
        return _json({"models": entries})

    async def show(self, request: Request) -> Response:
        """One model."""
        members = await self._members(request)
        name = members.text("model") or members.required_text("name")
        return _json(_shown(await self._models.card(name)))

    async def embed(self, request: Request) -> Response:
        """A vector per text."""
        started = time.perf_counter()
        members = await self._members(request)
        name = members.required_text("model")
        texts = members.texts("input", _MAX_EMBEDDINGS)
        dimensions = members.whole("dimensions", 1, 1 << 16)
        deadline = read_deadline(fields_of(request.scope), {}, started)
        card, made = await self._models.embed(name, texts, dimensions, deadline)
        answer = {
            "model": name,
            "embeddings": made.vectors,
            "total_duration": _nanoseconds(time.perf_counter() - started),
            "load_duration": 0,
            "prompt_eval_count": made.prompt_tokens,
        }
        return _json(answer, {"inference-model": card.identity})

    async def embed_one(self, request: Request) -> Response:
        """One vector, as older clients ask for it."""
        members = await self._members(request)
        name = members.required_text("model")
        deadline = read_deadline(fields_of(request.scope), {}, time.perf_counter())
        prompt = members.required_text("prompt")
        card, made = await self._models.embed(name, [prompt], None, deadline)
        return _json({"embedding": made.vectors[0]}, {"inference-model": card.identity})

    async def _members(self, request: Request) -> Members:
        fields = fields_of(request.scope)
        return Members(
            parse_body(await read_plain_body(request.receive, fields, self._max_body_bytes))
        )


class _Text:
    """`/api/generate` or `/api/chat`."""

    stream_type = b"application/x-ndjson"

    def __init__(
        self,
        writer: type[_LineWriter],
        read: Callable[[Members], GenerateRequest | None],
    ) -> None:
        self._writer = writer
        self._read = read

    def parse(self, document: Document) -> Call | Preparation:
        """The call that a body asks for; without a prompt, its model is loaded or unloaded."""
        members = Members(document)
        name = members.required_text("model")
        writer = self._writer(name)
        request = self._read(members)
        if request is not None:
            return Call(name, (request,), members.truth("stream", True), writer)
        unloads = members.anything("keep_alive") in (0, "0", "0s")
        return Preparation(name, unloads, writer.prepared("unload" if unloads else "load"))

    def refuse(self, error: BackendError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Status, header fields and body that tell `error`."""
        return problem(error)


class _LineWriter:
    """What chats and plain texts have in common."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._started = time.perf_counter()

    def chunk(self, index: int, chunk: Chunk) -> bytes:  # noqa: ARG002  # there is one text
        """A line for what came, and the last line."""
        lines = b""
        if chunk.text or chunk.thinking or chunk.tool_calls or chunk.scores:
            line = self._line(chunk.text, chunk.thinking, chunk.tool_calls)
            if chunk.scores:
                line["logprobs"] = _scores(chunk.scores)
            lines += to_json({**line, "done": False}) + b"\n"
        if chunk.finish is not None:
            line = {**self._line("", "", ()), **self._last(chunk.finish)}
            lines += to_json(line) + b"\n"
        return lines

    def end(self, usages: Mapping[int, Usage]) -> bytes:  # noqa: ARG002
        """Nothing: the last line has been written."""
        return b""

    def error(self, error: BackendError) -> bytes:
        """A failure in mid-stream."""
        return to_json({"error": error.message}) + b"\n"

    def whole(self, texts: Sequence[Generated]) -> Document:
        """The answer that is not streamed."""
        text = texts[0]
        document = self._line(text.text, text.thinking, text.tool_calls)
        if text.scores:
            document["logprobs"] = _scores(text.scores)
        return {**document, **self._last(text.finish)}

    def prepared(self, reason: str) -> bytes:
        """The answer to a request without a prompt."""
        return to_json({**self._line("", "", ()), "done_reason": reason, "done": True})

    def _line(self, text: str, thinking: str, calls: Sequence[ToolCall]) -> Document:
        raise NotImplementedError

    def _head(self) -> Document:
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        return {"model": self._name, "created_at": now.replace("+00:00", "Z")}

    def _last(self, finish: Finish) -> Document:
        usage = finish.usage
        return {
            "done": True,
            "done_reason": "length" if finish.reason is FinishReason.LENGTH else "stop",
            "total_duration": _nanoseconds(time.perf_counter() - self._started),
            "load_duration": _nanoseconds(usage.load_s),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": _nanoseconds(usage.prompt_s),
            "eval_count": usage.completion_tokens,
            "eval_duration": _nanoseconds(usage.completion_s),
        }


class _GenerateWriter(_LineWriter):
    def _line(self, text: str, thinking: str, calls: Sequence[ToolCall]) -> Document:  # noqa: ARG002
        document = {**self._head(), "response": text}
        if thinking:
            document["thinking"] = thinking
        return document


class _ChatWriter(_LineWriter):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._calls: dict[int, ToolCall] = {}

    def chunk(self, index: int, chunk: Chunk) -> bytes:
        """As for texts; calls are written whole, though other protocols give them in parts."""
        for call in chunk.tool_calls:
            known = self._calls.get(call.index)
            self._calls[call.index] = call if known is None else known.joined(call)
        calls: tuple[ToolCall, ...] = ()
        if chunk.finish is not None:
            calls, self._calls = tuple(self._calls.values()), {}
        return super().chunk(index, replace(chunk, tool_calls=calls))

    def _line(self, text: str, thinking: str, calls: Sequence[ToolCall]) -> Document:
        message: Document = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = [
                {"function": {"name": call.name, "arguments": _arguments(call)}} for call in calls
            ]
        return {**self._head(), "message": message}


def _arguments(call: ToolCall) -> Document:
    """The arguments as the object that Ollama's clients expect.

    Raises:
        UpstreamUnavailableError: The model wrote something else.
    """
    try:
        return json_object(json.loads(call.arguments or "{}"), "the arguments")
    except (ValueError, InvalidInputError) as exc:
        raise UpstreamUnavailableError(
            f"the model calls {call.name!r} with arguments that are no JSON object"
        ) from exc


def _scores(scores: Sequence[TokenScore]) -> list[Document]:
    return [
        {
            "token": score.token,
            "logprob": score.logprob,
            "bytes": list(score.raw),
            "top_logprobs": [
                {"token": token, "logprob": logprob, "bytes": list(raw)}
                for token, logprob, raw in score.top
            ],
        }
        for score in scores
    ]


def _tag(card: ModelCard) -> Document:
    name = card.name if ":" in card.name else f"{card.name}:latest"
    return {
        "name": name,
        "model": name,
        "modified_at": datetime.fromtimestamp(card.modified_s, UTC).isoformat(),
        "size": card.size_bytes,
        "digest": card.digest.removeprefix("sha256:"),
        "details": _details(card),
    }


def _details(card: ModelCard) -> Document:
    return {
        "parent_model": "",
        "format": "onnx" if card.engine == "onnxruntime-genai" else "",
        "family": card.family,
        "families": [card.family] if card.family else [],
        "parameter_size": card.parameter_size,
        "quantization_level": card.quantization,
    }


def _shown(card: ModelCard) -> Document:
    can = card.capabilities
    abilities = {"tools": can.tools, "vision": can.images, "embedding": can.embeddings}
    family = card.family or "unknown"
    return {
        "modelfile": "",
        "parameters": "",
        "template": card.template,
        "details": _details(card),
        "model_info": {
            "general.architecture": family,
            f"{family}.context_length": card.context_length,
        },
        "capabilities": ["completion", *(name for name, able in abilities.items() if able)],
        "modified_at": datetime.fromtimestamp(card.modified_s, UTC).isoformat(),
    }


def _nanoseconds(seconds: float | None) -> int:
    return int((seconds or 0.0) * 1e9)


def _json(document: Any, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(document), 200, headers, media_type="application/json")
