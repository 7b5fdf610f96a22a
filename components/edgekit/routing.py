"""From path and method to the route that answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote

from edgekit.errors import InvalidInputError, MethodNotAllowedError, RouteNotFoundError
from edgekit.exchange import Exchange
from edgekit.http import Response
from edgekit.inference.contract import Inference
from edgekit.protocols.problems import ErrorStyle

__all__ = ["Answered", "Parsed", "Prepared", "Route", "find_route", "nearest_style"]


class Parsed(Protocol):
    """A request whose route and parameters are understood; its body has not been transferred.

    Each step returns what the next one needs, so no step can be forgotten or taken twice.
    """

    def prepare(self, exchange: Exchange, /) -> Prepared:
        """Receive the body, look up what the call needs, make what the model takes."""
        ...


class Prepared(Protocol):
    """A call that only has to be made."""

    def call(self, exchange: Exchange, /) -> Answered:
        """Have the answer computed; notes where in `exchange.placement`."""
        ...


class Answered(Protocol):
    """An answer in the model's form."""

    def respond(self, exchange: Exchange, /) -> Response:
        """Post-process and write it in the client's form."""
        ...


@dataclass(frozen=True, slots=True)
class Route:
    """One family of paths.

    Attributes:
        pattern: Segments; `:name` takes one, `...` at the end the rest, none included.
        methods: What it takes; GET includes HEAD.
        parse: From the exchange and what `:name` segments hold, in order. Returns the response
            itself where nothing has to be computed, and an `Inference` where policy decides who
            computes it.
        error_style: Form of the member `error` in problem documents.
        kind: Whose deadline holds, see `policy.settings.RoutePolicy`.
        scope: What a tenant needs to call it; None for everybody, known or not.
    """

    pattern: str
    methods: tuple[str, ...]
    parse: Callable[[Exchange, Sequence[str]], Parsed | Inference | Response]
    error_style: ErrorStyle = ErrorStyle.TEXT
    kind: str = "infer"
    scope: str | None = "infer"

    def match(self, segments: Sequence[str]) -> list[str] | None:
        """What the `:name` segments hold; None when the path is not of this route."""
        wanted = self.pattern.strip("/").split("/")
        if wanted[-1] == "...":
            wanted.pop()
            segments = segments[: len(wanted)]
        if len(segments) != len(wanted):
            return None
        held: list[str] = []
        for want, segment in zip(wanted, segments, strict=True):
            if want.startswith(":"):
                held.append(segment)
            elif want != segment:
                return None
        return held

    def allow(self) -> tuple[str, ...]:
        """Methods for the field `Allow`."""
        return ("GET", "HEAD", *self.methods[1:]) if self.methods[0] == "GET" else self.methods


def find_route(routes: Sequence[Route], path: str, method: str) -> tuple[Route, list[str]]:
    """The first route that takes `path`, and what its `:name` segments hold.

    Raises:
        InvalidInputError: The path holds dot segments, which the next hop might resolve to a
            path that was never routed.
        RouteNotFoundError: No route takes the path.
        MethodNotAllowedError: One does, with other methods.
    """
    segments = [unquote(part) for part in path.strip("/").split("/")]
    if any(segment in (".", "..") for segment in segments):
        raise InvalidInputError(f"the path {path!r} holds dot segments: send it resolved")
    for route in routes:
        held = route.match(segments)
        if held is None:
            continue
        if method not in route.allow():
            raise MethodNotAllowedError(
                f"{path} does not take {method}; it takes {', '.join(route.allow())}",
                allow=route.allow(),
            )
        return route, held
    raise RouteNotFoundError(f"there is nothing at {path}; GET / lists what there is")


def nearest_style(routes: Sequence[Route], path: str) -> ErrorStyle:
    """How clients of `path` read errors where no route takes their call: as its neighbours' do."""
    segments = path.strip("/").split("/")
    found = [route for route in routes if route.match(segments) is not None]
    found += [route for route in routes if route.pattern.strip("/").split("/")[0] == segments[0]]
    return found[0].error_style if found else ErrorStyle.TEXT
