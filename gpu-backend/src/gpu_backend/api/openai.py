"""OpenAI's protocol: chats, completions, embeddings and models, streamed as server-sent events.

A stream is ``data: {…}`` blocks and ends with ``data: [DONE]``. One that fails ends with
``data: {"error": {…}}`` instead, which is what clients look for.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gpu_backend.api.fields import Members, to_json
from gpu_backend.api.generation import Call, Document, Generated, GenerationRoute, parse_body
from gpu_backend.api.http import correlation, fields_of, read_plain_body
from gpu_backend.api.oip import read_deadline
from gpu_backend.api.openai_requests import read_chat, read_completion, read_count
from gpu_backend.api.problems import openai_error, problem
from gpu_backend.errors import BackendError
from gpu_backend.llm.engine import Chunk, FinishReason, ModelCard, TokenScore, ToolCall, Usage
from gpu_backend.llm.language_models import LanguageModels

__all__ = ["OpenAIRoutes"]

_STREAM = b"text/event-stream; charset=utf-8"

_MAX_EMBEDDINGS = 2048


class OpenAIRoutes:
    """Endpoints under ``/v1``.

    Args:
        models: That generate.
        max_body_bytes: Of a request.
    """

    def __init__(self, models: LanguageModels, max_body_bytes: int) -> None:
        self._models = models
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[Route]:
        """Every route, for Starlette."""
        chat = GenerationRoute(self._models, _Chat(), self._max_body_bytes)
        completion = GenerationRoute(self._models, _Completion(), self._max_body_bytes)
        return [
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completion, methods=["POST"]),
            Route("/v1/embeddings", self.embeddings, methods=["POST"]),
            Route("/v1/models", self.list_models),
            Route("/v1/models/{name:path}", self.show_model),
        ]

    async def list_models(self, _: Request) -> Response:
        """Every language model."""
        cards = await self._models.cards()
        return _json({"object": "list", "data": [_model(card) for card in cards]})

    async def show_model(self, request: Request) -> Response:
        """One model."""
        try:
            return _json(_model(await self._models.card(request.path_params["name"])))
        except BackendError as exc:
            return _refused(exc)

    async def embeddings(self, request: Request) -> Response:
        """A vector per text."""
        try:
            return await self._embed(request)
        except BackendError as exc:
            return _refused(exc)

    async def _embed(self, request: Request) -> Response:
        arrived = time.perf_counter()
        fields = fields_of(request.scope)
        body = await read_plain_body(request.receive, fields, self._max_body_bytes)
        members = Members(parse_body(body))
        name = members.required_text("model")
        texts = members.texts("input", _MAX_EMBEDDINGS)
        if not texts:
            raise members.fault("input", "text or a list of texts", None)
        form = members.text("encoding_format", "float")
        if form not in ("float", "base64"):
            raise members.fault("encoding_format", "float or base64", form)
        dimensions = members.whole("dimensions", 1, 1 << 16)
        deadline = read_deadline(fields, {}, arrived)
        card, made = await self._models.embed(name, texts, dimensions, deadline)
        encode = _base64 if form == "base64" else list
        used = {"prompt_tokens": made.prompt_tokens, "total_tokens": made.prompt_tokens}
        response = _json(
            {
                "object": "list",
                "data": [
                    {"object": "embedding", "index": index, "embedding": encode(vector)}
                    for index, vector in enumerate(made.vectors)
                ],
                "model": name,
                "usage": used,
            }
        )
        response.headers["inference-model"] = card.identity
        for key, value in correlation(fields):
            response.headers[key.decode()] = value.decode()
        return response


class _Chat:
    """`/v1/chat/completions`."""

    stream_type = _STREAM

    def parse(self, document: Document) -> Call:
        """The call that a body asks for."""
        members = Members(document)
        model = members.required_text("model")
        head = _Head("chatcmpl", "chat.completion", model, read_count(members))
        writer = _ChatWriter(head, _includes_usage(members))
        return Call(model, read_chat(members), members.truth("stream", False), writer)

    def refuse(self, error: BackendError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Status, header fields and body that tell `error`."""
        return problem(error, openai=True)


