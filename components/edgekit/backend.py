"""The inference backend as the edge sees it: every call to it is made and judged here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from edgekit.errors import (
    DeadlineExceededError,
    EdgeError,
    InvalidInputError,
    ModelNotFoundError,
    ModelNotReadyError,
    OverloadedError,
    PayloadTooLargeError,
    UnsupportedMediaTypeError,
    UpstreamUnavailableError,
)
from edgekit.http import Body, Headers
from edgekit.policy.deadline import Deadline
from edgekit.ports import (
    HttpClient,
    Log,
    Timeouts,
    UpstreamError,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamTimeoutError,
)
from edgekit.protocols.oip import read_error_text
from edgekit.protocols.trace import Trace

__all__ = ["Backend", "Upstream", "model_path"]

MAX_ANSWER_BYTES = 1 << 20
"""Metadata of 1,000 labels and scores of 100,000 classes both stay below it."""

REFUSALS: Mapping[int, type[EdgeError]] = {
    400: InvalidInputError,
    404: ModelNotFoundError,
    413: PayloadTooLargeError,
    415: UnsupportedMediaTypeError,
    422: InvalidInputError,
    429: OverloadedError,
    503: ModelNotReadyError,
    504: DeadlineExceededError,
}
"""What a status of the backend means here; any other is a backend that does not work. That holds
for 401 and 403 too: the credentials in a call made here are the edge's own."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server that models are asked at.

    Attributes:
        name: Of its breaker and its retry budget: what fails together has one name.
        url: Scheme, host and port.
        timeouts: Of each call.
        key: Sent as a bearer token; empty for none.
    """

    name: str
    url: str
    timeouts: Timeouts
    key: str = ""


@dataclass(frozen=True, slots=True)
class Backend:
    """One upstream, for the time of one request.

    Attributes:
        upstream: Where it is.
        client: Outbound HTTP.
        trace: Identifiers that go along.
        log: Where the operator reads what clients are not told.
        deadline: Budget of the request; every call keeps to what is left of it.
        reserve_s: Part of the budget to keep for what comes after a failure.
    """

    upstream: Upstream
    client: HttpClient
    trace: Trace
    log: Log
    deadline: Deadline
    reserve_s: float = 0.0

    def relay(
        self, method: str, target: str, headers: Headers, body: Body = b""
    ) -> UpstreamResponse:
        """The backend's answer as it is, its body still arriving.

        Args:
            method: Upper case.
            target: Path with query, percent-encoded.
            headers: Fields to send; correlation fields are set here.
            body: Whole, or relayed as it arrives.

        Raises:
            DeadlineExceededError: A timeout ran out before the head arrived.
            UpstreamUnavailableError: The call failed in any other way.
        """
        fields = Headers(headers)
        self.trace.write(fields)
        self.deadline.forward_to(fields)
        upstream = self.upstream
        if upstream.key:
            fields.set("authorization", f"Bearer {upstream.key}")
        timeouts = self.deadline.timeouts(upstream.timeouts, reserve_s=self.reserve_s)
        request = UpstreamRequest(method, upstream.url + target, timeouts, fields, body)
        try:
            return self.client.send(request)
        except UpstreamError as error:
            raise self._failed(error, method, target) from error

    def call(
        self,
        method: str,
        target: str,
        headers: Headers | None = None,
        body: bytes = b"",
        limit_bytes: int = MAX_ANSWER_BYTES,
    ) -> tuple[Headers, bytes]:
        """Fields and body of a successful answer.

        Raises:
            EdgeError: The backend refused (by the meaning of its status), broke off, or
                answered more than `limit_bytes`.
        """
        response = self.relay(method, target, headers or Headers(), body)
        try:
            content = response.read(limit_bytes)
        except UpstreamError as error:
            raise self._failed(error, method, target) from error
        if 200 <= response.status < 300:
            return response.headers, content
        raise self._refusal(response, content, f"{method} {target}")

    def _failed(self, error: UpstreamError, method: str, target: str) -> EdgeError:
        """Clients learn what happened; where the backend lives is for the log alone."""
        self.log(f"backend {self.upstream.url}: {method} {target}: {error}")
        if isinstance(error, UpstreamTimeoutError):
            return DeadlineExceededError(f"the backend took too long ({error})")
        return UpstreamUnavailableError(f"the backend cannot be reached ({error})")

    def _refusal(self, response: UpstreamResponse, content: bytes, call: str) -> EdgeError:
        text = read_error_text(content)
        kind = REFUSALS.get(response.status, UpstreamUnavailableError)
        error: EdgeError
        if kind is UpstreamUnavailableError:
            self.log(f"backend {self.upstream.url}: {call}: status {response.status}: {text}")
            error = kind(f"the backend failed with status {response.status}")
        else:
            error = kind(
                text or f"the backend refused with status {response.status}",
                retry_after_s=_seconds(response.headers.last("retry-after")),
            )
        error.upstream_status = response.status
        return error


def _seconds(value: str | None) -> float | None:
    """`Retry-After` in seconds; its date form is not worth a parser, None stands for it."""
    return float(value) if value and value.isdecimal() and len(value) < 8 else None


def model_path(name: str, version: str | None) -> str:
    """`/v2/models/{name}[/versions/{version}]`, each part percent-encoded."""
    path = f"/v2/models/{quote(name, safe='')}"
    return path if version is None else f"{path}/versions/{quote(version, safe='')}"
