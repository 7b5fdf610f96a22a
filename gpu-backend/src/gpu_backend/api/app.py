"""The ASGI application: the infer route first, everything else through Starlette's router."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gpu_backend.api.admin import Admin
from gpu_backend.api.classify import CLASSIFY_PATH, ClassifyRoute
from gpu_backend.api.http import respond
from gpu_backend.api.oip import INFER_PATH, InferRoute
from gpu_backend.api.ollama import OllamaRoutes
from gpu_backend.api.openai import OpenAIRoutes
from gpu_backend.api.problems import problem
from gpu_backend.api.records import Records
from gpu_backend.dataplane import Dataplane
from gpu_backend.errors import BackendError, MethodNotAllowedError, RouteNotFoundError
from gpu_backend.monitoring.language_models import LanguageModelCollector
from gpu_backend.monitoring.metrics import Metrics
from gpu_backend.monitoring.tracing import Tracer
from gpu_backend.processing.pool import CodecPool
from gpu_backend.records.book import RecordBook

__all__ = ["BackendApp", "RequestLimits"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Bounds on one request.

    Attributes:
        max_body_bytes: Before and after decompression.
        max_image_pixels: Of a picture to classify.
    """

    max_body_bytes: int = 10 << 20
    max_image_pixels: int = 50_000_000


class BackendApp:
    """Answers HTTP.

    Args:
        dataplane: Does the work.
        pool: Decodes pictures.
        limits: Of a request.
        tracer: Spans, where tracing is on.
        records: Where edges' records are kept; None: nowhere, and their route does not exist.
        repository_control: Models may be loaded and unloaded over HTTP.
    """

    def __init__(
        self,
        dataplane: Dataplane,
        pool: CodecPool,
        limits: RequestLimits,
        tracer: Tracer | None = None,
        *,
        records: RecordBook | None = None,
        repository_control: bool = True,
    ) -> None:
        admin = Admin(
            dataplane,
            Metrics(dataplane.repository, LanguageModelCollector(dataplane.language_models)),
            repository_control=repository_control,
        )
        self._posts: tuple[tuple[re.Pattern[str], ASGIApp], ...] = (
            (INFER_PATH, InferRoute(dataplane, pool, limits.max_body_bytes, tracer or Tracer())),
            (
                CLASSIFY_PATH,
                ClassifyRoute(dataplane, pool, limits.max_body_bytes, limits.max_image_pixels),
            ),
        )
        language_models = dataplane.language_models
        self._rest: ASGIApp = Starlette(
            routes=[
                *admin.routes(),
                *OpenAIRoutes(language_models, limits.max_body_bytes).routes(),
                *OllamaRoutes(language_models, limits.max_body_bytes).routes(),
                *(Records(records).routes() if records is not None else ()),
            ],
            exception_handlers={
                BackendError: _answer_error,
                HTTPException: _answer_http_exception,
                Exception: _answer_fault,
            },
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "http":
            for pattern, route in self._posts:
                if pattern.fullmatch(scope["path"]):
                    app = route if scope["method"] == "POST" else _only_post
                    await _guarded(app, scope, receive, send)
                    return
        await self._rest(scope, receive, send)


async def _guarded(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run `app`; what it does not foresee is logged here, and answered like any other error."""
    try:
        await app(scope, receive, send)
    except Exception as exc:
        status, headers, body = problem(_fault(scope["method"], scope["path"], exc))
        await respond(scope, send, status, headers, body)


def _fault(method: str, path: str, exc: Exception) -> BackendError:
    """The log has it all, the client learns that it happened."""
    _log.error("%s %s failed", method, path, exc_info=exc)
    return BackendError("the backend failed; its log says why")


async def _only_post(scope: Scope, receive: Receive, send: Send) -> None:
    error = MethodNotAllowedError(f"{scope['method']} is not allowed for {scope['path']}; use POST")
    response = _response(error)
    response.headers["allow"] = "POST"
    await response(scope, receive, send)


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
    return _response(_fault(request.method, request.url.path, exc))
