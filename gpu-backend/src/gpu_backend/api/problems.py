"""Errors on the wire: the one table from code to status, in the shape of RFC 9457.

The extra member `error` is a plain string, which is where Open Inference Protocol clients look.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import orjson

from gpu_backend.errors import BackendError, OverloadedError

__all__ = ["CONTENT_TYPE", "STATUS", "openai_error", "problem", "status_of"]

CONTENT_TYPE = b"application/problem+json"

STATUS: Mapping[str, tuple[int, str]] = {
    "invalid_input": (400, "Invalid input"),
    "model_invalid": (400, "The model cannot be served"),
    "access_denied": (403, "Access denied"),
    "model_not_found": (404, "Model not found"),
    "route_not_found": (404, "Not found"),
    "method_not_allowed": (405, "Method not allowed"),
    "payload_too_large": (413, "Payload too large"),
    "unsupported_media_type": (415, "Unsupported media type"),
    "overloaded": (429, "Overloaded"),
    "cancelled": (499, "Client closed request"),
    "internal": (500, "Internal error"),
    "execution_failed": (500, "Execution failed"),
    "config_invalid": (500, "Invalid configuration"),
    "execution_provider_unavailable": (503, "Execution provider unavailable"),
    "model_not_ready": (503, "Model not ready"),
    "upstream_unavailable": (502, "Upstream unavailable"),
    "deadline_exceeded": (504, "Deadline exceeded"),
}
"""Code to status and title. 499 is never read: the client it is for has gone."""


def status_of(error: BackendError) -> int:
    """The HTTP status of `error`."""
    return STATUS[error.code][0]


def problem(
    error: BackendError, *, openai: bool = False
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, header fields and body that tell `error`.

    Args:
        error: To tell.
        openai: The member `error` is an object, which is where OpenAI's clients look.
    """
    status, title = STATUS[error.code]
    document: dict[str, object] = {
        "type": f"urn:inference-anywhere:error:{error.code}",
        "title": title,
        "status": status,
        "detail": error.message,
        "code": error.code,
        "error": openai_error(error) if openai else error.message,
    }
    if error.param is not None:
        document["param"] = error.param
    headers: list[tuple[bytes, bytes]] = [(b"content-type", CONTENT_TYPE)]
    if isinstance(error, OverloadedError):
        # RFC 9110, 10.2.3: whole seconds. Rounded up, so that a client that obeys is not early.
        seconds = max(1, math.ceil(error.retry_after_s))
        headers.append((b"retry-after", b"%d" % seconds))
        document["retry_after_ms"] = math.ceil(error.retry_after_s * 1000)
    return status, headers, _dump(document)


def openai_error(error: BackendError) -> dict[str, object]:
    """`error` as OpenAI's protocol writes it, in a body and in a stream."""
    by_client = status_of(error) < 429
    return {
        "message": error.message,
        "type": "invalid_request_error" if by_client else "server_error",
        "param": error.param,
        "code": error.code,
    }


def _dump(document: dict[str, object]) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:  # a lone surrogate, quoted from what the client sent
        return orjson.dumps(_cleaned(document))


def _cleaned(value: object) -> object:
    if isinstance(value, dict):
        return {key: _cleaned(entry) for key, entry in value.items()}
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
