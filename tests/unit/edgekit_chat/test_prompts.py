"""What is done to prompts before they leave: limits, deny-list, redaction, the operator's words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgekit.chat.redaction import BUILT_IN, redact
from edgekit.chat.tokens import estimate_tokens
from fakes.chat_edge import NativeChatEdge
from wasm.cases.table import Answer

CHAT = "/v1/chat/completions"


def messages(*entries: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in entries]


def ask(edge: NativeChatEdge, path: str, **members: Any) -> Answer:
    return edge.post(path, {"model": "tiny", **members})


def prompted(path: str, **words: str) -> NativeChatEdge:
    return NativeChatEdge(chat_prompts=json.dumps({path: words}))


# --- redaction --------------------------------------------------------------------------------

FOUND = [
    ("write to jane.doe+x@mail.example.org.", "write to [EMAIL]."),
    ("IBAN DE89 3704 0044 0532 0130 00, please", "IBAN [IBAN], please"),
    ("card 4111 1111 1111 1111 expires", "card [CARD] expires"),
    ("ssn 536-22-1234", "ssn [SSN]"),
    ("call +41 44 668 18 00 now", "call [PHONE] now"),
    ("call (212) 555-0199", "call [PHONE]"),
    ("host 192.168.0.1 is down", "host [IPV4] is down"),
]
KEPT = [
    "IBAN DE89 3704 0044 0532 0130 01",  # check digits are wrong
    "number 4111 1111 1111 1112",  # so is this one's
    "version 1.2.3.4.5 of 300.1.1.1",
    "in 2024-10-11 at 12:30:45, 3.14159 and 1234567890",
    "a@b and @home",
]


@pytest.mark.parametrize(("text", "expected"), FOUND)
def test_redact_personal_data_is_replaced_by_its_name(text: str, expected: str) -> None:
    counts: dict[str, int] = {}
    assert redact(text, BUILT_IN.values(), counts) == expected
    assert sum(counts.values()) == 1


@pytest.mark.parametrize("text", KEPT)
def test_redact_what_only_looks_alike_is_kept(text: str) -> None:
    counts: dict[str, int] = {}
    assert redact(text, BUILT_IN.values(), counts) == text
    assert counts == {}


MAIL = "a@example.org"
PLACES: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": messages(("user", MAIL))}),
    (CHAT, {"messages": messages(("user", [{"type": "text", "text": MAIL}]))}),
    (CHAT, {"messages": messages(("system", MAIL), ("user", "x"))}),
    (CHAT, {"messages": [
        *messages(("user", "x")),
        {"role": "assistant", "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": f'"{MAIL}"'}}]},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ]}),
    ("/v1/completions", {"prompt": MAIL}),
    ("/v1/completions", {"prompt": [MAIL]}),
    ("/v1/responses", {"input": MAIL}),
    ("/v1/responses", {"input": messages(("user", MAIL))}),
    ("/v1/responses", {"input": "x", "instructions": MAIL}),
    ("/v1/embeddings", {"input": [MAIL]}),
    ("/api/chat", {"messages": messages(("user", MAIL))}),
    ("/api/chat", {"messages": [
        {"role": "assistant", "tool_calls": [
            {"function": {"name": "f", "arguments": {"to": {"mail": [MAIL]}}}}]},
    ]}),
    ("/api/generate", {"prompt": MAIL}),
    ("/api/generate", {"prompt": "x", "system": MAIL}),
    ("/api/embed", {"input": MAIL}),
    ("/api/embeddings", {"prompt": MAIL}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "members"), PLACES)
@pytest.mark.parametrize("upstream", ["openai", "ollama"])
def test_redaction_no_place_of_a_prompt_is_missed(
    path: str, members: dict[str, Any], upstream: str
) -> None:
    edge = NativeChatEdge(chat_redact="email", chat_upstream=upstream)
    answer = ask(edge, path, **members)
    assert answer.status == 200, answer.body
    assert answer.headers["inference-redactions"] == "email;count=1"
    sent = edge.engine.received[-1].body
    assert MAIL.encode() not in sent
    assert b"[EMAIL]" in sent


def test_redaction_by_own_pattern_is_reported_under_its_name() -> None:
    edge = NativeChatEdge(chat_redact_patterns=json.dumps({"badge": "B-[0-9]{4}"}))
    answer = ask(edge, CHAT, messages=messages(("user", "B-1234 and B-5678")))
    assert answer.headers["inference-redactions"] == "badge;count=2"
    assert edge.asked()["messages"][0]["content"] == "[BADGE] and [BADGE]"


def test_redaction_that_finds_nothing_says_nothing() -> None:
    edge = NativeChatEdge(chat_redact="all")
    answer = ask(edge, CHAT, messages=messages(("user", "nothing here")))
    assert "inference-redactions" not in answer.headers


# --- deny-list --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["Tell me PROJECT Zeus.", "project zeus", "(project zeus)"])
def test_denied_words_are_refused_before_the_engine_is_asked(text: str) -> None:
    edge = NativeChatEdge(chat_denied=json.dumps(["other", "Project Zeus"]))
    answer = ask(edge, CHAT, messages=messages(("user", text)))
    assert (answer.status, answer.json()["error"]["code"]) == (403, "access_denied")
    assert "rule 2" in answer.json()["detail"]
    assert "zeus" not in answer.json()["detail"].lower()
    assert edge.engine.received == []


@pytest.mark.parametrize("text", ["project zeuss", "myproject zeus", "project  zeus"])
def test_denied_words_inside_of_others_pass(text: str) -> None:
    edge = NativeChatEdge(chat_denied=json.dumps(["Project Zeus"]))
    assert ask(edge, CHAT, messages=messages(("user", text))).status == 200


def test_denied_pattern_names_its_rule() -> None:
    edge = NativeChatEdge(chat_denied=json.dumps([{"name": "secrets", "pattern": "sk-[a-z]{4}"}]))
    answer = ask(edge, "/api/generate", prompt="sk-abcd")
    assert answer.status == 403
    assert "'secrets'" in answer.json()["error"]


# --- limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("abcd", 1), ("abcde", 2), ("日本語", 3), ("ab日", 2)]
)
def test_estimate_is_a_quarter_of_ascii_and_one_per_other(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


def test_input_over_the_limit_is_refused() -> None:
    edge = NativeChatEdge(chat_max_input_tokens="10")
    assert ask(edge, CHAT, messages=messages(("user", "x" * 40))).status == 200
    answer = ask(edge, CHAT, messages=messages(("user", "x" * 20), ("user", "y" * 24)))
    assert answer.status == 400
    assert "about 11 tokens" in answer.json()["detail"]
    assert ask(edge, "/v1/completions", prompt=list(range(11))).status == 400


OUTPUTS: list[tuple[str, dict[str, Any], str, int]] = [
    (CHAT, {}, "max_tokens", 50),
    (CHAT, {"max_tokens": 9}, "max_tokens", 9),
    (CHAT, {"max_tokens": 900}, "max_tokens", 50),
    (CHAT, {"max_completion_tokens": 900}, "max_completion_tokens", 50),
    ("/v1/completions", {"prompt": "x"}, "max_tokens", 50),
    ("/v1/responses", {"input": "x"}, "max_completion_tokens", 50),
    ("/api/chat", {}, "options.num_predict", 50),
    ("/api/chat", {"options": {"num_predict": -1, "seed": 1}}, "options.num_predict", 50),
    ("/api/generate", {"prompt": "x", "options": {"num_predict": 20}}, "options.num_predict", 20),
]


@pytest.mark.parametrize(("path", "members", "member", "expected"), OUTPUTS)
def test_output_is_capped_and_never_raised(
    path: str, members: dict[str, Any], member: str, expected: int
) -> None:
    edge = NativeChatEdge(chat_max_output_tokens="50")
    if path in (CHAT, "/api/chat"):
        members = {"messages": messages(("user", "x")), **members}
    answer = ask(edge, path, **members)
    assert answer.status == 200
    value = edge.asked()
    for part in member.split("."):
        value = value[part]
    assert value == expected
    assert answer.headers.get("inference-output") == ("capped" if expected == 50 else None)


# --- the operator's words ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "given", "expected"),
    [
        ("default", [], ["own"]),
        ("default", [("system", "theirs")], ["theirs"]),
        ("prepend", [("system", "theirs")], ["own", "theirs"]),
        ("replace", [("system", "theirs"), ("developer", "more")], ["own"]),
    ],
)
def test_system_prompt_stands_where_its_mode_says(
    mode: str, given: list[tuple[str, str]], expected: list[str]
) -> None:
    edge = prompted(CHAT, system="own", mode=mode)
    ask(edge, CHAT, messages=messages(*given, ("user", "hi")))
    assert [m["content"] for m in edge.asked()["messages"]] == [*expected, "hi"]


@pytest.mark.parametrize(
    ("mode", "given", "expected"),
    [
        ("default", {}, "own"),
        ("default", {"system": "theirs"}, "theirs"),
        ("prepend", {"system": "theirs"}, "own\n\ntheirs"),
        ("replace", {"system": "theirs"}, "own"),
        ("replace", {"raw": True}, None),
    ],
)
def test_system_prompt_of_generate_is_a_member(
    mode: str, given: dict[str, Any], expected: str | None
) -> None:
    edge = prompted("/api/generate", system="own", mode=mode)
    ask(edge, "/api/generate", prompt="hi", **given)
    assert edge.asked().get("system") == expected


def test_system_prompt_of_responses_becomes_the_first_message() -> None:
    edge = prompted("/v1/responses", system="own")
    ask(edge, "/v1/responses", input="hi")
    assert edge.asked()["messages"] == messages(("system", "own"), ("user", "hi"))


def test_template_goes_around_the_last_words_of_the_user() -> None:
    edge = prompted(CHAT, template="Answer briefly: {prompt}")
    ask(edge, CHAT, messages=messages(("user", "one"), ("assistant", "a"), ("user", "two")))
    contents = [m["content"] for m in edge.asked()["messages"]]
    assert contents == ["one", "a", "Answer briefly: two"]


def test_template_of_completions_goes_around_the_prompt() -> None:
    edge = prompted("/v1/completions", template="Q: {prompt}\nA:")
    ask(edge, "/v1/completions", prompt="why?")
    assert edge.asked()["prompt"] == "Q: why?\nA:"


def test_template_makes_no_prompt_of_a_call_that_loads_a_model() -> None:
    edge = NativeChatEdge(
        chat_prompts=json.dumps({"/api/generate": {"template": "x {prompt}"}}),
        chat_upstream="openai",
    )
    answer = ask(edge, "/api/generate", prompt="", stream=False)
    assert answer.json()["done_reason"] == "load"


def test_words_of_one_route_do_not_touch_another() -> None:
    edge = prompted(CHAT, system="own")
    ask(edge, "/api/chat", messages=messages(("user", "hi")))
    assert edge.asked()["messages"] == messages(("user", "hi"))


# --- configuration ----------------------------------------------------------------------------


def test_bad_configuration_is_one_answer_with_every_fault() -> None:
    edge = NativeChatEdge(
        chat_upstream="azure",
        chat_max_input_tokens="many",
        chat_prompts=json.dumps(
            {"/v2/x": {}, "/v1/completions": {"system": "s"}, "/api/chat": {"mode": "m"}}
        ),
        chat_denied='["", {"name": "n", "pattern": "("}]',
        chat_redact="email shoes",
        chat_redact_patterns="[",
    )
    answer = ask(edge, CHAT, messages=messages(("user", "hi")))
    assert (answer.status, answer.json()["code"]) == (500, "internal")
    for part in (
        "chat_upstream is 'azure'",
        "chat_max_input_tokens",
        "'/v2/x'",
        "no system prompt",
        "mode takes",
        "entry 1",
        "no pattern",
        "'shoes'",
        "chat_redact_patterns is no",
    ):
        assert part in answer.json()["detail"], part  # fmt: skip


def test_upstream_key_goes_to_the_engine_and_the_clients_does_not() -> None:
    edge = NativeChatEdge(chat_upstream="openai", chat_upstream_key="engine-key")
    document = {"model": "tiny", "messages": messages(("user", "hi"))}
    edge.post(CHAT, document, {"authorization": "Bearer client-key", "cookie": "c=1"})
    headers = edge.engine.received[-1].headers
    assert headers["authorization"] == "Bearer engine-key"
    assert "cookie" not in headers