class _Completion:
    """`/v1/completions`."""

    stream_type = _STREAM

    def parse(self, document: Document) -> Call:
        """The call that a body asks for."""
        members = Members(document)
        model = members.required_text("model")
        head = _Head("cmpl", "text_completion", model, read_count(members))
        writer = _CompletionWriter(head, _includes_usage(members))
        return Call(model, read_completion(members), members.truth("stream", False), writer)

    def refuse(self, error: BackendError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Status, header fields and body that tell `error`."""
        return problem(error, openai=True)


@dataclass(frozen=True)
class _Head:
    """What all events of one answer have in common; `count` texts are made of each prompt."""

    prefix: str
    kind: str
    model: str
    count: int
    id: str = field(default_factory=lambda: uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def document(self, suffix: str = "") -> Document:
        """The members, in OpenAI's order."""
        return {
            "id": f"{self.prefix}-{self.id}",
            "object": self.kind + suffix,
            "created": self.created,
            "model": self.model,
        }

    def usage(self, usages: Mapping[int, Usage]) -> Document:
        """Of all texts; a prompt is counted once, however many texts are made of it."""
        prompt = sum(u.prompt_tokens for i, u in usages.items() if i % self.count == 0)
        completion = sum(usage.completion_tokens for usage in usages.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }


class _EventWriter:
    """What chats and completions have in common."""

    suffix = ""

    def __init__(self, head: _Head, includes_usage: bool) -> None:
        self._head = head
        self._includes_usage = includes_usage

    def end(self, usages: Mapping[int, Usage]) -> bytes:
        """Usage, where it was asked for, and the end."""
        done = b"data: [DONE]\n\n"
        if not self._includes_usage:
            return done
        return self._event([], {"usage": self._head.usage(usages)}) + done

    def error(self, error: BackendError) -> bytes:
        """A failure in mid-stream."""
        return b"data: %b\n\n" % to_json({"error": openai_error(error)})

    def _whole(self, choices: list[Document], texts: Sequence[Generated]) -> Document:
        usages = {index: text.finish.usage for index, text in enumerate(texts)}
        document = self._head.document()
        document.update(choices=choices, usage=self._head.usage(usages))
        return document

    def _event(self, choices: list[Document], more: Mapping[str, Any] | None = None) -> bytes:
        document = self._head.document(self.suffix)
        document["choices"] = choices
        if self._includes_usage:
            document["usage"] = None
        document.update(more or {})
        return b"data: %b\n\n" % to_json(document)


class _ChatWriter(_EventWriter):
    suffix = ".chunk"

    def __init__(self, head: _Head, includes_usage: bool) -> None:
        super().__init__(head, includes_usage)
        self._begun: set[int] = set()

    def chunk(self, index: int, chunk: Chunk) -> bytes:
        """The role first, then what came, then the reason for the end."""
        events = b""
        if index not in self._begun:
            self._begun.add(index)
            events += self._delta(index, {"role": "assistant", "content": ""})
        delta: Document = {}
        if chunk.text:
            delta["content"] = chunk.text
        if chunk.thinking:
            delta["reasoning_content"] = chunk.thinking
        if chunk.tool_calls:
            delta["tool_calls"] = [_call_delta(call) for call in chunk.tool_calls]
        if delta or chunk.scores:
            logprobs = _chat_scores(chunk.scores) if chunk.scores else None
            events += self._delta(index, delta, logprobs=logprobs)
        if chunk.finish is not None:
            events += self._delta(index, {}, reason=chunk.finish.reason)
        return events

    def whole(self, texts: Sequence[Generated]) -> Document:
        """The answer that is not streamed."""
        choices = []
        for index, text in enumerate(texts):
            message: Document = {"role": "assistant", "content": text.text, "refusal": None}
            if text.thinking:
                message["reasoning_content"] = text.thinking
            if text.tool_calls:
                message["content"] = text.text or None
                message["tool_calls"] = [_call(call) for call in text.tool_calls]
            choices.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": _chat_scores(text.scores) if text.scores else None,
                    "finish_reason": text.finish.reason,
                }
            )
        return self._whole(choices, texts)

    def _delta(
        self,
        index: int,
        delta: Document,
        *,
        logprobs: Document | None = None,
        reason: FinishReason | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._event([choice])


class _CompletionWriter(_EventWriter):
    def __init__(self, head: _Head, includes_usage: bool) -> None:
        super().__init__(head, includes_usage)
        self._offsets: dict[int, int] = {}

    def chunk(self, index: int, chunk: Chunk) -> bytes:
        """What came, and the reason for the end with the last of it."""
        reason = None if chunk.finish is None else chunk.finish.reason
        logprobs = None
        if chunk.scores:
            offset = self._offsets.get(index, 0)
            logprobs = _completion_scores(chunk.scores, offset)
            self._offsets[index] = offset + sum(len(score.token) for score in chunk.scores)
        choice = {
            "index": index,
            "text": chunk.text,
            "logprobs": logprobs,
            "finish_reason": reason,
        }
        return self._event([choice])

    def whole(self, texts: Sequence[Generated]) -> Document:
        """The answer that is not streamed."""
        choices = [
            {
                "index": index,
                "text": text.text,
                "logprobs": _completion_scores(text.scores, 0) if text.scores else None,
                "finish_reason": text.finish.reason,
            }
            for index, text in enumerate(texts)
        ]
        return self._whole(choices, texts)


def _includes_usage(members: Members) -> bool:
    options = members.mapping("stream_options") or {}
    return Members(options, "stream_options").truth("include_usage", False)


def _call(call: ToolCall) -> Document:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id or f"call_{uuid4().hex}", "type": "function", "function": function}


def _call_delta(call: ToolCall) -> Document:
    """Id, type and name come with the first part of a call alone."""
    function: Document = {"arguments": call.arguments}
    document: Document = {"index": call.index}
    if call.name is not None:
        function = {"name": call.name, **function}
        document.update(id=call.id or f"call_{uuid4().hex}", type="function")
    document["function"] = function
    return document


def _chat_scores(scores: Sequence[TokenScore]) -> Document:
    return {
        "content": [
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
        ],
        "refusal": None,
    }


def _completion_scores(scores: Sequence[TokenScore], offset: int) -> Document:
    offsets = []
    for score in scores:
        offsets.append(offset)
        offset += len(score.token)
    return {
        "tokens": [score.token for score in scores],
        "token_logprobs": [score.logprob for score in scores],
        "top_logprobs": [
            {token: logprob for token, logprob, _ in score.top} if score.top else None
            for score in scores
        ],
        "text_offset": offsets,
    }


def _model(card: ModelCard) -> Document:
    document: Document = {
        "id": card.name,
        "object": "model",
        "created": int(card.modified_s),
        "owned_by": card.engine,
    }
    if card.context_length:
        document["max_model_len"] = card.context_length
    return document


def _base64(vector: Sequence[float]) -> str:
    """Little-endian float32, as the official client asks for by default."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def _refused(error: BackendError) -> Response:
    status, headers, body = problem(error, openai=True)
    return Response(body, status, {key.decode(): value.decode() for key, value in headers})


def _json(document: object) -> Response:
    return Response(to_json(document), media_type="application/json")
