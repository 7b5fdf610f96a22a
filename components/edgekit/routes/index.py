"""`GET /`: what is served here, for a person with curl, and for Ollama's clients.

Those ask it for a sign of life: the official ones by method or status, others by the very words of
Ollama, which is why these stand in the document too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from edgekit.exchange import Exchange
from edgekit.http import Headers, Response
from edgekit.protocols.ollama import RUNNING
from edgekit.routing import Route

__all__ = ["ROUTE"]

INDEX = (
    json.dumps(
        {
            "name": "inference-anywhere",
            "ollama": RUNNING.decode(),
            "routes": {
                "POST /v1/classify/{model}": "image in, classes out",
                "POST /v1/detect/vibration": "samples of a sensor in, anomaly score out",
                "POST /v1/cache/purge": "stored answers out (needs a key that may)",
                "POST /v1/chat/completions, /v1/completions, /v1/responses": "for OpenAI's clients",
                "GET /v1/models": "language models, for OpenAI's clients",
                "POST /api/chat, /api/generate, /api/embed": "for Ollama's clients",
                "GET /api/tags": "language models, for Ollama's clients",
                "GET /v2/models/{model}": "model metadata (Open Inference Protocol v2)",
                "POST /v2/models/{model}/infer": "tensors in, tensors out",
                "GET /v2/health/ready": "200 when backend and models are ready",
            },
        },
        indent=2,
    )
    + "\n"
).encode()


def _parse(exchange: Exchange, _held: Sequence[str]) -> Response:
    if (exchange.request.headers.get("user-agent") or "").startswith("ollama"):
        return Response(200, Headers([("content-type", "text/plain; charset=utf-8")]), RUNNING)
    return Response(200, Headers([("content-type", "application/json")]), INDEX)


ROUTE = Route("/", ("GET",), _parse, scope=None)
