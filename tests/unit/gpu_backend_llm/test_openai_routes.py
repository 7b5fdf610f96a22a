"""OpenAI's protocol on the wire: shapes, streams, errors and what becomes of each parameter."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from fakes.llm_app import TextBackend, running_text_backend
from fakes.llm_engines import ScriptedEngine, finish
from gpu_backend.errors import OverloadedError, UpstreamUnavailableError
from gpu_backend.llm.engine import (
    Chunk,
    FinishReason,
    Format,
    GenerateRequest,
    Message,
    Prompt,
    Sampling,
    TokenScore,
    ToolCall,
)
from gpu_backend.llm.manifest import GenerationLimits

CHAT = "/v1/chat/completions"

COMPLETION = "/v1/completions"

HELLO = [{"role": "user", "content": "hello"}]


@pytest_asyncio.fixture
async def backend(tmp_path: Path) -> AsyncIterator[TextBackend]:
    async with running_text_backend(tmp_path) as it:
        yield it


def events(body: str) -> list[Any]:
    """Data of the events of a stream; each ends with a blank line."""
    assert body.endswith("\n\n")
    blocks = body[:-2].split("\n\n")
    assert all(block.startswith("data: ") for block in blocks)
    data = [block.removeprefix("data: ") for block in blocks]
    return [entry if entry == "[DONE]" else json.loads(entry) for entry in data]


async def test_chat_answers_with_one_document(backend: TextBackend) -> None:
    response = await backend.post(CHAT, messages=HELLO)
    document = response.json()
    assert response.status_code == 200
    assert document["object"] == "chat.completion"
    assert document["id"].startswith("chatcmpl-")
    assert document["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello there", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert document["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert response.headers["inference-model"].startswith("scripted;version=1;digest=sha256:")
    assert "prompt;dur=250.000" in response.headers["server-timing"]


async def test_chat_stream_has_role_text_reason_and_done(backend: TextBackend) -> None:
    response = await backend.post(CHAT, messages=HELLO, stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, done = events(response.text)
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert [choice["delta"].get("content") for choice in choices[1:-1]] == ["Hello", " there"]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]
    assert all("usage" not in chunk for chunk in chunks)


async def test_stream_with_usage_has_it_last_and_null_before(backend: TextBackend) -> None:
    options = {"include_usage": True}
    response = await backend.post(CHAT, messages=HELLO, stream=True, stream_options=options)
    *chunks, last, done = events(response.text)
    assert done == "[DONE]"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 5


async def test_completion_answers_prompt_by_prompt(backend: TextBackend) -> None:
    response = await backend.post(COMPLETION, prompt=["a", "b"], n=2)
    document = response.json()
    assert document["object"] == "text_completion"
    assert [choice["index"] for choice in document["choices"]] == [0, 1, 2, 3]
    assert document["usage"] == {"prompt_tokens": 6, "completion_tokens": 8, "total_tokens": 14}
    prompts = [request.input for request in backend.engine.requests]
    assert sorted(p.text for p in prompts if isinstance(p, Prompt)) == ["a", "a", "b", "b"]


async def test_completion_stream_gives_the_reason_last(backend: TextBackend) -> None:
    response = await backend.post(COMPLETION, prompt="a", stream=True)
    *chunks, done = events(response.text)
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Hello there"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_several_texts_are_streamed_side_by_side(backend: TextBackend) -> None:
    response = await backend.post(CHAT, messages=HELLO, stream=True, n=3)
    *chunks, done = events(response.text)
    texts = ["", "", ""]
    for choice in (chunk["choices"][0] for chunk in chunks):
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert (texts, done) == (["Hello there"] * 3, "[DONE]")


async def test_failure_in_mid_stream_is_an_event_and_no_end(tmp_path: Path) -> None:
    engine = ScriptedEngine([Chunk("half"), UpstreamUnavailableError("the server broke off")])
    async with running_text_backend(tmp_path, engine) as backend:
        response = await backend.post(CHAT, messages=HELLO, stream=True)
    assert response.status_code == 200
    *_, last = events(response.text)
    assert last == {
        "error": {
            "message": "the server broke off",
            "type": "server_error",
            "param": None,
            "code": "upstream_unavailable",
        }
    }
    assert "[DONE]" not in response.text


async def test_engine_that_just_stops_is_no_end_either(tmp_path: Path) -> None:
    async with running_text_backend(tmp_path, ScriptedEngine([Chunk("half")])) as backend:
        streamed = await backend.post(CHAT, messages=HELLO, stream=True)
        whole = await backend.post(CHAT, messages=HELLO)
    assert events(streamed.text)[-1]["error"]["code"] == "execution_failed"
    assert "[DONE]" not in streamed.text
    assert whole.status_code == 500


async def test_one_failing_text_of_several_fails_the_answer(tmp_path: Path) -> None:
    engine = ScriptedEngine([Chunk("a"), UpstreamUnavailableError("gone")])
    async with running_text_backend(tmp_path, engine) as backend:
        response = await backend.post(CHAT, messages=HELLO, n=2)
        assert (response.status_code, engine.running) == (502, 0)
        streamed = await backend.post(CHAT, messages=HELLO, n=2, stream=True)
    assert "error" in events(streamed.text)[-1]
    assert engine.running == 0


async def test_failure_before_the_first_text_has_its_own_status(tmp_path: Path) -> None:
    engine = ScriptedEngine([OverloadedError("the queue is full", retry_after_s=2.5)])
    async with running_text_backend(tmp_path, engine) as backend:
        response = await backend.post(CHAT, messages=HELLO, stream=True)
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")
    assert response.json()["error"]["code"] == "overloaded"


async def test_unknown_model_is_told_in_openai_s_shape(backend: TextBackend) -> None:
    response = await backend.client.post(CHAT, json={"model": "nobody", "messages": HELLO})
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["code"], error["type"]) == ("model_not_found", "invalid_request_error")
    assert "nobody" in error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["x"]}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": HELLO, "temperature": 3}, "temperature"),
        ({"messages": HELLO, "temperature": "hot"}, "temperature"),
        ({"messages": HELLO, "top_p": -0.1}, "top_p"),
        ({"messages": HELLO, "n": 0}, "n"),
        ({"messages": HELLO, "n": 17}, "n"),
        ({"messages": HELLO, "max_tokens": 0}, "max_tokens"),
        ({"messages": HELLO, "max_tokens": 1.5}, "max_tokens"),
        ({"messages": HELLO, "seed": True}, "seed"),
        ({"messages": HELLO, "stop": [1]}, "stop"),
        ({"messages": HELLO, "stop": ["x"] * 17}, "stop"),
        ({"messages": HELLO, "stop": "x" * 1025}, "stop"),
        ({"messages": HELLO, "stream": "yes"}, "stream"),
        ({"messages": HELLO, "top_logprobs": 2}, "top_logprobs"),
        ({"messages": HELLO, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": HELLO, "response_format": {"type": "xml"}}, "response_format.type"),
        (
            {"messages": HELLO, "response_format": {"type": "json_schema"}},
            "response_format.json_schema.schema",
        ),
        ({"messages": HELLO, "logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"messages": HELLO, "stream_options": []}, "stream_options"),
        ({"messages": HELLO, "tools": {}}, "tools"),
    ],
)
async def test_member_at_fault_is_named(
    backend: TextBackend, body: dict[str, Any], param: str
) -> None:
    response = await backend.post(CHAT, **body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": ["a"] * 9, "n": 2}, "n"),
    ],
)
async def test_member_of_a_completion_at_fault_is_named(
    backend: TextBackend, body: dict[str, Any], param: str
) -> None:
    response = await backend.post(COMPLETION, **body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'"x"', b"\xff"])
async def test_body_that_is_no_object_is_refused(backend: TextBackend, content: bytes) -> None:
    response = await backend.client.post(CHAT, content=content)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_input"


async def test_body_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    async with running_text_backend(tmp_path, max_body_bytes=1024) as backend:
        response = await backend.post(CHAT, messages=[{"role": "user", "content": "x" * 2000}])
    assert (response.status_code, response.json()["error"]["code"]) == (413, "payload_too_large")


async def test_every_parameter_reaches_the_engine(backend: TextBackend) -> None:
    await backend.post(
        CHAT,
        messages=[
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is"},
                    {"type": "text", "text": "this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "content": "4", "tool_call_id": "c"},
        ],
        temperature=0.5,
        top_p=0.9,
        seed=7,
        max_completion_tokens=9,
        max_tokens=99,
        stop="END",
        logprobs=True,
        top_logprobs=2,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={"5": -1},
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": 1}}},
        tools=[{"type": "function", "function": {"name": "f"}}],
        tool_choice="auto",
        user="somebody",
        reasoning_effort="low",
    )
    assert backend.engine.requests == [
        GenerateRequest(
            input=(
                Message("system", "Be brief."),
                Message("user", "what is\nthis?", ("aGk=",)),
                Message("assistant", "", tool_calls=(ToolCall(0, "c", "f", "{}"),)),
                Message("tool", "4", tool_call_id="c"),
            ),
            sampling=Sampling(
                temperature=0.5,
                top_p=0.9,
                seed=7,
                presence_penalty=0.5,
                frequency_penalty=-0.5,
                logit_bias={5: -1.0},
            ),
            max_tokens=9,
            stop=("END",),
            top_logprobs=2,
            format=Format("json_schema", '{"a": 1}', "n"),
            tools=({"type": "function", "function": {"name": "f"}},),
            tool_choice="auto",
            extra={"openai": {"reasoning_effort": "low"}},
        )
    ]


async def test_null_counts_as_absent(backend: TextBackend) -> None:
    keys = ("temperature", "top_p", "n", "stop", "seed", "max_tokens", "tools", "logit_bias")
    response = await backend.post(CHAT, messages=HELLO, **dict.fromkeys(keys))
    assert response.status_code == 200
    assert backend.engine.requests[0].sampling == Sampling()


async def test_texts_with_one_seed_have_seeds_of_their_own(backend: TextBackend) -> None:
    await backend.post(CHAT, messages=HELLO, n=3, seed=5)
    assert sorted(r.sampling.seed or 0 for r in backend.engine.requests) == [5, 6, 7]


async def test_logprobs_of_a_chat(tmp_path: Path) -> None:
    score = TokenScore("日", -0.5, "日".encode(), (("日", -0.5, "日".encode()),))
    engine = ScriptedEngine([Chunk("日", scores=(score,)), finish()])
    async with running_text_backend(tmp_path, engine) as backend:
        document = (await backend.post(CHAT, messages=HELLO, logprobs=True)).json()
        streamed = await backend.post(CHAT, messages=HELLO, logprobs=True, stream=True)
    entry = {"token": "日", "logprob": -0.5, "bytes": [230, 151, 165]}
    expected = {"content": [{**entry, "top_logprobs": [entry]}], "refusal": None}
    assert document["choices"][0]["logprobs"] == expected
    assert events(streamed.text)[1]["choices"][0]["logprobs"] == expected


async def test_logprobs_of_a_completion_have_offsets(tmp_path: Path) -> None:
    scores = (TokenScore("ab", -0.5, b"ab", (("ab", -0.5, b"ab"),)), TokenScore("c", -1.0, b"c"))
    engine = ScriptedEngine(
        [Chunk("ab", scores=scores[:1]), Chunk("c", scores=scores[1:]), finish()]
    )
    async with running_text_backend(tmp_path, engine) as backend:
        document = (await backend.post(COMPLETION, prompt="x", logprobs=1)).json()
        streamed = await backend.post(COMPLETION, prompt="x", logprobs=1, stream=True)
    assert document["choices"][0]["logprobs"] == {
        "tokens": ["ab", "c"],
        "token_logprobs": [-0.5, -1.0],
        "top_logprobs": [{"ab": -0.5}, None],
        "text_offset": [0, 2],
    }
    assert events(streamed.text)[1]["choices"][0]["logprobs"]["text_offset"] == [2]


async def test_tool_calls_are_put_together_and_streamed_in_parts(tmp_path: Path) -> None:
    script = [
        Chunk(tool_calls=(ToolCall(0, "c1", "weather", ""),)),
        Chunk(tool_calls=(ToolCall(0, None, None, '{"city":'),)),
        Chunk(tool_calls=(ToolCall(0, None, None, '"Ulm"}'),)),
        finish(FinishReason.TOOL_CALLS),
    ]
    async with running_text_backend(tmp_path, ScriptedEngine(script)) as backend:
        choice = (await backend.post(CHAT, messages=HELLO)).json()["choices"][0]
        streamed = await backend.post(CHAT, messages=HELLO, stream=True)
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city":"Ulm"}'},
    }
    assert choice["message"]["tool_calls"] == [call]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "tool_calls")
    deltas = [e["choices"][0]["delta"] for e in events(streamed.text)[1:-2]]
    assert deltas[0]["tool_calls"][0]["id"] == "c1"
    assert deltas[1]["tool_calls"] == [{"index": 0, "function": {"arguments": '{"city":'}}]


async def test_lone_surrogate_of_a_model_does_not_break_the_stream(tmp_path: Path) -> None:
    engine = ScriptedEngine([Chunk("\ud83e"), finish()])
    async with running_text_backend(tmp_path, engine) as backend:
        response = await backend.post(CHAT, messages=HELLO, stream=True)
    assert "\\ud83e" in response.text
    assert response.text.endswith("data: [DONE]\n\n")


async def test_deadline_in_a_header_is_kept(tmp_path: Path) -> None:
    async with running_text_backend(tmp_path) as backend:
        response = await backend.client.post(
            CHAT,
            json={"model": "scripted", "messages": HELLO},
            headers={"inference-deadline-ms": "0"},
        )
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")


async def test_request_id_comes_back(backend: TextBackend) -> None:
    for stream in (False, True):
        response = await backend.client.post(
            CHAT,
            json={"model": "scripted", "messages": HELLO, "stream": stream},
            headers={"x-request-id": "abc-1"},
        )
        assert response.headers["x-request-id"] == "abc-1"


async def test_full_model_refuses_with_a_time(tmp_path: Path) -> None:
    limits = GenerationLimits(max_streams=1, max_queue=0)
    async with running_text_backend(tmp_path, limits=limits) as backend:
        response = await backend.post(CHAT, messages=HELLO, n=2)
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1


async def test_models_are_listed_and_shown(backend: TextBackend) -> None:
    entry = {
        "id": "scripted",
        "object": "model",
        "created": 1700000000,
        "owned_by": "onnxruntime-genai",
        "max_model_len": 512,
    }
    listed = (await backend.client.get("/v1/models")).json()
    assert listed == {"object": "list", "data": [entry]}
    assert (await backend.client.get("/v1/models/scripted")).json() == entry
    missing = await backend.client.get("/v1/models/a/b")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("form", ["float", "base64"])
async def test_embeddings_come_as_numbers_or_as_base64(backend: TextBackend, form: str) -> None:
    response = await backend.post("/v1/embeddings", input=["a", "b"], encoding_format=form)
    document = response.json()
    assert document["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert [entry["index"] for entry in document["data"]] == [0, 1]
    vector = document["data"][0]["embedding"]
    if form == "base64":
        vector = list(struct.unpack("<2f", base64.b64decode(vector)))
    assert vector == [0.5, -1.0]


async def test_get_on_a_chat_is_not_allowed(backend: TextBackend) -> None:
    assert (await backend.client.get(CHAT)).status_code == 405


async def test_metrics_count_tokens_and_outcomes(backend: TextBackend) -> None:
    await backend.post(CHAT, messages=HELLO)
    text = (await backend.client.get("/metrics")).text
    assert 'backend_generation_requests_total{model="scripted",outcome="ok"} 1.0' in text
    assert 'backend_generation_tokens_total{kind="completion",model="scripted"} 2.0' in text
    assert 'backend_generation_first_token_seconds_count{model="scripted"} 1.0' in text


async def test_empty_text_has_its_place_among_the_embeddings(backend: TextBackend) -> None:
    document = (await backend.post("/v1/embeddings", input=["a", "", "b"])).json()
    assert [entry["index"] for entry in document["data"]] == [0, 1, 2]


async def test_empty_stop_stops_nothing(backend: TextBackend) -> None:
    await backend.post(CHAT, messages=HELLO, stop=["", "END"])
    assert backend.engine.requests[-1].stop == ("END",)
