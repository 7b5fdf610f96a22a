"""`edgekit.pipeline`: every failure becomes a problem document with identifiers and times."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from edgekit.errors import EdgeError, InternalError, ModelNotFoundError
from edgekit.exchange import Exchange
from edgekit.http import Headers, Request, Response
from edgekit.pipeline import Pipeline
from edgekit.protocols.problems import ErrorStyle
from edgekit.routing import Route
from fakes.edge_ports import FakeClock, LogLines, make_ports


def pipeline_of(failure: Exception, style: ErrorStyle = ErrorStyle.TEXT) -> Pipeline:
    def parse(exchange: Exchange, held: Sequence[str]) -> Response:
        exchange.end_stage("parse")
        exchange.after.append(lambda: None)
        raise failure

    return Pipeline([Route("/fails", ("GET",), parse, style)])


REQUEST = Request("GET", "/fails", headers=Headers([("x-request-id", "id-1")]))


def test_pipeline_edge_error_has_the_status_of_its_code() -> None:
    response = pipeline_of(ModelNotFoundError("no model"))(REQUEST, make_ports())
    assert response.status == 404
    assert isinstance(response.body, bytes)
    assert json.loads(response.body)["request_id"] == "id-1"


def test_pipeline_error_style_of_the_route_is_used() -> None:
    response = pipeline_of(ModelNotFoundError("x"), ErrorStyle.OBJECT)(REQUEST, make_ports())
    assert isinstance(response.body, bytes)
    assert json.loads(response.body)["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(
    "failure", [ValueError("secret detail"), RecursionError("deep"), MemoryError(), KeyError("x")]
)
def test_pipeline_unexpected_error_is_logged_and_hidden(failure: Exception) -> None:
    log = LogLines()
    response = pipeline_of(failure)(REQUEST, make_ports(log=log))
    assert response.status == 500
    assert isinstance(response.body, bytes)
    assert b"secret" not in response.body
    assert log.lines[0].startswith("[id-1] Traceback")
    assert type(failure).__name__ in log.text()


def test_pipeline_internal_error_is_logged() -> None:
    log = LogLines()
    error: EdgeError = InternalError("the component is misconfigured: x")
    assert pipeline_of(error)(REQUEST, make_ports(log=log)).status == 500
    assert "[id-1] the component is misconfigured: x" in log.lines


def test_pipeline_error_keeps_stages_and_work_for_after() -> None:
    response = pipeline_of(ModelNotFoundError("x"))(
        REQUEST, make_ports(clock=FakeClock(tick_s=0.001))
    )
    assert response.headers.get("server-timing") == "parse;dur=1.00, total;dur=2.00"
    assert response.headers.get("x-request-id") == "id-1"
    assert len(response.after) == 2  # what the route left to do, and the batch of writes


def test_pipeline_misconfigured_component_says_so_on_routes_that_need_settings() -> None:
    def parse(exchange: Exchange, held: Sequence[str]) -> Response:
        return Response(200, body=str(exchange.settings.max_body_bytes).encode())

    pipeline = Pipeline([Route("/", ("GET",), parse)])
    response = pipeline(Request("GET", "/"), make_ports(variables={"max_body_bytes": "lots"}))
    assert response.status == 500
    assert isinstance(response.body, bytes)
    assert "max_body_bytes is 'lots'" in json.loads(response.body)["detail"]
