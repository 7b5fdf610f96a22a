import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import InvalidInputError, UpstreamUnavailableError
from edgekit.processing.tensor import Prediction, item_size, pack, softmax, top_k, unpack

NUMPY_TYPES = {
    "BOOL": "?", "INT8": "<i1", "UINT8": "<u1", "INT16": "<i2", "UINT16": "<u2", "INT32": "<i4",
    "UINT32": "<u4", "INT64": "<i8", "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


@pytest.mark.parametrize("datatype", NUMPY_TYPES)
def test_unpack_and_pack_agree_with_numpy(datatype: str) -> None:
    values = np.array([0, 1, 100]).astype(NUMPY_TYPES[datatype])
    assert unpack(values.tobytes(), datatype) == values.tolist()
    assert pack(values.tolist(), datatype) == values.tobytes()
    assert item_size(datatype) == values.itemsize


def test_unpack_bf16_is_the_upper_half_of_float32() -> None:
    assert unpack(b"\x80\x3f\x00\xc0\x80\x7f", "BF16") == [1.0, -2.0, math.inf]
    assert item_size("BF16") == 2


@given(st.floats(width=32, allow_nan=False, min_value=-(2.0**127), max_value=2.0**127))
def test_pack_bf16_rounds_to_the_nearest_representable(value: float) -> None:
    word = struct.unpack("<H", pack([value], "BF16"))[0]
    packed = unpack(struct.pack("<H", word), "BF16")[0]
    magnitude = word & 0x7FFF
    neighbours = [
        unpack(struct.pack("<H", word & 0x8000 | near), "BF16")[0]
        for near in (magnitude - 1, magnitude + 1)
        if 0 <= near < 0x7F80
    ]
    assert all(abs(value - packed) <= abs(value - near) for near in neighbours)


def test_pack_bf16_keeps_nan_and_infinity() -> None:
    nan, infinity = unpack(pack([math.nan, -math.inf], "BF16"), "BF16")
    assert math.isnan(nan)
    assert infinity == -math.inf
    # A NaN whose payload sits in the dropped half only.
    assert math.isnan(unpack(pack(unpack(b"\x01\x00\x80\x7f", "FP32"), "BF16"), "BF16")[0])


@pytest.mark.parametrize("value", [300, -1, 1.5, "x"])
def test_pack_value_that_does_not_fit_raises(value: float) -> None:
    with pytest.raises(InvalidInputError, match="does not fit datatype UINT8"):
        pack([value], "UINT8")


def test_pack_float_too_large_raises() -> None:
    with pytest.raises(InvalidInputError, match="does not fit datatype FP16"):
        pack([1e6], "FP16")


@pytest.mark.parametrize("datatype", ["BYTES", "FP8", ""])
def test_item_size_of_unknown_datatype_raises(datatype: str) -> None:
    with pytest.raises(InvalidInputError, match="is none of BOOL, INT8"):
        item_size(datatype)


@pytest.mark.parametrize("datatype", ["FP32", "BF16"])
def test_unpack_partial_element_raises(datatype: str) -> None:
    with pytest.raises(InvalidInputError, match="3 bytes are no whole number"):
        unpack(b"abc", datatype)


def test_softmax_large_logits_do_not_overflow() -> None:
    assert softmax([1e4, 1e4, -1e4]) == [0.5, 0.5, 0.0]


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=20))
def test_softmax_sums_to_one_and_keeps_the_order(logits: list[float]) -> None:
    result = softmax(logits)
    assert math.isclose(sum(result), 1, rel_tol=1e-9)
    assert result[logits.index(max(logits))] == max(result)


def test_softmax_minus_infinity_is_impossible() -> None:
    assert softmax([0.0, -math.inf]) == [1.0, 0.0]


@pytest.mark.parametrize(
    "logits", [[], [math.nan, 1.0], [1.0, math.nan], [math.inf, 0.0], [-math.inf, -math.inf]]
)
def test_softmax_of_no_numbers_is_the_upstreams_fault(logits: list[float]) -> None:
    with pytest.raises(UpstreamUnavailableError, match=f"{len(logits)} logits"):
        softmax(logits)


def test_top_k_logits_give_the_best_first_with_labels() -> None:
    found = top_k([0.0, math.log(3), math.log(6)], labels=["a", "b"], k=2)
    assert [(item.class_id, item.label) for item in found] == [(2, "2"), (1, "b")]
    assert [item.confidence for item in found] == pytest.approx([0.6, 0.3])


def test_top_k_equal_confidences_are_ordered_by_class_id() -> None:
    assert [item.class_id for item in top_k([1.0, 1.0, 1.0], k=3)] == [0, 1, 2]


def test_top_k_probabilities_are_taken_as_they_are_within_rounding() -> None:
    assert top_k([0.25, 1.0005, -0.0005], kind="probabilities") == [
        Prediction(1, "1", 1.0),
        Prediction(0, "0", 0.25),
        Prediction(2, "2", 0.0),
    ]


def test_top_k_threshold_drops_what_is_below_it() -> None:
    assert [
        item.class_id for item in top_k([0.7, 0.2, 0.1], kind="probabilities", threshold=0.2)
    ] == [0, 1]


@pytest.mark.parametrize("value", [math.nan, 1.1, -0.1, math.inf])
def test_top_k_impossible_probability_is_the_upstreams_fault(value: float) -> None:
    with pytest.raises(UpstreamUnavailableError, match="outside 0 to 1"):
        top_k([0.5, value], kind="probabilities")


@pytest.mark.parametrize("k", [0, -1])
def test_top_k_below_one_raises(k: int) -> None:
    with pytest.raises(InvalidInputError, match="top_k must be at least 1") as caught:
        top_k([1.0], k=k)
    assert caught.value.param == "top_k"


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan])
def test_top_k_threshold_out_of_range_raises(threshold: float) -> None:
    with pytest.raises(InvalidInputError, match="threshold must be from 0 to 1") as caught:
        top_k([1.0], threshold=threshold)
    assert caught.value.param == "threshold"
