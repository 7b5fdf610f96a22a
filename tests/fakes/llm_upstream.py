"""A scripted language model behind both protocols, as Ollama and OpenAI-compatible servers speak.

The documents have the members that the servers' own documentation shows. How they are cut into
chunks, framed, paced and broken is up to the test. `FakeEngine.answer` is the whole behaviour;
tests call it in process (`EngineClient`) or over sockets (`fakes.llm_server`).
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekit.http import Headers
from edgekit.ports import (
    UpstreamError,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamTimeoutError,
)

__all__ = ["PIECES", "EngineCall", "EngineClient", "EngineReply", "FakeEngine", "logprob"]

PIECES = ("Hel", "lo, ", "wörld", " 🌍", '"quoted"\n', "data: [DONE]", '{"error": 1}')
"""What the model writes: UTF-8 of all lengths, and text that looks like the framing."""

CREATED = 1_800_000_000
CREATED_TEXT = "2027-01-15T08:00:00.123456789Z"


@dataclass(frozen=True)
class EngineCall:
    """One request as the engine saw it."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class EngineReply:
    """What goes back.

    Attributes:
        chunks: The body, in the pieces it is sent in.
        broken: The connection closes after them, without an end.
        refused: Nobody listens.
        silent: No answer comes, ever; with chunks, none after them.
    """

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    broken: bool = False
    refused: bool = False
    silent: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)


