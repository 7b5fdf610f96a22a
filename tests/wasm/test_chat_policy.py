"""Policy on chat in the compiled component: many instances, one real store, a real socket."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from build_components import ROOT, Component
from fakes.backend_process import running_backend
from fakes.chat_edge import MESSAGES
from fakes.llm_server import EngineServer, serve_engine
from fakes.llm_upstream import EngineReply, FakeEngine
from wasm import hosts
from wasm.cases.table import Answer, Call
from wasm.hosts import HttpEdge

pytestmark = [
    pytest.mark.wasm,
    pytest.mark.skipif(
        not Component("chat").wasm.exists(), reason="no build/chat.wasm: run `make build`"
    ),
]


def identified(reply: EngineReply) -> None:
    reply.headers.append(("inference-model", 'tiny;version="1";digest="sha256:aaaa"'))


@pytest.fixture
def server() -> Iterator[EngineServer]:
    with serve_engine(FakeEngine(edit=identified)) as made:
        yield made


@pytest.fixture
def edge(server: EngineServer, tmp_path: Path) -> Iterator[HttpEdge]:
    variables = {
        "backend_url": server.url,
        "chat_cache_ttl_s": "60",
        "records_enabled": "false",
        "retry_attempts": "1",
    }
    with hosts.embedded(tmp_path / "state", variables, threads=4) as made:
        yield made


def ask(edge: HttpEdge, **members: Any) -> Answer:
    document = {"model": "tiny", "messages": MESSAGES, "temperature": 0, **members}
    return edge.send(Call("POST", "/v1/chat/completions", {}, json.dumps(document).encode()))


def state_of(answer: Answer) -> str:
    field = answer.headers["cache-status"]
    return next((word for word in ("collapsed", "hit") if word in field), "miss")


def test_twenty_identical_requests_are_generated_once(edge: HttpEdge, server: EngineServer) -> None:
    ask(edge, max_tokens=1)
    edge.settle()
    server.engine.received.clear()
    server.engine.pieces = ("slow " * 50,)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: ask(edge), range(20)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert len(server.engine.received) == 1
    assert Counter(map(state_of, answers))["miss"] == 1


@pytest.mark.parametrize("stream", [False, True])
def test_answer_of_the_real_backend_is_kept_and_given_again(stream: bool, tmp_path: Path) -> None:
    models = ROOT / "gpu-backend" / "models"
    with (
        running_backend(models, tmp_path / "backend.log") as backend,
        hosts.embedded(tmp_path / "state", {"backend_url": backend.url}, threads=2) as edge,
    ):
        asked = {"model": "tiny-docs", "max_tokens": 8, "stream": stream}
        if stream:
            asked["stream_options"] = {"include_usage": True}
        first = ask(edge, **asked)
        edge.settle()
        again = ask(edge, **asked)
    assert (first.status, state_of(first), state_of(again)) == (200, "miss", "hit")
    assert again.body == first.body


@pytest.mark.parametrize("stream", [False, True])
def test_answer_is_given_again_after_the_engine_is_gone(
    stream: bool, edge: HttpEdge, server: EngineServer
) -> None:
    first = ask(edge, stream=stream)
    edge.settle()
    server.engine.override = lambda _call: EngineReply(refused=True)
    again = ask(edge, stream=stream)
    assert state_of(again) == "hit"
    assert again.body == first.body
    assert again.headers["content-type"] == first.headers["content-type"]
    other = ask(edge, stream=stream, max_tokens=3)
    assert other.status == 503
    assert int(other.headers["retry-after"]) >= 1
