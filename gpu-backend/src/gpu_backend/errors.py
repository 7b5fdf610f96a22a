"""Errors of the backend.

    BackendError
    ├── ConfigError                 flags and environment; lists every fault
    ├── InvalidInputError           the request cannot be understood or served as asked
    │   ├── PayloadTooLargeError
    │   ├── UnsupportedMediaTypeError
    │   └── MethodNotAllowedError
    ├── AccessDeniedError
    ├── ModelNotFoundError · RouteNotFoundError
    ├── ModelInvalidError           a model that must not be served: corrupt, mismatching
    ├── ModelNotReadyError          exists, but is loading, unloading or failed
    ├── ExecutionProviderError      the hardware asked for is not there
    ├── OverloadedError             carries `retry_after_s`
    ├── DeadlineExceededError
    ├── UpstreamUnavailableError    another server, asked on the client's behalf, failed
    ├── RequestCancelledError       the caller left; nobody reads the answer
    └── ExecutionFailedError        the runtime failed on a valid request

Each class has one stable `code`. Nothing here knows an HTTP status: `gpu_backend.api.problems`
holds the one table from code to status.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

__all__ = [
    "AccessDeniedError",
    "BackendError",
    "ConfigError",
    "DeadlineExceededError",
    "ExecutionFailedError",
    "ExecutionProviderError",
    "InvalidInputError",
    "MethodNotAllowedError",
    "ModelInvalidError",
    "ModelNotFoundError",
    "ModelNotReadyError",
    "OverloadedError",
    "PayloadTooLargeError",
    "RequestCancelledError",
    "RouteNotFoundError",
    "UnsupportedMediaTypeError",
    "UpstreamUnavailableError",
]


class BackendError(Exception):
    """Base of all backend errors. The text says the fact, the offending value and the remedy.

    Args:
        message: For people; may be shown to the client.
        param: Name of the tensor or field at fault, where one is.
    """

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class ConfigError(BackendError):
    """Flags or environment are wrong. Carries all faults found, each with its key."""

    code = "config_invalid"

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class InvalidInputError(BackendError):
    """The request is malformed, or asks for what the model cannot take."""

    code = "invalid_input"


class PayloadTooLargeError(InvalidInputError):
    """A body, image or tensor exceeds its limit."""

    code = "payload_too_large"


class UnsupportedMediaTypeError(InvalidInputError):
    """The content type or content coding is none that the route takes."""

    code = "unsupported_media_type"


class MethodNotAllowedError(InvalidInputError):
    """The path exists, but not for this method."""

    code = "method_not_allowed"


class AccessDeniedError(BackendError):
    """The settings do not allow this."""

    code = "access_denied"


class ModelNotFoundError(BackendError):
    """No such model or version."""

    code = "model_not_found"


class RouteNotFoundError(BackendError):
    """No such path."""

    code = "route_not_found"


class ModelInvalidError(BackendError):
    """A model in the repository must not be served: corrupt, mismatching, or not supported."""

    code = "model_invalid"


class ModelNotReadyError(BackendError):
    """The model exists but cannot serve now."""

    code = "model_not_ready"


class ExecutionProviderError(BackendError):
    """An execution provider was asked for by name and cannot be had."""

    code = "execution_provider_unavailable"


class OverloadedError(BackendError):
    """The backend refuses work that it could not finish in time.

    Attributes:
        retry_after_s: Seconds after which the queue is expected to have room.
    """

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceededError(BackendError):
    """The latency budget ran out, or is too small for the model."""

    code = "deadline_exceeded"


class UpstreamUnavailableError(BackendError):
    """Another server that was asked cannot be reached, failed, or broke off its answer."""

    code = "upstream_unavailable"


class RequestCancelledError(BackendError):
    """The caller went away before its answer was computed."""

    code = "cancelled"


class ExecutionFailedError(BackendError):
    """The runtime failed on a request that passed validation."""

    code = "execution_failed"
