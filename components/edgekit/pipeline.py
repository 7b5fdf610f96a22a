"""The way of a request, the one place where the order of its steps is written down.

    parse        which route, what is asked (`edgekit.routing`, `edgekit.routes`)
    prepare      the body, model metadata, decoding, the tensor the model takes
    call         have it computed
    respond      post-process, write the answer in the client's form
    stamp        identifiers, times and placement, on answers and errors alike
    after        what may wait until the client has its answer

Every error becomes a problem document here, and nowhere else.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from edgekit.errors import EdgeError, InternalError
from edgekit.exchange import Exchange, Ports
from edgekit.http import Request, Response
from edgekit.protocols.problems import ErrorStyle, problem_response
from edgekit.protocols.trace import open_trace
from edgekit.routing import Route, find_route

__all__ = ["Pipeline"]


class Pipeline:
    """Answers requests by the routes it was made with; holds no state of any request."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = tuple(routes)

    def __call__(self, request: Request, ports: Ports) -> Response:
        """The answer, or the problem document that says why there is none."""
        started_s = ports.clock.monotonic_s()
        exchange = Exchange(request, ports, open_trace(request.headers, ports.random), started_s)
        style = ErrorStyle.TEXT
        try:
            route, held = find_route(self._routes, request.path, request.method)
            style = route.error_style
            response = _run(route, held, exchange)
        except EdgeError as error:
            if isinstance(error, InternalError):
                exchange.log(error.message)
            response = problem_response(error, style, exchange.trace.request_id)
        except Exception:
            exchange.log(traceback.format_exc())
            fault = InternalError("the edge failed; its log has the details")
            response = problem_response(fault, style, exchange.trace.request_id)
        exchange.stamp(response)
        return response


def _run(route: Route, held: Sequence[str], exchange: Exchange) -> Response:
    parsed = route.parse(exchange, held)
    if isinstance(parsed, Response):
        return parsed
    exchange.end_stage("parse")
    prepared = parsed.prepare(exchange)
    answered = prepared.call(exchange)
    return answered.respond(exchange)
