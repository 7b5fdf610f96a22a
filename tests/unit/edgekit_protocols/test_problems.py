"""`edgekit.protocols.problems`: one status per code, documents for three kinds of clients."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgekit import errors
from edgekit.errors import (
    EdgeError,
    InvalidInputError,
    MethodNotAllowedError,
    OverloadedError,
    UnauthenticatedError,
)
from edgekit.http import Response
from edgekit.protocols.problems import STATUS, TITLES, ErrorStyle, problem_response

STATUSES = {
    "invalid_input": 400,
    "unauthenticated": 401,
    "access_denied": 403,
    "model_not_found": 404,
    "route_not_found": 404,
    "method_not_allowed": 405,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "overloaded": 429,
    "rate_limited": 429,
    "internal": 500,
    "upstream_unavailable": 502,
    "model_not_ready": 503,
    "deadline_exceeded": 504,
    "not_cached": 504,
    "exhausted": 503,
}


def document(response: Response) -> Any:
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


def test_problems_every_error_class_has_a_status_and_a_title() -> None:
    classes = [getattr(errors, name) for name in errors.__all__]
    codes = {cls.code for cls in classes}
    assert codes == STATUS.keys() == TITLES.keys() == STATUSES.keys()
    assert {code: int(status) for code, status in STATUS.items()} == STATUSES


def test_problem_text_style_repeats_the_message() -> None:
    response = problem_response(InvalidInputError("bad", param="top_k"), request_id="r")
    assert response.status == 400
    assert response.headers.get("content-type") == "application/problem+json"
    assert document(response) == {
        "type": "urn:inference-anywhere:error:invalid_input",
        "title": "Invalid input",
        "status": 400,
        "detail": "bad",
        "code": "invalid_input",
        "param": "top_k",
        "request_id": "r",
        "error": "bad",
    }


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidInputError("x"), "invalid_request_error"),
        (UnauthenticatedError("x"), "authentication_error"),
        (OverloadedError("x"), "rate_limit_error"),
        (EdgeError("x"), "server_error"),
    ],
)
def test_problem_object_style_has_the_type_openai_clients_know(error: EdgeError, kind: str) -> None:
    found = document(problem_response(error, ErrorStyle.OBJECT))["error"]
    assert found == {"message": "x", "type": kind, "param": None, "code": error.code}


@pytest.mark.parametrize(
    ("retry_after_s", "expected"), [(None, "1"), (0.0, "1"), (0.2, "1"), (2.1, "3"), (7.0, "7")]
)
def test_problem_retryable_tells_when_in_whole_seconds(
    retry_after_s: float | None, expected: str
) -> None:
    response = problem_response(OverloadedError("x", retry_after_s=retry_after_s))
    assert response.headers.get("retry-after") == expected
    assert response.headers.get("x-should-retry") == "true"


def test_problem_not_retryable_gives_no_such_advice() -> None:
    headers = problem_response(InvalidInputError("x")).headers
    assert "retry-after" not in headers
    assert "x-should-retry" not in headers


def test_problem_unauthenticated_names_the_scheme() -> None:
    assert problem_response(UnauthenticatedError("x")).headers.get("www-authenticate") == "Bearer"


def test_problem_wrong_method_lists_the_right_ones() -> None:
    error = MethodNotAllowedError("x", allow=("GET", "HEAD"))
    assert problem_response(error).headers.get("allow") == "GET, HEAD"
