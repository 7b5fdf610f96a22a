"""Calls to the language model's server, and what its refusals mean to a client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.backend import REFUSALS
from edgekit.errors import (
    DeadlineExceededError,
    EdgeError,
    ModelNotReadyError,
    OverloadedError,
    UpstreamUnavailableError,
)
from edgekit.exchange import Exchange
from edgekit.http import Headers
from edgekit.ports import UpstreamError, UpstreamResponse, UpstreamTimeoutError
from edgekit.protocols.json_text import parse_json

__all__ = ["MAX_ANSWER_BYTES", "ask", "read_answer"]

MAX_ANSWER_BYTES = 32 << 20
"""Of an answer in one piece: 2,048 embeddings of 1,024 numbers are some 25 MB of JSON."""

MAX_REFUSAL_BYTES = 65_536
MAX_ERROR_TEXT = 500
RETRY_AFTER_S = 1.0
"""What a full queue gets where its server does not say (Ollama does not)."""


def ask(
    exchange: Exchange,
    method: str,
    target: str,
    *,
    accept: str,
    body: bytes = b"",
) -> UpstreamResponse:
    """A successful answer of `exchange.upstream`, its body still arriving.

    Raises:
        EdgeError: The server cannot be reached, or refuses; what its status means is the error.
    """
    headers = Headers([("accept", accept), ("accept-encoding", "identity")])
    if body:
        headers.add("content-type", "application/json")
    answer = exchange.backend().relay(method, target, headers, body)
    if answer.status != 200:
        raise _refusal(exchange, answer)
    coding = answer.headers.last("content-encoding") or "identity"
    if coding != "identity":
        answer.close()
        raise UpstreamUnavailableError(f"the engine compresses its answers ({coding[:32]})")
    return answer


def read_answer(answer: UpstreamResponse, exchange: Exchange) -> bytes:
    """The whole body of an answer.

    Raises:
        EdgeError: It did not arrive. Its `upstream_status` keeps it from being tried again: the
            engine did the work, and would do it once more.
    """
    try:
        return answer.read(MAX_ANSWER_BYTES)
    except UpstreamTimeoutError as error:
        raise DeadlineExceededError("the model took too long to answer") from error
    except UpstreamError as error:
        exchange.log(f"the engine's answer broke off: {error}")
        failure = UpstreamUnavailableError(f"the engine's answer broke off ({error})")
        failure.upstream_status = answer.status
        raise failure from error


def _refusal(exchange: Exchange, answer: UpstreamResponse) -> EdgeError:
    try:
        text, param = _read_error(answer.read(MAX_REFUSAL_BYTES))
    except UpstreamError:
        text, param = "", None
    status = answer.status
    kind = REFUSALS.get(status, UpstreamUnavailableError)
    error: EdgeError
    if kind is UpstreamUnavailableError:
        exchange.log(f"the engine answered with status {status}: {text}")
        error = kind(f"the engine failed with status {status}")
    else:
        busy = kind in (OverloadedError, ModelNotReadyError)
        wait_s = _seconds(answer.headers.last("retry-after")) or (RETRY_AFTER_S if busy else None)
        text = text or f"the engine refused with status {status}"
        error = kind(text, param=param, retry_after_s=wait_s)
    error.upstream_status = status
    return error


def _read_error(body: bytes) -> tuple[str, str | None]:
    """What a server says, and about which member: a string, OpenAI's object, or a problem."""
    try:
        document = parse_json(body)
    except ValueError:
        return "", None
    if not isinstance(document, Mapping):
        return "", None
    error: Any = document.get("error") or document
    if isinstance(error, Mapping):
        param = error.get("param")
        text = error.get("message") or error.get("detail") or ""
        return str(text)[:MAX_ERROR_TEXT], param if isinstance(param, str) else None
    return str(error)[:MAX_ERROR_TEXT], None


def _seconds(value: str | None) -> float | None:
    return float(value) if value and value.isdecimal() and len(value) < 8 else None
