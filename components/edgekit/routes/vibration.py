"""`POST /v1/detect/vibration`: a window of sensor samples in, an anomaly score out.

The model is part of the component: the answer needs no network, and the samples never leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgekit.backend import Upstream
from edgekit.errors import ModelNotFoundError
from edgekit.exchange import Exchange
from edgekit.http import Headers, Response
from edgekit.inference.contract import Answer, Inference
from edgekit.models.document import EdgeModel
from edgekit.models.shipped import VIBRATION
from edgekit.models.vibration import anomaly_score, extract_features
from edgekit.policy.cache_key import canonical_json
from edgekit.policy.placement import Tier
from edgekit.protocols.classify import add_latency
from edgekit.protocols.inference_headers import ModelIdentity
from edgekit.protocols.vibration import (
    JSON_TYPE,
    VibrationWindow,
    format_detection,
    parse_window,
)
from edgekit.routing import Route

__all__ = ["ROUTE"]

MAX_BODY_BYTES = 262_144
"""8,192 samples with every digit a float can have, as JSON."""


class Detection(Inference):
    """One window of samples."""

    kind = "detect"
    model = VIBRATION.name
    version = None
    deterministic = True
    edge_model: EdgeModel | None = VIBRATION

    def __init__(self) -> None:
        self._body = b""
        self._window = VibrationWindow([], 0.0)

    def upstreams(self, _exchange: Exchange) -> Mapping[Tier, Upstream]:
        """No upstream has this model."""
        return {}

    def canonical(self, exchange: Exchange) -> Sequence[bytes]:
        """The body as it was sent."""
        request = exchange.request
        limit = min(exchange.settings.max_body_bytes, MAX_BODY_BYTES)
        self._body = request.read(limit)
        return [canonical_json([request.content_type(), request.query]), self._body]

    def understand(self, exchange: Exchange) -> None:
        """Read the samples."""
        self._window = parse_window(exchange.request, self._body)

    def ask(self, _exchange: Exchange) -> Answer:
        """No upstream has this model."""
        raise ModelNotFoundError("this model runs inside the component alone")

    def answer_at_edge(self, exchange: Exchange) -> Answer:
        """Features, and the score the model gives them."""
        features = extract_features(self._window.samples, self._window.sample_rate_hz)
        exchange.end_stage("features")
        score = anomaly_score(VIBRATION, features)
        damaged = score > VIBRATION.parameters["anomaly_threshold"]
        return Answer(
            headers=Headers([("content-type", JSON_TYPE)]),
            body=format_detection(VIBRATION, features, score),
            identity=ModelIdentity(
                VIBRATION.name, VIBRATION.version, f"sha256:{VIBRATION.digest}", "edge"
            ),
            confidence=score if damaged else 1 - score,
            class_id=int(damaged),
        )

    def respond(self, exchange: Exchange, answer: Answer) -> Response:
        """The client's JSON, with the time that this very request took."""
        body = add_latency(answer.body, exchange.elapsed_ms())
        return Response(200, Headers(answer.headers), body)


def _parse(_exchange: Exchange, _held: Sequence[str]) -> Detection:
    return Detection()


ROUTE = Route("/v1/detect/vibration", ("POST",), _parse, kind=Detection.kind)
