"""Open Inference Protocol v2 over HTTP: health, metadata and infer.

`infer` is a bare ASGI callable, because routing and request objects cost more than a small
model; the rest are Starlette routes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from importlib import metadata

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gpu_backend.api.http import (
    Fields,
    compress,
    correlation,
    fields_of,
    must_close,
    pick_coding,
    read_body,
    respond,
)
from gpu_backend.api.infer_messages import (
    HEADER_LENGTH,
    encode_infer_response,
    parse_infer_request,
)
from gpu_backend.api.problems import problem
from gpu_backend.dataplane import Dataplane
from gpu_backend.errors import BackendError, RequestCancelledError

__all__ = ["InferRoute", "json_response", "oip_routes"]

_log = logging.getLogger(__name__)

SERVER_NAME = "inference-anywhere"

EXTENSIONS = ["binary_tensor_data", "parameters"]
"""Of the protocol; only what works is named."""

INFER_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")

_COMPRESS_FROM_BYTES = 1024
"""Below it, compressing costs more time than sending."""


class InferRoute:
    """`POST /v2/models/{name}[/versions/{version}]/infer`."""

    def __init__(self, dataplane: Dataplane, max_body_bytes: int) -> None:
        self._dataplane = dataplane
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every failure is an answer."""
        fields = fields_of(scope)
        try:
            match = INFER_PATH.fullmatch(scope["path"])
            assert match is not None  # the router sends nothing else here
            await self._infer(match[1], match[2], fields, receive, send)
        except RequestCancelledError:
            return
        except BackendError as exc:
            status, headers, body = problem(exc)
            if exc.code == "payload_too_large" and must_close(fields, self._max_body_bytes):
                headers.append((b"connection", b"close"))
            await respond(send, status, headers + correlation(fields), body)

    async def _infer(
        self, name: str, version: str | None, fields: Fields, receive: Receive, send: Send
    ) -> None:
        # Read the body first: an answer that overtakes it would break clients' connections.
        body = await read_body(receive, fields, self._max_body_bytes)
        model = self._dataplane.repository.get(name, version)
        message = parse_infer_request(body, fields.get(HEADER_LENGTH))
        result = await self._dataplane.infer(model, message.inputs, message.outputs)
        parts, head_length = encode_infer_response(message, result)
        headers = [
            (b"content-type", b"application/octet-stream" if head_length else b"application/json"),
            (b"inference-model", model.identity.encode()),
            (b"server-timing", b"compute;dur=%.3f" % (result.compute_s * 1000)),
            *correlation(fields),
        ]
        if head_length is not None:
            headers.append((HEADER_LENGTH, b"%d" % head_length))
        content = b"".join(parts)
        coding = pick_coding(fields) if len(content) >= _COMPRESS_FROM_BYTES else None
        if coding is not None:
            content = compress([content], coding)
            headers += [(b"content-encoding", coding.encode()), (b"vary", b"accept-encoding")]
        await respond(send, 200, headers, content)


def json_response(document: object, status: int = 200) -> Response:
    """A JSON response written by orjson."""
    return Response(orjson.dumps(document), status, media_type="application/json")


def oip_routes(dataplane: Dataplane) -> list[Route]:
    """Every route of the protocol but infer."""

    def live(_: Request) -> Response:
        return json_response({"live": True})

    def ready(_: Request) -> Response:
        is_ready = dataplane.ready()
        return json_response({"ready": is_ready}, 200 if is_ready else 503)

    def server(_: Request) -> Response:
        version = metadata.version("gpu-backend")
        return json_response({"name": SERVER_NAME, "version": version, "extensions": EXTENSIONS})

    def model_metadata(request: Request) -> Response:
        return json_response(dataplane.describe(*_target(request)))

    def model_ready(request: Request) -> Response:
        name, version = _target(request)
        dataplane.repository.get(name, version)
        return json_response({"name": name, "ready": True})

    return [
        Route("/v2", server),
        Route("/v2/", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        *_model_route("", model_metadata),
        *_model_route("/ready", model_ready),
    ]


def _model_route(suffix: str, endpoint: Callable[[Request], Response]) -> list[Route]:
    return [
        Route("/v2/models/{name}" + suffix, _on_loop(endpoint)),
        Route("/v2/models/{name}/versions/{version}" + suffix, _on_loop(endpoint)),
    ]


def _on_loop(endpoint: Callable[[Request], Response]) -> Callable[[Request], object]:
    """Starlette runs plain functions on threads; these only read what is in memory."""

    async def handle(request: Request) -> Response:
        return endpoint(request)

    return handle


def _target(request: Request) -> tuple[str, str | None]:
    return request.path_params["name"], request.path_params.get("version")
