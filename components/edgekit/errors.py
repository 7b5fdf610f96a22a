"""Errors of the edge.

    EdgeError
    ├── InvalidInputError          the request cannot be understood or served as asked
    │   ├── PayloadTooLargeError
    │   ├── UnsupportedMediaTypeError
    │   └── MethodNotAllowedError
    ├── UnauthenticatedError · AccessDeniedError
    ├── ModelNotFoundError · RouteNotFoundError
    ├── OverloadedError · RateLimitedError         carry `retry_after_s`
    ├── UpstreamUnavailableError · ModelNotReadyError
    ├── DeadlineExceededError
    ├── NotCachedError             the client wanted a stored answer, and none would do
    ├── ExhaustedError             nobody can answer now, and there is no fallback left
    └── InternalError

Each class has one stable `code`. Nothing here knows an HTTP status: `edgekit.protocols.problems`
holds the one table from code to status.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

__all__ = [
    "AccessDeniedError",
    "DeadlineExceededError",
    "EdgeError",
    "ExhaustedError",
    "InternalError",
    "InvalidInputError",
    "MethodNotAllowedError",
    "ModelNotFoundError",
    "ModelNotReadyError",
    "NotCachedError",
    "OverloadedError",
    "PayloadTooLargeError",
    "RateLimitedError",
    "RouteNotFoundError",
    "UnauthenticatedError",
    "UnsupportedMediaTypeError",
    "UpstreamUnavailableError",
]


class EdgeError(Exception):
    """Base of all edge errors. The text says the fact, the offending value and the remedy.

    Args:
        message: For people; may be shown to the client.
        param: Name of the request field at fault, where one is.
        retry_after_s: Seconds after which a retry may succeed, where that is known.

    Attributes:
        upstream_status: Status of the upstream's answer, where this error stands for one.
    """

    code: ClassVar[str] = "internal"
    upstream_status: int | None = None

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class InvalidInputError(EdgeError):
    """The request is malformed, or asks for what the model cannot take."""

    code = "invalid_input"


class PayloadTooLargeError(InvalidInputError):
    """A body, image or tensor exceeds its limit."""

    code = "payload_too_large"


class UnsupportedMediaTypeError(InvalidInputError):
    """The content type is none that the route takes."""

    code = "unsupported_media_type"


class MethodNotAllowedError(InvalidInputError):
    """The path exists, but not for this method.

    Args:
        message: For people.
        allow: Methods the path takes.
    """

    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: Sequence[str]) -> None:
        super().__init__(message)
        self.allow = tuple(allow)


class UnauthenticatedError(EdgeError):
    """No valid credentials."""

    code = "unauthenticated"


class AccessDeniedError(EdgeError):
    """Valid credentials that do not allow this."""

    code = "access_denied"


class ModelNotFoundError(EdgeError):
    """No such model or version."""

    code = "model_not_found"


class RouteNotFoundError(EdgeError):
    """No such path."""

    code = "route_not_found"


class OverloadedError(EdgeError):
    """The system refuses work it could not finish in time."""

    code = "overloaded"


class RateLimitedError(EdgeError):
    """The tenant has used up its rate or budget."""

    code = "rate_limited"


class UpstreamUnavailableError(EdgeError):
    """The backend cannot be reached, or its answer makes no sense."""

    code = "upstream_unavailable"


class ModelNotReadyError(EdgeError):
    """The model exists but cannot serve now."""

    code = "model_not_ready"


class DeadlineExceededError(EdgeError):
    """The latency budget ran out."""

    code = "deadline_exceeded"


class NotCachedError(EdgeError):
    """`only-if-cached`, and nothing stored meets the request."""

    code = "not_cached"


class ExhaustedError(EdgeError):
    """Every tier and every fallback was tried or ruled out."""

    code = "exhausted"


class InternalError(EdgeError):
    """A fault of this program."""

    code = "internal"
