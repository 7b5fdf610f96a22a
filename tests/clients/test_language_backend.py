"""The official `openai` and `ollama` clients and the real backend: at its door, and at the edge's.

The backend serves the model that ships, and the models of two other servers by URL, one for each
protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import ollama
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from build_components import Component
from fakes.backend_process import BackendProcess, running_backend
from fakes.llm_folders import TINY_DOCS
from fakes.llm_server import EngineServer, serve_engine
from fakes.llm_upstream import FakeEngine
from wasm import hosts

TINY = "tiny-docs"
USER: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What does open() do?"}]

FREE_WITHIN_S = 10.0


@pytest.fixture(scope="module")
def _server() -> Iterator[EngineServer]:
    with serve_engine(FakeEngine()) as server:
        yield server


@pytest.fixture(scope="module")
def backend(
    _server: EngineServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BackendProcess]:
    root = tmp_path_factory.mktemp("models")
    shutil.copytree(TINY_DOCS.parent, root / TINY)
    for name, platform in (("by-openai", "openai"), ("by-ollama", "ollama")):
        (root / name).mkdir()
        (root / name / "model.toml").write_text(
            f'[model]\nplatform = "{platform}"\n[upstream]\nurl = "{_server.url}"\nmodel = "tiny"\n'
        )
    with running_backend(root, root.parent / "backend.log") as process:
        yield process


@pytest.fixture(scope="module")
def urls(
    backend: BackendProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    with contextlib.ExitStack() as stack:
        found = {"backend": backend.url}
        if Component("chat").wasm.exists() and Component("predict").wasm.exists():
            variables = {"backend_url": backend.url, "chat_cache_ttl_s": "0"}
            edge = hosts.embedded(tmp_path_factory.mktemp("state"), variables, 8)
            found["edge"] = stack.enter_context(edge).url
        yield found


@pytest.fixture(params=["backend", pytest.param("edge", marks=pytest.mark.wasm)])
def url(request: pytest.FixtureRequest, urls: dict[str, str], _server: EngineServer) -> str:
    if request.param not in urls:
        pytest.skip("no build/chat.wasm: run `make build`")
    _server.reset()
    return urls[request.param]


@pytest.fixture
def server(_server: EngineServer) -> EngineServer:
    return _server


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=20) as it:
        yield it


@pytest_asyncio.fixture
async def async_client(url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as it:
        yield it


@pytest.fixture
def ollama_client(url: str) -> Iterator[ollama.Client]:
    with ollama.Client(host=url, timeout=20) as it:
        yield it


def generations(backend: BackendProcess) -> float:
    """That run or wait in the backend, of all models."""
    text = httpx.get(f"{backend.url}/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("backend_generations{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_tiny_docs_writes_the_same_streamed_and_not(client: OpenAI) -> None:
    whole = client.chat.completions.create(model=TINY, messages=USER, temperature=0)
    stream = client.chat.completions.create(
        model=TINY,
        messages=USER,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content != ""
    assert chunks[-1].usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


def test_tiny_docs_answers_both_protocols_alike(
    client: OpenAI, ollama_client: ollama.Client
) -> None:
    asked = client.chat.completions.create(model=TINY, messages=USER, temperature=0)
    answer = ollama_client.chat(TINY, [dict(USER[0])], options={"temperature": 0})
    assert answer.message.content == asked.choices[0].message.content
    assert asked.usage is not None
    assert answer.eval_count == asked.usage.completion_tokens
    generated = ollama_client.generate(TINY, str(USER[0]["content"]), options={"temperature": 0})
    assert generated.response == answer.message.content


def test_tiny_docs_gives_several_texts_with_their_probabilities(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=TINY, messages=USER, n=3, seed=5, temperature=1.5, logprobs=True, top_logprobs=2
    )
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) > 1
    for choice in answer.choices:
        assert choice.logprobs is not None
        scores = choice.logprobs.content or []
        assert b"".join(bytes(s.bytes or ()) for s in scores).decode() == choice.message.content
        assert all(len(score.top_logprobs) == 2 for score in scores)


def test_tiny_docs_keeps_to_a_schema(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=TINY,
        messages=USER,
        temperature=0,
        max_tokens=256,
        response_format={"type": "json_schema", "json_schema": {"name": "ok", "schema": schema}},
    )
    assert isinstance(json.loads(answer.choices[0].message.content or "")["ok"], bool)


def test_stop_and_limit_end_the_text(client: OpenAI) -> None:
    whole = client.chat.completions.create(model=TINY, messages=USER, temperature=0)
    text = whole.choices[0].message.content or ""
    stop = text[4:7]
    stopped = client.chat.completions.create(model=TINY, messages=USER, temperature=0, stop=stop)
    assert stopped.choices[0].message.content == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    cut = client.chat.completions.create(model=TINY, messages=USER, temperature=0, max_tokens=2)
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage is not None
    assert cut.usage.completion_tokens == 2


def test_models_of_every_engine_are_listed(client: OpenAI, ollama_client: ollama.Client) -> None:
    expected = {TINY, "by-openai", "by-ollama"}
    assert {model.id for model in client.models.list()} == expected
    assert {
        (m.model or "").removesuffix(":latest") for m in ollama_client.list().models
    } == expected
    assert client.models.retrieve(TINY).id == TINY


@pytest.mark.parametrize("model", ["by-openai", "by-ollama"])
def test_models_of_other_servers_answer_both_protocols(
    client: OpenAI, ollama_client: ollama.Client, server: EngineServer, model: str
) -> None:
    asked = client.chat.completions.create(model=model, messages=USER)
    assert asked.choices[0].message.content == server.engine.text
    stream = client.chat.completions.create(model=model, messages=USER, stream=True)
    parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(parts) == server.engine.text
    lines = list(ollama_client.chat(model, [dict(USER[0])], stream=True))
    assert "".join(line.message.content or "" for line in lines) == server.engine.text
    assert lines[-1].done


@pytest.mark.parametrize("model", ["by-openai", "by-ollama"])
def test_tool_calls_of_other_servers_reach_both_clients(
    client: OpenAI, ollama_client: ollama.Client, server: EngineServer, model: str
) -> None:
    arguments = {"city": "Zürich"}
    server.engine.pieces = ()
    server.engine.tool_calls = (("get_weather", arguments),)
    function = {"name": "get_weather", "parameters": {"type": "object"}}
    tool = {"type": "function", "function": function}
    with client.chat.completions.stream(
        model=model,
        messages=USER,
        tools=[tool],  # type: ignore[list-item]  # a plain dictionary is what users write
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    assert json.loads(message.tool_calls[0].function.arguments) == arguments
    lines = ollama_client.chat(model, [dict(USER[0])], tools=[tool], stream=True)
    calls = [call for line in lines for call in line.message.tool_calls or ()]
    assert [dict(call.function.arguments) for call in calls] == [arguments]


@pytest.mark.parametrize("model", ["by-openai", "by-ollama"])
def test_other_server_that_breaks_off_is_an_error_in_both_protocols(
    client: OpenAI, ollama_client: ollama.Client, server: EngineServer, model: str
) -> None:
    server.engine.cut = 700
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.chat.completions.create(model=model, messages=USER, stream=True))
    with pytest.raises(ollama.ResponseError, match="broke off"):
        list(ollama_client.chat(model, [dict(USER[0])], stream=True))


@pytest.mark.parametrize("model", ["by-openai", "by-ollama"])
def test_embeddings_of_other_servers_come_through(ollama_client: ollama.Client, model: str) -> None:
    expected = [[0.5, -1.5, 0.25], [1.5, -1.5, 0.25]]
    assert ollama_client.embed(model, ["x", "y"]).embeddings == expected


def test_faults_are_told_in_the_client_s_own_errors(
    client: OpenAI, ollama_client: ollama.Client
) -> None:
    with pytest.raises(openai.NotFoundError, match="nope"):
        client.chat.completions.create(model="nope", messages=USER)
    with pytest.raises(openai.BadRequestError, match="context"):
        client.chat.completions.create(
            model=TINY, messages=[{"role": "user", "content": "word " * 1000}]
        )
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.chat.completions.create(
            model=TINY,
            messages=USER,
            tools=[{"type": "function", "function": {"name": "f"}}],
        )
    with pytest.raises(ollama.ResponseError, match="nope") as caught:
        ollama_client.chat("nope", [dict(USER[0])])
    assert caught.value.status_code == 404


@pytest.mark.parametrize("model", ["by-openai", "by-ollama"])
async def test_client_that_leaves_ends_its_generation_everywhere(
    async_client: AsyncOpenAI, backend: BackendProcess, server: EngineServer, model: str
) -> None:
    server.gate = threading.Semaphore(2)  # it stops in the middle, and waits
    stream = await async_client.chat.completions.create(model=model, messages=USER, stream=True)
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            break
    assert await asyncio.to_thread(generations, backend) == 1
    await stream.close()
    await asyncio.to_thread(server.left.get, timeout=FREE_WITHIN_S)
    deadline = time.monotonic() + FREE_WITHIN_S
    while await asyncio.to_thread(generations, backend):
        assert time.monotonic() < deadline, "the backend goes on for nobody"


async def test_async_ollama_client_streams(url: str) -> None:
    async with ollama.AsyncClient(host=url, timeout=20) as client:
        stream = await client.chat(TINY, [dict(USER[0])], stream=True)
        lines = [line async for line in stream]
    assert lines[-1].done
    assert "".join(line.message.content or "" for line in lines)
