import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.http import Headers
from edgekit.policy.cache_control import (
    FOREVER_S,
    RequestDirectives,
    ResponseDirectives,
    parse_request_directives,
    parse_response_directives,
)


def _request(*fields: str) -> RequestDirectives:
    return parse_request_directives(Headers([("Cache-Control", field) for field in fields]))


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("", RequestDirectives()),
        ("no-store", RequestDirectives(no_store=True)),
        ("No-Cache", RequestDirectives(no_cache=True)),
        ("only-if-cached", RequestDirectives(only_if_cached=True)),
        ("max-age=60, min-fresh=5", RequestDirectives(max_age_s=60, min_fresh_s=5)),
        ('max-age="60"', RequestDirectives(max_age_s=60)),
        (r'max-age="6\0"', RequestDirectives(max_age_s=60)),
        ("max-stale", RequestDirectives(max_stale_s=FOREVER_S)),
        ("max-stale=30", RequestDirectives(max_stale_s=30)),
        ("stale-if-error=600", RequestDirectives(stale_if_error_s=600)),
        ("stale-while-revalidate=7", RequestDirectives(stale_while_revalidate_s=7)),
        (" , no-store ,, max-age=1 ,", RequestDirectives(no_store=True, max_age_s=1)),
        ("x-unknown=1, no-cache", RequestDirectives(no_cache=True)),
        ("max-age=1, max-age=2", RequestDirectives(max_age_s=1)),
        ("max-age=00000000000000060", RequestDirectives(max_age_s=60)),
        ("max-age=0", RequestDirectives(max_age_s=0)),
        (f"max-age={'9' * 5000}", RequestDirectives(max_age_s=FOREVER_S)),
    ],
)
def test_request_directives_are_read(field: str, expected: RequestDirectives) -> None:
    assert _request(field) == expected


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("max-age=soon", RequestDirectives(max_age_s=0)),
        ("max-age", RequestDirectives(max_age_s=0)),
        ("max-age=-1", RequestDirectives(max_age_s=0)),
        ("max-age=٣", RequestDirectives(max_age_s=0)),
        ("min-fresh=x", RequestDirectives(min_fresh_s=FOREVER_S)),
        ("max-stale=x", RequestDirectives(max_stale_s=None)),
        ("stale-if-error=x", RequestDirectives(stale_if_error_s=None)),
    ],
)
def test_request_malformed_argument_trusts_the_cache_least(
    field: str, expected: RequestDirectives
) -> None:
    assert _request(field) == expected


@pytest.mark.parametrize("garbage", ["@@@", '"', "= ", "a b"])
def test_request_garbage_member_does_not_hide_the_next(garbage: str) -> None:
    assert _request(f"{garbage}, no-store").no_store


def test_request_garbage_at_the_end_is_skipped() -> None:
    assert _request("no-store, @@@") == RequestDirectives(no_store=True)


def test_request_field_lines_are_one_list() -> None:
    assert _request("no-store", "max-age=3") == RequestDirectives(no_store=True, max_age_s=3)


def test_request_pragma_counts_without_cache_control() -> None:
    assert parse_request_directives(Headers([("Pragma", "no-cache")])).no_cache


def test_request_pragma_is_ignored_beside_cache_control() -> None:
    headers = Headers([("Pragma", "no-cache"), ("Cache-Control", "max-age=9")])
    assert not parse_request_directives(headers).no_cache


@pytest.mark.parametrize(
    ("field", "wants", "restricts"),
    [
        ("", False, False),
        ("no-cache", False, True),
        ("max-age=0", False, True),
        ("max-age=5", True, True),
        ("min-fresh=0", True, True),
        ("max-stale", True, False),
        ("only-if-cached", True, False),
    ],
)
def test_request_directives_say_what_the_client_wants(
    field: str, wants: bool, restricts: bool
) -> None:
    asked = _request(field)
    assert (asked.wants_stored, asked.restricts_freshness) == (wants, restricts)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("", ResponseDirectives()),
        ("no-store", ResponseDirectives(no_store=True)),
        ("private", ResponseDirectives(no_store=True)),
        ("no-cache", ResponseDirectives(no_cache=True)),
        ("must-revalidate", ResponseDirectives(must_revalidate=True)),
        ("proxy-revalidate", ResponseDirectives(must_revalidate=True)),
        ("max-age=5", ResponseDirectives(max_age_s=5)),
        ("max-age=5, s-maxage=9", ResponseDirectives(max_age_s=9, must_revalidate=True)),
        (
            "max-age=5, stale-if-error=6, stale-while-revalidate=7",
            ResponseDirectives(max_age_s=5, stale_if_error_s=6, stale_while_revalidate_s=7),
        ),
    ],
)
def test_response_directives_are_read(field: str, expected: ResponseDirectives) -> None:
    assert parse_response_directives(Headers([("cache-control", field)])) == expected


@given(st.text(max_size=60))
def test_request_any_text_is_read_without_error(field: str) -> None:
    assert isinstance(_request(field), RequestDirectives)


@given(st.lists(st.sampled_from(["no-cache", "max-age=1", "@", '"q', "x=y", " "]), max_size=6))
def test_request_no_store_is_found_among_anything(members: list[str]) -> None:
    if any(member.startswith('"') for member in members):
        members = [member for member in members if not member.startswith('"')]
    assert _request(",".join([*members, "no-store"])).no_store
