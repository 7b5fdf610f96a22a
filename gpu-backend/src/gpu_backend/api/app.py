"""The ASGI application: the infer route first, everything else through Starlette's router."""

from __future__ import annotations

import logging

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gpu_backend.api.admin import Admin
from gpu_backend.api.oip import INFER_PATH, InferRoute
from gpu_backend.api.problems import problem
from gpu_backend.dataplane import Dataplane
from gpu_backend.errors import BackendError, MethodNotAllowedError, RouteNotFoundError
from gpu_backend.monitoring.metrics import Metrics
from gpu_backend.monitoring.tracing import Tracer

__all__ = ["BackendApp"]

_log = logging.getLogger(__name__)


class BackendApp:
    """Answers HTTP.

    Args:
        dataplane: Does the work.
        max_body_bytes: Of a request, before and after decompression.
        tracer: Spans, where tracing is on.
    """

    def __init__(
        self, dataplane: Dataplane, max_body_bytes: int, tracer: Tracer | None = None
    ) -> None:
        self._infer = InferRoute(dataplane, max_body_bytes, tracer or Tracer())
        self._rest: ASGIApp = Starlette(
            routes=Admin(dataplane, Metrics(dataplane.repository)).routes(),
            exception_handlers={
                BackendError: _answer_error,
                HTTPException: _answer_http_exception,
                Exception: _answer_fault,
            },
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if (
            scope["type"] == "http"
            and scope["method"] == "POST"
            and INFER_PATH.fullmatch(scope["path"])
        ):
            await self._infer(scope, receive, send)
        else:
            await self._rest(scope, receive, send)


def _response(error: BackendError) -> Response:
    status, headers, body = problem(error)
    response = Response(body, status)
    for name, value in headers:
        response.headers[name.decode()] = value.decode()
    return response


async def _answer_error(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, BackendError)
    return _response(exc)


async def _answer_http_exception(request: Request, exc: Exception) -> Response:
    """Starlette's own refusals: no route, or not this method."""
    assert isinstance(exc, HTTPException)
    error: BackendError
    if exc.status_code == 405:
        error = MethodNotAllowedError(f"{request.method} is not allowed for {request.url.path}")
    else:
        error = RouteNotFoundError(f"no route {request.url.path}; GET /v2 says what this is")
    response = _response(error)
    response.headers.update(exc.headers or {})
    return response


async def _answer_fault(request: Request, exc: Exception) -> Response:
    """A fault of this program: the log has it all, the client learns that it happened."""
    _log.error("%s %s failed", request.method, request.url.path, exc_info=exc)
    return _response(BackendError("the backend failed; its log says why"))
