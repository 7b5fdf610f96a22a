"""Other servers: what they are sent, what they answer, and every way in which they fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from fakes.llm_upstreams import (
    OLLAMA_CHAT,
    OLLAMA_TAGS,
    OPENAI_CHAT,
    ScriptedServer,
    ndjson,
    server_sent_events,
)
from gpu_backend.errors import (
    BackendError,
    InvalidInputError,
    ModelNotFoundError,
    OverloadedError,
    UpstreamUnavailableError,
)
from gpu_backend.llm.engine import (
    Chunk,
    Engine,
    FinishReason,
    Format,
    GenerateRequest,
    Message,
    Prompt,
    Sampling,
    ToolCall,
)
from gpu_backend.llm.manifest import Upstream
from gpu_backend.llm.ollama import OllamaEngine
from gpu_backend.llm.openai_compatible import OpenAICompatibleEngine

HELLO = GenerateRequest((Message("user", "hello"),))

TEXT = "Größe 日本 🦊\u2028\u0085 end"

Make = Callable[[ScriptedServer], Engine]


def ollama(server: ScriptedServer, **upstream: Any) -> OllamaEngine:
    return OllamaEngine(Upstream("http://ollama:11434", **upstream), None, server.transport())


def compatible(server: ScriptedServer, **upstream: Any) -> OpenAICompatibleEngine:
    return OpenAICompatibleEngine(Upstream("http://vllm", **upstream), None, server.transport())


async def collect(engine: Engine, request: GenerateRequest = HELLO) -> list[Chunk]:
    return [chunk async for chunk in engine.generate("m", request)]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 5, 64])
async def test_ollama_stream_in_pieces_of_any_size_is_the_same(piece_bytes: int, end: str) -> None:
    chunks = await collect(
        ollama(ScriptedServer(ndjson(OLLAMA_CHAT, end), piece_bytes=piece_bytes))
    )
    assert text_of(chunks) == TEXT
    finish = chunks[-1].finish
    assert finish is not None
    assert (finish.reason, finish.usage.prompt_tokens) == (FinishReason.STOP, 26)
    assert finish.usage.completion_tokens == 282
    assert finish.usage.completion_s == pytest.approx(4.535599)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 5, 64])
async def test_openai_stream_in_pieces_of_any_size_is_the_same(piece_bytes: int, end: str) -> None:
    body = server_sent_events(OPENAI_CHAT, end)
    chunks = await collect(compatible(ScriptedServer(body, piece_bytes=piece_bytes)))
    assert text_of(chunks) == TEXT
    finish = chunks[-1].finish
    assert finish is not None
    assert (finish.usage.prompt_tokens, finish.usage.completion_tokens) == (26, 282)


@pytest.mark.parametrize("pieces", range(4))
async def test_ollama_stream_that_breaks_off_is_no_end(pieces: int) -> None:
    server = ScriptedServer(ndjson(OLLAMA_CHAT), piece_bytes=100, fails_after=pieces)
    with pytest.raises(UpstreamUnavailableError, match="broke off"):
        await collect(ollama(server))


@pytest.mark.parametrize("pieces", range(4))
async def test_openai_stream_that_breaks_off_is_no_end(pieces: int) -> None:
    server = ScriptedServer(server_sent_events(OPENAI_CHAT), piece_bytes=100, fails_after=pieces)
    with pytest.raises(UpstreamUnavailableError, match="broke off"):
        await collect(compatible(server))


async def test_ollama_stream_without_its_last_line_is_no_end() -> None:
    with pytest.raises(UpstreamUnavailableError, match="no last line"):
        await collect(ollama(ScriptedServer(ndjson(OLLAMA_CHAT[:-1]))))


async def test_openai_stream_without_a_reason_is_no_end() -> None:
    body = server_sent_events(OPENAI_CHAT[:3], done=False)
    with pytest.raises(UpstreamUnavailableError, match="no reason"):
        await collect(compatible(ScriptedServer(body)))


async def test_openai_stream_with_a_reason_but_no_done_is_complete() -> None:
    body = server_sent_events(OPENAI_CHAT, done=False)
    assert (await collect(compatible(ScriptedServer(body))))[-1].finish is not None


async def test_error_in_an_ollama_stream_is_raised_after_the_text() -> None:
    body = ndjson([OLLAMA_CHAT[0], {"error": "an error was encountered while running the model"}])
    stream = ollama(ScriptedServer(body)).generate("m", HELLO)
    assert (await anext(stream)).text == "Größe 日"
    with pytest.raises(UpstreamUnavailableError, match="while running the model"):
        await anext(stream)


async def test_error_in_an_openai_stream_is_raised() -> None:
    body = server_sent_events([OPENAI_CHAT[1], {"error": {"message": "out of memory"}}])
    with pytest.raises(UpstreamUnavailableError, match="out of memory"):
        await collect(compatible(ScriptedServer(body)))


@pytest.mark.parametrize("body", [b"not json\n", b"[1]\n"])
async def test_ollama_line_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(UpstreamUnavailableError):
        await collect(ollama(ScriptedServer(body)))


@pytest.mark.parametrize("make", [ollama, compatible])
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InvalidInputError),
        (401, UpstreamUnavailableError),
        (404, ModelNotFoundError),
        (422, InvalidInputError),
        (429, OverloadedError),
        (500, UpstreamUnavailableError),
        (503, OverloadedError),
    ],
)
async def test_status_of_a_server_has_one_meaning(
    make: Make, status: int, error: type[BackendError]
) -> None:
    server = ScriptedServer(json.dumps({"error": "said so"}).encode(), status)
    with pytest.raises(error, match="said so"):
        await collect(make(server))


async def test_full_ollama_queue_says_when_to_come_back() -> None:
    said = "server busy, please try again.  maximum pending requests exceeded"
    server = ScriptedServer(json.dumps({"error": said}).encode(), 503)
    with pytest.raises(OverloadedError, match="maximum pending") as caught:
        await collect(ollama(server))
    assert caught.value.retry_after_s == 2.0


async def test_retry_after_of_a_server_is_passed_on() -> None:
    server = ScriptedServer(b"{}", 429, {"retry-after": "17"})
    with pytest.raises(OverloadedError) as caught:
        await collect(compatible(server))
    assert caught.value.retry_after_s == 17.0


@pytest.mark.parametrize("make", [ollama, compatible])
@pytest.mark.parametrize(
    "failure",
    [httpx.ConnectError("refused"), httpx.ConnectTimeout("late"), httpx.ReadTimeout("silent")],
)
async def test_server_that_cannot_be_reached_is_unavailable(
    make: type[Any], failure: httpx.HTTPError
) -> None:
    class Down(ScriptedServer):
        def transport(self) -> httpx.AsyncBaseTransport:
            def fail(request: httpx.Request) -> httpx.Response:
                raise failure

            return httpx.MockTransport(fail)

    with pytest.raises(UpstreamUnavailableError):
        await collect(make(Down()))


async def test_ollama_is_sent_its_own_words() -> None:
    server = ScriptedServer(ndjson(OLLAMA_CHAT))
    request = GenerateRequest(
        (Message("system", "Be brief."), Message("user", "hello", images=("aGk=",))),
        Sampling(temperature=0.5, seed=7, repetition_penalty=1.2),
        max_tokens=9,
        stop=("END",),
        top_logprobs=2,
        format=Format("json_schema", '{"type": "object"}'),
        tools=({"type": "function", "function": {"name": "f"}},),
        extra={"ollama": {"keep_alive": "5m", "options": {"num_ctx": 4096}}},
    )
    await collect(ollama(server), request)
    assert server.requests[0].url.path == "/api/chat"
    assert server.sent() == {
        "model": "m",
        "stream": True,
        "options": {
            "temperature": 0.5,
            "seed": 7,
            "repeat_penalty": 1.2,
            "num_predict": 9,
            "stop": ["END"],
            "num_ctx": 4096,
        },
        "keep_alive": "5m",
        "format": {"type": "object"},
        "logprobs": True,
        "top_logprobs": 2,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hello", "images": ["aGk="]},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }


async def test_plain_text_goes_to_generate_without_a_template() -> None:
    server = ScriptedServer(ndjson([{"response": "x", "done": True, "done_reason": "length"}]))
    chunks = await collect(ollama(server), GenerateRequest(Prompt("once")))
    assert server.requests[0].url.path == "/api/generate"
    assert server.sent()["raw"] is True
    assert chunks[-1].finish is not None
    assert chunks[-1].finish.reason is FinishReason.LENGTH


async def test_openai_server_is_sent_its_own_words() -> None:
    server = ScriptedServer(server_sent_events(OPENAI_CHAT))
    request = GenerateRequest(
        (Message("user", "hello", images=("iVBORw0", "https://x/y.png")),),
        Sampling(top_p=0.9, logit_bias={5: 1.5}),
        max_tokens=9,
        top_logprobs=3,
        format=Format("json_schema", "{}", "person"),
        tool_choice="auto",
        extra={"openai": {"user": "u", "reasoning_effort": "low"}},
    )
    await collect(compatible(server), request)
    sent = server.sent()
    assert str(server.requests[0].url) == "http://vllm/v1/chat/completions"
    assert sent["stream_options"] == {"include_usage": True}
    assert sent["logit_bias"] == {"5": 1.5}
    assert (sent["user"], sent["reasoning_effort"], sent["top_logprobs"]) == ("u", "low", 3)
    assert sent["response_format"]["json_schema"] == {"name": "person", "schema": {}}
    assert [part["type"] for part in sent["messages"][0]["content"]] == [
        "text",
        "image_url",
        "image_url",
    ]
    images = [part["image_url"]["url"] for part in sent["messages"][0]["content"][1:]]
    assert images == ["data:image/png;base64,iVBORw0", "https://x/y.png"]


async def test_url_with_a_path_is_taken_as_it_is() -> None:
    server = ScriptedServer(server_sent_events(OPENAI_CHAT))
    engine = OpenAICompatibleEngine(Upstream("http://h/api/v2"), None, server.transport())
    await collect(engine)
    assert str(server.requests[0].url) == "http://h/api/v2/chat/completions"


async def test_key_is_read_from_its_file_at_every_request(tmp_path: Path) -> None:
    key = tmp_path / "key"
    server = ScriptedServer(server_sent_events(OPENAI_CHAT))
    engine = compatible(server, api_key_file=key)
    for value in ("first\n", "second\n"):
        key.write_text(value)
        await collect(engine)
    assert [r.headers["authorization"] for r in server.requests] == [
        "Bearer first",
        "Bearer second",
    ]


async def test_ollama_tool_call_ends_with_tool_calls() -> None:
    call = {"function": {"name": "weather", "arguments": {"city": "Ulm"}}}
    lines = [
        {"message": {"role": "assistant", "content": "", "tool_calls": [call]}, "done": False},
        {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"},
    ]
    chunks = await collect(ollama(ScriptedServer(ndjson(lines))))
    assert chunks[0].tool_calls == (ToolCall(0, "call_0", "weather", '{"city": "Ulm"}'),)
    assert chunks[-1].finish is not None
    assert chunks[-1].finish.reason is FinishReason.TOOL_CALLS


async def test_parts_of_an_openai_tool_call_are_passed_on() -> None:
    def event(call: dict[str, Any] | None, reason: str | None = None) -> dict[str, Any]:
        delta = {"tool_calls": [call]} if call else {}
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    events = [
        event({"index": 0, "id": "c1", "function": {"name": "weather", "arguments": ""}}),
        event({"index": 0, "function": {"arguments": '{"city":'}}),
        event({"index": 0, "function": {"arguments": '"Ulm"}'}}),
        event(None, "tool_calls"),
    ]
    chunks = await collect(compatible(ScriptedServer(server_sent_events(events))))
    calls = [call for chunk in chunks for call in chunk.tool_calls]
    assert (calls[0].id, calls[0].name) == ("c1", "weather")
    assert "".join(call.arguments for call in calls) == '{"city":"Ulm"}'
    assert chunks[-1].finish is not None
    assert chunks[-1].finish.reason is FinishReason.TOOL_CALLS


async def test_thinking_is_kept_apart_from_the_answer() -> None:
    lines = [
        {"message": {"content": "", "thinking": "hm"}, "done": False},
        {"message": {"content": "yes"}, "done": True},
    ]
    chunks = await collect(ollama(ScriptedServer(ndjson(lines))))
    assert (chunks[0].thinking, text_of(chunks)) == ("hm", "yes")


async def test_ollama_cards_say_what_tags_say() -> None:
    server = ScriptedServer(documents={"/api/tags": OLLAMA_TAGS})
    (card,) = await ollama(server).cards()
    assert card.name == "llama3.2:latest"
    assert card.digest.startswith("sha256:a80c4f17")
    assert (card.size_bytes, card.parameter_size) == (2019393189, "3.2B")


async def test_alias_stands_for_one_model() -> None:
    server = ScriptedServer(ndjson(OLLAMA_CHAT), documents={"/api/tags": OLLAMA_TAGS})
    upstream = Upstream("http://ollama", model="llama3.2")
    engine = OllamaEngine(upstream, "assistant", server.transport())
    (card,) = await engine.cards()
    assert (card.name, card.size_bytes) == ("assistant", 2019393189)
    await collect(engine)
    assert server.sent()["model"] == "llama3.2"


async def test_embeddings_come_in_the_order_of_the_texts() -> None:
    body = json.dumps(
        {
            "data": [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}],
            "usage": {"prompt_tokens": 4},
        }
    ).encode()
    made = await compatible(ScriptedServer(body)).embed("m", ["a", "b"], 8)
    assert (list(made.vectors), made.prompt_tokens) == ([[1.0], [2.0]], 4)


async def test_embeddings_that_miss_a_text_are_refused() -> None:
    body = json.dumps({"embeddings": [[1.0]]}).encode()
    with pytest.raises(UpstreamUnavailableError, match="one vector per text"):
        await ollama(ScriptedServer(body)).embed("m", ["a", "b"], None)


async def test_ollama_refuses_the_address_of_a_picture() -> None:
    request = GenerateRequest((Message("user", "?", images=("https://x/y.png",)),))
    with pytest.raises(InvalidInputError, match="base64"):
        await collect(ollama(ScriptedServer()), request)


async def test_ollama_refuses_what_it_has_no_word_for() -> None:
    request = GenerateRequest(HELLO.input, Sampling(logit_bias={1: 1.0}))
    with pytest.raises(InvalidInputError, match="logit_bias"):
        await collect(ollama(ScriptedServer()), request)


@pytest.mark.parametrize(
    "document",
    [
        {"choices": 5},
        {"choices": [5]},
        {"choices": [{"delta": "text"}]},
        {"choices": [{"delta": {"tool_calls": [1]}}]},
        {"choices": [], "usage": [1]},
        {"choices": [], "usage": {"prompt_tokens": "many"}},
        {"choices": [{"delta": {}, "logprobs": {"content": [{"logprob": "x"}]}}]},
    ],
)
async def test_openai_event_of_the_wrong_form_is_the_server_s_fault(document: object) -> None:
    with pytest.raises(UpstreamUnavailableError, match="wrong form"):
        await collect(compatible(ScriptedServer(server_sent_events([document]))))


@pytest.mark.parametrize(
    "document",
    [
        {"message": "text"},
        {"message": {"tool_calls": ["f"]}},
        {"response": "", "logprobs": [1]},
        {"done": True, "prompt_eval_count": "many"},
    ],
)
async def test_ollama_line_of_the_wrong_form_is_the_server_s_fault(document: object) -> None:
    with pytest.raises(UpstreamUnavailableError, match="wrong form"):
        await collect(ollama(ScriptedServer(ndjson([document]))))


@pytest.mark.parametrize(
    ("make", "path", "document"),
    [
        (ollama, "/api/tags", {"models": [1]}),
        (ollama, "/api/tags", {"models": [{"name": "a", "size": "big"}]}),
        (compatible, "/v1/models", {"data": [{"id": "a", "created": "then"}]}),
    ],
)
async def test_list_of_models_of_the_wrong_form_is_the_server_s_fault(
    make: Make, path: str, document: object
) -> None:
    with pytest.raises(UpstreamUnavailableError, match="wrong form"):
        await make(ScriptedServer(documents={path: document})).cards()


@pytest.mark.parametrize("told", ["inf", "nan", "-5", "1e300"])
async def test_retry_after_that_makes_no_sense_is_replaced(told: str) -> None:
    server = ScriptedServer(b"busy", status=503, headers={"retry-after": told})
    with pytest.raises(OverloadedError) as refused:
        await collect(ollama(server))
    assert 0 < refused.value.retry_after_s <= 60
