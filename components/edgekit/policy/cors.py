"""Cross-origin requests (Fetch standard, section 3.3): which web pages may call from a browser."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.http import Headers, Request, Response

__all__ = ["CorsRule", "add_cors_fields", "answer_preflight"]

_METHODS = "GET, HEAD, POST, OPTIONS"
_MAX_AGE_S = 7200
"""Chromium's ceiling; a longer time has no effect there."""

_EXPOSED = (
    "Age, Cache-Status, ETag, Inference-Model, Inference-Placement, RateLimit, RateLimit-Policy, "
    "Retry-After, Server-Timing, X-Request-Id"
)


@dataclass(frozen=True, slots=True)
class CorsRule:
    """Origins that may call; empty means none, ``*`` means all.

    Keys travel in `Authorization`, which scripts set themselves, so credentials mode (cookies) is
    never allowed and ``*`` gives away nothing.
    """

    origins: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> CorsRule:
        """Read a variable: origins separated by commas or spaces."""
        return cls(frozenset(text.replace(",", " ").split()))

    def allowed(self, origin: str | None) -> str | None:
        """Value of `Access-Control-Allow-Origin` for `origin`; None when it may not call."""
        if origin is None:
            return None
        if "*" in self.origins:
            return "*"
        return origin if origin in self.origins else None


def answer_preflight(rule: CorsRule, request: Request) -> Response | None:
    """The answer to a preflight; None when the request is none, or its origin may not call.

    A preflight carries no key, so it is answered before anybody is asked who they are.
    """
    if request.method != "OPTIONS" or "access-control-request-method" not in request.headers:
        return None
    origin = rule.allowed(request.headers.get("origin"))
    if origin is None:
        return None
    headers = Headers(
        [
            ("access-control-allow-origin", origin),
            ("access-control-allow-methods", _METHODS),
            ("access-control-max-age", str(_MAX_AGE_S)),
            ("vary", "Origin, Access-Control-Request-Headers"),
        ]
    )
    asked = request.headers.get("access-control-request-headers")
    if asked:
        headers.set("access-control-allow-headers", asked)
    return Response(204, headers)


def add_cors_fields(rule: CorsRule, request: Request, headers: Headers) -> None:
    """Let the page of an allowed origin read the answer."""
    if not rule.origins:
        return
    vary(headers, "Origin")
    origin = rule.allowed(request.headers.get("origin"))
    if origin is not None:
        headers.set("access-control-allow-origin", origin)
        headers.set("access-control-expose-headers", _EXPOSED)


def vary(headers: Headers, name: str) -> None:
    """Add `name` to `Vary` unless it is there."""
    present = [part.strip() for part in (headers.get("vary") or "").split(",") if part.strip()]
    if name.lower() not in (part.lower() for part in present):
        headers.set("vary", ", ".join([*present, name]))
