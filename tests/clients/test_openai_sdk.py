"""The official `openai` client, unmodified, against the compiled component, for each engine."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import (
    ChatCompletionFunctionToolParam,
    ChatCompletionMessage,
    ChatCompletionMessageParam,
)
from openai.types.responses import FunctionToolParam, ResponseInputItemParam

from build_components import Component
from fakes.llm_server import EngineServer, serve_engine
from fakes.llm_upstream import EngineCall, EngineReply, FakeEngine
from wasm import hosts

pytestmark = [
    pytest.mark.wasm,
    pytest.mark.skipif(
        not (Component("chat").wasm.exists() and Component("predict").wasm.exists()),
        reason="no build/chat.wasm: run `make build`",
    ),
]

USER: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
TOOL: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object"}},
}


@pytest.fixture(scope="module")
def _server() -> Iterator[EngineServer]:
    with serve_engine(FakeEngine()) as server:
        yield server


@pytest.fixture(scope="module")
def urls(
    _server: EngineServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    manifest = hosts.with_engine_embeddings(tmp_path_factory.mktemp("app"))
    with contextlib.ExitStack() as stack:
        found = {}
        for upstream in ("openai", "ollama"):
            variables = {
                "chat_upstream": upstream,
                "chat_upstream_url": _server.url,
                "chat_cache_ttl_s": "0",
            }
            running = hosts.embedded(tmp_path_factory.mktemp("state"), variables, 8, manifest)
            found[upstream] = stack.enter_context(running).url
        yield found


@pytest.fixture
def server(_server: EngineServer) -> EngineServer:
    _server.reset()
    return _server


@pytest.fixture(params=["openai", "ollama"])
def base_url(request: pytest.FixtureRequest, urls: dict[str, str]) -> str:
    return f"{urls[request.param]}/v1"


@pytest.fixture
def client(base_url: str, server: EngineServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=20) as it:
        yield it


def test_openai_chat_gives_text_and_usage(client: OpenAI, server: EngineServer) -> None:
    answer = client.chat.completions.create(model="tiny", messages=USER, seed=1, temperature=0)
    assert answer.choices[0].message.content == server.engine.text
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 18


def test_openai_chat_stream_gives_deltas_and_usage(client: OpenAI, server: EngineServer) -> None:
    stream = client.chat.completions.create(
        model="tiny",
        messages=USER,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == server.engine.text
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 7


def test_openai_chat_stream_helper_puts_the_answer_together(
    client: OpenAI, server: EngineServer
) -> None:
    with client.chat.completions.stream(model="tiny", messages=USER) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == server.engine.text


@pytest.mark.parametrize("streamed", [False, True])
def test_openai_tool_calls_come_with_their_arguments(
    client: OpenAI, server: EngineServer, streamed: bool
) -> None:
    arguments = {"city": "Zürich"}
    server.engine.pieces = ()
    server.engine.tool_calls = (("get_weather", arguments),)
    message: ChatCompletionMessage
    if streamed:
        with client.chat.completions.stream(model="tiny", messages=USER, tools=[TOOL]) as stream:
            message = stream.get_final_completion().choices[0].message
    else:
        answer = client.chat.completions.create(model="tiny", messages=USER, tools=[TOOL])
        message = answer.choices[0].message
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == arguments


def test_openai_completions_give_text(client: OpenAI, server: EngineServer) -> None:
    answer = client.completions.create(model="tiny", prompt="Once")
    assert answer.choices[0].text == server.engine.text
    stream = client.completions.create(model="tiny", prompt="Once", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == server.engine.text


def test_openai_responses_give_text_and_usage(client: OpenAI, server: EngineServer) -> None:
    answer = client.responses.create(model="tiny", input="hi", instructions="Be brief.")
    assert answer.output_text == server.engine.text
    assert answer.usage is not None
    assert answer.usage.total_tokens == 18
    first = server.engine.received[-1].json()["messages"][0]
    assert first == {"role": "system", "content": "Be brief."}


def test_openai_responses_stream_gives_deltas_and_the_whole(
    client: OpenAI, server: EngineServer
) -> None:
    with client.responses.stream(model="tiny", input="hi") as stream:
        deltas = [e.delta for e in stream if e.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == server.engine.text == final.output_text


def test_openai_responses_tool_calls_go_both_ways(client: OpenAI, server: EngineServer) -> None:
    server.engine.pieces = ()
    server.engine.tool_calls = (("get_weather", {"city": "Bern"}),)
    tools: list[FunctionToolParam] = [
        {"type": "function", "name": "get_weather", "parameters": {}, "strict": False}
    ]
    with client.responses.stream(model="tiny", input="hi", tools=tools) as stream:
        (call,) = stream.get_final_response().output
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"city": "Bern"}
    server.reset()
    items: list[ResponseInputItemParam] = [
        {"role": "user", "content": "hi"},
        {
            "type": "function_call",
            "call_id": call.call_id,
            "name": call.name,
            "arguments": call.arguments,
        },
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
    ]
    answer = client.responses.create(model="tiny", input=items, tools=tools)
    assert answer.output_text == server.engine.text
    messages = server.engine.received[-1].json()["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[-1]["content"] == "sunny"


@pytest.mark.parametrize("encoding", ["base64", "float"])
def test_openai_embeddings_are_numbers(
    client: OpenAI, server: EngineServer, encoding: Literal["base64", "float"]
) -> None:
    vectors = [[0.5, -1.5, 0.25], [1.5, -1.5, 0.25]]
    answer = client.embeddings.create(model="tiny", input=["x", "y"])  # base64, read by the client
    assert [entry.embedding for entry in answer.data] == vectors
    asked = client.embeddings.create(model="tiny", input=["x", "y"], encoding_format=encoding)
    assert isinstance(asked.data[0].embedding, str if encoding == "base64" else list)


def test_openai_models_are_listed_and_found(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "org/other"]
    assert client.models.retrieve("org/other").id == "org/other"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")


def test_openai_errors_have_message_code_and_param(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="from 0 to 2") as caught:
        client.chat.completions.create(model="tiny", messages=USER, temperature=9)
    assert (caught.value.code, caught.value.param) == ("invalid_input", "temperature")
    with pytest.raises(openai.NotFoundError, match="nope"):
        client.chat.completions.create(model="nope", messages=USER)


@pytest.mark.parametrize("changes", [{"cut": 700}, {"end": 700}])
def test_openai_stream_that_breaks_raises(
    client: OpenAI, server: EngineServer, changes: dict[str, int]
) -> None:
    for name, value in changes.items():
        setattr(server.engine, name, value)
    stream = client.chat.completions.create(model="tiny", messages=USER, stream=True)
    with pytest.raises(openai.APIError, match="broke off"):
        list(stream)
    events = client.responses.create(model="tiny", input="hi", stream=True)
    with pytest.raises(openai.APIError, match="broke off"):
        list(events)


def test_openai_full_queue_is_tried_again(base_url: str, server: EngineServer) -> None:
    def busy_once(call: EngineCall) -> EngineReply | None:
        first = len(server.engine.received) == 1
        return EngineReply(503, [], [b'{"error":"server busy"}']) if first else None

    server.engine.override = busy_once
    with OpenAI(base_url=base_url, api_key="unused", max_retries=2, timeout=20) as client:
        answer = client.chat.completions.create(model="tiny", messages=USER)
    assert answer.choices[0].message.content == server.engine.text
    assert len(server.engine.received) == 2


async def test_openai_async_client_streams_and_answers(base_url: str, server: EngineServer) -> None:
    async with AsyncOpenAI(base_url=base_url, api_key="unused", max_retries=0) as client:
        answer = await client.chat.completions.create(model="tiny", messages=USER)
        assert answer.choices[0].message.content == server.engine.text
        stream = await client.chat.completions.create(model="tiny", messages=USER, stream=True)
        parts = [c.choices[0].delta.content or "" async for c in stream if c.choices]
        assert "".join(parts) == server.engine.text
