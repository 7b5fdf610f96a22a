"""Errors on the wire: RFC 9457 problem documents that existing inference clients understand.

This is the one place that knows which HTTP status an error code has. Each document carries an
extra member `error`: tritonclient and Ollama clients read a string there, OpenAI clients an object.
"""

from __future__ import annotations

import json
import math
from enum import Enum
from http import HTTPStatus

from edgekit.errors import EdgeError, MethodNotAllowedError
from edgekit.http import Headers, Response

__all__ = ["PROBLEM_MEDIA_TYPE", "STATUS", "ErrorStyle", "error_object", "problem_response"]

PROBLEM_MEDIA_TYPE = "application/problem+json"

STATUS: dict[str, HTTPStatus] = {
    "invalid_input": HTTPStatus.BAD_REQUEST,
    "unauthenticated": HTTPStatus.UNAUTHORIZED,
    "access_denied": HTTPStatus.FORBIDDEN,
    "model_not_found": HTTPStatus.NOT_FOUND,
    "route_not_found": HTTPStatus.NOT_FOUND,
    "method_not_allowed": HTTPStatus.METHOD_NOT_ALLOWED,
    "payload_too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "unsupported_media_type": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "overloaded": HTTPStatus.TOO_MANY_REQUESTS,
    "rate_limited": HTTPStatus.TOO_MANY_REQUESTS,
    "internal": HTTPStatus.INTERNAL_SERVER_ERROR,
    "upstream_unavailable": HTTPStatus.BAD_GATEWAY,
    "model_not_ready": HTTPStatus.SERVICE_UNAVAILABLE,
    "deadline_exceeded": HTTPStatus.GATEWAY_TIMEOUT,
    # RFC 9111, section 5.2.1.7.
    "not_cached": HTTPStatus.GATEWAY_TIMEOUT,
    "exhausted": HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Every error code of the edge and its status."""

TITLES = {
    "invalid_input": "Invalid input",
    "unauthenticated": "Unauthenticated",
    "access_denied": "Access denied",
    "model_not_found": "Model not found",
    "route_not_found": "Not found",
    "method_not_allowed": "Method not allowed",
    "payload_too_large": "Payload too large",
    "unsupported_media_type": "Unsupported media type",
    "overloaded": "Overloaded",
    "rate_limited": "Rate limit used up",
    "internal": "Internal error",
    "upstream_unavailable": "Backend unavailable",
    "model_not_ready": "Model not ready",
    "deadline_exceeded": "Deadline exceeded",
    "not_cached": "Not in the cache",
    "exhausted": "Nobody can answer now",
}

OPENAI_TYPES = {
    "unauthenticated": "authentication_error",
    "access_denied": "permission_error",
    "model_not_found": "not_found_error",
    "route_not_found": "not_found_error",
    "overloaded": "rate_limit_error",
    "rate_limited": "rate_limit_error",
}

RETRYABLE = {"overloaded", "rate_limited", "model_not_ready", "exhausted"}


class ErrorStyle(Enum):
    """What the member `error` holds."""

    TEXT = "text"
    """The message, as Open Inference Protocol and Ollama clients read it."""
    OBJECT = "object"
    """`{message, type, param, code}`, as OpenAI clients read it."""


def problem_response(
    error: EdgeError, style: ErrorStyle = ErrorStyle.TEXT, request_id: str | None = None
) -> Response:
    """The response that tells a client of `error`.

    Args:
        error: What went wrong; its message is shown as it is.
        style: Form of the member `error`.
        request_id: Identifier the operator can find in the logs.
    """
    status = STATUS[error.code]
    document: dict[str, object] = {
        "type": f"urn:inference-anywhere:error:{error.code}",
        "title": TITLES[error.code],
        "status": int(status),
        "detail": error.message,
        "code": error.code,
    }
    if error.param is not None:
        document["param"] = error.param
    if request_id is not None:
        document["request_id"] = request_id
    document["error"] = error.message if style is ErrorStyle.TEXT else error_object(error)
    headers = Headers([("content-type", PROBLEM_MEDIA_TYPE), ("cache-control", "no-store")])
    for name, value in _advice(error):
        headers.add(name, value)
    return Response(int(status), headers, json.dumps(document).encode())


def error_object(error: EdgeError) -> dict[str, object]:
    """`error` as OpenAI clients read it, in an answer or in the middle of a stream."""
    fault = STATUS[error.code] >= HTTPStatus.INTERNAL_SERVER_ERROR
    return {
        "message": error.message,
        "type": OPENAI_TYPES.get(error.code, "server_error" if fault else "invalid_request_error"),
        "param": error.param,
        "code": error.code,
    }


def _advice(error: EdgeError) -> list[tuple[str, str]]:
    """Fields that tell the client what to do next."""
    advice: list[tuple[str, str]] = []
    if isinstance(error, MethodNotAllowedError):
        advice.append(("allow", ", ".join(error.allow)))
    if error.code == "unauthenticated":
        advice.append(("www-authenticate", "Bearer"))
    if error.code in RETRYABLE:
        # RFC 9110, section 10.2.3: whole seconds; zero would invite a retry at once.
        wait_s = 1 if error.retry_after_s is None else max(1, math.ceil(error.retry_after_s))
        advice += [("retry-after", str(wait_s)), ("x-should-retry", "true")]
    return advice
