"""The official `ollama` client, unmodified, against the compiled component, for each engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import ollama
import pytest

from build_components import Component
from fakes.llm_server import EngineServer, serve_engine
from fakes.llm_upstream import EngineReply, FakeEngine
from wasm import hosts

pytestmark = [
    pytest.mark.wasm,
    pytest.mark.skipif(
        not (Component("chat").wasm.exists() and Component("predict").wasm.exists()),
        reason="no build/chat.wasm: run `make build`",
    ),
]

USER = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def _server() -> Iterator[EngineServer]:
    with serve_engine(FakeEngine()) as server:
        yield server


@pytest.fixture(scope="module")
def urls(
    _server: EngineServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    with contextlib.ExitStack() as stack:
        found = {}
        for upstream in ("openai", "ollama"):
            variables = {
                "chat_upstream": upstream,
                "chat_upstream_url": _server.url,
                "chat_cache_ttl_s": "0",
            }
            running = hosts.embedded(tmp_path_factory.mktemp("state"), variables, 8)
            found[upstream] = stack.enter_context(running).url
        yield found


@pytest.fixture
def server(_server: EngineServer) -> EngineServer:
    _server.reset()
    return _server


@pytest.fixture(params=["openai", "ollama"])
def url(request: pytest.FixtureRequest, urls: dict[str, str]) -> str:
    return urls[request.param]


@pytest.fixture
def client(url: str, server: EngineServer) -> Iterator[ollama.Client]:
    with ollama.Client(host=url, timeout=20) as it:
        yield it


def test_ollama_chat_gives_text_and_counts(client: ollama.Client, server: EngineServer) -> None:
    options = {"temperature": 0, "seed": 1, "num_predict": 20, "stop": ["x"]}
    answer = client.chat("tiny", USER, options=options, keep_alive="5m")
    assert answer.message.content == server.engine.text
    assert (answer.done, answer.done_reason) == (True, "stop")
    assert (answer.prompt_eval_count, answer.eval_count) == (11, 7)


def test_ollama_chat_stream_ends_with_counts(client: ollama.Client, server: EngineServer) -> None:
    *parts, last = client.chat("tiny", USER, stream=True)
    assert "".join(part.message.content or "" for part in parts) == server.engine.text
    assert last.done
    assert last.eval_count == 7


def test_ollama_tool_calls_come_with_their_arguments(
    client: ollama.Client, server: EngineServer
) -> None:
    def get_weather(city: str) -> str:
        """Weather of a city.

        Args:
            city: Its name.
        """
        return city

    server.engine.pieces = ()
    server.engine.tool_calls = (("get_weather", {"city": "Zürich"}),)
    answers = list(client.chat("tiny", USER, tools=[get_weather], stream=True))
    calls = [call for part in answers for call in part.message.tool_calls or ()]
    assert [(c.function.name, dict(c.function.arguments)) for c in calls] == [
        ("get_weather", {"city": "Zürich"})
    ]


def test_ollama_generate_gives_text(client: ollama.Client, server: EngineServer) -> None:
    assert client.generate("tiny", "Once").response == server.engine.text
    parts = list(client.generate("tiny", "Once", stream=True, raw=True))
    assert "".join(part.response or "" for part in parts) == server.engine.text


def test_ollama_embed_gives_vectors(client: ollama.Client) -> None:
    assert client.embed("tiny", ["x", "y"]).embeddings == [[0.5, -1.5, 0.25], [1.5, -1.5, 0.25]]
    assert list(client.embeddings("tiny", "x").embedding)[:2] == [0.5, -1.5]


def test_ollama_models_are_listed_and_shown(client: ollama.Client) -> None:
    assert [model.model for model in client.list().models] == ["tiny", "org/other"]
    assert [model.model for model in client.ps().models] == ["tiny", "org/other"]
    assert client.show("tiny").modelinfo


def test_ollama_errors_have_text_and_status(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="nope") as caught:
        client.chat("nope", USER)
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="temperature") as caught:
        client.chat("tiny", USER, options={"temperature": -1})
    assert caught.value.status_code == 400


def test_ollama_full_queue_is_503(client: ollama.Client, server: EngineServer) -> None:
    server.engine.override = lambda _call: EngineReply(503, [], [b'{"error":"server busy"}'])
    with pytest.raises(ollama.ResponseError, match="server busy") as caught:
        client.chat("tiny", USER)
    assert caught.value.status_code == 503


@pytest.mark.parametrize("changes", [{"cut": 700}, {"end": 700}])
def test_ollama_stream_that_breaks_raises(
    client: ollama.Client, server: EngineServer, changes: dict[str, int]
) -> None:
    for name, value in changes.items():
        setattr(server.engine, name, value)
    with pytest.raises(ollama.ResponseError, match="broke off"):
        list(client.chat("tiny", USER, stream=True))


async def test_ollama_async_client_streams_and_answers(url: str, server: EngineServer) -> None:
    async with ollama.AsyncClient(host=url, timeout=20) as client:
        answer = await client.chat("tiny", USER)
        assert answer.message.content == server.engine.text
        stream = await client.chat("tiny", USER, stream=True)
        parts = [part.message.content or "" async for part in stream]
        assert "".join(parts) == server.engine.text
