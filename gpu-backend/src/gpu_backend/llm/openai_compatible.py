"""Models of any server that speaks OpenAI's protocol, by URL: vLLM, TGI, llama.cpp and others.

Requests go to `/v1/chat/completions` and `/v1/completions`, always streamed, with usage; what a
client sends beyond the common parameters travels unchanged in `extra["openai"]`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx

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
from gpu_backend.llm.wire_lines import EventReader

__all__ = ["OpenAICompatibleEngine"]

CAPABILITIES = Capabilities(
    logprobs=True,
    formats=frozenset(("json_object", "json_schema")),
    tools=True,
    images=True,
    embeddings=True,
)
"""Of the protocol; what a server of it cannot do, it says itself."""

_REASONS = {
    "stop": FinishReason.STOP,
    "eos_token": FinishReason.STOP,  # TGI's words
    "stop_sequence": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}


class OpenAICompatibleEngine:
    """One server, or one model of it under a name of our own.

    Args:
        upstream: Where it is; ``/v1`` is added to a URL without a path.
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
        url = upstream.url if urlsplit(upstream.url).path else f"{upstream.url}/v1"
        self._client = UpstreamClient(upstream, url, transport)

    async def generate(self, model: str, request: GenerateRequest) -> Chunks:
        """The text, chunk by chunk."""
        path, body = _request(self._upstream.model or model, request)
        reader = EventReader()
        end = _End()
        async with self._client.stream(path, body) as pieces:
            async for piece in pieces:
                for data in reader.push(piece):
                    if data.strip() == b"[DONE]":
                        yield self._finish(end)
                        return
                    document = self._parse(data)
                    with self._client.reading():
                        chunk = end.chunk(document)
                    if chunk is not None:
                        yield chunk
        # Some servers end without [DONE]; a reason for the end is an end as well.
        yield self._finish(end)

    async def embed(self, model: str, texts: Sequence[str], dimensions: int | None) -> Embeddings:
        """A vector per text."""
        body: Document = {
            "model": self._upstream.model or model,
            "input": list(texts),
            "encoding_format": "float",
        }
        if dimensions is not None:
            body["dimensions"] = dimensions
        answer = await self._client.post("/embeddings", body)
        data = answer.get("data")
        if not isinstance(data, list) or len(data) != len(texts):
            raise self._client.broken("the answer does not hold one vector per text")
        with self._client.reading():
            ordered = sorted(data, key=lambda entry: int(entry.get("index", 0)))
            tokens = int((answer.get("usage") or {}).get("prompt_tokens") or 0)
            return Embeddings([entry["embedding"] for entry in ordered], tokens)

    async def cards(self) -> Sequence[ModelCard]:
        """What the server lists; the one model alone where an alias stands for it."""
        if self._alias is not None:
            return (ModelCard(self._alias, "openai", capabilities=CAPABILITIES),)
        answer = await self._client.get("/models")
        with self._client.reading():
            return [
                ModelCard(
                    str(entry["id"]),
                    "openai",
                    modified_s=float(entry.get("created") or 0),
                    context_length=int(entry.get("max_model_len") or 0),
                    capabilities=CAPABILITIES,
                    details=entry,
                )
                for entry in answer.get("data") or []
                if isinstance(entry, dict) and entry.get("id")
            ]

    async def load(self) -> None:
        """Nothing: the server loads what it is asked for."""

    async def unload(self) -> None:
        """Nothing: the server's memory is the server's matter."""

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _finish(self, end: _End) -> Chunk:
        if end.reason is None:
            raise self._client.broken("the stream gives no reason for its end")
        return Chunk(finish=Finish(end.reason, end.usage))

    def _parse(self, data: bytes) -> Document:
        try:
            document = json.loads(data)
        except ValueError as exc:
            raise self._client.broken("an event is not JSON") from exc
        if not isinstance(document, dict):
            raise self._client.broken("an event is no JSON object")
        error = document.get("error")
        if error:
            message = error.get("message") if isinstance(error, dict) else error
            raise self._client.broken(str(message)[:500])
        return document


