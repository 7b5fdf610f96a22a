"""`edgekit.routing`: which route takes a path."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from edgekit.errors import InvalidInputError, MethodNotAllowedError, RouteNotFoundError
from edgekit.exchange import Exchange
from edgekit.http import Response
from edgekit.protocols.problems import ErrorStyle
from edgekit.routing import Route, find_route, nearest_style


def answer(exchange: Exchange, held: Sequence[str]) -> Response:
    return Response(200)


INDEX = Route("/", ("GET",), answer)
CLASSIFY = Route("/v1/classify/:model", ("POST",), answer)
REST = Route("/v2/...", ("GET", "POST"), answer)
ROUTES = (INDEX, CLASSIFY, REST)


@pytest.mark.parametrize(
    ("method", "path", "route", "held"),
    [
        ("GET", "/", INDEX, []),
        ("HEAD", "/", INDEX, []),
        ("GET", "", INDEX, []),
        ("POST", "/v1/classify/digits", CLASSIFY, ["digits"]),
        ("POST", "/v1/classify/a%2Fb", CLASSIFY, ["a/b"]),
        ("POST", "/v1/classify/digits/", CLASSIFY, ["digits"]),
        ("GET", "/v2", REST, []),
        ("HEAD", "/v2/models/x/ready", REST, []),
    ],
)
def test_find_route_known_path_gives_route_and_segments(
    method: str, path: str, route: Route, held: list[str]
) -> None:
    assert find_route(ROUTES, path, method) == (route, held)


@pytest.mark.parametrize("path", ["/v1", "/v1/classify", "/v1/classify/a/b", "/v20", "/x", "/v1//"])
def test_find_route_unknown_path_is_not_found(path: str) -> None:
    with pytest.raises(RouteNotFoundError, match="there is nothing at"):
        find_route(ROUTES, path, "POST")


def test_find_route_other_method_says_which_are_allowed() -> None:
    with pytest.raises(MethodNotAllowedError) as caught:
        find_route(ROUTES, "/v2/x", "PUT")
    assert caught.value.allow == ("GET", "HEAD", "POST")


@pytest.mark.parametrize("path", ["/v2/../admin", "/v2/%2e%2E/x", "/v2/./x", "/v2/%2e"])
def test_find_route_dot_segments_are_refused(path: str) -> None:
    with pytest.raises(InvalidInputError, match="dot segments"):
        find_route(ROUTES, path, "GET")


@pytest.mark.parametrize(
    ("path", "style"),
    [
        ("/v1/chat", ErrorStyle.OBJECT),  # of another method
        ("/v1/chat/nothing", ErrorStyle.OBJECT),
        ("/v1/classify/x", ErrorStyle.TEXT),
        ("/v3", ErrorStyle.TEXT),
    ],
)
def test_nearest_style_unknown_path_has_its_neighbours(path: str, style: ErrorStyle) -> None:
    chat = Route("/v1/chat", ("POST",), answer, ErrorStyle.OBJECT)
    assert nearest_style((INDEX, chat, CLASSIFY), path) is style
