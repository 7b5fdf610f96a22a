"""wasi:http/outgoing-handler — checks an outbound request and hands it to the HTTP client."""

from __future__ import annotations

from typing import Final

from edgehost.abi.guest import Guest
from edgehost.abi.interfaces import HostInterface
from edgehost.abi.values import ErrorResult
from edgehost.ports import OutboundRequest
from edgehost.wasi.http.messages import (
    FutureIncomingResponse,
    OutgoingRequest,
    RequestOptions,
    Scheme,
)

__all__ = ["outgoing_handler"]

outgoing_handler: Final = HostInterface("wasi:http/outgoing-handler@0.2")


@outgoing_handler.function("handle")
def handle(
    guest: Guest, request: OutgoingRequest, options: RequestOptions | None
) -> FutureIncomingResponse:
    """Start an outbound call; what goes wrong on the way arrives through the future."""
    scheme = _supported_scheme(request.scheme)
    authority = request.authority or ""
    if authority.startswith(":"):  # no host: a request to the app itself
        authority = ""
    policy = guest.spec.outbound
    refusal = policy.check(scheme, authority) if policy is not None else _NO_OUTBOUND
    if refusal is not None:
        guest.stderr.write(refusal.encode() + b"\n")
        request.drop()
        return FutureIncomingResponse("HTTP-request-denied")
    options = options or RequestOptions()
    call = guest.outbound.send(
        OutboundRequest(
            method=_method_name(request),
            scheme=scheme,
            authority=authority,
            path_with_query=_origin_form(request.path_with_query),
            headers=request.headers.entries,
            connect_timeout_s=options.seconds("connect-timeout"),
            first_byte_timeout_s=options.seconds("first-byte-timeout"),
            between_bytes_timeout_s=options.seconds("between-bytes-timeout"),
        )
    )
    call.watch(guest.wakeup)
    if request.body is None:
        call.body.finish(None)
    else:
        request.body.attach(guest, call.body)
    return FutureIncomingResponse(call)


_NO_OUTBOUND: Final = "This component has no outbound network access."


def _supported_scheme(scheme: Scheme | None) -> str:
    """``http`` or ``https``, the default. Raises `ErrorResult` for anything else."""
    name = "https" if scheme is None else (scheme if isinstance(scheme, str) else scheme[1]).lower()
    if name not in ("http", "https"):
        raise ErrorResult("HTTP-protocol-error")
    return name


def _method_name(request: OutgoingRequest) -> str:
    return request.method.upper() if isinstance(request.method, str) else request.method[1]


def _origin_form(path_with_query: str | None) -> str:
    """The request target for the wire: starts with a slash, has no fragment, is ASCII."""
    target = (path_with_query or "/").partition("#")[0]
    if not target.startswith(("/", "*")):
        target = "/" + target
    return target.encode().decode("latin-1")