class _End:
    """What comes before the last event and belongs to it."""

    def __init__(self) -> None:
        self.reason: FinishReason | None = None
        self.usage = Usage()

    def chunk(self, event: Document) -> Chunk | None:
        """What one event adds; None when that is nothing to be read."""
        usage = event.get("usage")
        if usage:
            self.usage = Usage(
                int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
            )
        choices = event.get("choices") or []
        if not choices:
            return None
        choice = choices[0]
        reason = choice.get("finish_reason")
        if reason:
            self.reason = _REASONS.get(str(reason), FinishReason.STOP)
        delta = choice.get("delta") or {}
        chunk = Chunk(
            text=str(delta.get("content") or choice.get("text") or ""),
            thinking=str(delta.get("reasoning_content") or delta.get("reasoning") or ""),
            scores=_scores(choice.get("logprobs")),
            tool_calls=tuple(_call(call) for call in delta.get("tool_calls") or ()),
        )
        return None if chunk == Chunk() else chunk


def _request(model: str, request: GenerateRequest) -> tuple[str, Document]:
    """Path and body."""
    sampling = request.sampling
    given: Document = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "logit_bias": {str(key): value for key, value in sampling.logit_bias.items()} or None,
        "max_tokens": request.max_tokens,
        "stop": list(request.stop) or None,
        "response_format": _format(request),
        "tools": list(request.tools) or None,
        "tool_choice": request.tool_choice,
    }
    body = dict(request.extra.get("openai", {}))
    body.update({key: value for key, value in given.items() if value is not None})
    body.update(model=model, stream=True, stream_options={"include_usage": True})
    content = request.input
    if isinstance(content, Prompt) and content.raw:
        body["prompt"] = content.text
        if request.top_logprobs is not None:
            body["logprobs"] = request.top_logprobs
        return "/completions", body
    if isinstance(content, Prompt):
        system = () if content.system is None else (Message("system", content.system),)
        content = (*system, Message("user", content.text, content.images))
    body["messages"] = [_message(message) for message in content]
    if request.top_logprobs is not None:
        body["logprobs"] = True
        body["top_logprobs"] = request.top_logprobs
    return "/chat/completions", body


def _format(request: GenerateRequest) -> Any:
    form = request.format
    if form is None:
        return None
    if form.kind == "json_schema":
        schema = {"name": form.name, "schema": json.loads(form.data)}
        return {"type": "json_schema", "json_schema": schema}
    return {"type": form.kind, form.kind: form.data} if form.data else {"type": form.kind}


def _message(message: Message) -> Document:
    document: Document = {"role": message.role, "content": message.content}
    if message.images:
        document["content"] = [
            {"type": "text", "text": message.content},
            *({"type": "image_url", "image_url": {"url": _data_url(i)}} for i in message.images),
        ]
    if message.tool_calls:
        document["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        document["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        document["name"] = message.name
    return document


def _data_url(image: str) -> str:
    """Base64, with the type that its first bytes tell; an address as it is."""
    if image.startswith(("http://", "https://")):
        return image
    kind = "png" if image.startswith("iVBOR") else "gif" if image.startswith("R0lG") else "jpeg"
    return f"data:image/{kind};base64,{image}"


def _call(call: Document) -> ToolCall:
    function = call.get("function") or {}
    return ToolCall(
        int(call.get("index") or 0),
        call.get("id"),
        function.get("name"),
        str(function.get("arguments") or ""),
    )


def _scores(logprobs: Any) -> tuple[TokenScore, ...]:
    """Both forms: a list of entries for chats, parallel lists for plain completions."""
    if not isinstance(logprobs, dict):
        return ()
    if logprobs.get("content"):
        return tuple(
            TokenScore(
                str(entry.get("token", "")),
                float(entry.get("logprob", 0.0)),
                _bytes(entry),
                tuple(
                    (str(other.get("token", "")), float(other.get("logprob", 0.0)), _bytes(other))
                    for other in entry.get("top_logprobs") or ()
                ),
            )
            for entry in logprobs["content"]
        )
    tokens = logprobs.get("tokens") or []
    values = logprobs.get("token_logprobs") or []
    tops = logprobs.get("top_logprobs") or [{}] * len(tokens)
    return tuple(
        TokenScore(
            str(token),
            float(value or 0.0),
            str(token).encode(),
            tuple((str(t), float(v), str(t).encode()) for t, v in (top or {}).items()),
        )
        for token, value, top in zip(tokens, values, tops, strict=False)
    )


def _bytes(entry: Document) -> bytes:
    given = entry.get("bytes")
    return bytes(given) if given else str(entry.get("token", "")).encode()
