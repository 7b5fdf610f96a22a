"""`edgekit.protocols.trace`: W3C Trace Context and request identifiers."""

from __future__ import annotations

import pytest

from edgekit.http import Headers
from edgekit.protocols.trace import open_trace
from fakes.edge_ports import CountingRandom

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
MADE_TRACE = "0c0d0e0f101112131415161718191a1b"
MADE_SPAN = "1c1d1e1f20212223"
MADE_REQUEST = "000102030405060708090a0b"


def traceparent_for(value: str) -> str:
    return open_trace(Headers([("traceparent", value)]), CountingRandom()).traceparent


def test_trace_none_given_makes_one_that_is_not_sampled() -> None:
    trace = open_trace(Headers(), CountingRandom())
    assert trace.traceparent == f"00-{MADE_TRACE}-{MADE_SPAN}-00"
    assert trace.request_id == MADE_REQUEST
    assert trace.tracestate is None


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        (f"00-{TRACE_ID}-{PARENT}-01", "01"),
        (f"00-{TRACE_ID}-{PARENT}-00", "00"),
        (f"00-{TRACE_ID}-{PARENT}-ff", "01"),
        (f"cc-{TRACE_ID}-{PARENT}-01-more", "01"),
    ],
)
def test_trace_valid_is_continued_with_a_new_parent(given: str, flags: str) -> None:
    assert traceparent_for(given) == f"00-{TRACE_ID}-{MADE_SPAN}-{flags}"


@pytest.mark.parametrize(
    "given",
    [
        "",
        "nonsense",
        f"ff-{TRACE_ID}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID.upper()}-{PARENT}-01",
        f"00-{TRACE_ID}-{PARENT}-01-more",
        f"00-{TRACE_ID}-{PARENT}",
    ],
)
def test_trace_invalid_is_replaced(given: str) -> None:
    assert traceparent_for(given) == f"00-{MADE_TRACE}-{MADE_SPAN}-00"


def test_trace_repeated_field_is_invalid() -> None:
    valid = f"00-{TRACE_ID}-{PARENT}-01"
    headers = Headers([("traceparent", valid), ("traceparent", valid)])
    assert open_trace(headers, CountingRandom()).traceparent.startswith(f"00-{MADE_TRACE}")


def test_trace_state_of_an_invalid_parent_is_dropped() -> None:
    trace = open_trace(Headers([("tracestate", "a=1")]), CountingRandom())
    headers = Headers([("tracestate", "a=1")])
    trace.write(headers)
    assert "tracestate" not in headers


def test_trace_write_replaces_what_the_client_sent() -> None:
    given = f"00-{TRACE_ID}-{PARENT}-01"
    headers = Headers([("traceparent", given), ("tracestate", "a=1"), ("x-request-id", "mine")])
    open_trace(headers, CountingRandom()).write(headers)
    assert sorted(headers) == [
        ("traceparent", f"00-{TRACE_ID}-{MADE_SPAN}-01"),
        ("tracestate", "a=1"),
        ("x-request-id", "mine"),
    ]


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "naïve", "tab\t"])
def test_trace_unusable_request_id_is_replaced(given: str) -> None:
    headers = Headers([("x-request-id", given)])
    assert open_trace(headers, CountingRandom()).request_id == MADE_REQUEST
