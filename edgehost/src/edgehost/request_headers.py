"""The header fields Spin adds to a request before a component sees it.

Names, values and order are those of Spin's `crates/trigger-http/src/headers.rs`. They are appended:
a client can send fields of the same names, so a component trusts the last value of each.
"""

from __future__ import annotations

from edgehost.http.exchange import RequestHead
from edgehost.ports import Headers
from edgehost.routes import RouteMatch

__all__ = ["chained_fields", "has_text_values", "routed_fields"]


def routed_fields(request: RequestHead, match: RouteMatch) -> Headers:
    """The fields for a request that a route of the manifest matched."""
    route = match.route
    fields = _fields(
        request,
        path_info=match.path_info,
        matched_route=route.matched_route,
        raw_route=route.pattern,
        component_route=route.component_route,
        client=_socket_address(request.client),
    )
    fields += [
        (f"spin-path-match-{name.lower().replace('_', '-')}", value.encode())
        for name, value in match.parameters.items()
    ]
    return fields


def chained_fields(request: RequestHead) -> Headers:
    """The fields for a call from another component: as if `/...` had matched."""
    return _fields(
        request,
        path_info=request.path,
        matched_route="/...",
        raw_route="/...",
        component_route="",
        client="0.0.0.0:0",
    )


def has_text_values(headers: Headers) -> bool:
    """False when a value is not UTF-8, which Spin answers with 500."""
    for _, value in headers:
        if not value.isascii():
            try:
                value.decode("utf-8")
            except UnicodeDecodeError:
                return False
    return True


def _fields(
    request: RequestHead,
    *,
    path_info: str,
    matched_route: str,
    raw_route: str,
    component_route: str,
    client: str,
) -> Headers:
    full_url = f"http://{request.host or 'localhost'}{request.path_with_query}"
    return [
        ("spin-path-info", path_info.encode()),
        ("spin-full-url", full_url.encode()),
        ("spin-matched-route", matched_route.encode()),
        ("spin-base-path", b"/"),
        ("spin-raw-component-route", raw_route.encode()),
        ("spin-component-route", component_route.encode()),
        ("spin-client-addr", client.encode()),
    ]


def _socket_address(client: tuple[str, int]) -> str:
    host, port = client
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