@dataclass
class FakeEngine:
    """Both servers in one; every attribute may be changed by a test.

    Attributes:
        pieces: What the model writes, one delta each.
        thoughts: What it thinks before, one delta each.
        tool_calls: Calls it makes instead of, or after, writing: name and arguments.
        finish: Why it ends.
        split: Size of the chunks in bytes; None sends one event each.
        cut: Bytes after which the connection breaks; None: never.
        end: Bytes after which the body ends as if it were complete; None: at its end.
        crlf: Lines end with CRLF.
        comments: Server-sent events have comments between them.
        tells_usage: It says how many tokens it took.
        override: Answers first.
        edit: Changes every reply that is not an override's.
    """

    pieces: tuple[str, ...] = PIECES
    thoughts: tuple[str, ...] = ()
    tool_calls: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    finish: str = "stop"
    models: tuple[str, ...] = ("tiny", "org/other")
    split: int | None = None
    cut: int | None = None
    end: int | None = None
    crlf: bool = False
    comments: bool = False
    tells_usage: bool = True
    override: Callable[[EngineCall], EngineReply | None] | None = None
    edit: Callable[[EngineReply], None] | None = None
    received: list[EngineCall] = field(default_factory=list)

    def reset(self) -> None:
        """As made."""
        self.__init__()  # type: ignore[misc]

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def calls(self, target: str) -> list[EngineCall]:
        return [call for call in self.received if call.target == target]

    def answer(
        self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes
    ) -> EngineReply:
        call = EngineCall(method, target, {name.lower(): value for name, value in headers}, body)
        self.received.append(call)
        reply = self.override(call) if self.override else None
        if reply is None:
            reply = self._route(call)
            self._shape(reply)
            if self.edit is not None:
                self.edit(reply)
        return reply

    def _shape(self, reply: EngineReply) -> None:
        """Frame and cut the body as the test wants it."""
        if self.crlf:
            reply.chunks = [chunk.replace(b"\n", b"\r\n") for chunk in reply.chunks]
        body = reply.body
        limit = self.cut if self.cut is not None else self.end
        if limit is not None:
            body = body[:limit]
            reply.broken = self.cut is not None
        if self.split is not None:
            size = self.split
            reply.chunks = [body[at : at + size] for at in range(0, len(body), size)]
        elif limit is not None:
            reply.chunks = [body]

    def _route(self, call: EngineCall) -> EngineReply:
        path = call.target.partition("?")[0]
        routes: dict[tuple[str, str], Callable[[EngineCall], EngineReply]] = {
            ("POST", "/v1/chat/completions"): self._openai_chat,
            ("POST", "/v1/completions"): self._openai_completion,
            ("POST", "/v1/embeddings"): self._openai_embeddings,
            ("GET", "/v1/models"): lambda _call: _json(self._openai_models()),
            ("POST", "/api/chat"): self._ollama_chat,
            ("POST", "/api/generate"): self._ollama_generate,
            ("POST", "/api/embed"): self._ollama_embed,
            ("POST", "/api/embeddings"): lambda _call: _json({"embedding": [0.5, -1.5]}),
            ("GET", "/api/tags"): lambda _call: _json(self._ollama_tags()),
            ("GET", "/api/ps"): lambda _call: _json(self._ollama_tags()),
            ("GET", "/api/version"): lambda _call: _json({"version": "0.99.1"}),
            ("POST", "/api/show"): self._ollama_show,
        }
        handler = routes.get((call.method, path))
        if handler is not None:
            return handler(call)
        if call.method == "GET" and path.startswith("/v1/models/"):
            return self._openai_model(path.removeprefix("/v1/models/").replace("%2F", "/"))
        return _json({"error": {"message": f"no route {path}"}}, 404)

    # --- OpenAI ---------------------------------------------------------------------------------

    def _openai_chat(self, call: EngineCall) -> EngineReply:
        request = call.json()
        if request["model"] not in self.models:
            return self._openai_missing(request["model"])
        head = {"id": "chatcmpl-1", "created": CREATED, "model": request["model"]}
        if not request.get("stream"):
            message: dict[str, Any] = {"role": "assistant", "content": self.text or None}
            if self.thoughts:
                message["reasoning_content"] = "".join(self.thoughts)
            if self.tool_calls:
                message["tool_calls"] = [self._openai_call(i) for i in range(len(self.tool_calls))]
            choice = {"index": 0, "message": message, "finish_reason": self._finish()}
            if request.get("logprobs"):
                choice["logprobs"] = {"content": [logprob(piece) for piece in self.pieces]}
            whole = {**head, "object": "chat.completion", "choices": [choice]}
            if self.tells_usage:
                whole["usage"] = self._usage()
            return _json(whole)
        head["object"] = "chat.completion.chunk"
        return self._events(head, request, list(self._chat_choices(request)))

    def _chat_choices(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        yield _choice({"role": "assistant", "content": ""})
        for thought in self.thoughts:
            yield _choice({"reasoning_content": thought})
        for piece in self.pieces:
            choice = _choice({"content": piece})
            if request.get("logprobs"):
                choice["logprobs"] = {"content": [logprob(piece)]}
            yield choice
        for index in range(len(self.tool_calls)):
            call = self._openai_call(index)
            arguments = call["function"]["arguments"]
            call["function"]["arguments"] = ""
            yield _choice({"tool_calls": [{"index": index, **call}]})
            for at in range(0, len(arguments), 7):  # fragments, as models write them
                part = {"index": index, "function": {"arguments": arguments[at : at + 7]}}
                yield _choice({"tool_calls": [part]})
        yield {**_choice({}), "finish_reason": self._finish()}

    def _openai_completion(self, call: EngineCall) -> EngineReply:
        request = call.json()
        head = {"id": "cmpl-1", "object": "text_completion", "created": CREATED}
        head["model"] = request["model"]
        if not request.get("stream"):
            choice = {"index": 0, "text": self.text, "finish_reason": self.finish}
            return _json({**head, "choices": [choice], "usage": self._usage()})
        choices: list[dict[str, Any]] = [
            {"index": 0, "text": piece, "finish_reason": None} for piece in self.pieces
        ]
        choices.append({"index": 0, "text": "", "finish_reason": self.finish})
        return self._events(head, request, choices)

    def _events(
        self, head: Mapping[str, Any], request: Mapping[str, Any], choices: list[dict[str, Any]]
    ) -> EngineReply:
        asked = (request.get("stream_options") or {}).get("include_usage")
        empty = {"usage": None} if asked else {}
        events = [_event({**head, "choices": [choice], **empty}) for choice in choices]
        if asked and self.tells_usage:
            events.append(_event({**head, "choices": [], "usage": self._usage()}))
        events.append(b"data: [DONE]\n\n")
        if self.comments:
            events = [part for event in events for part in (b": still here\n\n", event)]
        return EngineReply(200, [("content-type", "text/event-stream")], events)

    def _openai_embeddings(self, call: EngineCall) -> EngineReply:
        request = call.json()
        given = request["input"]
        count = 1 if isinstance(given, str) else len(given)
        vectors: list[Any] = [[0.5 + index, -1.5, 0.25] for index in range(count)]
        if request.get("encoding_format") == "base64":
            vectors = [base64.b64encode(struct.pack("<3f", *v)).decode() for v in vectors]
        data = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": 7, "total_tokens": 7}
        return _json({"object": "list", "data": data, "model": request["model"], "usage": usage})

    def _openai_models(self) -> dict[str, Any]:
        return {"object": "list", "data": [_openai_model(name) for name in self.models]}

    def _openai_model(self, name: str) -> EngineReply:
        return _json(_openai_model(name)) if name in self.models else self._openai_missing(name)

    def _openai_missing(self, name: str) -> EngineReply:
        error = {
            "message": f"The model `{name}` does not exist",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
        return _json({"error": error}, 404)

    def _openai_call(self, index: int) -> dict[str, Any]:
        name, arguments = self.tool_calls[index]
        function = {"name": name, "arguments": json.dumps(arguments)}
        return {"id": f"call_{index}", "type": "function", "function": function}

    def _usage(self) -> dict[str, Any]:
        generated = len(self.pieces)
        return {
            "prompt_tokens": 11,
            "completion_tokens": generated,
            "total_tokens": 11 + generated,
            "prompt_tokens_details": {"cached_tokens": 3},
        }

    def _finish(self) -> str:
        return "tool_calls" if self.tool_calls else self.finish

    # --- Ollama ---------------------------------------------------------------------------------

    def _ollama_chat(self, call: EngineCall) -> EngineReply:
        request = call.json()
        if request["model"] not in self.models:
            return _json({"error": f"model '{request['model']}' not found"}, 404)

        def line(text: str, **more: Any) -> dict[str, Any]:
            return {"message": {"role": "assistant", "content": text, **more}}

        parts = [line("", thinking=thought) for thought in self.thoughts]
        parts += [self._with_logprobs(line(piece), request, piece) for piece in self.pieces]
        if self.tool_calls:
            calls = [
                {"function": {"name": name, "arguments": arguments}}
                for name, arguments in self.tool_calls
            ]
            parts.append(line("", tool_calls=calls))
        whole = line(self.text)
        if self.thoughts:
            whole["message"]["thinking"] = "".join(self.thoughts)
        if self.tool_calls:
            whole["message"]["tool_calls"] = parts[-1]["message"]["tool_calls"]
        if request.get("logprobs"):
            whole["logprobs"] = [logprob(piece) for piece in self.pieces]
        return self._lines(request, parts, line(""), whole)

    def _ollama_generate(self, call: EngineCall) -> EngineReply:
        request = call.json()
        parts = [self._with_logprobs({"response": piece}, request, piece) for piece in self.pieces]
        whole: dict[str, Any] = {"response": self.text}
        if request.get("logprobs"):
            whole["logprobs"] = [logprob(piece) for piece in self.pieces]
        return self._lines(request, parts, {"response": ""}, whole)

    def _with_logprobs(
        self, line: dict[str, Any], request: Mapping[str, Any], piece: str
    ) -> dict[str, Any]:
        return {**line, "logprobs": [logprob(piece)]} if request.get("logprobs") else line

    def _lines(
        self,
        request: Mapping[str, Any],
        parts: list[dict[str, Any]],
        empty: dict[str, Any],
        whole: dict[str, Any],
    ) -> EngineReply:
        head = {"model": request["model"], "created_at": CREATED_TEXT}
        last = {
            "done": True,
            "done_reason": self.finish,
            "total_duration": 5_000_000,
            "load_duration": 1_000_000,
            "prompt_eval_count": 11,
            "prompt_eval_duration": 1_000_000,
            "eval_count": len(self.pieces),
            "eval_duration": 3_000_000,
        }
        if request.get("stream") is False:
            return _json({**head, **whole, **last})
        lines = [_line({**head, **part, "done": False}) for part in parts]
        lines.append(_line({**head, **empty, **last}))
        return EngineReply(200, [("content-type", "application/x-ndjson")], lines)

    def _ollama_embed(self, call: EngineCall) -> EngineReply:
        request = call.json()
        given = request["input"]
        count = 1 if isinstance(given, str) else len(given)
        return _json(
            {
                "model": request["model"],
                "embeddings": [[0.5 + index, -1.5, 0.25] for index in range(count)],
                "total_duration": 14_143_917,
                "load_duration": 1_019_500,
                "prompt_eval_count": 7,
            }
        )

    def _ollama_tags(self) -> dict[str, Any]:
        details = {"format": "gguf", "family": "llama", "families": ["llama"],
                   "parameter_size": "2M", "quantization_level": "Q4_0"}  # fmt: skip
        return {
            "models": [
                {"name": name, "model": name, "modified_at": CREATED_TEXT, "size": 4_000_000,
                 "digest": "aaaa", "details": details}
                for name in self.models
            ]
        }  # fmt: skip

    def _ollama_show(self, call: EngineCall) -> EngineReply:
        request = call.json()
        name = request.get("model") or request.get("name")
        if name not in self.models:
            return _json({"error": f"model '{name}' not found"}, 404)
        return _json(
            {
                "modelfile": "FROM tiny",
                "parameters": "stop </s>",
                "template": "{{ .Prompt }}",
                "details": {"family": "llama", "format": "gguf"},
                "model_info": {"general.architecture": "llama", "llama.context_length": 256},
                "capabilities": ["completion", "tools"],
                "modified_at": CREATED_TEXT,
            }
        )


class EngineClient:
    """An `HttpClient` that asks a `FakeEngine` without a network."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.requests: list[UpstreamRequest] = []
        self.taken = 0
        self.closed = 0

    def send(self, request: UpstreamRequest) -> UpstreamResponse:
        self.requests.append(request)
        target = "/" + request.url.split("/", 3)[3]
        assert isinstance(request.body, bytes)
        reply = self.engine.answer(request.method, target, request.headers, request.body)
        if reply.refused:
            raise UpstreamError("connection refused")
        if reply.silent and not reply.chunks:
            raise UpstreamTimeoutError("http response timeout")
        return UpstreamResponse(reply.status, Headers(reply.headers), self._chunks(reply))

    def _chunks(self, reply: EngineReply) -> Iterator[bytes]:
        try:
            for chunk in reply.chunks:
                self.taken += 1
                yield chunk
            if reply.silent:
                raise UpstreamTimeoutError("connection read timeout")
            if reply.broken:
                raise UpstreamError("connection terminated")
        finally:
            self.closed += 1


def logprob(token: str) -> dict[str, Any]:
    """One entry as both protocols have it."""
    return {
        "token": token,
        "logprob": -0.25,
        "bytes": list(token.encode()),
        "top_logprobs": [{"token": token, "logprob": -0.25, "bytes": list(token.encode())}],
    }


def _json(document: Any, status: int = 200) -> EngineReply:
    headers = [("content-type", "application/json")]
    return EngineReply(status, headers, [json.dumps(document).encode()])


def _event(document: Any) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def _line(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"


def _choice(delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}


def _openai_model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "tests"}
