import pytest

from edgekit.errors import InvalidInputError
from edgekit.http import Headers, Request
from edgekit.policy.cors import CorsRule, add_cors_fields, answer_preflight
from edgekit.policy.request_limits import RequestLimits, check_header_size

RULE = CorsRule.parse("https://app.example, https://dev.example")
PAGE = ("origin", "https://app.example")
ASKS = ("access-control-request-method", "POST")


def _request(*fields: tuple[str, str], method: str = "OPTIONS") -> Request:
    return Request(method, "/v1/classify/digits", headers=Headers(fields))


def test_preflight_of_an_allowed_page_is_answered() -> None:
    asked = ("access-control-request-headers", "authorization, content-type")
    response = answer_preflight(RULE, _request(PAGE, ASKS, asked))
    assert response is not None
    assert response.status == 204
    assert response.headers.get("access-control-allow-origin") == PAGE[1]
    assert "POST" in (response.headers.get("access-control-allow-methods") or "")
    assert response.headers.get("access-control-allow-headers") == asked[1]
    assert "Origin" in (response.headers.get("vary") or "")


def test_preflight_without_header_list_allows_none() -> None:
    response = answer_preflight(RULE, _request(PAGE, ASKS))
    assert response is not None
    assert "access-control-allow-headers" not in response.headers


@pytest.mark.parametrize(
    "request_",
    [
        _request(PAGE),
        _request(ASKS),
        _request(("origin", "https://evil.example"), ASKS),
        _request(PAGE, ASKS, method="POST"),
    ],
)
def test_preflight_of_anybody_else_is_not_answered(request_: Request) -> None:
    assert answer_preflight(RULE, request_) is None


def test_cors_fields_let_the_page_read_what_explains_the_answer() -> None:
    headers = Headers()
    add_cors_fields(RULE, _request(PAGE, method="POST"), headers)
    assert headers.get("access-control-allow-origin") == PAGE[1]
    assert "Cache-Status" in (headers.get("access-control-expose-headers") or "")
    assert headers.get("vary") == "Origin"


def test_cors_fields_vary_by_origin_even_for_pages_that_may_not_read() -> None:
    headers = Headers([("vary", "Accept")])
    add_cors_fields(RULE, _request(("origin", "https://evil.example")), headers)
    assert "access-control-allow-origin" not in headers
    assert headers.get("vary") == "Accept, Origin"
    add_cors_fields(RULE, _request(), headers)
    assert headers.get("vary") == "Accept, Origin"


def test_cors_without_origins_changes_nothing() -> None:
    headers = Headers()
    add_cors_fields(CorsRule.parse(""), _request(PAGE), headers)
    assert list(headers) == []


def test_cors_star_allows_every_page() -> None:
    assert CorsRule.parse("*").allowed("https://any.example") == "*"


def test_header_section_within_limits_passes() -> None:
    check_header_size(Headers([("a", "b")] * 100), RequestLimits())


@pytest.mark.parametrize(
    ("headers", "fact"),
    [
        (Headers([("a", "b")] * 101), "101 header fields"),
        (Headers([("cookie", "x" * 32_768)]), "bytes; at most 32768"),
    ],
)
def test_header_section_beyond_limits_is_refused(headers: Headers, fact: str) -> None:
    with pytest.raises(InvalidInputError, match=fact):
        check_header_size(headers, RequestLimits())
