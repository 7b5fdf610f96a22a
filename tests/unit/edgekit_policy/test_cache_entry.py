import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.inference.contract import restore_answer
from edgekit.policy.cache_entry import StoredAnswer, decode_answer, encode_answer

ANSWER = StoredAnswer(
    address="ad" * 32,
    identity="1d" * 32,
    generations=(0, 3, 1),
    stored_at_s=1000.0,
    lifetime_s=60,
    status=200,
    headers=(("content-type", "application/json"),),
    body=b'{"predictions":[]}',
    stale_while_revalidate_s=5,
    stale_if_error_s=600,
    facts={"model": "digits", "confidence": 0.5},
)


def _reseal(data: bytes) -> bytes:
    return data + hashlib.sha256(data).digest()[:16]


def test_entry_round_trip_gives_the_same_answer() -> None:
    assert decode_answer(encode_answer(ANSWER)) == ANSWER


def test_entry_stream_is_replayed_in_the_same_pieces() -> None:
    stream = replace(
        ANSWER,
        body=b"aabbbc",
        frames=(2, 3, 1),
        facts={"model": ["m", "1", "d", "p"], "confidence": None, "class_id": None},
    )
    stored = decode_answer(encode_answer(stream))
    assert stored is not None
    assert list(restore_answer(stored).chunks()) == [b"aa", b"bbb", b"c"]


@pytest.mark.parametrize("data", [None, b"", b"garbage", b"IAE"])
def test_entry_absent_or_foreign_value_is_no_entry(data: bytes | None) -> None:
    assert decode_answer(data) is None


def test_entry_of_another_schema_is_no_entry() -> None:
    data = bytearray(encode_answer(ANSWER))[:-16]
    data[3] += 1
    assert decode_answer(_reseal(bytes(data))) is None


@pytest.mark.parametrize(
    "head",
    [
        b"[]",
        b"{}",
        b"not json",
        json.dumps({"generations": [], "frames": [], "headers": [], "new": 1}).encode(),
        json.dumps({"generations": 1, "frames": [], "headers": []}).encode(),
        json.dumps({"generations": [], "frames": [], "headers": ["x"]}).encode(),
    ],
)
def test_entry_sealed_with_other_fields_is_no_entry(head: bytes) -> None:
    data = encode_answer(ANSWER)[:4] + len(head).to_bytes(4, "little") + head
    assert decode_answer(_reseal(data)) is None


@given(st.data())
def test_entry_truncated_anywhere_is_no_entry(data: st.DataObject) -> None:
    whole = encode_answer(ANSWER)
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert decode_answer(whole[:cut]) is None


@given(st.data())
def test_entry_with_one_flipped_bit_is_no_entry(data: st.DataObject) -> None:
    whole = bytearray(encode_answer(ANSWER))
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= 1 << data.draw(st.integers(0, 7))
    assert decode_answer(bytes(whole)) is None


@pytest.mark.parametrize(
    ("now_s", "age_s"),
    [(1000.0, 0), (1000.9, 0), (1059.9, 59), (998.0, 0), (900.0, 60), (5000.0, 4000)],
)
def test_entry_age_never_passes_for_fresh_after_the_clock_went_back(
    now_s: float, age_s: int
) -> None:
    freshness = ANSWER.freshness(now_s)
    assert freshness.age_s == age_s
    assert freshness.lifetime_s == 60
    assert freshness.stale_if_error_s == 600
