"""`GET /`: what is served here, for a person with curl."""

from __future__ import annotations

import json
from collections.abc import Sequence

from edgekit.exchange import Exchange
from edgekit.http import Headers, Response
from edgekit.routing import Route

__all__ = ["ROUTE"]

INDEX = (
    json.dumps(
        {
            "name": "inference-anywhere",
            "routes": {
                "POST /v1/classify/{model}": "image in, classes out",
                "POST /v1/detect/vibration": "samples of a sensor in, anomaly score out",
                "POST /v1/cache/purge": "stored answers out (needs a key that may)",
                "GET /v2/models/{model}": "model metadata (Open Inference Protocol v2)",
                "POST /v2/models/{model}/infer": "tensors in, tensors out",
                "GET /v2/health/ready": "200 when backend and models are ready",
            },
        },
        indent=2,
    )
    + "\n"
).encode()


def _parse(_exchange: Exchange, _held: Sequence[str]) -> Response:
    return Response(200, Headers([("content-type", "application/json")]), INDEX)


ROUTE = Route("/", ("GET",), _parse, scope=None)
