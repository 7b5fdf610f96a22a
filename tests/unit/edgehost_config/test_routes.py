"""Which route answers a path, and with what captured."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.routes import Route, RouteError, RouteMatch, RouteTable


def table(*patterns: str) -> RouteTable:
    return RouteTable(Route(pattern, f"trigger-{pattern}", pattern) for pattern in patterns)


def matched(routes: RouteTable, path: str) -> str | None:
    found = routes.match(path)
    return None if found is None else found.route.pattern


def match(pattern: str, path: str) -> RouteMatch:
    found = table(pattern).match(path)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("pattern", "paths", "others"),
    [
        ("/", ["/", "//", ""], ["/a"]),
        ("", ["/"], ["/a"]),
        ("/a", ["/a", "/a/", "//a//"], ["/", "/ab", "/a/b", "/A", "/%61"]),
        ("a", ["/a"], ["/b"]),
        ("/a/", ["/a", "/a/"], ["/a/b"]),
        ("/a/b.c", ["/a/b.c"], ["/a/b", "/a/bxc", "/a/b.c.d"]),
        ("/...", ["/", "/a", "/a/b/c", "/.well-known/x", "/%00"], []),
        ("/*", ["/", "/a"], []),
        ("/a/...", ["/a", "/a/", "/a/b", "/a/b/c.d"], ["/", "/ab", "/b/a"]),
        ("/a/*", ["/a", "/a/b"], ["/ab"]),
        ("/:x", ["/a", "/a.b", "/a/", "/:x", "/..."], ["/", "/a/b"]),
        ("/a/:x/c", ["/a/b/c", "/a//c"], ["/a/c", "/a/b/d", "/a/b/b/c"]),
        ("/a/:x/...", ["/a/b", "/a/b/c/d"], ["/a", "/a/"]),
        ("/:name.:extension", ["/a.png", "/a.b.c"], ["/a", "/a/b.c"]),
        ("/files/:name.png", ["/files/a.png"], ["/files/a.b.png", "/files/a.gif", "/files/png"]),
        ("/a?", ["/a?"], ["/a"]),
        ("/(a+)", ["/(a+)"], ["/aa"]),
    ],
)
def test_pattern_matches_exactly_these(pattern: str, paths: list[str], others: list[str]) -> None:
    routes = table(pattern)
    assert [path for path in paths if routes.match(path) is None] == []
    assert [path for path in others if routes.match(path) is not None] == []


@pytest.mark.parametrize(
    ("pattern", "path", "path_info", "parameters"),
    [
        ("/a", "/a/", "", {}),
        ("/...", "/", "/", {}),
        ("/...", "/a/b", "/a/b", {}),
        ("/a/...", "/a", "", {}),
        ("/a/...", "/a/", "/", {}),
        ("/a/...", "/a/b", "/b", {}),
        ("/a/...", "/a/b/", "/b/", {}),
        ("/a/...", "/a//b", "//b", {}),
        ("/:user/a/:id", "/me/a/1%202", "", {"user": "me", "id": "1%202"}),
        ("/:user/...", "/me/x/y", "/x/y", {"user": "me"}),
        ("/:a/:a", "/1/2", "", {"a": "2"}),
        ("/:name.:extension", "/pic.tar.gz", "", {"name": "pic", "extension": "tar.gz"}),
        ("/a/:x/c", "/a//c", "", {"x": ""}),
    ],
)
def test_match_captures(
    pattern: str, path: str, path_info: str, parameters: dict[str, str]
) -> None:
    found = match(pattern, path)
    assert (found.path_info, found.parameters) == (path_info, parameters)


def test_exact_route_goes_before_parameter_before_wildcard() -> None:
    patterns = ["/...", "/a/...", "/a/:x", "/a/b", "/:x/b", "/a", "/"]
    expected = {
        "/": "/",
        "/a": "/a",
        "/a/b": "/a/b",
        "/a/c": "/a/:x",
        "/a/c/d": "/a/...",
        "/c/b": "/:x/b",
        "/c": "/...",
        "/c/d": "/...",
    }
    for order in itertools.permutations(patterns):
        routes = table(*order)
        assert {path: matched(routes, path) for path in expected} == expected


def test_longest_prefix_wins_among_wildcards() -> None:
    for order in itertools.permutations(["/a/...", "/a/b/...", "/a/b/c/..."]):
        assert matched(table(*order), "/a/b/c/d") == "/a/b/c/..."
        assert matched(table(*order), "/a/b/x") == "/a/b/..."


def test_first_route_wins_among_equal_ones() -> None:
    routes = table("/a/:x", "/a/:y", "/b/:z")
    assert matched(routes, "/a/1") == "/a/:x"
    assert [(a.pattern, b.pattern) for a, b in routes.unreachable()] == [("/a/:y", "/a/:x")]


def test_route_names_what_spin_puts_into_headers() -> None:
    for pattern, matched_route, component_route in [
        ("/a/...", "/a/...", "/a"),
        ("/a/*", "/a/*", "/a/*"),
        ("/a/", "/a", "/a/"),
        ("a", "/a", "a"),
        ("/", "", "/"),
        ("/...", "/...", ""),
    ]:
        route = Route(pattern, "trigger", "component")
        assert (route.matched_route, route.component_route) == (matched_route, component_route)


def test_route_display_marks_wildcards() -> None:
    shown = [Route(p, "t", "c").display for p in ("/a", "/a/...", "/a/*", "/...")]
    assert shown == ["/a", "/a (wildcard)", "/a (wildcard)", " (wildcard)"]


def test_route_target_is_the_component_or_the_trigger() -> None:
    assert Route("/", "trigger", "component").target == "component"
    assert Route("/", "trigger").target == "trigger"


@pytest.mark.parametrize(
    "pattern", ["/a/*/b", "/.../b*/*/c", "/*x", "/:", "/a/:/b", "/:a b", "/:é"]
)
def test_bad_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(RouteError):
        Route(pattern, "trigger", "component")


# Properties. The oracle is the documented rule, said another way: routes without dots, whose
# segments are compared one by one.

NAMES = st.sampled_from(["a", "b", "ab"])
SEGMENTS = st.one_of(NAMES, st.just(":x"), st.just(":y"))
PATTERNS = st.builds(
    lambda segments, wildcard: "/" + "/".join([*segments, *(["..."] if wildcard else [])]),
    st.lists(SEGMENTS, max_size=4),
    st.booleans(),
)
PATHS = st.lists(NAMES, max_size=5).map(lambda names: "/" + "/".join(names))


def oracle(patterns: list[str], path: str) -> set[str]:
    """The patterns of the best rank among those that match."""
    names = [name for name in path.split("/") if name]
    ranks: dict[str, tuple[int, ...]] = {}
    for pattern in patterns:
        segments = [segment for segment in pattern.split("/") if segment]
        wildcard = segments[-1:] == ["..."]
        fixed = segments[:-1] if wildcard else segments
        fits = len(names) >= len(fixed) if wildcard else len(names) == len(fixed)
        if fits and all(s.startswith(":") or s == n for s, n in zip(fixed, names, strict=False)):
            # An exact end is better than a wildcard, and both are worse than one more segment.
            ranks[pattern] = (*(1 if s.startswith(":") else 0 for s in fixed), 3 if wildcard else 2)
    if not ranks:
        return set()
    end_matters = len(names)
    best = min(tuple(rank[: end_matters + 1]) for rank in ranks.values())
    return {pattern for pattern, rank in ranks.items() if rank == best}


@given(st.lists(PATTERNS, max_size=6, unique=True), PATHS)
def test_best_match_is_that_of_the_rule(patterns: list[str], path: str) -> None:
    expected = oracle(patterns, path)
    found = matched(table(*patterns), path)
    assert (found in expected) if expected else found is None


@given(st.lists(PATTERNS, max_size=6, unique=True), PATHS)
def test_slashes_at_the_ends_never_change_the_route(patterns: list[str], path: str) -> None:
    routes = table(*patterns)
    assert matched(routes, path) == matched(routes, f"/{path}/")


@given(PATTERNS, PATHS)
def test_captures_put_together_give_the_path(pattern: str, path: str) -> None:
    found = table(pattern).match(path)
    if found is None:
        return
    rebuilt = found.route.component_route
    for name in found.route.parameter_names:  # the last value stands for a name used twice
        rebuilt = rebuilt.replace(f":{name}", found.parameters[name])
    if len(set(found.route.parameter_names)) == len(found.route.parameter_names):
        assert (rebuilt + found.path_info).strip("/") == path.strip("/")


@given(st.text(max_size=30))
def test_no_pattern_and_no_path_ever_breaks_the_router(text: str) -> None:
    try:
        routes = table(text, "/...")
    except RouteError:
        return
    for path in (text, f"/{text}", "/"):
        assert routes.match(path) is not None
