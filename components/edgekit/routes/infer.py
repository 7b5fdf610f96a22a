"""`POST /v2/models/{model}[/versions/{version}]/infer`: tensors in, tensors out, through policy.

Small calls are understood, so that cache, collapsing and fallback can work for them; large or
compressed ones, and those that are not understood, pass through as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.backend import model_path
from edgekit.errors import InvalidInputError
from edgekit.exchange import Exchange
from edgekit.http import Headers, Response
from edgekit.inference.contract import Answer, Inference
from edgekit.models.document import EdgeModel
from edgekit.policy.cache_control import parse_response_directives
from edgekit.protocols.inference_headers import ModelIdentity, parse_model_identity
from edgekit.protocols.oip import HEADER_LENGTH
from edgekit.protocols.oip_infer import (
    InferCall,
    InferResult,
    parse_infer_call,
    parse_infer_result,
)
from edgekit.routes.openinference import RelayRequest, relayed_headers
from edgekit.routing import Route

__all__ = ["ROUTES"]

MAX_CALL_BYTES = 262_144
"""Reading a larger body costs the guest more than a cached answer saves."""


class InferRequest(Inference):
    """One infer call."""

    kind = "infer"
    edge_model: EdgeModel | None = None

    def __init__(self, model: str, version: str | None) -> None:
        self._model = model
        self._version = version
        self._body = b""
        self._call: InferCall | None = None
        self._upstream_timing: str | None = None

    @property
    def model(self) -> str:
        """Model name."""
        return self._model

    @property
    def version(self) -> str | None:
        """Version the client asks for; None for the active one."""
        return self._version

    @property
    def deterministic(self) -> bool:
        """False for calls with state, and for those that are not understood."""
        return self._call is not None and not self._call.is_stateful

    def canonical(self, exchange: Exchange) -> Sequence[bytes]:
        """Tensors and parameters, however they were sent."""
        request = exchange.request
        self._body = request.read(min(exchange.settings.max_body_bytes, MAX_CALL_BYTES))
        try:
            self._call = parse_infer_call(request.headers, self._body)
        except ValueError:
            return [self._body]
        return self._call.canonical()

    def understand(self, _exchange: Exchange) -> None:
        """What is wrong with a call is the backend's to say: it knows its models."""

    def ask(self, exchange: Exchange) -> Answer:
        """The upstream's answer, all of it binary where the call was understood."""
        if self._call is not None:
            headers, body = self._call.encode()
        else:
            headers, body = relayed_headers(exchange.request.headers), self._body
            headers.remove("content-length")
            headers.remove("authorization")
        target = f"{model_path(self.model, self.version)}/infer"
        fields, content = exchange.backend().call("POST", target, headers, body)
        exchange.end_stage("backend")
        self._upstream_timing = fields.get("server-timing")
        identity = parse_model_identity(fields.last("inference-model"))
        if self._call is None:
            return Answer(_described(fields), content, identity or self._unnamed(""))
        result = parse_infer_result(fields, content)
        stored_headers, stored_body = result.encode()
        version = str(result.head.get("model_version") or "")
        return Answer(
            headers=stored_headers,
            body=stored_body,
            identity=identity or self._unnamed(version),
            directives=parse_response_directives(fields),
        )

    def answer_at_edge(self, _exchange: Exchange) -> Answer:
        """No model of the component takes tensors."""
        raise InvalidInputError("no model of this component takes tensors")

    def respond(self, _exchange: Exchange, answer: Answer) -> Response:
        """The answer with the client's id, each output in the form it asked for."""
        headers, body = Headers(answer.headers), answer.body
        if self._call is not None:
            result: InferResult = parse_infer_result(headers, body)
            headers, body = result.encode(self._call)
        if self._upstream_timing is not None:
            headers.set("server-timing", self._upstream_timing)
        return Response(200, headers, body)

    def _unnamed(self, version: str) -> ModelIdentity:
        """Who answered, where the backend gives no `Inference-Model`."""
        return ModelIdentity(self.model, version or self.version or "")


def _described(fields: Headers) -> Headers:
    """What describes a body that is passed on as it is."""
    return Headers(
        (name, value)
        for name, value in fields
        if name in ("content-type", "content-encoding", HEADER_LENGTH)
    )


def _parse(exchange: Exchange, held: Sequence[str]) -> InferRequest | RelayRequest:
    request, settings = exchange.request, exchange.settings
    length = request.headers.last("content-length") or ""
    small = length.isdecimal() and int(length[:18]) <= MAX_CALL_BYTES
    cached = settings.policy.routes["infer"].cache.ttl_s > 0
    if not (small and cached) or "content-encoding" in request.headers:
        return RelayRequest(held[0])
    return InferRequest(held[0], held[1] if len(held) > 1 else None)


ROUTES = (
    Route("/v2/models/:model/infer", ("POST",), _parse),
    Route("/v2/models/:model/versions/:version/infer", ("POST",), _parse),
)
