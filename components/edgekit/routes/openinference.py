"""`/v2/…`: the Open Inference Protocol, passed through to the backend.

Bodies pass as they are, both ways as they arrive: the guest has no zlib, and a compressed or
binary body needs no reading here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from edgekit.exchange import Exchange, Placement
from edgekit.http import Body, Headers, Response
from edgekit.inference.admitting import charge
from edgekit.inference.recording import record_inference
from edgekit.policy.placement import Tier, parse_residency, residency_error
from edgekit.ports import UpstreamResponse
from edgekit.protocols.inference_headers import parse_model_identity
from edgekit.routing import Route

__all__ = ["HEALTH_ROUTE", "ROUTE", "relayed_headers"]

HOP_BY_HOP = frozenset(
    {
        "connection",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""RFC 9110, section 7.6.1, with the fields of older proxies and those a guest may not set."""

METHODS_WITH_BODY = ("POST",)

TRIGGER_PREFIX = "spin-"
"""Fields that Spin adds about the request; they describe this hop."""


def relayed_headers(headers: Headers) -> Headers:
    """The end-to-end fields, without those that `Connection` names."""
    named = (headers.get("connection") or "").split(",")
    dropped = HOP_BY_HOP | {name.strip().lower() for name in named}
    return Headers(
        (name, value)
        for name, value in headers
        if name not in dropped and not name.startswith(TRIGGER_PREFIX)
    )


@dataclass(frozen=True, slots=True)
class RelayRequest:
    """A call to pass through; all that it says is in the request itself.

    Attributes:
        model: Which one an infer call asks; empty for any other call.
    """

    model: str = ""

    def prepare(self, exchange: Exchange) -> RelayCall:
        """Take out what belongs to this hop.

        Raises:
            AccessDeniedError: The client does not let its data go to the cluster.
        """
        request = exchange.request
        residency = parse_residency(request.headers)
        if request.method in METHODS_WITH_BODY and not residency.allows(Tier.CLUSTER):
            raise residency_error(residency, "a call that is passed through")
        target = f"{request.path}?{request.query}" if request.query else request.path
        headers = relayed_headers(request.headers)
        body: Body = b""
        if request.method in METHODS_WITH_BODY:
            body = request.stream(exchange.settings.max_body_bytes)
        if isinstance(body, bytes):
            headers.remove("content-length")  # set anew from the body
        if not exchange.settings.policy.tenants.open:
            headers.remove("authorization")  # the key is for this edge alone
        return RelayCall(self.model, request.method, target, headers, body)


@dataclass(frozen=True, slots=True)
class RelayCall:
    """The same call as the backend will see it."""

    model: str
    method: str
    target: str
    headers: Headers
    body: Body

    def call(self, exchange: Exchange) -> RelayAnswer:
        """Send it on and wait for the head of the answer."""
        backend = exchange.backend()
        answer = backend.relay(self.method, self.target, self.headers, self.body)
        waited_ms = exchange.end_stage("backend")
        exchange.placement = Placement("cluster", "passthrough", waited_ms)
        return RelayAnswer(self.model, answer)


@dataclass(frozen=True, slots=True)
class RelayAnswer:
    """The backend's answer, its body still arriving."""

    model: str
    answer: UpstreamResponse

    def respond(self, exchange: Exchange) -> Response:
        """Relay status, fields and body."""
        answer = self.answer
        if self.model:
            self._account(exchange)
        return Response(answer.status, relayed_headers(answer.headers), answer.chunks)

    def _account(self, exchange: Exchange) -> None:
        """An inference is recorded and charged, though nobody here has understood it."""
        if self.answer.status == 200:
            charge(exchange, self.model)
        identity = parse_model_identity(self.answer.headers.last("inference-model"))
        if identity is not None:
            exchange.facts = replace(
                exchange.facts, model_version=identity.version, model_digest=identity.digest
            )
        exchange.record = partial(record_inference, exchange, "infer", self.model)


def _parse(_exchange: Exchange, _held: Sequence[str]) -> RelayRequest:
    return RelayRequest()


HEALTH_ROUTE = Route("/v2/health/...", ("GET",), _parse, scope=None)
"""Open to everybody: probes carry no keys."""

ROUTE = Route("/v2/...", ("GET", *METHODS_WITH_BODY), _parse)
