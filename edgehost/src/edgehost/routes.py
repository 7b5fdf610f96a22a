"""Which component answers a path: Spin's routes, without I/O.

Rules, as in Spin (`spin-http-routes` over the `routefinder` crate, version 0.5):

* A route is a sequence of literals, `:parameters` and, at its end, a wildcard (`/...` or `/*`).
* Slashes at either end of a path do not count: `/foo` answers `/foo/` as well.
* A parameter takes everything up to the next slash, or up to the next dot when the route has a
  dot after it; a wildcard takes the rest, which may be nothing.
* Of several matches the best is that of the route which is first in this order: compare segment
  by segment, literal before parameter before wildcard; then more dots; then fewer segments; then
  the order of the manifest.
* Paths are matched as they stand in the request: nothing is percent-decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from edgehost.manifest import StaticResponse

__all__ = ["WELL_KNOWN_PREFIX", "Route", "RouteError", "RouteMatch", "RouteTable"]

WELL_KNOWN_PREFIX = "/.well-known/spin/"
"""Paths under it are answered by the host itself."""


class RouteError(ValueError):
    """A pattern that is no route; the text says why."""


class _Kind(Enum):
    SLASH = "/"
    DOT = "."
    LITERAL = "literal"
    PARAMETER = ":"
    WILDCARD = "*"


_Segment = tuple[_Kind, str]

# Rank of a kind against another kind; the crate's order, in which a dot is better than what it
# is compared with, even where that is better than a dot.
_WORSE_THAN: dict[_Kind, frozenset[_Kind]] = {
    _Kind.SLASH: frozenset({_Kind.LITERAL, _Kind.PARAMETER, _Kind.WILDCARD}),
    _Kind.DOT: frozenset(),
    _Kind.LITERAL: frozenset(),
    _Kind.PARAMETER: frozenset({_Kind.LITERAL}),
    _Kind.WILDCARD: frozenset({_Kind.LITERAL, _Kind.PARAMETER}),
}
# The value travels as header `spin-path-match-<name>` (RFC 9110, 5.6.2: token).
_PARAMETER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_SEPARATORS = frozenset({_Kind.SLASH, _Kind.DOT})


@dataclass(frozen=True, slots=True)
class Route:
    """One public route. Exactly one of `component` and `static_response` is set."""

    pattern: str
    """As written in the manifest; what `spin-raw-component-route` carries."""
    trigger_id: str
    component: str | None = None
    static_response: StaticResponse | None = None
    matched_route: str = field(init=False)
    """What `spin-matched-route` carries: absolute, without a slash at the end."""
    component_route: str = field(init=False)
    """What `spin-component-route` carries: the pattern without `/...`."""
    wildcard: bool = field(init=False)
    segments: tuple[_Segment, ...] = field(init=False, repr=False)
    parameter_names: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        absolute = self.pattern if self.pattern.startswith("/") else f"/{self.pattern}"
        matched = absolute.removesuffix("/")
        spec = f"{matched.removesuffix('/...')}/*" if matched.endswith("/...") else matched
        segments = _parse(spec)
        set_ = object.__setattr__
        set_(self, "matched_route", matched)
        set_(self, "component_route", self.pattern.removesuffix("/..."))
        set_(self, "segments", segments)
        set_(self, "wildcard", spec.endswith("/*"))
        names = tuple(text for kind, text in segments if kind is _Kind.PARAMETER)
        set_(self, "parameter_names", names)

    @property
    def target(self) -> str:
        """Who answers, for people: the component id, else the trigger id."""
        return self.component or self.trigger_id

    @property
    def display(self) -> str:
        """The route as Spin lists it at start-up, e.g. ``/api (wildcard)``."""
        if not self.wildcard:
            return self.matched_route
        return f"{self.matched_route.removesuffix('/...').removesuffix('/*')} (wildcard)"

    @property
    def shape(self) -> tuple[_Segment, ...]:
        """Equal for two routes that match the same paths: parameter names do not count."""
        return tuple(
            (kind, "" if kind is _Kind.PARAMETER else text) for kind, text in self.segments
        )


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """A path that found its route."""

    route: Route
    path_info: str
    """What the wildcard took, with its slash; empty without one. Goes to `spin-path-info`."""
    parameters: dict[str, str]
    """Values of the `:parameters`. Each goes to header `spin-path-match-<name>`, with the name in
    lower case and `-` for `_`."""


class RouteTable:
    """All public routes of an app, ready to be matched."""

    def __init__(self, routes: Iterable[Route]) -> None:
        """Order the routes by precedence."""
        ordered: list[Route] = []
        for route in routes:
            # Before the first one that is worse: ties keep the order of the manifest.
            place = next(
                (i for i, other in enumerate(ordered) if _precedes(route, other)), len(ordered)
            )
            ordered.insert(place, route)
        self.routes = tuple(ordered)
        self._compiled = [(_compile(route.segments), route) for route in ordered]
        self._literal = self._precompute()

    def _precompute(self) -> dict[str, RouteMatch]:
        """Answers for the paths that are routes themselves: one look-up instead of a scan."""
        found = {}
        for route in self.routes:
            if any(kind in (_Kind.PARAMETER, _Kind.WILDCARD) for kind, _ in route.segments):
                continue
            path = "".join(text for _, text in route.segments)
            best = self._scan(path, path)
            if best is not None and best.route is route:
                found[path] = best
        return found

    def match(self, path: str) -> RouteMatch | None:
        """The best route for `path` (no query); None when no route matches."""
        trimmed = path.strip("/")
        return self._literal.get(trimmed) or self._scan(trimmed, path)

    def _scan(self, trimmed: str, path: str) -> RouteMatch | None:
        for pattern, route in self._compiled:
            found = pattern.fullmatch(trimmed)
            if found is not None:
                captured = found.groups()
                path_info = _path_info(captured[-1], path) if route.wildcard else ""
                names = route.parameter_names
                return RouteMatch(route, path_info, dict(zip(names, captured, strict=False)))
        return None

    def unreachable(self) -> list[tuple[Route, Route]]:
        """Pairs (route, the one that answers all its paths)."""
        first: dict[tuple[_Segment, ...], Route] = {}
        return [
            (route, first[route.shape])
            for route in self.routes
            if first.setdefault(route.shape, route) is not route
        ]


def _path_info(captured: str, path: str) -> str:
    """The wildcard's part with the slashes around it, which matching had taken off."""
    slash = "/" if path.endswith("/") else ""
    return f"/{captured}{slash}" if captured else slash


