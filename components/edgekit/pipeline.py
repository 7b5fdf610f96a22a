"""The way of a request, the one place where the order of its steps is written down.

    preflight    a browser asks whether a page may call: answered before anything else
    route        which route takes it (`edgekit.routing`)
    identify     who is calling, and may they (`policy.auth`): 401 and 403 before any body arrives
    deadline     one latency budget from here to the last byte (`policy.deadline`)
    parse        what is asked (`edgekit.routes`)

    for an inference (`edgekit.inference.answering`)
        look up · judge · admit · decode · collapse · place · call · keep
    for a call that is passed through
        admit · prepare · call

    respond      post-process, write the answer in the client's form
    stamp        identifiers, times, limits and placement, on answers and errors alike
    after        what may wait until the client has its answer: settle, refresh, store, record

Every error becomes a problem document here, and nowhere else.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from edgekit.errors import EdgeError, InternalError
from edgekit.exchange import Exchange, Ports
from edgekit.http import Request, Response
from edgekit.inference.admitting import admit_call
from edgekit.inference.answering import answer_inference
from edgekit.inference.contract import Inference
from edgekit.policy.auth import authenticate, require_scope
from edgekit.policy.cors import add_cors_fields, answer_preflight
from edgekit.policy.deadline import Deadline, parse_budget_ms
from edgekit.policy.request_limits import RequestLimits, check_header_size
from edgekit.protocols.problems import ErrorStyle, problem_response
from edgekit.protocols.trace import open_trace
from edgekit.routing import Route, find_route, nearest_style

__all__ = ["Pipeline"]


class Pipeline:
    """Answers requests by the routes it was made with; holds no state of any request."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = tuple(routes)

    def __call__(self, request: Request, ports: Ports) -> Response:
        """The answer, or the problem document that says why there is none."""
        started_s = ports.clock.monotonic_s()
        exchange = Exchange(request, ports, open_trace(request.headers, ports.random), started_s)
        style: ErrorStyle | None = None
        try:
            preflight = _preflight(exchange)
            if preflight is not None:
                return preflight
            route, held = find_route(self._routes, request.path, request.method)
            style = route.error_style
            response = _run(route, held, exchange)
        except EdgeError as error:
            if isinstance(error, InternalError):
                exchange.log(error.message)
            response = self._problem(error, style, exchange)
        except Exception:
            exchange.log(traceback.format_exc())
            fault = InternalError("the edge failed; its log has the details")
            response = self._problem(fault, style, exchange)
        _stamp(exchange, response)
        return response

    def _problem(self, error: EdgeError, style: ErrorStyle | None, exchange: Exchange) -> Response:
        """In the route's own shape; where there is none, in that of its neighbours."""
        style = style or nearest_style(self._routes, exchange.request.path)
        return problem_response(error, style, exchange.trace.request_id)


def _preflight(exchange: Exchange) -> Response | None:
    if exchange.request.method != "OPTIONS":
        return None
    return answer_preflight(exchange.settings.policy.cors, exchange.request)


def _run(route: Route, held: Sequence[str], exchange: Exchange) -> Response:
    check_header_size(exchange.request.headers, RequestLimits())
    if route.scope is not None:
        _identify(route.scope, exchange)
        _set_deadline(route.kind, exchange)
    parsed = route.parse(exchange, held)
    if isinstance(parsed, Response):
        return parsed
    exchange.end_stage("parse")
    if isinstance(parsed, Inference):
        return answer_inference(exchange, parsed)
    if route.scope is not None:
        admit_call(exchange)
    prepared = parsed.prepare(exchange)
    answered = prepared.call(exchange)
    return answered.respond(exchange)


def _identify(scope: str, exchange: Exchange) -> None:
    exchange.tenant = authenticate(exchange.request.headers, exchange.settings.policy.tenants)
    require_scope(exchange.tenant, scope)


def _set_deadline(kind: str, exchange: Exchange) -> None:
    policy = exchange.settings.policy
    budget_ms = parse_budget_ms(
        exchange.request.headers,
        default_ms=policy.routes[kind].deadline_ms,
        maximum_ms=policy.deadline_max_ms,
    )
    exchange.deadline = Deadline(exchange.ports.clock, budget_ms, exchange.started_s)


def _stamp(exchange: Exchange, response: Response) -> None:
    exchange.stamp(response)
    if "origin" in exchange.request.headers:
        try:
            add_cors_fields(exchange.settings.policy.cors, exchange.request, response.headers)
        except InternalError:
            return  # misconfigured, which the response says already
    if exchange.record is not None:
        exchange.record(response)
