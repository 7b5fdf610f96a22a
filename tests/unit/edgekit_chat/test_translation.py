"""Requests of one protocol in the words of the other."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgekit.chat.events import Delta, Finish, ToolCallDelta
from edgekit.chat.from_responses import response_to_chat
from edgekit.chat.to_ollama import chat_to_ollama
from edgekit.chat.to_openai import chat_to_openai, generate_to_chat, generate_to_completion
from edgekit.chat.writing import MAX_ARGUMENTS_BYTES, Transcript
from edgekit.ports import UpstreamError
from edgekit.protocols.ndjson import MAX_LINE_BYTES, LineSplitter, format_line
from edgekit.protocols.sse import EventSplitter, event_data
from fakes.chat_edge import NativeChatEdge, events_of, lines_of
from fakes.llm_upstream import FakeEngine

USER = {"role": "user", "content": "hi"}
PIXEL = "iVBORw0KGgo="


def test_chat_options_have_ollamas_names() -> None:
    made = chat_to_ollama(
        {
            "model": "m", "messages": [USER], "stream": True, "temperature": 0.3, "seed": 4,
            "stop": "x", "max_tokens": 9, "presence_penalty": 1, "top_k": 5, "user": "u",
            "response_format": {"type": "json_object"}, "reasoning_effort": "low",
            "logprobs": True, "top_logprobs": 2,
        }
    )  # fmt: skip
    assert made == {
        "model": "m",
        "stream": True,
        "options": {"temperature": 0.3, "top_p": 1.0, "seed": 4, "stop": ["x"], "num_predict": 9,
                    "presence_penalty": 1, "top_k": 5},
        "messages": [USER],
        "format": "json",
        "logprobs": True,
        "top_logprobs": 2,
        "think": "low",
    }  # fmt: skip


def test_chat_without_options_has_openais_defaults() -> None:
    made = chat_to_ollama({"model": "m", "messages": [USER]})
    assert made["options"] == {"temperature": 1.0, "top_p": 1.0}
    assert made["stream"] is False


def test_chat_parts_become_text_and_images() -> None:
    parts = [
        {"type": "text", "text": "what"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        {"type": "text", "text": "is it?"},
    ]
    made = chat_to_ollama({"model": "m", "messages": [{"role": "user", "content": parts}]})
    assert made["messages"] == [{"role": "user", "content": "what\nis it?", "images": [PIXEL]}]


def test_chat_tool_results_find_the_names_of_their_calls() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    made = chat_to_ollama(
        {
            "model": "m",
            "messages": [
                {"role": "developer", "content": "be brief"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "content": "2"},
            ],
        }
    )
    assert made["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "assistant", "content": "",
         "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "2", "tool_name": "f"},
    ]  # fmt: skip


def test_ollama_options_have_openais_names() -> None:
    made = chat_to_openai(
        {
            "model": "m", "messages": [USER], "stream": False, "think": False, "keep_alive": "5m",
            "options": {"temperature": 0, "stop": ["x"], "num_predict": 9, "repeat_penalty": 1.1,
                        "num_ctx": 4096},
            "format": {"type": "object"},
        }
    )  # fmt: skip
    assert made == {
        "model": "m",
        "temperature": 0,
        "stop": ["x"],
        "max_tokens": 9,
        "repetition_penalty": 1.1,
        "messages": [USER],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
        "reasoning_effort": "none",
    }


@pytest.mark.parametrize("endless", [-1, -2])
def test_ollama_answer_without_end_has_no_limit(endless: int) -> None:
    document = {"model": "m", "messages": [USER], "options": {"num_predict": endless}}
    assert "max_tokens" not in chat_to_openai(document)


def test_ollama_tool_results_find_the_identifiers_of_their_calls() -> None:
    calls = [{"function": {"name": name, "arguments": {"a": 1}}} for name in ("f", "g", "f")]
    results = [{"role": "tool", "content": name, "tool_name": name} for name in ("g", "f", "f")]
    made = chat_to_openai(
        {"model": "m", "messages": [{"role": "assistant", "tool_calls": calls}, *results]}
    )["messages"]
    sent = [call["id"] for call in made[0]["tool_calls"]]
    assert len(set(sent)) == 3
    assert [m["tool_call_id"] for m in made[1:]] == [sent[1], sent[0], sent[2]]


def test_generate_with_images_becomes_a_message_with_parts() -> None:
    made = generate_to_chat({"model": "m", "prompt": "what?", "system": "s", "images": ["/9j/4A"]})
    system, user = made["messages"]
    assert system == {"role": "system", "content": "s"}
    assert user["content"][1]["image_url"]["url"] == "data:image/jpeg;base64,/9j/4A"


def test_generate_raw_is_a_completion_of_the_text_itself() -> None:
    made = generate_to_completion({"model": "m", "prompt": "Once", "suffix": "end", "raw": True})
    assert (made["prompt"], made["suffix"]) == ("Once", "end")


def test_response_items_become_messages_and_parallel_calls_one_message() -> None:
    def call(number: int) -> dict[str, Any]:
        return {"type": "function_call", "call_id": f"c{number}", "name": "f", "arguments": "{}"}

    made = response_to_chat(
        {
            "model": "m",
            "input": [
                USER,
                {"type": "reasoning", "summary": []},
                call(1),
                call(2),
                {"type": "function_call_output", "call_id": "c1", "output": "one"},
            ],
            "max_output_tokens": 5,
            "tools": [{"type": "function", "name": "f", "parameters": {}}],
            "tool_choice": {"type": "function", "name": "f"},
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}},
        }
    )
    assert [m["role"] for m in made["messages"]] == ["user", "assistant", "tool"]
    assert [c["id"] for c in made["messages"][1]["tool_calls"]] == ["c1", "c2"]
    assert made["max_completion_tokens"] == 5
    assert made["tools"] == [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    assert made["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert made["response_format"]["json_schema"] == {"name": "n", "schema": {}}


@pytest.mark.parametrize("upstream", ["openai", "ollama"])
def test_thoughts_stay_apart_from_the_answer(upstream: str) -> None:
    edge = NativeChatEdge(FakeEngine(thoughts=("hm", "m")), chat_upstream=upstream)
    lines = lines_of(edge.post("/api/chat", {"model": "tiny", "messages": [USER]}).body)
    assert "".join(line["message"].get("thinking") or "" for line in lines) == "hmm"
    assert "".join(line["message"]["content"] for line in lines) == edge.engine.text
    events = list(
        events_of(edge.post("/v1/responses", {"model": "tiny", "input": "x", "stream": True}).body)
    )
    kinds = [item["type"] for item in events[-1]["response"]["output"]]
    assert kinds == ["reasoning", "message"]


def test_tool_call_whose_arguments_are_no_json_is_an_error_in_the_stream() -> None:
    bad = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}

    def edit(reply: Any) -> None:
        chunk = {"choices": [{"index": 0, "delta": {"tool_calls": [bad]}}]}
        reply.chunks.insert(1, b"data: %s\n\n" % json.dumps(chunk).encode())

    edge = NativeChatEdge(FakeEngine(edit=edit), chat_upstream="openai")
    answer = edge.post("/api/chat", {"model": "tiny", "messages": [USER]})
    assert "no JSON" in lines_of(answer.body)[-1]["error"]


def test_transcript_of_tool_calls_without_measure_is_refused() -> None:
    transcript = Transcript([Delta("a"), Finish("stop")])
    assert (transcript.text, transcript.finish) == ("a", "stop")
    with pytest.raises(UpstreamError, match="tool calls"):
        transcript.add(Delta(tool_calls=[ToolCallDelta(0, arguments="x" * MAX_ARGUMENTS_BYTES)]))


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (b"data: a\n\ndata:b\n\n", [b"a", b"b"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data: a\rdata: b\r\r", [b"a\nb"]),
        (b"event: x\r\nid: 1\r\ndata:  a\r\n\r\n", [b" a"]),
        (b": comment\n\ndata\n\n\n\ndata: b\n\n", [b"", b"b"]),
        (b"data: a\n\ndata: unfinished", [b"a"]),
        (b"\n\n\ndatax: a\n\n", []),
    ],
)
def test_sse_events_are_cut_as_the_standard_says(stream: bytes, data: list[bytes]) -> None:
    for size in range(1, len(stream) + 1):
        splitter = EventSplitter()
        chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
        whole = b"".join(map(splitter.feed, chunks))
        assert list(event_data(whole)) == data, size


def test_ndjson_line_without_end_is_refused() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"a\n\n b \r\nc") == [b"a", b"b"]
    assert splitter.finish() == [b"c"]
    with pytest.raises(UpstreamError, match="a line of more"):
        splitter.feed(b"x" * (MAX_LINE_BYTES + 1))


def test_ndjson_lines_are_ascii_so_that_no_client_splits_them() -> None:
    line = format_line({"text": "a\u2028b\u0085c\n"})
    assert line.decode("ascii").splitlines() == [line.decode().rstrip("\n")]
    assert json.loads(line) == {"text": "a\u2028b\u0085c\n"}
