import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import InvalidInputError
from edgekit.policy.cache_key import CacheKey, canonical_json, canonical_tensor, derive_key


def _key(**changes: object) -> CacheKey:
    parts: dict[str, object] = {
        "tenant": "acme",
        "route": "classify",
        "request": [b"abc"],
        "model_digest": "d1",
    }
    return derive_key(**{**parts, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "other"},
        {"route": "detect"},
        {"request": [b"abd"]},
        {"request": [b"ab", b"c"]},
        {"request": [b"abc", b""]},
    ],
)
def test_key_any_difference_gives_another_address(change: dict[str, object]) -> None:
    assert _key(**change).address != _key().address


def test_key_parts_do_not_run_into_each_other() -> None:
    assert _key(request=[b"ab", b"c"]) != _key(request=[b"a", b"bc"])


def test_key_new_model_keeps_the_address_and_changes_the_identity() -> None:
    old, new = _key(), _key(model_digest="d2")
    assert old.address == new.address
    assert old.identity != new.identity


def test_key_is_sha256_in_hex() -> None:
    key = _key()
    assert len(key.address) == len(key.identity) == 64
    assert int(key.identity, 16) >= 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"t": 1}, {"t": 1.0}),
        ([-0.0], [0]),
        ((1, 2), [1, 2]),
        ({"x": {"b": [1.0], "a": None}}, {"x": {"a": None, "b": [1]}}),
    ],
)
def test_canonical_json_equal_values_have_one_spelling(one: object, other: object) -> None:
    assert canonical_json(one) == canonical_json(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [([1], [1.5]), ([True], [1]), (["1"], [1]), ([None], [0]), ([2.0**53], [2**53 + 1])],
)
def test_canonical_json_different_values_differ(one: object, other: object) -> None:
    assert canonical_json(one) != canonical_json(other)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_canonical_json_non_finite_number_is_refused(value: float) -> None:
    with pytest.raises(InvalidInputError, match="not a JSON number"):
        canonical_json({"x": [value]})


def test_canonical_json_lone_surrogate_is_kept() -> None:
    assert canonical_json("\ud800") != canonical_json("\ud801")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), json_values, min_size=2))
def test_canonical_json_order_of_names_is_irrelevant(value: dict[str, object]) -> None:
    turned = dict(reversed(value.items()))
    assert canonical_json(value) == canonical_json(turned)


def test_canonical_tensor_depends_on_type_shape_and_bytes_only() -> None:
    raw = struct.pack("<4f", 1, 2, 3, 4)
    tensor = canonical_tensor("x", "FP32", [2, 2], raw)
    assert tensor == canonical_tensor("x", "FP32", (2, 2), bytes(raw))
    assert tensor != canonical_tensor("x", "FP32", [4], raw)
    assert tensor != canonical_tensor("x", "INT32", [2, 2], raw)
    assert tensor != canonical_tensor("y", "FP32", [2, 2], raw)
    assert tensor != canonical_tensor("x", "FP32", [2, 2], raw[::-1])
