"""`edgekit.protocols.oip_infer`: one form for calls and answers, however they were sent."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import UpstreamUnavailableError
from edgekit.http import Headers
from edgekit.protocols.oip import HEADER_LENGTH
from edgekit.protocols.oip_infer import (
    InferCall,
    InferResult,
    parse_infer_call,
    parse_infer_result,
)

NO_FIELDS = Headers()


def as_json(**document: Any) -> tuple[Headers, bytes]:
    return NO_FIELDS, json.dumps(document).encode()


def as_binary(document: dict[str, Any], raw: bytes) -> tuple[Headers, bytes]:
    head = json.dumps(document).encode()
    return Headers([(HEADER_LENGTH, str(len(head)))]), head + raw


def tensor(datatype: str, data: Any, shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": shape or [len(data)], "data": data}


def raw_tensor(datatype: str, size: int, shape: list[int]) -> dict[str, Any]:
    parameters = {"binary_data_size": size}
    return {"name": "x", "datatype": datatype, "shape": shape, "parameters": parameters}


@pytest.mark.parametrize(
    ("datatype", "data", "raw"),
    [
        ("FP32", [1.5, -2.0], struct.pack("<2f", 1.5, -2.0)),
        ("FP32", [1, 2], struct.pack("<2f", 1, 2)),
        ("INT64", [7, -7], struct.pack("<2q", 7, -7)),
        ("UINT8", [0, 255], b"\x00\xff"),
        ("BOOL", [True, False], b"\x01\x00"),
        ("BYTES", ["ab", "ü"], b"\x02\0\0\0ab\x02\0\0\0\xc3\xbc"),
    ],
)
def test_call_as_json_and_as_binary_are_the_same_call(
    datatype: str, data: list[Any], raw: bytes
) -> None:
    one = parse_infer_call(*as_json(inputs=[tensor(datatype, data, [2])]))
    nested = parse_infer_call(
        *as_json(inputs=[tensor(datatype, [[item] for item in data], [2])], id="other")
    )
    other = parse_infer_call(
        *as_binary(
            {
                "inputs": [raw_tensor(datatype, len(raw), [2])],
                "parameters": {"binary_data_output": True},
            },
            raw,
        )
    )
    assert one.canonical() == nested.canonical() == other.canonical()
    assert one.binary == frozenset()
    assert other.binary is None


def test_call_order_of_inputs_is_irrelevant_and_that_of_outputs_is_not() -> None:
    inputs = [{**tensor("FP32", [1.0]), "name": name} for name in "ab"]
    outputs = [{"name": "p"}, {"name": "q"}]
    one = parse_infer_call(*as_json(inputs=inputs, outputs=outputs))
    turned = parse_infer_call(*as_json(inputs=inputs[::-1], outputs=outputs))
    other = parse_infer_call(*as_json(inputs=inputs, outputs=outputs[::-1]))
    assert one.canonical() == turned.canonical() != other.canonical()


def test_call_wish_for_a_form_is_no_part_of_what_is_asked() -> None:
    inputs = [tensor("FP32", [1.0])]
    plain = parse_infer_call(*as_json(inputs=inputs, outputs=[{"name": "p"}]))
    binary = parse_infer_call(
        *as_json(inputs=inputs, outputs=[{"name": "p", "parameters": {"binary_data": True}}])
    )
    assert plain.canonical() == binary.canonical()
    assert (plain.binary, binary.binary) == (frozenset(), frozenset({"p"}))


def test_call_other_parameters_decide_on_the_answer() -> None:
    inputs = [tensor("FP32", [1.0])]
    plain = parse_infer_call(*as_json(inputs=inputs))
    other = parse_infer_call(*as_json(inputs=inputs, parameters={"beam": 3}))
    top = [{"name": "p", "parameters": {"classification": 3, "binary_data": False}}]
    classes = parse_infer_call(*as_json(inputs=inputs, outputs=top))
    assert len({tuple(call.canonical()) for call in (plain, other, classes)}) == 3
    assert classes.outputs == [{"name": "p", "parameters": {"classification": 3}}]


def test_call_with_state_says_so() -> None:
    inputs = [tensor("FP32", [1.0])]
    assert parse_infer_call(*as_json(inputs=inputs, parameters={"sequence_id": 1})).is_stateful
    assert not parse_infer_call(*as_json(inputs=inputs)).is_stateful


@pytest.mark.parametrize("outputs", [None, [{"name": "p", "parameters": {"classification": 2}}]])
def test_call_is_sent_on_as_binary_that_means_the_same(outputs: list[Any] | None) -> None:
    document: dict[str, Any] = {"inputs": [tensor("INT32", [1, 2, 3])], "parameters": {"a": 1}}
    if outputs:
        document["outputs"] = outputs
    call = parse_infer_call(*as_json(**document))
    again = parse_infer_call(*call.encode())
    assert again.canonical() == call.canonical()
    assert again.binary is None or again.binary == frozenset({"p"})


BAD_INPUTS = [
    tensor("FP32", ["1"]),
    tensor("FP32", [True]),
    tensor("FP32", [1.0], [2]),
    tensor("FP33", [1.0]),
    tensor("UINT8", [256]),
    tensor("BYTES", [1]),
    {"name": "x", "datatype": "FP32", "shape": [1]},
    {"name": "x", "datatype": "FP32", "shape": [1], "data": 1.0},
    raw_tensor("FP32", 4, [1]),
    "x",
]


@pytest.mark.parametrize("entry", BAD_INPUTS)
def test_call_with_a_senseless_input_is_not_understood(entry: Any) -> None:
    with pytest.raises(ValueError, match="no infer request"):
        parse_infer_call(*as_json(inputs=[entry]))


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (NO_FIELDS, b""),
        (NO_FIELDS, b"[]"),
        (NO_FIELDS, b"{}"),
        (NO_FIELDS, b"{"),
        (Headers([(HEADER_LENGTH, "99")]), b"{}"),
        (Headers([(HEADER_LENGTH, "-1")]), b"{}"),
        (Headers([(HEADER_LENGTH, "two")]), b"{}"),
        as_json(inputs=[tensor("FP32", [1.0])], outputs=[{"parameters": {"binary_data": True}}]),
        as_binary({"inputs": [raw_tensor("FP32", 4, [1])]}, bytes(8)),
        as_binary({"inputs": [raw_tensor("FP32", 3, [1])]}, bytes(3)),
        as_binary({"inputs": [raw_tensor("BYTES", 6, [1])]}, b"\x09\0\0\0ab"),
    ],
)
def test_call_of_another_shape_is_not_understood(headers: Headers, body: bytes) -> None:
    with pytest.raises(ValueError, match="no infer request"):
        parse_infer_call(headers, body)


def answer(datatype: str = "FP32", raw: bytes = struct.pack("<2f", 0.5, 1.5)) -> InferResult:
    document = {
        "id": "of the upstream",
        "model_name": "m",
        "model_version": "1",
        "outputs": [raw_tensor(datatype, len(raw), [2])],
    }
    return parse_infer_result(*as_binary(document, raw))


def asking(binary: bool, given_id: str | None = "mine") -> InferCall:
    return InferCall(given_id, (), {}, None, None if binary else frozenset())


def test_result_is_stored_without_the_id_of_its_first_client() -> None:
    headers, body = answer().encode()
    assert b"of the upstream" not in body
    assert parse_infer_result(headers, body) == answer()


def test_result_is_given_as_json_with_the_clients_id() -> None:
    headers, body = answer().encode(asking(binary=False))
    document = json.loads(body)
    assert headers.get("content-type") == "application/json"
    assert document["id"] == "mine"
    assert document["model_version"] == "1"
    assert document["outputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [2], "data": [0.5, 1.5]}
    ]


def test_result_is_given_as_binary_with_the_clients_id() -> None:
    headers, body = answer().encode(asking(binary=True))
    size = int(headers.get(HEADER_LENGTH) or 0)
    assert json.loads(body[:size])["id"] == "mine"
    assert body[size:] == struct.pack("<2f", 0.5, 1.5)


def test_result_without_id_gets_none() -> None:
    _, body = answer().encode(asking(binary=False, given_id=None))
    assert "id" not in json.loads(body)


def test_result_of_texts_is_given_as_texts() -> None:
    result = answer("BYTES", b"\x01\0\0\0a\x02\0\0\0bc")
    _, body = result.encode(asking(binary=False))
    assert json.loads(body)["outputs"][0]["data"] == ["a", "bc"]


def test_result_keeps_parameters_of_its_outputs() -> None:
    document = {"outputs": [{**tensor("FP32", [1.0]), "parameters": {"scale": 2}}]}
    result = parse_infer_result(*as_json(**document))
    _, body = result.encode(asking(binary=False))
    assert json.loads(body)["outputs"][0]["parameters"] == {"scale": 2}


@pytest.mark.parametrize(
    ("result", "fact"),
    [
        (answer("FP32", struct.pack("<2f", float("nan"), 1)), "NaN or infinity"),
        (answer("BYTES", b"\x01\0\0\0\xff\x01\0\0\0a"), "no text"),
    ],
)
def test_result_that_json_cannot_say_is_refused_as_json_and_given_as_binary(
    result: InferResult, fact: str
) -> None:
    with pytest.raises(UpstreamUnavailableError, match=fact):
        result.encode(asking(binary=False))
    assert result.encode(asking(binary=True))[1]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"outputs": [{}]}', b"\x00garbage"])
def test_result_that_breaks_the_protocol_is_the_upstreams_fault(body: bytes) -> None:
    with pytest.raises(UpstreamUnavailableError, match="breaks the Open Inference Protocol"):
        parse_infer_result(NO_FIELDS, body)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=20))
def test_result_as_json_reads_back_to_the_same_float32(values: list[float]) -> None:
    raw = struct.pack(f"<{len(values)}f", *values)
    document = {"outputs": [raw_tensor("FP32", len(raw), [len(values)])]}
    result = parse_infer_result(*as_binary(document, raw))
    _, body = result.encode(asking(binary=False))
    data = json.loads(body)["outputs"][0]["data"]
    assert struct.pack(f"<{len(data)}f", *data) == raw
