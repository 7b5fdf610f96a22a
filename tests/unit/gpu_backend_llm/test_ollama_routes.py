"""Ollama's protocol on the wire: lines, defaults, errors and the routes around them."""

from __future__ import annotations

import json
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

HELLO = [{"role": "user", "content": "hello"}]


@pytest_asyncio.fixture
async def backend(tmp_path: Path) -> AsyncIterator[TextBackend]:
    async with running_text_backend(tmp_path) as it:
        yield it


def lines(body: str) -> list[dict[str, Any]]:
    assert body.endswith("\n")
    return [json.loads(line) for line in body[:-1].split("\n")]


async def test_generate_streams_by_default(backend: TextBackend) -> None:
    response = await backend.post("/api/generate", prompt="hello")
    assert response.headers["content-type"] == "application/x-ndjson"
    *texts, last = lines(response.text)
    assert [line["response"] for line in texts] == ["Hello", " there"]
    assert [line["done"] for line in (*texts, last)] == [False, False, True]
    assert last["done_reason"] == "stop"
    assert (last["prompt_eval_count"], last["eval_count"]) == (3, 2)
    assert (last["prompt_eval_duration"], last["eval_duration"]) == (250_000_000, 500_000_000)
    assert last["total_duration"] > 0
    assert all(line["model"] == "scripted" for line in texts)
    assert all(line["created_at"].endswith("Z") for line in texts)


async def test_chat_streams_messages(backend: TextBackend) -> None:
    *texts, last = lines((await backend.post("/api/chat", messages=HELLO)).text)
    assert [line["message"] for line in texts] == [
        {"role": "assistant", "content": "Hello"},
        {"role": "assistant", "content": " there"},
    ]
    assert last["message"] == {"role": "assistant", "content": ""}
    assert last["done"] is True


async def test_chat_without_stream_is_one_document(backend: TextBackend) -> None:
    response = await backend.post("/api/chat", messages=HELLO, stream=False)
    document = response.json()
    assert response.headers["content-type"] == "application/json"
    assert document["message"] == {"role": "assistant", "content": "Hello there"}
    assert (document["done"], document["eval_count"]) == (True, 2)


async def test_name_comes_back_as_it_was_asked_for(backend: TextBackend) -> None:
    body = {"model": "scripted:latest", "prompt": "x", "stream": False}
    document = (await backend.client.post("/api/generate", json=body)).json()
    assert document["model"] == "scripted:latest"


async def test_failure_in_mid_stream_is_a_line_and_no_end(tmp_path: Path) -> None:
    engine = ScriptedEngine([Chunk("half"), UpstreamUnavailableError("the server broke off")])
    async with running_text_backend(tmp_path, engine) as backend:
        *_, last = lines((await backend.post("/api/chat", messages=HELLO)).text)
    assert last == {"error": "the server broke off"}


async def test_failure_before_the_first_text_has_its_own_status(tmp_path: Path) -> None:
    engine = ScriptedEngine([OverloadedError("server busy", retry_after_s=2)])
    async with running_text_backend(tmp_path, engine) as backend:
        response = await backend.post("/api/chat", messages=HELLO)
    assert (response.status_code, response.headers["retry-after"]) == (429, "2")
    assert response.json()["error"] == "server busy"


async def test_unknown_model_is_told_as_a_string(backend: TextBackend) -> None:
    for path in ("/api/chat", "/api/generate", "/api/show"):
        body = {"model": "nobody", "messages": HELLO, "prompt": "x"}
        response = await backend.client.post(path, json=body)
        assert response.status_code == 404
        assert "nobody" in response.json()["error"]


