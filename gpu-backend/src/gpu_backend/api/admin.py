"""Health, metadata, statistics and the repository: every route that is not on the hot path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gpu_backend.api.documents import (
    config_document,
    index_document,
    model_document,
    server_document,
    statistics_document,
)
from gpu_backend.api.http import fields_of, json_object, read_plain_body
from gpu_backend.dataplane import Dataplane
from gpu_backend.errors import AccessDeniedError, InvalidInputError
from gpu_backend.monitoring.metrics import CONTENT_TYPE, Metrics
from gpu_backend.repository.model import LoadedModel

__all__ = ["Admin"]

_Endpoint = Callable[[Request], Awaitable[Response]]

_MAX_CONTROL_BYTES = 64 << 10
"""Of the body of a repository request, which is empty or a few parameters."""


def _json(document: object, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status, media_type="application/json")


class Admin:
    """Endpoints over one dataplane."""

    def __init__(
        self, dataplane: Dataplane, metrics: Metrics, *, repository_control: bool = True
    ) -> None:
        self._dataplane = dataplane
        self._metrics = metrics
        self._repository_control = repository_control

    def routes(self) -> list[Route]:
        """Every route, for Starlette."""
        return [
            Route("/v2", self.server),
            Route("/v2/", self.server),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/v2/models/stats", self.statistics),
            *_on_model("", self.model),
            *_on_model("/ready", self.model_ready),
            *_on_model("/config", self.config),
            *_on_model("/stats", self.model_statistics),
            Route("/v2/repository/index", self.index, methods=["POST"]),
            Route("/v2/repository/models/{name}/load", self.load, methods=["POST"]),
            Route("/v2/repository/models/{name}/unload", self.unload, methods=["POST"]),
            Route("/metrics", self.metrics),
        ]

    async def server(self, _: Request) -> Response:
        """Name, version and extensions."""
        return _json(server_document())

    async def live(self, _: Request) -> Response:
        """200 while the process can answer at all."""
        return _json({"live": True})

    async def ready(self, _: Request) -> Response:
        """200 while requests are welcome; the reasons say what is not as it should be."""
        is_ready, reasons = self._dataplane.ready()
        status = "ok" if is_ready and not reasons else "degraded" if is_ready else "unavailable"
        document = {"ready": is_ready, "status": status, "reasons": reasons}
        return _json(document, 200 if is_ready else 503)

    async def model(self, request: Request) -> Response:
        """Metadata of one model."""
        model = await self._get(request)
        return _json(model_document(self._dataplane.repository.slot(model.name), model))

    async def model_ready(self, request: Request) -> Response:
        """200 when the model serves; 503 with the reason when it does not."""
        model = await self._get(request)
        return _json({"name": model.name, "version": str(model.version), "ready": True})

    async def config(self, request: Request) -> Response:
        """Configuration in Triton's form."""
        return _json(config_document(await self._get(request)))

    async def model_statistics(self, request: Request) -> Response:
        """Statistics of one model."""
        slot = self._dataplane.repository.slot(request.path_params["name"])
        return _json(statistics_document([slot]))

    async def statistics(self, _: Request) -> Response:
        """Statistics of every model."""
        return _json(statistics_document(self._dataplane.repository.slots()))

    async def index(self, request: Request) -> Response:
        """Every version with its state. Clients send an empty body, or `{"ready": true}`."""
        parameters = await _control(request)
        ready = parameters.get("ready", False)
        if type(ready) is not bool:
            raise InvalidInputError("ready is true or false")
        return _json(index_document(self._dataplane.repository.slots(), ready))

    async def load(self, request: Request) -> Response:
        """Serve what the model's folder holds now; 400 with the reason when it must not be."""
        self._check_control()
        body = await _control(request)
        parameters = json_object(body.get("parameters") or {}, "parameters")
        given = [key for key in parameters if key == "config" or key.startswith("file:")]
        if given:
            raise InvalidInputError(
                f"parameter {given[0]!r} is not supported: put the files into the repository"
            )
        await self._dataplane.repository.load(request.path_params["name"])
        return _json({})

    async def unload(self, request: Request) -> Response:
        """Serve the model no more; answered when its memory is free."""
        self._check_control()
        await _control(request)
        await self._dataplane.repository.unload(request.path_params["name"])
        return _json({})

    def _check_control(self) -> None:
        if not self._repository_control:
            raise AccessDeniedError(
                "loading and unloading over HTTP is switched off (BACKEND_REPOSITORY_CONTROL)"
            )

    async def metrics(self, _: Request) -> Response:
        """Prometheus' text format."""
        return Response(self._metrics.render(), headers={"content-type": CONTENT_TYPE})

    async def _get(self, request: Request) -> LoadedModel:
        parameters = request.path_params
        return await self._dataplane.wait_for_model(parameters["name"], parameters.get("version"))


def _on_model(suffix: str, endpoint: _Endpoint) -> list[Route]:
    return [
        Route("/v2/models/{name}" + suffix, endpoint),
        Route("/v2/models/{name}/versions/{version}" + suffix, endpoint),
    ]


async def _control(request: Request) -> dict[str, object]:
    """The JSON object in the body; an empty body is an empty object."""
    body = await read_plain_body(request.receive, fields_of(request.scope), _MAX_CONTROL_BYTES)
    if not body.strip():
        return {}
    try:
        return json_object(orjson.loads(body), "the body")
    except orjson.JSONDecodeError as exc:
        raise InvalidInputError(f"the body is not JSON: {exc}") from exc
