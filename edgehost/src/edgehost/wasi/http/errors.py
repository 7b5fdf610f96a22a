"""`wasi:http/types.error-code` values and where they come from."""

from __future__ import annotations

from typing import Final

from edgehost.ports import BodyFailedError, OutboundError

__all__ = ["ErrorCode", "describe", "error_code", "from_body_failure", "from_outbound_error"]

ErrorCode = str | tuple[str, object]
"""A case name, with its payload where the case has one."""

_PLAIN: Final = (
    "DNS-timeout",
    "destination-not-found",
    "destination-unavailable",
    "destination-IP-prohibited",
    "destination-IP-unroutable",
    "connection-refused",
    "connection-terminated",
    "connection-timeout",
    "connection-read-timeout",
    "connection-write-timeout",
    "connection-limit-reached",
    "TLS-protocol-error",
    "TLS-certificate-error",
    "HTTP-request-denied",
    "HTTP-request-length-required",
    "HTTP-request-method-invalid",
    "HTTP-request-URI-invalid",
    "HTTP-request-URI-too-long",
    "HTTP-response-incomplete",
    "HTTP-response-timeout",
    "HTTP-upgrade-failed",
    "HTTP-protocol-error",
    "loop-detected",
    "configuration-error",
)
_OPTIONAL_PAYLOAD: Final = (
    "HTTP-request-body-size",
    "HTTP-request-header-section-size",
    "HTTP-request-header-size",
    "HTTP-request-trailer-section-size",
    "HTTP-response-header-section-size",
    "HTTP-response-body-size",
    "HTTP-response-trailer-section-size",
    "HTTP-response-transfer-coding",
    "HTTP-response-content-coding",
    "internal-error",
)
_RECORD_PAYLOAD: Final = (
    "DNS-error",
    "TLS-alert-received",
    "HTTP-request-trailer-size",
    "HTTP-response-header-size",
    "HTTP-response-trailer-size",
)
"""Cases whose payload is a record of two optional fields."""

_CASES: Final = {name.lower(): name for name in (*_PLAIN, *_OPTIONAL_PAYLOAD, *_RECORD_PAYLOAD)}


def error_code(case: str, payload: object = None) -> ErrorCode:
    """Return the value of `case`, named in any letter case.

    An unknown name gives `internal-error` with that name, so that no failure is lost.
    """
    name = _CASES.get(case.lower())
    if name is None:
        return "internal-error", case
    if name in _PLAIN:
        return name
    if name in _RECORD_PAYLOAD and payload is None:
        return name, (None, None)
    return name, payload


def from_outbound_error(error: OutboundError) -> ErrorCode:
    """The code a failed outbound call gives the guest."""
    code = error_code(error.wasi_code, error.wasi_payload)
    return ("internal-error", str(error)) if code == ("internal-error", None) else code


def from_body_failure(error: BodyFailedError) -> ErrorCode:
    """The code a broken body gives the guest."""
    return error_code(error.wasi_code, error.wasi_payload)


def describe(code: ErrorCode) -> str:
    """The code as text for a log."""
    if isinstance(code, str):
        return code
    name, payload = code
    return name if payload in (None, (None, None)) else f"{name}({payload})"
