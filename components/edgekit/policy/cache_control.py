"""The `Cache-Control` field of requests and responses (RFC 9111, section 5.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgekit.http import Headers

__all__ = [
    "FOREVER_S",
    "RequestDirectives",
    "ResponseDirectives",
    "parse_request_directives",
    "parse_response_directives",
]

FOREVER_S = 2**31
"""Stands for "any length of time": the ceiling of delta-seconds (RFC 9111, section 1.2.2)."""

_DIRECTIVE = re.compile(
    r"""\s*
    (?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)
    (?:=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>[^\s,"]*)))?
    \s*(?:,|\Z)""",
    re.VERBOSE | re.ASCII,
)


@dataclass(frozen=True, slots=True)
class RequestDirectives:
    """What the client asks of the cache; seconds, None where it says nothing."""

    no_store: bool = False
    no_cache: bool = False
    only_if_cached: bool = False
    max_age_s: int | None = None
    min_fresh_s: int | None = None
    max_stale_s: int | None = None
    stale_if_error_s: int | None = None
    stale_while_revalidate_s: int | None = None

    @property
    def wants_stored(self) -> bool:
        """True when the client says in so many words that a stored answer would do."""
        return (
            self.only_if_cached
            or bool(self.max_age_s)
            or self.min_fresh_s is not None
            or self.max_stale_s is not None
        )

    @property
    def restricts_freshness(self) -> bool:
        """True when the client sets its own bound on age, which no server default may loosen."""
        return self.no_cache or self.max_age_s is not None or self.min_fresh_s is not None


@dataclass(frozen=True, slots=True)
class ResponseDirectives:
    """What the upstream says about storing its answer; seconds, None where it says nothing."""

    no_store: bool = False
    no_cache: bool = False
    must_revalidate: bool = False
    max_age_s: int | None = None
    stale_if_error_s: int | None = None
    stale_while_revalidate_s: int | None = None


def parse_request_directives(headers: Headers) -> RequestDirectives:
    """Read the request's directives; unknown ones are ignored (RFC 9111, section 5.2.3).

    A malformed argument is read the careful way: as the value that trusts the cache least.
    """
    found = _directives(headers.get("cache-control"))
    pragma = (headers.get("pragma") or "").lower()
    return RequestDirectives(
        no_store="no-store" in found,
        # Section 5.4: "no-cache" in Pragma counts when there is no Cache-Control.
        no_cache="no-cache" in found or (not found and "no-cache" in pragma),
        only_if_cached="only-if-cached" in found,
        max_age_s=_seconds(found, "max-age", malformed=0),
        min_fresh_s=_seconds(found, "min-fresh", malformed=FOREVER_S),
        # Section 5.2.1.2: "If no value is assigned to max-stale, then the client will accept a
        # stale response of any age."
        max_stale_s=_seconds(found, "max-stale", malformed=None, bare=FOREVER_S),
        stale_if_error_s=_seconds(found, "stale-if-error", malformed=None),
        stale_while_revalidate_s=_seconds(found, "stale-while-revalidate", malformed=None),
    )


def parse_response_directives(headers: Headers) -> ResponseDirectives:
    """Read an upstream's directives; `s-maxage` wins over `max-age`, as this cache is shared."""
    found = _directives(headers.get("cache-control"))
    shared = _seconds(found, "s-maxage", malformed=0)
    return ResponseDirectives(
        no_store="no-store" in found or "private" in found,
        no_cache="no-cache" in found,
        # Section 5.2.2.10: s-maxage "incorporates the semantics of the proxy-revalidate".
        must_revalidate=bool(found.keys() & {"must-revalidate", "proxy-revalidate", "s-maxage"}),
        max_age_s=shared if shared is not None else _seconds(found, "max-age", malformed=0),
        stale_if_error_s=_seconds(found, "stale-if-error", malformed=None),
        stale_while_revalidate_s=_seconds(found, "stale-while-revalidate", malformed=None),
    )


def _directives(field: str | None) -> dict[str, str | None]:
    """Names in lower case with arguments, unquoted; the first of a repeated name counts.

    A member that is no directive is skipped, so that one typo does not hide a `no-store` after it.
    """
    found: dict[str, str | None] = {}
    position = 0
    field = field or ""
    while position < len(field):
        match = _DIRECTIVE.match(field, position)
        if match is None:
            comma = field.find(",", position)
            position = comma + 1 if comma >= 0 else len(field)
            continue
        quoted, token = match["quoted"], match["token"]
        argument = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else token
        found.setdefault(match["name"].lower(), argument)
        position = match.end()
    return found


def _seconds(
    found: dict[str, str | None], name: str, *, malformed: int | None, bare: int | None = None
) -> int | None:
    """Argument of `name` in seconds; `bare` when it has none, `malformed` when it is no number."""
    if name not in found:
        return None
    argument = found[name]
    if argument is None:
        return bare if bare is not None else malformed
    if not (argument.isascii() and argument.isdigit()):
        return malformed
    # Section 1.2.2: a value that overflows is to be taken as 2147483648. Digits are cut first:
    # int() of a long string costs quadratic time.
    return min(int(argument.lstrip("0")[:11] or "0"), FOREVER_S)
