"""Lines and events come out the same wherever the bytes were cut."""

from __future__ import annotations

import json

import pytest

from fakes.llm_upstreams import OLLAMA_CHAT, OPENAI_CHAT, ndjson, server_sent_events
from gpu_backend.errors import UpstreamUnavailableError
from gpu_backend.llm import wire_lines
from gpu_backend.llm.wire_lines import EventReader, LineReader


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_cut_at_every_byte_are_the_same(end: str) -> None:
    data = ndjson(OLLAMA_CHAT, end)
    for cut in range(len(data) + 1):
        reader = LineReader()
        lines = reader.push(data[:cut]) + reader.push(data[cut:]) + reader.flush()
        assert [json.loads(line) for line in lines] == list(OLLAMA_CHAT)


def test_separators_inside_strings_do_not_end_a_line() -> None:
    line = '{"a": "x\u2028y\u0085z\u000b"}'.encode()
    assert LineReader().push(line + b"\n") == [line]


def test_last_line_without_end_comes_with_the_flush() -> None:
    reader = LineReader()
    assert reader.push(b'{"a":1}') == []
    assert reader.flush() == [b'{"a":1}']


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_events_cut_at_every_byte_are_the_same(end: str) -> None:
    data = server_sent_events(OPENAI_CHAT, end)
    for cut in range(len(data) + 1):
        reader = EventReader()
        events = reader.push(data[:cut]) + reader.push(data[cut:])
        assert [json.loads(event) for event in events[:-1]] == list(OPENAI_CHAT)
        assert events[-1] == b"[DONE]"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_events_byte_by_byte_are_the_same(end: str) -> None:
    data = server_sent_events(OPENAI_CHAT, end)
    reader = EventReader()
    events = [event for byte in data for event in reader.push(bytes([byte]))]
    assert len(events) == len(OPENAI_CHAT) + 1


def test_data_lines_of_one_event_are_joined() -> None:
    assert EventReader().push(b"event: x\ndata: a\nid: 7\ndata:b\n\n") == [b"a\nb"]


def test_event_without_data_is_none() -> None:
    assert EventReader().push(b": comment\n\nretry: 10\n\n") == []


def test_byte_order_mark_is_skipped() -> None:
    assert EventReader().push(b"\xef\xbb\xbfdata: a\n\n") == [b"a"]


def test_event_cut_off_by_the_end_is_dropped() -> None:
    reader = EventReader()
    assert reader.push(b"data: whole\n\ndata: ha") == [b"whole"]


@pytest.mark.parametrize("reader", [LineReader(), EventReader()])
def test_line_without_end_is_refused(
    reader: LineReader | EventReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire_lines, "MAX_LINE_BYTES", 100)
    with pytest.raises(UpstreamUnavailableError, match="exceeds 100 bytes"):
        reader.push(b"x" * 101)
