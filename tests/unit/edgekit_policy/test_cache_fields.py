import pytest

from edgekit.policy.cache_status import CacheStatus
from edgekit.policy.conditional import entity_tag, none_match

TAG = entity_tag(b"body")


@pytest.mark.parametrize(
    ("status", "field"),
    [
        (CacheStatus(hit=True, ttl_s=59), "edge;hit;ttl=59"),
        (CacheStatus(fwd="miss", stored=True), "edge;fwd=miss;stored"),
        (CacheStatus(fwd="bypass"), "edge;fwd=bypass"),
        (
            CacheStatus(fwd="stale", fwd_status=503, ttl_s=-30, detail="stale-if-error"),
            "edge;fwd=stale;fwd-status=503;ttl=-30;detail=stale-if-error",
        ),
        (CacheStatus(fwd="miss", collapsed=True), "edge;fwd=miss;collapsed"),
        (CacheStatus(fwd="miss", collapsed=False), "edge;fwd=miss;collapsed=?0"),
        (CacheStatus(hit=True, fwd="stale", key="ab12"), 'edge;hit;key="ab12"'),
        (CacheStatus(fwd_status=200), "edge"),
    ],
)
def test_cache_status_is_written_as_rfc_9211_says(status: CacheStatus, field: str) -> None:
    assert status.serialize() == field


def test_entity_tag_is_strong_and_depends_on_body_and_variant() -> None:
    assert TAG.startswith('"')
    assert TAG.endswith('"')
    assert len({TAG, entity_tag(b"other"), entity_tag(b"body", "gzip")}) == 3


@pytest.mark.parametrize(
    ("field", "goes_ahead"),
    [
        (None, True),
        ("*", False),
        (" * ", False),
        (TAG, False),
        (f"W/{TAG}", False),
        (f'"x", {TAG}', False),
        (f'"x" , W/"y",{TAG} ', False),
        ('"x"', True),
        ("", True),
        ("unquoted", True),
        (f"garbage, {TAG}", True),
        ('"unterminated', True),
    ],
)
def test_none_match_compares_weakly(field: str | None, goes_ahead: bool) -> None:
    assert none_match(field, TAG) is goes_ahead
