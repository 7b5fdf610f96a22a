import pytest

from edgekit.policy.cache_control import RequestDirectives, ResponseDirectives
from edgekit.policy.cache_rules import CacheRule, Lifetime, lifetime_of, may_look_up

RULE = CacheRule(ttl_s=60, stale_while_revalidate_s=5, stale_if_error_s=600)
OFF = CacheRule(ttl_s=0)
ASKED = RequestDirectives()
SAID = ResponseDirectives()


@pytest.mark.parametrize(
    ("rule", "asked", "deterministic", "expected"),
    [
        (RULE, ASKED, True, True),
        (OFF, ASKED, True, False),
        (OFF, RequestDirectives(max_age_s=5), True, False),
        (RULE, ASKED, False, False),
        (RULE, RequestDirectives(max_age_s=0), False, False),
        (RULE, RequestDirectives(max_age_s=5), False, True),
        (RULE, RequestDirectives(only_if_cached=True), False, True),
        (RULE, RequestDirectives(max_stale_s=5), False, True),
    ],
)
def test_may_look_up_sampling_only_when_the_client_asks(
    rule: CacheRule, asked: RequestDirectives, deterministic: bool, expected: bool
) -> None:
    assert may_look_up(rule, asked, deterministic=deterministic) is expected


def test_lifetime_without_upstream_words_is_the_rules() -> None:
    found = lifetime_of(RULE, ASKED, SAID, status=200)
    assert found == Lifetime(60, 5, 600, must_revalidate=False)


def test_lifetime_upstream_may_shorten_but_not_lengthen() -> None:
    short = ResponseDirectives(max_age_s=7, stale_if_error_s=0, stale_while_revalidate_s=1)
    assert lifetime_of(RULE, ASKED, short, status=200) == Lifetime(7, 1, 0, must_revalidate=False)
    long = ResponseDirectives(max_age_s=7000, must_revalidate=True)
    assert lifetime_of(RULE, ASKED, long, status=200) == Lifetime(60, 5, 600, must_revalidate=True)


@pytest.mark.parametrize(
    ("rule", "asked", "said", "status"),
    [
        (RULE, RequestDirectives(no_store=True), SAID, 200),
        (RULE, ASKED, ResponseDirectives(no_store=True), 200),
        (RULE, ASKED, ResponseDirectives(no_cache=True), 200),
        (RULE, ASKED, ResponseDirectives(max_age_s=0), 200),
        (RULE, ASKED, SAID, 503),
        (RULE, ASKED, SAID, 404),
        (OFF, ASKED, SAID, 200),
    ],
)
def test_lifetime_of_what_must_not_be_stored_is_none(
    rule: CacheRule,
    asked: RequestDirectives,
    said: ResponseDirectives,
    status: int,
) -> None:
    assert lifetime_of(rule, asked, said, status=status) is None
