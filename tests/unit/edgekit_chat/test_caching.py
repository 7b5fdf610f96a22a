"""Deterministic answers given again: in the shape they had, and only when they were complete."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from edgekit.chat.arriving import Capture
from edgekit.chat.generation import is_deterministic
from fakes.chat_edge import MESSAGES, NativeChatEdge
from fakes.llm_upstream import EngineReply, FakeEngine
from wasm.cases.table import Answer, Call

IDENTITY = 'tiny;version="1";digest="sha256:aaaa"'
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": MESSAGES, "temperature": 0}),
    "chat stream": (
        "/v1/chat/completions",
        {
            "messages": MESSAGES,
            "seed": 7,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ),
    "response stream": ("/v1/responses", {"input": "hi", "temperature": 0, "stream": True}),
    "ollama": ("/api/chat", {"messages": MESSAGES, "options": {"temperature": 0}, "stream": False}),
    "ollama stream": ("/api/chat", {"messages": MESSAGES, "options": {"seed": 1}}),
    "embeddings": ("/v1/embeddings", {"input": "x"}),
}
CHAT = CALLS["chat"]
STREAM = CALLS["chat stream"]


def identified(reply: EngineReply, identity: str = IDENTITY) -> None:
    reply.headers.append(("inference-model", identity))


def caching_edge(engine: FakeEngine | None = None, **variables: str) -> NativeChatEdge:
    engine = engine or FakeEngine()
    engine.edit = engine.edit or identified
    return NativeChatEdge(engine, **{"chat_cache_ttl_s": "60", **variables})


def ask(edge: NativeChatEdge, call: tuple[str, dict[str, Any]], **headers: str) -> Answer:
    path, members = call
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return edge.post(path, {"model": "tiny", **members}, fields)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("upstream", ["openai", "ollama"])
def test_cached_answer_is_the_first_one_byte_for_byte(name: str, upstream: str) -> None:
    edge = caching_edge(chat_upstream=upstream)
    first, second = ask(edge, CALLS[name]), ask(edge, CALLS[name])
    assert len(edge.engine.received) == 1
    assert first.headers["cache-status"].startswith("edge;fwd=miss;fwd-status=200")
    # Whether a stream is stored shows when it has ended, after its head has gone.
    assert ("stored" in first.headers["cache-status"]) is ("stream" not in name)
    assert second.headers["cache-status"].startswith("edge;hit")
    assert second.headers["inference-placement"].startswith("edge;reason=cache-hit")
    assert second.headers["inference-model"].startswith("tiny")
    assert second.headers["content-type"] == first.headers["content-type"]
    assert second.body == first.body


def test_cached_stream_is_replayed_in_the_chunks_it_had() -> None:
    edge = caching_edge()
    path, members = STREAM
    call = Call("POST", path, {}, json.dumps({"model": "tiny", **members}).encode())

    def chunks() -> list[bytes]:
        response = edge.open(call)
        assert not isinstance(response.body, bytes)
        sent = list(response.body)
        for step in response.after:
            step()
        return sent

    first = chunks()
    assert len(first) > 5
    assert chunks() == first
    assert len(edge.engine.received) == 1


@pytest.mark.parametrize("changes", [{"cut": 900}, {"end": 900}])
def test_cached_never_a_stream_that_broke(changes: dict[str, int]) -> None:
    edge = caching_edge()
    for name, value in changes.items():
        setattr(edge.engine, name, value)
    assert b'"error"' in ask(edge, STREAM).body
    edge.engine.cut = edge.engine.end = None
    whole = ask(edge, STREAM)
    assert whole.body.endswith(b"data: [DONE]\n\n")
    assert len(edge.engine.received) == 2


def test_cached_never_a_stream_whose_client_left() -> None:
    edge = caching_edge()
    path, members = STREAM
    body = json.dumps({"model": "tiny", **members}).encode()
    response = edge.open(Call("POST", path, {}, body))
    chunks: Any = response.body
    next(chunks)
    chunks.close()
    for step in response.after:
        step()
    assert edge.client.closed == 1
    ask(edge, STREAM)
    assert len(edge.engine.received) == 2


def test_cached_not_when_the_model_samples() -> None:
    edge = caching_edge()
    sampled = (CHAT[0], {"messages": MESSAGES})
    for _ in range(2):
        answer = ask(edge, sampled)
        assert answer.headers["cache-status"] == "edge;fwd=bypass;fwd-status=200"
        assert answer.headers["cache-control"] == "no-store"
    assert len(edge.engine.received) == 2


def test_cached_even_a_sample_for_a_client_that_asks() -> None:
    edge = caching_edge()
    sampled = (CHAT[0], {"messages": MESSAGES})
    first = ask(edge, sampled, cache_control="max-age=60")
    assert ask(edge, sampled, cache_control="max-age=60").body == first.body
    assert len(edge.engine.received) == 1


def test_cached_not_where_the_engine_names_no_version() -> None:
    edge = caching_edge(FakeEngine(edit=lambda _reply: None))
    for _ in range(2):
        ask(edge, CHAT)
    assert len(edge.engine.received) == 2


def test_cached_not_beyond_the_limit_of_an_entry() -> None:
    edge = caching_edge(FakeEngine(pieces=("x" * 3000,)), cache_max_entry_bytes="1024")
    for _ in range(2):
        assert ask(edge, STREAM).body.endswith(b"data: [DONE]\n\n")
    assert len(edge.engine.received) == 2


def test_cached_answer_of_a_replaced_model_is_not_given() -> None:
    edge = caching_edge()
    ask(edge, CHAT)
    edge.engine.edit = lambda reply: identified(reply, 'tiny;version="2";digest="sha256:bbbb"')
    ask(edge, (CHAT[0], {"messages": [*MESSAGES, *MESSAGES], "temperature": 0}))
    ask(edge, CHAT)
    assert len(edge.engine.received) == 3


@pytest.mark.parametrize("change", [{"seed": 3}, {"stream": True}, {"max_tokens": 5}])
def test_cached_answer_is_for_the_same_request_only(change: dict[str, Any]) -> None:
    edge = caching_edge()
    ask(edge, CHAT)
    ask(edge, (CHAT[0], {**CHAT[1], **change}))
    assert len(edge.engine.received) == 2


def test_cached_answer_does_not_depend_on_who_the_user_is_said_to_be() -> None:
    edge = caching_edge()
    ask(edge, CHAT)
    ask(edge, (CHAT[0], {**CHAT[1], "user": "somebody"}))
    assert len(edge.engine.received) == 1


def test_cached_answers_are_apart_by_tenant() -> None:
    keys = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("one", "two")}
    tenants = {f"tenant-{name}": {"keys": [digest]} for name, digest in keys.items()}
    edge = caching_edge(api_keys=json.dumps(tenants))
    for name in keys:
        assert ask(edge, CHAT, authorization=f"Bearer {name}").status == 200
    assert len(edge.engine.received) == 2


def test_cached_answer_stands_in_for_an_engine_that_is_down() -> None:
    edge = caching_edge()
    first = ask(edge, CHAT)
    edge.clock.advance(120)
    edge.engine.override = lambda _call: EngineReply(refused=True)
    stale = ask(edge, CHAT)
    assert stale.status == 200
    assert stale.body == first.body
    assert int(stale.headers["age"]) >= 120
    assert "stale-if-error" in stale.headers["cache-status"]


def test_cached_only_where_something_is_stored_is_504() -> None:
    edge = caching_edge()
    answer = ask(edge, CHAT, cache_control="only-if-cached")
    assert (answer.status, answer.json()["error"]["code"]) == (504, "not_cached")
    assert edge.engine.received == []


def test_cached_not_when_the_client_forbids_it() -> None:
    edge = caching_edge()
    for _ in range(2):
        ask(edge, CHAT, cache_control="no-store")
    assert len(edge.engine.received) == 2


def test_cache_that_is_broken_costs_nothing_but_the_call() -> None:
    edge = caching_edge()
    edge.store.broken = True
    for _ in range(2):
        assert ask(edge, STREAM).body.endswith(b"data: [DONE]\n\n")
    assert len(edge.engine.received) == 2


@pytest.mark.parametrize("streamed", [False, True])
def test_tokens_are_charged_to_the_tenant_and_a_hit_costs_none(streamed: bool) -> None:
    key = hashlib.sha256(b"secret").hexdigest()
    tenants = {"acme": {"keys": [key], "daily_tokens": 30}}
    edge = caching_edge(api_keys=json.dumps(tenants))
    call = STREAM if streamed else CHAT
    assert ask(edge, call, authorization="Bearer secret").status == 200
    again = ask(edge, call, authorization="Bearer secret")
    assert "r=12" in again.headers["ratelimit"], "18 of 30 tokens are used"
    other = (call[0], {**call[1], "max_tokens": 9})
    assert ask(edge, other, authorization="Bearer secret").status == 200
    refused = ask(edge, other, authorization="Bearer secret")
    assert refused.status == 429
    assert refused.json()["error"]["code"] == "rate_limited"


@pytest.mark.parametrize(
    ("path", "document", "expected"),
    [
        ("/v1/chat/completions", {"temperature": 0}, True),
        ("/v1/chat/completions", {"temperature": 0.7, "seed": 0}, True),
        ("/v1/chat/completions", {"temperature": 0.7}, False),
        ("/v1/chat/completions", {}, False),
        ("/api/chat", {"options": {"temperature": 0}}, True),
        ("/api/chat", {"temperature": 0}, False),
        ("/api/embed", {}, True),
    ],
)
def test_deterministic_is_temperature_zero_or_a_seed(
    path: str, document: dict[str, Any], expected: bool
) -> None:
    assert is_deterministic(path, document) is expected


def test_capture_beyond_its_limit_holds_nothing() -> None:
    capture = Capture(5)
    for chunk in (b"abc", b"def", b"g"):
        capture.add(chunk)
    assert not capture.usable
    assert capture.body == b""


def test_cached_answer_says_which_engine_made_it() -> None:
    edge = caching_edge(FakeEngine(edit=lambda reply: identified(reply, IDENTITY + ";engine=og")))
    first, second = ask(edge, STREAM), ask(edge, STREAM)
    assert first.headers["inference-model"].endswith(';engine="og"')
    assert second.headers["inference-model"] == first.headers["inference-model"]
