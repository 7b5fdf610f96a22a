"""What the edge decides holds for chat as for every other inference."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from edgekit.http import Response
from fakes.chat_edge import MESSAGES, NativeChatEdge, events_of
from fakes.edge_world import CLOUD
from fakes.llm_upstream import EngineReply, FakeEngine
from wasm.cases.table import Answer, Call

IDENTITY = 'tiny;version="1";digest="sha256:aaaa"'
KEY = "secret"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
CHAT = "/v1/chat/completions"
STREAMED = pytest.mark.parametrize("streamed", [False, True])


def identified(reply: EngineReply) -> None:
    reply.headers.append(("inference-model", IDENTITY))


def down(_call: object) -> EngineReply:
    return EngineReply(refused=True)


def chat_edge(**variables: str) -> NativeChatEdge:
    edge = NativeChatEdge(FakeEngine(edit=identified), **{"chat_cache_ttl_s": "60", **variables})
    edge.cloud.edit = identified
    return edge


def call(members: dict[str, Any], **fields: str) -> Call:
    document = {"model": "tiny", "messages": MESSAGES, "temperature": 0, **members}
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    return Call("POST", CHAT, headers, json.dumps(document).encode())


def ask(edge: NativeChatEdge, /, streamed: bool = False, **fields: str) -> Answer:
    members = {"stream": True} if streamed else {}
    return edge.send(call(members, **fields))


def finish(response: Response) -> None:
    for step in response.after:
        step()


# --- where the data goes ----------------------------------------------------------------------


@STREAMED
def test_residency_at_the_edge_is_refused_before_anything_leaves(streamed: bool) -> None:
    edge = chat_edge()
    answer = ask(edge, streamed, inference_residency="edge")
    assert (answer.status, answer.json()["error"]["code"]) == (403, "access_denied")
    assert edge.engine.received == []


def test_residency_in_the_cluster_keeps_a_fallback_from_the_cloud() -> None:
    edge = chat_edge(cloud_url=CLOUD)
    edge.engine.override = down
    assert ask(edge, inference_residency="cluster").status == 503
    assert edge.cloud.received == []


def test_residency_misspelt_is_refused() -> None:
    edge = chat_edge()
    assert ask(edge, inference_residency="clutser").status == 400
    assert edge.engine.received == []


# --- other upstream, stale answer, refusal ----------------------------------------------------


@STREAMED
@pytest.mark.parametrize("upstream", ["backend", "openai", "ollama"])
def test_cloud_answers_for_an_engine_that_is_down(upstream: str, streamed: bool) -> None:
    edge = chat_edge(cloud_url=CLOUD, chat_upstream=upstream, chat_upstream_key="of the engine")
    edge.engine.override = down
    answer = ask(edge, streamed)
    assert answer.status == 200
    assert answer.headers["inference-placement"].startswith("cloud;reason=fallback-upstream")
    [asked] = edge.cloud.received
    # A backend in the cloud is asked in the client's words, and never shown another's key.
    assert asked.target == CHAT
    assert "authorization" not in asked.headers


def test_refusal_of_the_engine_is_no_reason_to_ask_the_cloud() -> None:
    edge = chat_edge(cloud_url=CLOUD)
    edge.engine.override = lambda _call: EngineReply(400, [], [b'{"error":"context too long"}'])
    assert ask(edge).status == 400
    assert edge.cloud.received == []


def test_nobody_left_is_503_with_advice() -> None:
    edge = chat_edge()
    edge.engine.override = down
    answer = ask(edge)
    assert (answer.status, answer.json()["error"]["code"]) == (503, "exhausted")
    assert int(answer.headers["retry-after"]) >= 1


def test_breaker_shuts_out_an_engine_that_keeps_failing_and_lets_it_back() -> None:
    edge = chat_edge(breaker_failures="3", cloud_url=CLOUD)
    edge.engine.override = down
    for _ in range(3):
        ask(edge)
    asked = len(edge.engine.received)
    assert ask(edge).headers["inference-placement"].startswith("cloud;reason=breaker")
    assert len(edge.engine.received) == asked
    edge.engine.override = None
    edge.clock.advance(10)
    assert ask(edge, cache_control="no-cache").headers["inference-placement"].startswith("cluster")


def test_breaker_of_chat_is_not_that_of_the_models_that_classify() -> None:
    edge = chat_edge(breaker_failures="2")
    edge.engine.override = down
    for _ in range(3):
        ask(edge)
    broken = [key for key in edge.store.items if key.startswith("breaker/")]
    assert broken == ["breaker/chat"]


def test_answer_that_broke_off_is_not_generated_again() -> None:
    edge = chat_edge(retry_attempts="3")
    edge.engine.cut = 40
    assert ask(edge).status == 503
    assert len(edge.engine.received) == 1


def test_engine_that_was_not_reached_is_tried_again() -> None:
    edge = chat_edge(retry_attempts="3")
    replies = iter([EngineReply(refused=True), None])
    edge.engine.override = lambda _call: next(replies)
    assert ask(edge).status == 200
    assert len(edge.engine.received) == 2


# --- one call for many ------------------------------------------------------------------------


def test_identical_requests_are_collapsed_into_one_generation() -> None:
    edge = chat_edge()
    leader = edge.open(call({}))
    sleep = edge.clock.sleep

    def finish_leader(seconds: float) -> None:
        sleep(seconds)
        finish(leader)

    edge.clock.sleep = finish_leader  # type: ignore[method-assign]
    follower = ask(edge)
    assert len(edge.engine.received) == 1
    assert "collapsed" in follower.headers["cache-status"]
    assert follower.body == leader.body


def test_stream_does_not_wait_for_the_last_byte_of_another() -> None:
    edge = chat_edge()
    edge.open(call({"stream": True}))  # still being written
    answer = ask(edge, streamed=True)
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert edge.clock.slept == []


def test_stale_answers_are_given_at_once_and_renewed_afterwards() -> None:
    for streamed in (False, True):
        edge = chat_edge(cache_stale_while_revalidate_s="30")
        first = ask(edge, streamed)
        edge.clock.advance(61)
        # Somebody else has asked the model meanwhile, so that it is known to be the same.
        edge.send(call({"max_tokens": 3}))
        stale = ask(edge, streamed)
        assert stale.body == first.body
        assert stale.headers["inference-placement"].startswith("edge;reason=cache-stale")
        assert int(stale.headers["age"]) >= 61
        assert len(edge.engine.received) == 3
        fresh = ask(edge, streamed)
        assert fresh.headers["inference-placement"].startswith("edge;reason=cache-hit")
        assert int(fresh.headers["age"]) < 5
        assert len(edge.engine.received) == 3


# --- what it costs ----------------------------------------------------------------------------


def limited(**limits: object) -> str:
    return json.dumps({"acme": {"keys": [DIGEST], **limits}})


@STREAMED
def test_operations_of_a_hit_are_three_and_of_a_miss_six(streamed: bool) -> None:
    everything = limited(rate_per_s=100, concurrency=9, daily_tokens=100000)
    edge = chat_edge(api_keys=everything, cloud_url=CLOUD)
    auth = f"Bearer {KEY}"
    ask(edge, streamed, authorization=auth)
    assert len(edge.store.spent()) <= 7, "the first request of all creates the ledger"
    edge.send(call({"stream": streamed, "max_tokens": 3}, authorization=auth))
    assert len(edge.store.spent()) <= 6
    ask(edge, streamed, authorization=auth)
    assert edge.store.spent() == ["get_many", "compare_and_swap", "set_many"]


@STREAMED
def test_cost_is_charged_by_the_prices_of_the_model(streamed: bool) -> None:
    prices = {"tiny": {"input_per_million": 1, "output_per_million": 2, "per_request": 0.00001}}
    edge = chat_edge(api_keys=limited(daily_cost=0.00008), model_prices=json.dumps(prices))
    auth = f"Bearer {KEY}"
    # 11 tokens read, 7 written, and the request: 11 + 14 + 10 millionths of 80.
    ask(edge, streamed, authorization=auth)
    hit = ask(edge, streamed, authorization=auth)
    assert "r=45" in hit.headers["ratelimit"]
    for limit in (3, 4):
        members = {"stream": streamed, "max_tokens": limit}
        assert edge.send(call(members, authorization=auth)).status == 200
    refused = edge.send(call({"max_tokens": 5}, authorization=auth))
    assert refused.status == 429
    assert "daily-cost" in refused.json()["detail"]


def test_prices_that_make_no_sense_are_reported() -> None:
    edge = chat_edge(model_prices='{"tiny": {"per_token": 1, "per_request": -1}, "x": 3}')
    answer = ask(edge)
    assert answer.status == 500
    for fault in ("per_token", "per_request", "model_prices.x"):
        assert fault in answer.json()["detail"]


# --- what is written down ---------------------------------------------------------------------


def only_record(edge: NativeChatEdge) -> dict[str, Any]:
    [record] = edge.records.records.values()
    return record


@STREAMED
def test_chat_is_recorded_with_its_tokens_and_cost(streamed: bool) -> None:
    prices = '{"*": {"output_per_million": 3}}'
    edge = chat_edge(records_enabled="true", model_prices=prices)
    ask(edge, streamed)
    record = only_record(edge)
    assert record["route"] == "chat"
    assert record["model"] == "tiny"
    assert record["model_digest"] == "sha256:aaaa"
    assert (record["tier"], record["cache"], record["status"]) == ("cluster", "miss", 200)
    assert (record["tokens"], record["cost_micro"]) == (18, 21)
    assert "payload" not in record


def test_stream_that_broke_off_is_recorded_as_what_it_was() -> None:
    edge = chat_edge(records_enabled="true")
    edge.engine.cut = 900
    *_events, last = events_of(ask(edge, streamed=True).body)
    assert last["error"]["code"] == "upstream_unavailable"
    record = only_record(edge)
    assert record["status"] == 502
    assert record["tokens"] > 0


def test_stream_whose_client_left_is_recorded_and_charged_as_far_as_it_came() -> None:
    edge = chat_edge(records_enabled="true")
    response = edge.open(call({"stream": True}))
    body: Any = response.body
    next(body)
    next(body)
    body.close()
    finish(response)
    record = only_record(edge)
    assert record["status"] == 499
    assert record["tokens"] < 18
    assert edge.client.closed == 1


def test_hits_are_recorded_and_cost_nothing() -> None:
    edge = chat_edge(records_enabled="true")
    ask(edge, streamed=True)
    edge.clock.advance(2)
    ask(edge, streamed=True)
    first, second = edge.records.records.values()
    assert (first["cache"], second["cache"]) == ("miss", "hit")
    assert "tokens" not in second
