"""The case table against the pipeline of `chat`, without Wasm, for each engine behind it."""

from __future__ import annotations

import pytest

from fakes.chat_edge import NativeChatEdge
from wasm.cases.chat import CASES, ChatCase, run_chat_case


@pytest.mark.parametrize(
    ("case", "upstream"),
    [(case, upstream) for case in CASES for upstream in case.upstreams],
    ids=lambda value: value.name if isinstance(value, ChatCase) else value,
)
def test_chat_native_answers_as_the_table_says(case: ChatCase, upstream: str) -> None:
    edge = NativeChatEdge(chat_upstream=upstream)
    run_chat_case(case, edge.send, edge.engine, upstream)