async def test_every_option_reaches_the_engine(backend: TextBackend) -> None:
    await backend.post(
        "/api/chat",
        messages=[
            {"role": "user", "content": "look", "images": ["aGk="]},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}],
            },
            {"role": "tool", "content": "4", "tool_name": "f"},
        ],
        options={
            "temperature": 0.5,
            "top_k": 40,
            "top_p": 0.9,
            "min_p": 0.1,
            "seed": 7,
            "num_predict": 9,
            "stop": ["END", ""],
            "repeat_penalty": 1.1,
            "num_ctx": 4096,
        },
        format={"type": "object"},
        keep_alive="5m",
        think=False,
        logprobs=True,
        top_logprobs=2,
        tools=[{"type": "function", "function": {"name": "f"}}],
    )
    assert backend.engine.requests == [
        GenerateRequest(
            input=(
                Message("user", "look", ("aGk=",)),
                Message("assistant", "", tool_calls=(ToolCall(0, None, "f", '{"a": 1}'),)),
                Message("tool", "4", name="f"),
            ),
            sampling=Sampling(
                temperature=0.5, top_p=0.9, top_k=40, min_p=0.1, seed=7, repetition_penalty=1.1
            ),
            max_tokens=9,
            stop=("END",),
            top_logprobs=2,
            format=Format("json_schema", '{"type": "object"}'),
            tools=({"type": "function", "function": {"name": "f"}},),
            extra={"ollama": {"keep_alive": "5m", "think": False, "options": {"num_ctx": 4096}}},
        )
    ]


async def test_generate_hands_over_system_and_rawness(backend: TextBackend) -> None:
    await backend.post("/api/generate", prompt="x", system="Be brief.", raw=True)
    await backend.post("/api/generate", prompt="x")
    prompts = [request.input for request in backend.engine.requests]
    assert prompts == [Prompt("x", "Be brief."), Prompt("x", raw=False)]


@pytest.mark.parametrize("limit", [-1, -2])
async def test_negative_limit_is_none(backend: TextBackend, limit: int) -> None:
    await backend.post("/api/generate", prompt="x", options={"num_predict": limit})
    assert backend.engine.requests[0].max_tokens is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": 5}, "prompt"),
        ({"prompt": "x", "stream": 1}, "stream"),
        ({"prompt": "x", "options": []}, "options"),
        ({"prompt": "x", "options": {"temperature": "hot"}}, "options.temperature"),
        ({"prompt": "x", "options": {"num_predict": -3}}, "options.num_predict"),
        ({"prompt": "x", "format": "xml"}, "format"),
        ({"prompt": "x", "images": [1]}, "images"),
    ],
)
async def test_member_at_fault_is_named(
    backend: TextBackend, body: dict[str, Any], param: str
) -> None:
    response = await backend.post("/api/generate", **body)
    assert (response.status_code, response.json()["param"]) == (400, param)


async def test_missing_model_is_refused(backend: TextBackend) -> None:
    response = await backend.client.post("/api/generate", json={"prompt": "x"})
    assert (response.status_code, response.json()["param"]) == (400, "model")


async def test_length_is_told_as_a_reason(tmp_path: Path) -> None:
    engine = ScriptedEngine([Chunk("x"), finish(FinishReason.LENGTH)])
    async with running_text_backend(tmp_path, engine) as backend:
        document = (await backend.post("/api/generate", prompt="x", stream=False)).json()
    assert document["done_reason"] == "length"


async def test_tool_calls_have_objects_as_arguments(tmp_path: Path) -> None:
    call = ToolCall(0, "c", "weather", '{"city": "Ulm"}')
    engine = ScriptedEngine([Chunk(tool_calls=(call,)), finish(FinishReason.TOOL_CALLS)])
    async with running_text_backend(tmp_path, engine) as backend:
        first, last = lines((await backend.post("/api/chat", messages=HELLO)).text)
    expected = [{"function": {"name": "weather", "arguments": {"city": "Ulm"}}}]
    assert first["message"]["tool_calls"] == expected
    assert last["done_reason"] == "stop"


async def test_thinking_and_scores_have_members_of_their_own(tmp_path: Path) -> None:
    score = TokenScore("a", -0.5, b"a")
    script = [Chunk(thinking="hm"), Chunk("a", scores=(score,)), finish()]
    async with running_text_backend(tmp_path, ScriptedEngine(script)) as backend:
        document = (await backend.post("/api/chat", messages=HELLO, stream=False)).json()
    assert document["message"]["thinking"] == "hm"
    entry = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    assert document["logprobs"] == [entry]


