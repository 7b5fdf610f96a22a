"""The fields Spin adds: the cases of its own tests (crates/trigger-http/src/headers.rs)."""

from __future__ import annotations

import pytest

from edgehost.http.exchange import RequestHead
from edgehost.request_headers import chained_fields, has_text_values, routed_fields
from edgehost.routes import Route, RouteTable


def head(
    path: str, query: str | None = None, client: tuple[str, int] = ("127.0.0.1", 8777)
) -> RequestHead:
    return RequestHead("POST", path, query, "fermyon.dev", "fermyon.dev", [], client)


def fields_for(route: str, request: RequestHead) -> dict[str, str]:
    match = RouteTable([Route(route, "t", "c")]).match(request.path)
    assert match is not None
    return {name: value.decode() for name, value in routed_fields(request, match)}


def test_trailing_wildcard_gives_the_fields_of_spin() -> None:
    fields = fields_for("/foo/...", head("/foo/bar", "key1=value1&key2=value2"))
    assert fields == {
        "spin-path-info": "/bar",
        "spin-full-url": "http://fermyon.dev/foo/bar?key1=value1&key2=value2",
        "spin-matched-route": "/foo/...",
        "spin-base-path": "/",
        "spin-raw-component-route": "/foo/...",
        "spin-component-route": "/foo",
        "spin-client-addr": "127.0.0.1:8777",
    }


def test_named_segment_gives_a_field_of_its_own() -> None:
    fields = fields_for("/foo/:user_id/...", head("/foo/42/bar"))
    assert fields["spin-path-match-user-id"] == "42"
    assert fields["spin-matched-route"] == "/foo/:user_id/..."
    assert fields["spin-component-route"] == "/foo/:user_id"


@pytest.mark.parametrize(
    ("path", "info"), [("/foo", ""), ("/foo/", "/"), ("/foo/a/b", "/a/b"), ("/foo/a/", "/a/")]
)
def test_path_info_keeps_the_slashes_as_spin_does(path: str, info: str) -> None:
    assert fields_for("/foo/...", head(path))["spin-path-info"] == info


def test_exact_route_has_no_path_info() -> None:
    fields = fields_for("/foo", head("/foo"))
    assert fields["spin-path-info"] == ""
    assert fields["spin-component-route"] == "/foo"


def test_ipv6_client_is_in_brackets() -> None:
    fields = fields_for("/...", head("/", client=("::1", 80)))
    assert fields["spin-client-addr"] == "[::1]:80"


def test_chained_call_looks_like_a_match_of_the_catch_all() -> None:
    request = RequestHead("GET", "/x", "y=1", "b.spin.internal", None, [], ("0.0.0.0", 0))
    fields = {name: value.decode() for name, value in chained_fields(request)}
    assert fields["spin-full-url"] == "http://localhost/x?y=1"
    assert (fields["spin-matched-route"], fields["spin-component-route"]) == ("/...", "")


def test_values_that_are_not_utf8_are_found() -> None:
    assert has_text_values([("a", b"x"), ("b", "ä".encode())])
    assert not has_text_values([("a", b"\xe4")])
