"""Policy applied: which version of a model is active."""

from __future__ import annotations

import pytest

from edgekit.inference.active import (
    ActiveModel,
    active_by,
    active_key,
    decode_active,
    encode_active,
)
from edgekit.protocols.inference_headers import ModelIdentity

ACTIVE = ActiveModel("sha256:a", 1000.0)


def test_active_round_trip_keeps_everything() -> None:
    assert decode_active(encode_active(ACTIVE, "m", "1"), "m", "1") == ACTIVE


def test_active_of_another_model_under_the_same_key_is_not_taken() -> None:
    assert decode_active(encode_active(ACTIVE, "m", None), "n", None) == ActiveModel()


@pytest.mark.parametrize("raw", [None, b"", b"junk", b"[1]", b"{}", b'["m/", "d", null]', b"\xff"])
def test_active_unreadable_is_unknown(raw: bytes | None) -> None:
    assert decode_active(raw, "m", None) == ActiveModel()


@pytest.mark.parametrize(
    ("now_s", "known"), [(1000.0, True), (1060.0, True), (1060.1, False), (999.0, False)]
)
def test_active_is_known_for_its_time_and_not_after_the_clock_went_back(
    now_s: float, known: bool
) -> None:
    assert ACTIVE.known(now_s, 60.0) is known


def test_active_without_digest_is_told_apart_by_version() -> None:
    assert active_by(ModelIdentity("m", "7", "", ""), 5.0) == ActiveModel("7", 5.0)


def test_active_keys_are_bounded_in_number() -> None:
    assert len({active_key(f"m{number}", None) for number in range(5000)}) <= 512
