"""The case table of the component `chat`: what each request has to be answered with.

One table for every way of running the component, and for every engine behind it: the backend, which
speaks both protocols, a server that speaks OpenAI's, and one that speaks Ollama's.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fakes.chat_edge import MESSAGES, events_of, lines_of
from fakes.llm_upstream import EngineReply, FakeEngine, logprob
from wasm.cases.table import Answer, Call, Expected, check

__all__ = ["CASES", "UPSTREAMS", "ChatCase", "run_chat_case"]

UPSTREAMS = ("backend", "openai", "ollama")

Look = Callable[[Answer, FakeEngine], None]


@dataclass(frozen=True)
class ChatCase:
    """One request, and what has to come of it.

    Attributes:
        name: Unique in the table.
        call: The request.
        expected: Status and fields.
        look: Checks the body, and what the engine received.
        before: Changes the engine first.
        upstreams: Where it applies.
    """

    name: str
    call: Call
    expected: Expected
    look: Look = lambda _answer, _engine: None
    before: Callable[[FakeEngine], None] | None = None
    upstreams: tuple[str, ...] = UPSTREAMS


def run_chat_case(
    case: ChatCase, send: Callable[[Call], Answer], engine: FakeEngine, upstream: str
) -> None:
    """The answer is what the case expects."""
    if case.before is not None:
        case.before(engine)
    answer = send(case.call)
    check(answer, case.expected, f"{case.name} ({upstream})")
    case.look(answer, engine)


# --- small vocabulary -------------------------------------------------------------------------

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
EMBEDDINGS = "/v1/embeddings"

SSE = Expected(200, headers={"content-type": "text/event-stream", "x-accel-buffering": "no"})
NDJSON = Expected(200, headers={"content-type": "application/x-ndjson"})
JSON = Expected(200, headers={"content-type": "application/json", "x-request-id": ".+"})


def post(path: str, /, **members: Any) -> Call:
    document = {"model": "tiny", **members}
    return Call("POST", path, {"content-type": "application/json"}, json.dumps(document).encode())


def chat(**members: Any) -> Call:
    return post(CHAT, **{"messages": MESSAGES, **members})


def ollama_chat(**members: Any) -> Call:
    return post("/api/chat", **{"messages": MESSAGES, **members})


def within(deadline_ms: int, call: Call) -> Call:
    return replace(call, headers={**call.headers, "inference-deadline-ms": str(deadline_ms)})


def engine_with(**changes: Any) -> Callable[[FakeEngine], None]:
    def change(engine: FakeEngine) -> None:
        for name, value in changes.items():
            setattr(engine, name, value)

    return change


# --- looks ------------------------------------------------------------------------------------


def chat_stream(*, usage: bool) -> Look:
    """The engine's text, a reason, the usage if it was asked for, and the end."""

    def look(answer: Answer, engine: FakeEngine) -> None:
        *chunks, done = events_of(answer.body)
        assert done == "[DONE]"
        assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
        assert all(chunk["model"] == "tiny" for chunk in chunks)
        assert len({chunk["id"] for chunk in chunks}) == 1
        choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
        assert choices[0]["delta"]["role"] == "assistant"
        assert "".join(c["delta"].get("content") or "" for c in choices) == engine.text
        assert [c["finish_reason"] for c in choices if c["finish_reason"]] == [engine.finish]
        counted = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
        assert [u["total_tokens"] for u in counted] == ([18] if usage else [])
        assert (len(choices) < len(chunks)) is usage, "an event without choices"

    return look


def chat_whole(answer: Answer, engine: FakeEngine) -> None:
    document = answer.json()
    assert document["object"] == "chat.completion"
    choice = document["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == engine.text
    assert choice["finish_reason"] == "stop"
    assert document["usage"]["prompt_tokens"] == 11
    assert document["usage"]["completion_tokens"] == 7


TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]
ARGUMENTS = {"city": "Zürich", "done": True, "error": "none"}
CALLING = engine_with(pieces=(), tool_calls=(("get_weather", ARGUMENTS),))


