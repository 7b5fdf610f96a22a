"""The compiled component, in a whole application in real hosts, answers as the case table says."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from build_components import Component
from fakes.llm_server import EngineServer, serve_engine
from fakes.llm_upstream import FakeEngine
from wasm import hosts
from wasm.cases.chat import CASES, UPSTREAMS, ChatCase, chat, chat_whole, run_chat_case
from wasm.cases.table import Call
from wasm.hosts import HttpEdge

pytestmark = [
    pytest.mark.wasm,
    pytest.mark.skipif(
        not (Component("chat").wasm.exists() and Component("predict").wasm.exists()),
        reason="no build/chat.wasm: run `make build`",
    ),
]

VARIABLES = {
    # Cases follow each other: what fails in one must not shut the engine out of the next.
    "breaker_failures": "1000",
    "retry_attempts": "1",
    "chat_cache_ttl_s": "0",
    "max_body_bytes": "100000",
    "records_enabled": "false",
}


def variables(upstream: str, url: str) -> dict[str, str]:
    """Settings for an engine at `url`; the backend is one that speaks both protocols."""
    key = "backend_url" if upstream == "backend" else "chat_upstream_url"
    return {**VARIABLES, "chat_upstream": upstream, key: url}


@pytest.fixture(scope="module")
def _server() -> Iterator[EngineServer]:
    with serve_engine(FakeEngine()) as server:
        yield server


@pytest.fixture(scope="module")
def edges(
    _server: EngineServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, HttpEdge]]:
    """One application for each kind of engine."""
    manifest = hosts.with_engine_embeddings(tmp_path_factory.mktemp("app"))
    with contextlib.ExitStack() as stack:
        yield {
            upstream: stack.enter_context(
                hosts.embedded(
                    tmp_path_factory.mktemp("state"),
                    variables(upstream, _server.url),
                    threads=4,
                    manifest=manifest,
                )
            )
            for upstream in UPSTREAMS
        }


@pytest.fixture
def server(_server: EngineServer) -> EngineServer:
    _server.reset()
    return _server


@pytest.mark.parametrize(
    ("case", "upstream"),
    [(case, upstream) for case in CASES for upstream in case.upstreams],
    ids=lambda value: value.name if isinstance(value, ChatCase) else value,
)
def test_chat_embedded_answers_as_the_table_says(
    case: ChatCase, upstream: str, edges: dict[str, HttpEdge], server: EngineServer
) -> None:
    run_chat_case(case, edges[upstream].send, server.engine, upstream)


@pytest.mark.skipif(shutil.which("spin") is None, reason="`spin` is not on PATH")
@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_chat_spin_answers_as_the_table_says(upstream: str, tmp_path: Path) -> None:
    faults: list[str] = []
    with (
        serve_engine(FakeEngine()) as server,
        hosts.spin(tmp_path, variables(upstream, server.url)) as edge,
    ):
        for case in CASES:
            server.reset()
            # The shipped manifest has another component answer embeddings.
            if upstream in case.upstreams and case.call.target != "/v1/embeddings":
                try:
                    run_chat_case(case, edge.send, server.engine, upstream)
                except AssertionError as fault:
                    faults.append(str(fault))
    assert faults == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_chat_sign_of_life_of_ollama_is_given(method: str, edges: dict[str, HttpEdge]) -> None:
    answer = edges["backend"].send(Call(method, "/", {"user-agent": "ollama/0.12.6 (amd64 linux)"}))
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.body == (b"Ollama is running" if method == "GET" else b"")


def test_chat_many_requests_at_once_all_get_their_own_answer(
    edges: dict[str, HttpEdge], server: EngineServer
) -> None:
    def ask(number: int) -> None:
        call = chat(stream=False, user=f"user {number}")
        headers = {"x-request-id": f"request-{number}"}
        answer = edges["openai"].send(Call("POST", call.target, headers, call.body))
        chat_whole(answer, server.engine)
        assert answer.headers["x-request-id"] == f"request-{number}"

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(60)))
    asked = {call.json()["user"] for call in server.engine.received}
    assert asked == {f"user {number}" for number in range(60)}
