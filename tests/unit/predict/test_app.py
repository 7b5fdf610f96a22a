"""`predict.app`: the component is wired, and every route is there."""

from __future__ import annotations

import pytest

from edgekit.errors import RouteNotFoundError
from edgekit.http import Request
from edgekit.routing import find_route
from predict.app import PIPELINE, IncomingHandler


def test_incoming_handler_answers_over_the_ports_of_its_host() -> None:
    response = IncomingHandler().answer(Request("GET", "/"))
    assert response.status == 200
    assert len(response.headers.get("x-request-id") or "") == 24


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("POST", "/v1/classify/digits"),
        ("GET", "/v2"),
        ("POST", "/v2/models/digits/infer"),
        ("POST", "/v2/repository/index"),
    ],
)
def test_pipeline_serves_what_the_index_promises(method: str, path: str) -> None:
    route, _ = find_route(PIPELINE._routes, path, method)
    assert route.match(Request(method, path).segments()) is not None


def test_pipeline_serves_nothing_else() -> None:
    with pytest.raises(RouteNotFoundError):
        find_route(PIPELINE._routes, "/v1/chat/completions", "POST")
