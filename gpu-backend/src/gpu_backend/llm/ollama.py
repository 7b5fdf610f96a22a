"""Models of a real Ollama server, by URL.

Requests go to `/api/chat` and `/api/generate`, always streamed; the server's own options that have
no common name (``num_ctx``, ``mirostat``, ``keep_alive``, ``think`` …) travel in `extra["ollama"]`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import httpx

from gpu_backend.errors import InvalidInputError
from gpu_backend.llm.engine import (
    Capabilities,
    Chunk,
    Chunks,
    Embeddings,
    Finish,
    FinishReason,
    GenerateRequest,
    Message,
    ModelCard,
    Prompt,
    TokenScore,
    ToolCall,
    Usage,
)
from gpu_backend.llm.manifest import Upstream
from gpu_backend.llm.upstream import Document, UpstreamClient
from gpu_backend.llm.wire_lines import LineReader

__all__ = ["OllamaEngine"]

CAPABILITIES = Capabilities(
    logprobs=True,
    formats=frozenset(("json_object", "json_schema")),
    tools=True,
    images=True,
    embeddings=True,
)
"""Of the server; what a model of it cannot do, it says itself."""

_NANO = 1e-9


class OllamaEngine:
    """One server, or one model of it under a name of our own.

    Args:
        upstream: Where it is.
        alias: Our name for `upstream.model`; None serves every model under its own name.
        transport: In place of the network; for tests.
    """

    is_loaded = True
    capabilities = CAPABILITIES

    def __init__(
        self,
        upstream: Upstream,
        alias: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._upstream = upstream
        self._alias = alias
        self._client = UpstreamClient(upstream, upstream.url, transport)

    async def generate(self, model: str, request: GenerateRequest) -> Chunks:
        """The text, chunk by chunk."""
        path, body = _request(self._upstream.model or model, request)
        reader = LineReader()
        state = _StreamState()
        async with self._client.stream(path, body) as pieces:
            async for piece in pieces:
                for line in reader.push(piece):
                    chunk = self._chunk(state, line)
                    yield chunk
                    if chunk.finish is not None:
                        return
            for line in reader.flush():
                chunk = self._chunk(state, line)
                yield chunk
                if chunk.finish is not None:
                    return
        raise self._client.broken("the stream has no last line")

    async def embed(self, model: str, texts: Sequence[str], dimensions: int | None) -> Embeddings:
        """A vector per text."""
        body: Document = {"model": self._upstream.model or model, "input": list(texts)}
        if dimensions is not None:
            body["dimensions"] = dimensions
        answer = await self._client.post("/api/embed", body)
        vectors = answer.get("embeddings")
        if not isinstance(vectors, list) or len(vectors) != len(texts):
            raise self._client.broken("the answer does not hold one vector per text")
        with self._client.reading():
            return Embeddings(vectors, int(answer.get("prompt_eval_count") or 0))

    async def cards(self) -> Sequence[ModelCard]:
        """What the server lists; the one model alone where an alias stands for it."""
        answer = await self._client.get("/api/tags")
        with self._client.reading():
            listed = [_card(entry) for entry in answer.get("models") or []]
        if self._alias is None:
            return listed
        meant = _with_tag(self._upstream.model or "")
        found = next((card for card in listed if _with_tag(card.name) == meant), None)
        details = {} if found is None else found.details
        return (
            ModelCard(
                self._alias,
                "ollama",
                digest="" if found is None else found.digest,
                size_bytes=0 if found is None else found.size_bytes,
                modified_s=0.0 if found is None else found.modified_s,
                capabilities=CAPABILITIES,
                details=details,
            ),
        )

    async def load(self) -> None:
        """Nothing: the server loads what it is asked for."""

    async def unload(self) -> None:
        """Nothing: the server's memory is the server's matter."""

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _chunk(self, state: _StreamState, line: bytes) -> Chunk:
        document = self._parse(line)
        with self._client.reading():
            return state.chunk(document)

    def _parse(self, line: bytes) -> Document:
        try:
            document = json.loads(line)
        except ValueError as exc:
            raise self._client.broken("a line is not JSON") from exc
        if not isinstance(document, dict):
            raise self._client.broken("a line is no JSON object")
        if "error" in document:
            raise self._client.broken(str(document["error"])[:500])
        return document


class _StreamState:
    """What has to be remembered between the lines of one answer."""

    def __init__(self) -> None:
        self._calls = 0

    def chunk(self, line: Document) -> Chunk:
        """What one line adds."""
        message = line.get("message") or {}
        calls = tuple(self._call(call) for call in message.get("tool_calls") or ())
        finish = None
        if line.get("done"):
            finish = Finish(_reason(line.get("done_reason"), bool(self._calls)), _usage(line))
        return Chunk(
            text=str(message.get("content") or line.get("response") or ""),
            thinking=str(message.get("thinking") or line.get("thinking") or ""),
            scores=tuple(_score(entry) for entry in line.get("logprobs") or ()),
            tool_calls=calls,
            finish=finish,
        )

    def _call(self, call: Document) -> ToolCall:
        function = call.get("function") or {}
        index = self._calls
        self._calls += 1
        return ToolCall(
            index,
            call.get("id") or f"call_{index}",
            str(function.get("name", "")),
            json.dumps(function.get("arguments") or {}),
        )


def _request(model: str, request: GenerateRequest) -> tuple[str, Document]:
    """Path and body."""
    extra = dict(request.extra.get("ollama", {}))
    body: Document = {"model": model, "stream": True}
    body["options"] = {**_options(request), **dict(extra.pop("options", {}))}
    body.update(extra)
    if request.format is not None:
        body["format"] = _format(request)
    if request.top_logprobs is not None:
        body["logprobs"] = True
        if request.top_logprobs:
            body["top_logprobs"] = request.top_logprobs
    content = request.input
    if isinstance(content, Prompt):
        body["prompt"] = content.text
        if content.raw:
            body["raw"] = True
        if content.system is not None:
            body["system"] = content.system
        if content.images:
            body["images"] = list(content.images)
        return "/api/generate", body
    body["messages"] = [_message(message) for message in content]
    if request.tools and request.tool_choice != "none":
        body["tools"] = list(request.tools)
    return "/api/chat", body


def _options(request: GenerateRequest) -> Document:
    sampling = request.sampling
    if sampling.logit_bias:
        raise InvalidInputError("Ollama has no logit_bias", param="logit_bias")
    options: Document = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repeat_penalty": sampling.repetition_penalty,
        "num_predict": request.max_tokens,
        "stop": list(request.stop) or None,
    }
    return {key: value for key, value in options.items() if value is not None}


def _format(request: GenerateRequest) -> Any:
    form = request.format
    assert form is not None
    if form.kind == "json_object":
        return "json"
    if form.kind == "json_schema":
        return json.loads(form.data)
    raise InvalidInputError(f"Ollama has no format {form.kind!r}", param="response_format")


def _message(message: Message) -> Document:
    document: Document = {"role": message.role, "content": message.content}
    if any(image.startswith(("http://", "https://")) for image in message.images):
        raise InvalidInputError("Ollama takes pictures in base64 only", param="messages")
    if message.images:
        document["images"] = list(message.images)
    if message.tool_calls:
        document["tool_calls"] = [
            {"function": {"name": call.name, "arguments": json.loads(call.arguments or "{}")}}
            for call in message.tool_calls
        ]
    if message.role == "tool" and message.name is not None:
        document["tool_name"] = message.name
    return document


def _reason(done_reason: object, has_calls: bool) -> FinishReason:
    if done_reason == "length":
        return FinishReason.LENGTH
    return FinishReason.TOOL_CALLS if has_calls else FinishReason.STOP


def _usage(line: Mapping[str, Any]) -> Usage:
    def seconds(key: str) -> float | None:
        value = line.get(key)
        return None if value is None else float(value) * _NANO

    return Usage(
        prompt_tokens=int(line.get("prompt_eval_count") or 0),
        completion_tokens=int(line.get("eval_count") or 0),
        prompt_s=seconds("prompt_eval_duration"),
        completion_s=seconds("eval_duration"),
        load_s=seconds("load_duration"),
    )


def _score(entry: Document) -> TokenScore:
    return TokenScore(
        str(entry.get("token", "")),
        float(entry.get("logprob", 0.0)),
        _bytes(entry),
        tuple(
            (str(other.get("token", "")), float(other.get("logprob", 0.0)), _bytes(other))
            for other in entry.get("top_logprobs") or ()
        ),
    )


def _bytes(entry: Document) -> bytes:
    given = entry.get("bytes")
    return bytes(given) if given else str(entry.get("token", "")).encode()


def _card(entry: Document) -> ModelCard:
    details = entry.get("details") or {}
    digest = str(entry.get("digest") or "")
    return ModelCard(
        str(entry.get("name") or entry.get("model") or ""),
        "ollama",
        digest=digest if not digest or ":" in digest else f"sha256:{digest}",
        size_bytes=int(entry.get("size") or 0),
        modified_s=_unix_time(entry.get("modified_at")),
        family=str(details.get("family") or ""),
        parameter_size=str(details.get("parameter_size") or ""),
        quantization=str(details.get("quantization_level") or ""),
        capabilities=CAPABILITIES,
        details=entry,
    )


def _unix_time(text: object) -> float:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0


def _with_tag(name: str) -> str:
    return name if ":" in name else f"{name}:latest"