@pytest.mark.parametrize(
    ("path", "empty"), [("/api/generate", {}), ("/api/chat", {"messages": []})]
)
async def test_request_without_prompt_loads_and_unloads(
    backend: TextBackend, path: str, empty: dict[str, Any]
) -> None:
    answers, states = [], []
    for keep_alive in (None, 0):
        answers.append((await backend.post(path, keep_alive=keep_alive, **empty)).json())
        states.append(backend.engine.is_loaded)
    assert [(answer["done"], answer["done_reason"]) for answer in answers] == [
        (True, "load"),
        (True, "unload"),
    ]
    assert states == [True, False]
    assert backend.engine.requests == []


async def test_tags_and_ps_list_models(backend: TextBackend) -> None:
    (tag,) = (await backend.client.get("/api/tags")).json()["models"]
    assert (tag["name"], tag["model"]) == ("scripted:latest", "scripted:latest")
    assert tag["digest"] == "ab" * 32
    assert tag["modified_at"].startswith("2023-11-14T22:13:20")
    assert (await backend.client.get("/api/ps")).json() == {"models": []}
    backend.engine.is_loaded = True
    (running,) = (await backend.client.get("/api/ps")).json()["models"]
    assert (running["name"], running["context_length"]) == ("scripted:latest", 512)


@pytest.mark.parametrize("key", ["model", "name"])
async def test_show_tells_context_and_capabilities(backend: TextBackend, key: str) -> None:
    document = (await backend.client.post("/api/show", json={key: "scripted"})).json()
    assert document["model_info"]["llama.context_length"] == 512
    assert document["capabilities"] == ["completion", "tools", "vision", "embedding"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_greeting_tells_that_somebody_is_there(backend: TextBackend, method: str) -> None:
    response = await backend.client.request(method, "/")
    assert response.status_code == 200
    assert response.text == ("Ollama is running" if method == "GET" else "")


async def test_version_is_told(backend: TextBackend) -> None:
    assert (await backend.client.get("/api/version")).json()["version"].count(".") == 2


async def test_embed_takes_one_text_or_several(backend: TextBackend) -> None:
    one = (await backend.post("/api/embed", input="a")).json()
    assert (one["embeddings"], one["prompt_eval_count"]) == ([[0.5, -1.0]], 2)
    two = (await backend.post("/api/embed", input=["a", "b"])).json()
    assert len(two["embeddings"]) == 2
    older = (await backend.post("/api/embeddings", prompt="a")).json()
    assert older == {"embedding": [0.5, -1.0]}


async def test_tool_call_in_parts_is_one_line(tmp_path: Path) -> None:
    parts = [ToolCall(0, "c", "weather", '{"ci'), ToolCall(0, None, None, 'ty": "Ulm"}')]
    other = ToolCall(1, "d", "time", "")
    script = [*(Chunk(tool_calls=(part,)) for part in (*parts, other)), finish()]
    async with running_text_backend(tmp_path, ScriptedEngine(script)) as backend:
        first, last = lines((await backend.post("/api/chat", messages=HELLO)).text)
    assert first["message"]["tool_calls"] == [
        {"function": {"name": "weather", "arguments": {"city": "Ulm"}}},
        {"function": {"name": "time", "arguments": {}}},
    ]
    assert last["done"] is True


@pytest.mark.parametrize("arguments", ['{"city', "[1]", "Ulm"])
async def test_tool_call_without_an_object_is_the_model_s_fault(
    tmp_path: Path, arguments: str
) -> None:
    call = ToolCall(0, "c", "weather", arguments)
    script = [Chunk("I call"), Chunk(tool_calls=(call,)), finish()]
    async with running_text_backend(tmp_path, ScriptedEngine(script)) as backend:
        streamed = lines((await backend.post("/api/chat", messages=HELLO)).text)
        whole = await backend.post("/api/chat", messages=HELLO, stream=False)
    assert "no JSON object" in streamed[-1]["error"]
    assert whole.status_code == 502
