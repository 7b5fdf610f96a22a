"""`edgekit.http`: fields, query, and bodies that are read no further than their limit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgekit.errors import PayloadTooLargeError
from edgekit.http import Headers, Request


def test_headers_get_repeated_name_joins_values() -> None:
    headers = Headers([("Accept", "a"), ("ACCEPT", "b")])
    assert headers.get("accept") == "a, b"


def test_headers_get_absent_name_is_none() -> None:
    assert Headers().get("accept") is None


def test_headers_last_forged_line_first_returns_appended_one() -> None:
    headers = Headers([("spin-client-addr", "forged"), ("spin-client-addr", "real")])
    assert headers.last("Spin-Client-Addr") == "real"


def test_headers_set_existing_name_leaves_one_line() -> None:
    headers = Headers([("a", "1"), ("b", "2"), ("A", "3")])
    headers.set("a", "4")
    assert list(headers) == [("b", "2"), ("a", "4")]


def test_headers_contains_ignores_case() -> None:
    headers = Headers([("Content-Type", "text/plain")])
    assert "content-TYPE" in headers
    assert "accept" not in headers


def test_headers_equality_compares_lines() -> None:
    assert Headers([("A", "1")]) == Headers([("a", "1")])
    assert Headers([("a", "1")]) != Headers([("a", "2")])
    assert Headers() != []
    assert repr(Headers([("a", "1")])) == "Headers([('a', '1')])"


def test_request_params_repeated_name_keeps_last() -> None:
    request = Request("GET", "/", "a=1&a=2&b=&c=%20")
    assert request.params() == {"a": "2", "b": "", "c": " "}


def test_request_segments_are_decoded() -> None:
    assert Request("GET", "/v1/a%2Fb/").segments() == ["v1", "a/b"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("Image/PNG; q=1", "image/png"), ("", ""), ("text/plain", "text/plain")],
)
def test_request_content_type_drops_parameters(value: str, expected: str) -> None:
    assert (
        Request("GET", "/", headers=Headers([("content-type", value)])).content_type() == expected
    )


class Chunks:
    """A body that counts how many chunks were asked for."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = iter(chunks)
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = next(self._chunks)
        self.taken += 1
        return chunk


def test_request_read_chunks_joins_them_once() -> None:
    request = Request("POST", "/", body=Chunks(b"ab", b"c"))
    assert request.read(3) == b"abc"
    assert request.read(3) == b"abc"


def test_request_read_too_many_chunks_stops_at_limit() -> None:
    body = Chunks(b"ab", b"cd", b"ef")
    with pytest.raises(PayloadTooLargeError, match="exceeds 3 bytes"):
        Request("POST", "/", body=body).read(3)
    assert body.taken == 2


def test_request_read_whole_body_over_limit_is_refused() -> None:
    with pytest.raises(PayloadTooLargeError):
        Request("POST", "/", body=b"abcd").read(3)


@pytest.mark.parametrize("length", ["4", "0" * 3 + "4", "9" * 5000])
def test_request_read_declared_too_long_takes_no_chunk(length: str) -> None:
    body = Chunks(b"abcd")
    request = Request("POST", "/", headers=Headers([("content-length", length)]), body=body)
    with pytest.raises(PayloadTooLargeError):
        request.read(3)
    assert body.taken == 0


@pytest.mark.parametrize("length", ["-1", "", "many", "3"])
def test_request_read_declared_otherwise_reads_body(length: str) -> None:
    headers = Headers([("content-length", length)])
    assert Request("POST", "/", headers=headers, body=Chunks(b"abc")).read(3) == b"abc"


def test_request_stream_of_declared_length_is_relayed_as_it_arrives() -> None:
    body = Chunks(b"ab", b"c")
    request = Request("POST", "/", headers=Headers([("content-length", "3")]), body=body)
    assert request.stream(3) is body
    assert body.taken == 0


def test_request_stream_of_unknown_length_is_read_up_to_the_limit() -> None:
    assert Request("POST", "/", body=Chunks(b"ab", b"c")).stream(3) == b"abc"
    with pytest.raises(PayloadTooLargeError):
        Request("POST", "/", body=Chunks(b"ab", b"cd")).stream(3)


def test_request_stream_declared_too_long_is_refused() -> None:
    headers = Headers([("content-length", "4")])
    with pytest.raises(PayloadTooLargeError):
        Request("POST", "/", headers=headers, body=Chunks(b"abcd")).stream(3)