def _parse(spec: str) -> tuple[_Segment, ...]:
    """Segments of an absolute route whose `/...` has become `/*`."""
    segments: list[_Segment] = []
    pieces = re.split(r"([./])", spec.strip("/"))
    for index in range(0, len(pieces), 2):
        separator = pieces[index - 1] if index else ""
        section = pieces[index]
        if separator == ".":
            if segments and segments[-1][0] is _Kind.LITERAL:
                segments[-1] = (_Kind.LITERAL, segments[-1][1] + ".")
            else:
                segments.append((_Kind.DOT, "."))
        if not section:
            continue
        if separator == "/":
            segments.append((_Kind.SLASH, "/"))
        segments.append(_section(section))
    for kind, _ in segments[:-1]:
        if kind is _Kind.WILDCARD:
            raise RouteError("a wildcard must be the last segment")
    return tuple(segments)


def _section(section: str) -> _Segment:
    if section == "*":
        return (_Kind.WILDCARD, "*")
    if section.startswith("*"):
        raise RouteError(f'a wildcard has no name: write "/..." instead of "{section}"')
    if section == ":":
        raise RouteError('a parameter needs a name after ":"')
    if section.startswith(":"):
        if not _PARAMETER_NAME.match(section[1:]):
            raise RouteError(
                f'parameter "{section[1:]}" cannot be part of a header name: use letters, digits, '
                "- and _"
            )
        return (_Kind.PARAMETER, section[1:])
    return (_Kind.LITERAL, section)


def _precedes(route: Route, other: Route) -> bool:
    """True when `route`, added later, goes before `other`."""
    for (mine, _), (theirs, _) in zip(route.segments, other.segments, strict=False):
        if mine is theirs or (mine in _SEPARATORS and theirs in _SEPARATORS):
            continue
        return theirs not in _WORSE_THAN[mine]
    dots = _dots(route) - _dots(other)
    if dots:
        return dots > 0
    return len(route.segments) < len(other.segments)


def _dots(route: Route) -> int:
    return sum(kind is _Kind.DOT for kind, _ in route.segments)


def _compile(segments: tuple[_Segment, ...]) -> re.Pattern[str]:
    parts = []
    for index, (kind, text) in enumerate(segments):
        next_kind = segments[index + 1][0] if index + 1 < len(segments) else None
        if kind is _Kind.LITERAL:
            parts.append(re.escape(text))
        elif kind is _Kind.DOT:
            parts.append(r"\.")
        elif kind is _Kind.WILDCARD:
            parts.append("(.*)")
        elif kind is _Kind.PARAMETER:
            # Never at the end of the path, but it may be empty between two slashes.
            parts.append(r"([^./]*)" if next_kind is _Kind.DOT else r"(?!\Z)([^/]*)")
        else:
            parts.append(r"(?:/|\Z)" if next_kind is _Kind.WILDCARD else "/")
    return re.compile("".join(parts), re.DOTALL)