def chat_calls_stream(answer: Answer, _engine: FakeEngine) -> None:
    *chunks, done = events_of(answer.body)
    assert done == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    calls = [call for delta in deltas for call in delta.get("tool_calls") or ()]
    assert {call["index"] for call in calls} == {0}
    assert calls[0]["id"]
    assert calls[0]["function"]["name"] == "get_weather"
    arguments = "".join(call["function"].get("arguments") or "" for call in calls)
    assert json.loads(arguments) == ARGUMENTS
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def chat_calls_whole(answer: Answer, _engine: FakeEngine) -> None:
    choice = answer.json()["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
    assert json.loads(call["function"]["arguments"]) == ARGUMENTS
    assert choice["finish_reason"] == "tool_calls"


def chat_logprobs(answer: Answer, engine: FakeEngine) -> None:
    content = answer.json()["choices"][0]["logprobs"]["content"]
    assert content == [logprob(piece) for piece in engine.pieces]


def completion_stream(answer: Answer, engine: FakeEngine) -> None:
    *chunks, done = events_of(answer.body)
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == engine.text
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def completion_whole(answer: Answer, engine: FakeEngine) -> None:
    document = answer.json()
    assert document["object"] == "text_completion"
    assert document["choices"][0]["text"] == engine.text
    assert document["usage"]["total_tokens"] == 18


def ollama_stream(member: Callable[[Mapping[str, Any]], str]) -> Look:
    """The engine's text, then one line that says done."""

    def look(answer: Answer, engine: FakeEngine) -> None:
        *lines, last = lines_of(answer.body)
        assert "".join(map(member, lines)) == engine.text
        assert not any(line["done"] for line in lines)
        assert last["done"] is True
        assert last["done_reason"] == "stop"
        assert (last["prompt_eval_count"], last["eval_count"]) == (11, 7)
        assert last["total_duration"] >= last["eval_duration"] > 0
        for line in (*lines, last):
            assert line["model"] == "tiny"
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", line["created_at"])

    return look


def message_content(line: Mapping[str, Any]) -> str:
    assert line["message"]["role"] == "assistant"
    return str(line["message"]["content"])


def response_member(line: Mapping[str, Any]) -> str:
    return str(line["response"])


def ollama_whole(member: Callable[[Mapping[str, Any]], str]) -> Look:
    def look(answer: Answer, engine: FakeEngine) -> None:
        document = answer.json()
        assert member(document) == engine.text
        assert document["done"] is True
        assert (document["prompt_eval_count"], document["eval_count"]) == (11, 7)

    return look


def ollama_calls_stream(answer: Answer, _engine: FakeEngine) -> None:
    *lines, last = lines_of(answer.body)
    calls = [call for line in lines for call in line["message"].get("tool_calls") or ()]
    assert [call["function"] for call in calls] == [{"name": "get_weather", "arguments": ARGUMENTS}]
    assert last["done"] is True


def ollama_calls_whole(answer: Answer, _engine: FakeEngine) -> None:
    (call,) = answer.json()["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": ARGUMENTS}


def embeddings_in(encoding: str) -> Look:
    def look(answer: Answer, _engine: FakeEngine) -> None:
        document = answer.json()
        assert document["object"] == "list"
        assert document["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
        vectors = [entry["embedding"] for entry in document["data"]]
        if encoding == "base64":
            vectors = [list(struct.unpack("<3f", base64.b64decode(v))) for v in vectors]
        assert vectors == [[0.5, -1.5, 0.25], [1.5, -1.5, 0.25]]

    return look


def ollama_embeddings(answer: Answer, _engine: FakeEngine) -> None:
    document = answer.json()
    assert document["embeddings"] == [[0.5, -1.5, 0.25], [1.5, -1.5, 0.25]]
    assert document["prompt_eval_count"] == 7


def response_stream(answer: Answer, engine: FakeEngine) -> None:
    events = list(events_of(answer.body))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    deltas = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
    assert "".join(deltas) == engine.text
    _check_response(events[-1]["response"], engine)


def response_whole(answer: Answer, engine: FakeEngine) -> None:
    _check_response(answer.json(), engine)


def _check_response(response: Mapping[str, Any], engine: FakeEngine) -> None:
    assert (response["object"], response["status"]) == ("response", "completed")
    (message,) = response["output"]
    assert (message["type"], message["status"]) == ("message", "completed")
    assert [part["text"] for part in message["content"]] == [engine.text]
    assert response["usage"]["input_tokens"] == 11
    assert response["usage"]["output_tokens"] == 7
    assert response["store"] is False


def asks_at(target: str, **members: Any) -> Look:
    """The engine got a call at `target` with these members."""

    def look(_answer: Answer, engine: FakeEngine) -> None:
        received = engine.received[-1]
        assert received.target == target
        assert received.headers["content-type"] == "application/json"
        document = received.json()
        for name, value in members.items():
            assert document.get(name) == value, name

    return look


def untouched(answer: Answer, engine: FakeEngine) -> None:
    """What the client gets is what the engine sent, byte for byte."""
    engine_reply = engine.answer("POST", "/api/chat", [], engine.received[-1].body)
    assert answer.body == engine_reply.body


# --- what works -------------------------------------------------------------------------------

WORKING = [
    ChatCase("chat, streamed", chat(stream=True), SSE, chat_stream(usage=False)),
    ChatCase("chat, streamed with usage",
             chat(stream=True, stream_options={"include_usage": True}), SSE,
             chat_stream(usage=True)),
    ChatCase("chat, streamed, options without usage",
             chat(stream=True, stream_options={"include_usage": False}), SSE,
             chat_stream(usage=False)),
    ChatCase("chat, whole", chat(), JSON, chat_whole),
    ChatCase("chat, calls of tools, streamed", chat(stream=True, tools=TOOLS), SSE,
             chat_calls_stream, CALLING),
    ChatCase("chat, calls of tools, whole", chat(tools=TOOLS), JSON, chat_calls_whole, CALLING),
    ChatCase("chat, logprobs", chat(logprobs=True, top_logprobs=1), JSON, chat_logprobs),
    ChatCase("chat, cut by its length", chat(max_tokens=7), JSON,
             lambda answer, _engine: _finished(answer, "length"), engine_with(finish="length")),
    ChatCase("completion, streamed", post(COMPLETIONS, prompt="x", stream=True), SSE,
             completion_stream),
    ChatCase("completion, whole", post(COMPLETIONS, prompt="x"), JSON, completion_whole),
    ChatCase("response, streamed", post(RESPONSES, input="x", stream=True), SSE, response_stream),
    ChatCase("response, whole", post(RESPONSES, input="x"), JSON, response_whole),
    ChatCase("embeddings as numbers", post(EMBEDDINGS, input=["x", "y"]), JSON,
             embeddings_in("float")),
    ChatCase("embeddings as base64", post(EMBEDDINGS, input=["x", "y"], encoding_format="base64"),
             JSON, embeddings_in("base64")),
    ChatCase("embeddings know no streams", post(EMBEDDINGS, input=["x", "y"], stream=True), JSON,
             embeddings_in("float")),
    ChatCase("ollama chat, streamed by default", ollama_chat(), NDJSON,
             ollama_stream(message_content)),
    ChatCase("ollama chat, whole", ollama_chat(stream=False), JSON, ollama_whole(message_content)),
    ChatCase("ollama chat, calls of tools, streamed", ollama_chat(tools=TOOLS), NDJSON,
             ollama_calls_stream, CALLING),
    ChatCase("ollama chat, calls of tools, whole", ollama_chat(tools=TOOLS, stream=False), JSON,
             ollama_calls_whole, CALLING),
    ChatCase("ollama generate, streamed by default", post("/api/generate", prompt="x"), NDJSON,
             ollama_stream(response_member)),
    ChatCase("ollama generate, whole", post("/api/generate", prompt="x", stream=False), JSON,
             ollama_whole(response_member)),
    ChatCase("ollama generate, raw", post("/api/generate", prompt="x", raw=True), NDJSON,
             ollama_stream(response_member)),
    ChatCase("ollama embed", post("/api/embed", input=["x", "y"]), JSON, ollama_embeddings),
    ChatCase("ollama embeddings", post("/api/embeddings", prompt="x"), JSON,
             lambda answer, _engine: _embedded(answer)),
    ChatCase("ollama's own bytes are not touched", ollama_chat(), NDJSON, untouched,
             upstreams=("backend", "ollama")),
    ChatCase("usage is asked for without rewriting the request", chat(stream=True), SSE,
             asks_at(CHAT, stream_options={"include_usage": True}, messages=MESSAGES),
             upstreams=("backend", "openai")),
    ChatCase("json without its content type",
             Call("POST", CHAT, {}, chat().body), JSON, chat_whole),
    ChatCase("head of the fields", Call("POST", CHAT, {"x-request-id": "abc"}, chat().body),
             Expected(200, headers={
                 "x-request-id": "abc",
                 "inference-placement": "cluster;reason=preferred.*",
                 "server-timing": ".*receive;dur=.*prompt;dur=.*backend;dur=.*total;dur=.*",
             })),
    ChatCase("models", Call("GET", "/v1/models"), JSON, lambda answer, _engine: _models(answer)),
    ChatCase("one model with a slash", Call("GET", "/v1/models/org/other"),
             Expected(200, json={"id": "org/other", "object": "model"})),
    ChatCase("one model with its slash encoded", Call("GET", "/v1/models/org%2Fother"),
             Expected(200, json={"id": "org/other", "object": "model"})),
    ChatCase("head of models", Call("HEAD", "/v1/models"), Expected(200, body=b"")),
    ChatCase("tags", Call("GET", "/api/tags"), JSON, lambda answer, _engine: _tags(answer)),
    ChatCase("ps", Call("GET", "/api/ps"), JSON, lambda answer, _engine: _tags(answer)),
    ChatCase("version", Call("GET", "/api/version"),
             Expected(200, json={"version": re.compile(r"^0\.\d+\.\d+$")})),
    ChatCase("show", post("/api/show"), Expected(200, json={"details": {}, "model_info": {}})),
    ChatCase("show by the older member",
             Call("POST", "/api/show", {}, b'{"name": "tiny"}'),
             Expected(200, json={"details": {}})),
    ChatCase("call to load a model", post("/api/generate"),
             Expected(200, headers={"content-type": "application/x-ndjson"},
                      json={"done": True, "done_reason": "load", "response": ""}),
             lambda _answer, engine: _never_asked(engine), upstreams=("openai",)),
    ChatCase("call to unload a model", ollama_chat(messages=[], keep_alive=0, stream=False),
             Expected(200, json={"done": True, "done_reason": "unload"}), upstreams=("openai",)),
]  # fmt: skip


def _finished(answer: Answer, reason: str) -> None:
    assert answer.json()["choices"][0]["finish_reason"] == reason


def _embedded(answer: Answer) -> None:
    assert answer.json()["embedding"][:2] == [0.5, -1.5]


def _models(answer: Answer) -> None:
    document = answer.json()
    assert document["object"] == "list"
    assert [entry["id"] for entry in document["data"]] == ["tiny", "org/other"]
    assert {entry["object"] for entry in document["data"]} == {"model"}
    assert {entry["created"] for entry in document["data"]} == {1_800_000_000}


def _tags(answer: Answer) -> None:
    models = answer.json()["models"]
    assert [entry["name"] for entry in models] == ["tiny", "org/other"]
    assert all(entry["modified_at"].startswith("2027-01-15T08:00:00") for entry in models)


def _never_asked(engine: FakeEngine) -> None:
    assert engine.received == []


# --- bad input --------------------------------------------------------------------------------


def openai_error(status: int, code: str, param: str | None, *texts: str) -> Expected:
    """The object that OpenAI's clients read."""
    error = {"code": code, "param": param, "message": _holding(texts)}
    return Expected(
        status,
        json={"status": status, "code": code, "error": error},
        headers={"content-type": "application/problem\\+json"},
    )


def ollama_error(status: int, code: str, *texts: str) -> Expected:
    """The string that Ollama's clients read."""
    return Expected(
        status,
        json={"status": status, "code": code, "error": _holding(texts)},
        headers={"content-type": "application/problem\\+json"},
    )


def _holding(texts: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("".join(f"(?=.*{re.escape(text)})" for text in texts), re.DOTALL)


def _bad(path: str, param: str, text: str, /, **members: Any) -> ChatCase:
    """An OpenAI request that is refused for one member, before the engine is asked."""
    call = post(path, **members)
    return ChatCase(
        f"{path}: {param} {text} {json.dumps(members)[:60]}",
        call,
        openai_error(400, "invalid_input", param, param, text),
        lambda _answer, engine: _never_asked(engine),
        upstreams=("backend",),
    )


def _bad_chat(param: str, text: str, /, **members: Any) -> ChatCase:
    return _bad(CHAT, param, text, **{"messages": MESSAGES, **members})


def _bad_ollama(path: str, text: str, /, **members: Any) -> ChatCase:
    return ChatCase(
        f"{path}: {text} {json.dumps(members)[:60]}",
        post(path, **members),
        ollama_error(400, "invalid_input", text),
        lambda _answer, engine: _never_asked(engine),
        upstreams=("backend",),
    )


def _user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


BAD_INPUT = [
    ChatCase("empty body", Call("POST", CHAT), openai_error(400, "invalid_input", None, "empty")),
    ChatCase("no json", Call("POST", CHAT, {}, b"{"),
             openai_error(400, "invalid_input", None, "no JSON")),
    ChatCase("no object", Call("POST", CHAT, {}, b"[1]"),
             openai_error(400, "invalid_input", None, "object")),
    ChatCase("no text", Call("POST", CHAT, {}, b"\xff\xfe"),
             openai_error(400, "invalid_input", None, "no JSON")),
    ChatCase("nested without end", Call("POST", CHAT, {}, b'{"a":' * 19_000),
             openai_error(400, "invalid_input", None, "no JSON")),
    ChatCase("not a number", Call("POST", CHAT, {}, b'{"model": NaN}'),
             openai_error(400, "invalid_input", None, "NaN")),
    ChatCase("body over the limit", Call("POST", CHAT, {}, b" " * 100_001),
             openai_error(413, "payload_too_large", None, "100000")),
    ChatCase("compressed body", Call("POST", CHAT, {"content-encoding": "gzip"}, b"\x1f\x8b"),
             openai_error(415, "unsupported_media_type", None, "gzip")),
    ChatCase("another method", Call("GET", CHAT),
             openai_error(405, "method_not_allowed", None, "POST")),
    ChatCase("ollama: empty body", Call("POST", "/api/chat"),
             ollama_error(400, "invalid_input", "empty")),
    ChatCase("ollama: another method", Call("GET", "/api/chat"),
             ollama_error(405, "method_not_allowed", "POST")),
    ChatCase("ollama: what is not offered", Call("POST", "/api/pull", {}, b'{"model": "x"}'),
             ollama_error(404, "route_not_found", "/api/pull")),
    _bad(CHAT, "messages", "missing"),
    _bad_chat("model", "missing", model=None),
    _bad_chat("model", "printable", model=""),
    _bad_chat("model", "printable", model="a\u0007"),
    _bad_chat("model", "string", model=3),
    _bad_chat("messages", "at least 1", messages=[]),
    _bad_chat("messages", "list", messages="hi"),
    _bad_chat("messages[0]", "object", messages=["hi"]),
    _bad_chat("messages[0].role", "missing", messages=[{"content": "x"}]),
    _bad_chat("messages[0].role", "wizard", messages=[{"role": "wizard", "content": "x"}]),
    _bad_chat("messages[0].content", "missing", messages=[{"role": "user"}]),
    _bad_chat("messages[0].content", "list", messages=_user(3)),
    _bad_chat("messages[0].content", "at least 1", messages=_user([])),
    _bad_chat("messages[0].content[0].type", "missing", messages=_user([{"text": "x"}])),
    _bad_chat("messages[0].content[0].text", "string", messages=_user([{"type": "text"}])),
    _bad_chat("messages[0].content[0].image_url", "missing",
              messages=_user([{"type": "image_url"}])),
    _bad_chat("messages[1].tool_call_id", "missing",
              messages=[*MESSAGES, {"role": "tool", "content": "x"}]),
    _bad_chat("messages[0].tool_calls[0].function.name", "missing",
              messages=[{"role": "assistant", "tool_calls": [{"function": {}}]}]),
    _bad_chat("temperature", "from 0 to 2", temperature=2.1),
    _bad_chat("temperature", "number", temperature="hot"),
    _bad_chat("temperature", "true", temperature=True),
    _bad_chat("top_p", "from 0 to 1", top_p=-0.1),
    _bad_chat("n", "from 1 to 128", n=0),
    _bad_chat("n", "whole", n=1.5),
    _bad_chat("stop", "at most 16", stop=["x"] * 17),
    _bad_chat("stop[1]", "string", stop=["x", 1]),
    _bad_chat("seed", "whole", seed="x"),
    _bad_chat("max_tokens", "from 1", max_tokens=0),
    _bad_chat("max_completion_tokens", "from 1", max_completion_tokens=-5),
    _bad_chat("presence_penalty", "from -2 to 2", presence_penalty=3),
    _bad_chat("logprobs", "true or false", logprobs=1),
    _bad_chat("top_logprobs", "from 0 to 20", logprobs=True, top_logprobs=21),
    _bad_chat("top_logprobs", "needs logprobs", top_logprobs=2),
    _bad_chat("stream", "true or false", stream="yes"),
    _bad_chat("stream_options", "stream is true", stream_options={"include_usage": True}),
    _bad_chat("stream_options.include_usage", "true or false", stream=True,
              stream_options={"include_usage": 1}),
    _bad_chat("response_format.type", "json_object", response_format={"type": "xml"}),
    _bad_chat("response_format", "object", response_format="json"),
    _bad_chat("tools", "list", tools={}),
    _bad_chat("tools[0].function.name", "missing", tools=[{"type": "function", "function": {}}]),
    _bad_chat("tool_choice", "needs tools", tool_choice="required"),
    _bad_chat("tool_choice", "word or an object", tool_choice=3),
    _bad(COMPLETIONS, "prompt", "missing"),
    _bad(COMPLETIONS, "prompt", "string", prompt=3),
    _bad(COMPLETIONS, "prompt[1]", "whole", prompt=[1, "x"]),
    _bad(COMPLETIONS, "logprobs", "from 0 to 20", prompt="x", logprobs=50),
    _bad(EMBEDDINGS, "input", "missing"),
    _bad(EMBEDDINGS, "input", "empty", input=""),
    _bad(EMBEDDINGS, "input[0]", "string", input=[{}]),
    _bad(EMBEDDINGS, "encoding_format", "base64", input="x", encoding_format="hex"),
    _bad(EMBEDDINGS, "dimensions", "from 1", input="x", dimensions=0),
    _bad(RESPONSES, "input", "missing"),
    _bad(RESPONSES, "input", "at least 1", input=[]),
    _bad(RESPONSES, "input[0].role", "takes user", input=[{"type": "message", "content": "x"}]),
    _bad(RESPONSES, "input[0].type", "mystery", input=[{"type": "mystery"}]),
    _bad(RESPONSES, "input[0].content[0].type", "input_text",
         input=[{"role": "user", "content": [{"type": "input_file"}]}]),
    _bad(RESPONSES, "previous_response_id", "keeps state", input="x", previous_response_id="r"),
    _bad(RESPONSES, "conversation", "keeps state", input="x", conversation="c"),
    _bad(RESPONSES, "background", "not offered", input="x", background=True),
    _bad(RESPONSES, "tools[0].type", "function", input="x", tools=[{"type": "web_search"}]),
    _bad(RESPONSES, "tools[0].name", "missing", input="x", tools=[{"type": "function"}]),
    _bad(RESPONSES, "text.format.type", "grammar", input="x", text={"format": {"type": "grammar"}}),
    _bad_ollama("/api/chat", "model is missing", model=None),
    _bad_ollama("/api/chat", "messages[0].role", messages=[{"role": "wizard"}]),
    _bad_ollama("/api/chat", "messages[0].content", messages=_user([{"type": "text"}])),
    _bad_ollama("/api/chat", "options.temperature", messages=MESSAGES, options={"temperature": -1}),
    _bad_ollama("/api/chat", "options", messages=MESSAGES, options=[]),
    _bad_ollama("/api/chat", "stream", messages=MESSAGES, stream="no"),
    _bad_ollama("/api/chat", "keep_alive", messages=MESSAGES, keep_alive="soon"),
    _bad_ollama("/api/chat", "format", messages=MESSAGES, format="xml"),
    _bad_ollama("/api/chat", "think", messages=MESSAGES, think="hard"),
    _bad_ollama("/api/generate", "prompt", prompt=["x"]),
    _bad_ollama("/api/generate", "options.num_predict", prompt="x", options={"num_predict": 1.5}),
    _bad_ollama("/api/embed", "input is missing"),
    _bad_ollama("/api/embed", "input[0]", input=[1]),
    _bad_ollama("/api/embeddings", "prompt is missing"),
    _bad_ollama("/api/show", "model is missing", model=None),
]  # fmt: skip


def _refused(name: str, call: Call, param: str, upstream: str) -> ChatCase:
    """What the protocol of the engine has no word for."""
    if call.target.startswith("/api"):
        expected = ollama_error(400, "invalid_input", param, "engine behind this edge")
    else:
        expected = openai_error(400, "invalid_input", param, "engine behind this edge")
    return ChatCase(name, call, expected, lambda _a, e: _never_asked(e), upstreams=(upstream,))


UNTRANSLATABLE = [
    _refused("several choices", chat(n=2), "n", "ollama"),
    _refused("biased tokens", chat(logit_bias={"1": 2}), "logit_bias", "ollama"),
    _refused("a forced tool", chat(tools=TOOLS, tool_choice="required"), "tool_choice", "ollama"),
    _refused("audio", chat(messages=_user([{"type": "input_audio", "input_audio": {}}])),
             "messages[0].content[0].type", "ollama"),
    _refused("several prompts", post(COMPLETIONS, prompt=["a", "b"]), "prompt", "ollama"),
    _refused("tokens as a prompt", post(COMPLETIONS, prompt=[1, 2]), "prompt", "ollama"),
    _refused("an echo", post(COMPLETIONS, prompt="a", echo=True), "echo", "ollama"),
    _refused("tokens to embed", post(EMBEDDINGS, input=[1, 2]), "input", "ollama"),
    _refused("a context", post("/api/generate", prompt="x", context=[1]), "context", "openai"),
    _refused("a template", post("/api/generate", prompt="x", template="y"), "template", "openai"),
    _refused("raw with a picture", post("/api/generate", prompt="x", raw=True, images=["iVBOR"]),
             "images", "openai"),
    ChatCase("a picture by address",
             chat(messages=_user([{"type": "image_url", "image_url": {"url": "http://x/y"}}])),
             openai_error(400, "invalid_input", "messages[0].content[0].image_url.url", "base64"),
             upstreams=("ollama",)),
]  # fmt: skip

# --- an engine that fails ---------------------------------------------------------------------


def answering(status: int, body: bytes = b"", **fields: str) -> Callable[[FakeEngine], None]:
    headers = [(name.replace("_", "-"), value) for name, value in fields.items()]
    return engine_with(override=lambda _call: EngineReply(status, headers, [body] if body else []))


def chat_failed(*texts: str) -> Look:
    """Whole events only, and an error as the last of them."""

    def look(answer: Answer, engine: FakeEngine) -> None:
        *chunks, last = events_of(answer.body)
        assert "[DONE]" not in chunks
        assert last["error"]["type"] == "server_error"
        assert all(text in last["error"]["message"] for text in texts), last
        assert answer.body.endswith(b"\n\n")
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert engine.text.startswith("".join(d.get("content") or "" for d in deltas))

    return look


def response_failed(answer: Answer, _engine: FakeEngine) -> None:
    *events, last = events_of(answer.body)
    assert events[0]["type"] == "response.created"
    assert last["type"] == "error"
    assert last["message"] == last["error"]["message"]
    assert last["code"] == "upstream_unavailable"
    assert "response.completed" not in [event["type"] for event in events]


def ollama_failed(answer: Answer, engine: FakeEngine) -> None:
    *lines, last = lines_of(answer.body)
    assert isinstance(last["error"], str)
    assert not any(line.get("done") for line in lines)
    assert engine.text.startswith("".join(line["message"]["content"] for line in lines))


def _broken(name: str, **changes: Any) -> list[ChatCase]:
    """A stream that breaks ends with an error in each protocol."""
    before = engine_with(**changes)
    return [
        ChatCase(f"{name}: chat", chat(stream=True), SSE, chat_failed(), before),
        ChatCase(f"{name}: response", post(RESPONSES, input="x", stream=True), SSE,
                 response_failed, before),
        ChatCase(f"{name}: ollama", ollama_chat(), NDJSON, ollama_failed, before),
    ]  # fmt: skip


def _garbage(reply: EngineReply) -> None:
    reply.chunks[2:] = [b"data: {\n\n", b"{]\n", b"data: {\n\n"]


def _openai_fault(reply: EngineReply) -> None:
    reply.chunks[2:] = [
        b'data: {"error": {"message": "CUDA out of memory", "type": "server_error"}}\n\n',
        b"data: [DONE]\n\n",
    ]


def _ollama_fault(reply: EngineReply) -> None:
    reply.chunks[2:] = [b'{"error":"CUDA out of memory"}\n']


BOTH = (chat(), ollama_chat(stream=False))
DOWN = "upstream_unavailable"
EXHAUSTED = "exhausted"


def _failing(
    name: str, before: Callable[[FakeEngine], None], status: int, code: str, *texts: str,
    deadline_ms: int | None = None, **fields: str,
) -> list[ChatCase]:  # fmt: skip
    """An engine that refuses does so in the client's shape."""
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    openai = openai_error(status, code, None, *texts)
    ollama = ollama_error(status, code, *texts)
    both = (openai, ollama)
    expected = [
        Expected(each.status, json=_without_param(each.json), headers={**each.headers, **headers})
        for each in both
    ]
    plain = (chat(), chat(stream=True), ollama_chat(stream=False), ollama_chat())
    calls = plain if deadline_ms is None else [within(deadline_ms, call) for call in plain]
    wanted = (expected[0], expected[0], expected[1], expected[1])
    kinds = ("chat", "chat stream", "ollama", "ollama stream")
    return [
        ChatCase(f"{name}: {kind}", call, each, before=before)
        for kind, call, each in zip(kinds, calls, wanted, strict=True)
    ]


def _without_param(document: Mapping[str, Any]) -> dict[str, Any]:
    error = document["error"]
    if isinstance(error, dict):
        error = {name: value for name, value in error.items() if name != "param"}
    return {**document, "error": error}


QUEUE_FULL = b'{"error":"server busy, please try again.  maximum pending requests exceeded"}'
BAD_REQUEST = b'{"error":{"message":"context length exceeded","param":"messages","code":null}}'

FAILING = [
    *_failing("nobody listens", engine_with(override=lambda _call: EngineReply(refused=True)),
              503, EXHAUSTED, "cannot be reached"),
    *_failing("no answer", engine_with(override=lambda _call: EngineReply(silent=True)),
              504, "deadline_exceeded", deadline_ms=500),
    *_failing("a full queue", answering(503, QUEUE_FULL), 503, "model_not_ready", "server busy",
              retry_after="1", x_should_retry="true"),
    *_failing("a full queue that says when", answering(503, QUEUE_FULL, retry_after="7"),
              503, "model_not_ready", retry_after="7"),
    *_failing("too many requests", answering(429, b"slow down", retry_after="3"),
              429, "overloaded", retry_after="3", x_should_retry="true"),
    *_failing("a request it refuses", answering(400, BAD_REQUEST), 400, "invalid_input",
              "context length exceeded"),
    *_failing("a fault of its own", answering(500, b'{"error":"boom"}'), 503, EXHAUSTED,
              "status 500"),
    *_failing("credentials it refuses", answering(401, b"{}"), 503, EXHAUSTED, "status 401"),
    *_failing("a page for people", answering(404, b"<html>no</html>"), 404, "model_not_found"),
    ChatCase("an unknown model", chat(model="nope"),
             Expected(404, json={"error": {"code": "model_not_found",
                                           "message": re.compile("nope")}})),
    ChatCase("an unknown model, for ollama", ollama_chat(model="nope"),
             Expected(404, json={"error": re.compile("nope")})),
    ChatCase("an unknown model by name", Call("GET", "/v1/models/nope"),
             Expected(404, json={"error": {"code": "model_not_found", "param": "model"}})),
    ChatCase("an unknown model to show", post("/api/show", model="nope"),
             Expected(404, json={"code": "model_not_found"})),
    ChatCase("whole answer that is no json", chat(), openai_error(503, EXHAUSTED, None, "JSON"),
             before=answering(200, b"<html>")),
    ChatCase("whole answer that is no json, for ollama", ollama_chat(stream=False),
             ollama_error(503, EXHAUSTED, "JSON"), before=answering(200, b"<html>")),
    ChatCase("whole answer that breaks off", chat(),
             openai_error(503, EXHAUSTED, None, "broke off"), before=engine_with(cut=100)),
    ChatCase("whole answer of another shape", ollama_chat(stream=False),
             ollama_error(503, EXHAUSTED, "shape"), before=answering(200, b'{"choices":[3]}'),
             upstreams=("openai",)),
    ChatCase("whole answer that is not done", chat(),
             openai_error(503, EXHAUSTED, None, "not done"),
             before=answering(200, b'{"message":{"content":"x"}}'), upstreams=("ollama",)),
    ChatCase("whole answer that is compressed", chat(),
             openai_error(503, EXHAUSTED, None, "gzip"),
             before=answering(200, b"\x1f\x8b", content_encoding="gzip")),
    ChatCase("list of models that is none", Call("GET", "/v1/models"),
             openai_error(502, DOWN, None, "list of models"), before=answering(200, b"[]"),
             upstreams=("ollama",)),
    *_broken("connection breaks at once", cut=0),
    *_broken("connection breaks in mid-stream", cut=700),
    *_broken("stream ends too early", end=700),
    *_broken("stream ends before anything", end=0),
    *_broken("an event without end", edit=lambda reply: reply.chunks.insert(2, b"x" * 2_000_000)),
    ChatCase("engine falls silent: chat", within(3000, chat(stream=True)), SSE,
             lambda answer, _engine: _timed_out(answer),
             engine_with(edit=lambda reply: _silence(reply))),
    *(ChatCase(f"garbage in mid-stream: {name}", call, SSE, look, engine_with(edit=_garbage),
               upstreams=upstreams)
      for name, call, look, upstreams in (
          ("chat", chat(stream=True), chat_failed("JSON"), ("ollama",)),
          ("response", post(RESPONSES, input="x", stream=True), response_failed, UPSTREAMS))),
    ChatCase("garbage in mid-stream: ollama", ollama_chat(), NDJSON, ollama_failed,
             engine_with(edit=_garbage)),
    ChatCase("engine's own error in mid-stream: chat", chat(stream=True), SSE,
             chat_failed("CUDA out of memory"), engine_with(edit=_openai_fault),
             upstreams=("backend", "openai")),
    ChatCase("engine's own error in mid-stream: chat, translated", chat(stream=True), SSE,
             chat_failed("CUDA out of memory"), engine_with(edit=_ollama_fault),
             upstreams=("ollama",)),
    ChatCase("engine's own error in mid-stream: ollama", ollama_chat(), NDJSON, ollama_failed,
             engine_with(edit=_ollama_fault), upstreams=("backend", "ollama")),
    ChatCase("engine's own error in mid-stream: ollama, translated", ollama_chat(), NDJSON,
             ollama_failed, engine_with(edit=_openai_fault), upstreams=("openai",)),
]  # fmt: skip


def _silence(reply: EngineReply) -> None:
    del reply.chunks[2:]
    reply.silent = True


def _timed_out(answer: Answer) -> None:
    *_chunks, last = events_of(answer.body)
    assert last["error"]["code"] == "deadline_exceeded"


CASES = [*WORKING, *BAD_INPUT, *UNTRANSLATABLE, *FAILING]
