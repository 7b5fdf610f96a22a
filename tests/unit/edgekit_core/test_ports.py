"""`edgekit.ports`: reading an upstream's answer within a limit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgekit.http import Headers
from edgekit.ports import UpstreamError, UpstreamResponse


def test_upstream_response_read_joins_chunks() -> None:
    assert UpstreamResponse(200, Headers(), iter([b"ab", b"c"])).read(3) == b"abc"


def test_upstream_response_read_over_the_limit_closes_the_transfer() -> None:
    closed: list[bool] = []

    def chunks() -> Iterator[bytes]:
        try:
            while True:
                yield b"ab"
        finally:
            closed.append(True)

    with pytest.raises(UpstreamError, match="exceeds 3 bytes"):
        UpstreamResponse(200, Headers(), chunks()).read(3)
    assert closed == [True]


def test_upstream_response_read_over_the_limit_of_a_plain_iterator_fails_alike() -> None:
    with pytest.raises(UpstreamError):
        UpstreamResponse(200, Headers(), iter([b"abcd"])).read(3)
