"""`edgekit.protocols.oip`: binary requests bit by bit, answers in every legal form."""

from __future__ import annotations

import json
import struct

import pytest

from edgekit.errors import UpstreamUnavailableError
from edgekit.http import Headers
from edgekit.protocols.oip import (
    HEADER_LENGTH,
    Tensor,
    encode_infer_request,
    parse_infer_answer,
    read_error_text,
)


def test_oip_request_is_head_and_raw_tensor() -> None:
    body, headers = encode_infer_request(Tensor("image", "UINT8", (1, 1, 1, 3), b"abc"), "logits")
    length = int(headers.get(HEADER_LENGTH) or "")
    assert json.loads(body[:length]) == {
        "inputs": [
            {
                "name": "image",
                "datatype": "UINT8",
                "shape": [1, 1, 1, 3],
                "parameters": {"binary_data_size": 3},
            }
        ],
        "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
    }
    assert body[length:] == b"abc"
    assert headers.get("content-type") == "application/octet-stream"


def binary_answer(*outputs: tuple[str, str, bytes, list[int]]) -> tuple[Headers, bytes]:
    head = json.dumps(
        {
            "model_version": "4",
            "outputs": [
                {
                    "name": name,
                    "datatype": datatype,
                    "shape": shape,
                    "parameters": {"binary_data_size": len(data)},
                }
                for name, datatype, data, shape in outputs
            ],
        }
    ).encode()
    return Headers([(HEADER_LENGTH, str(len(head)))]), head + b"".join(o[2] for o in outputs)


@pytest.mark.parametrize(("datatype", "code"), [("FP16", "e"), ("FP32", "f"), ("FP64", "d")])
def test_oip_answer_binary_is_read_by_its_datatype(datatype: str, code: str) -> None:
    data = struct.pack(f"<2{code}", 0.5, -2.0)
    answer = parse_infer_answer(*binary_answer(("s", datatype, data, [1, 2])), "s")
    assert answer.values == (0.5, -2.0)
    assert answer.model_version == "4"


def test_oip_answer_second_output_starts_after_the_first() -> None:
    first = ("a", "FP32", struct.pack("<f", 1.0), [1, 1])
    second = ("b", "FP32", struct.pack("<f", 2.0), [1, 1])
    assert parse_infer_answer(*binary_answer(first, second), "b").values == (2.0,)


def test_oip_answer_second_output_after_a_json_one() -> None:
    raw = struct.pack("<f", 2.0)
    document = {
        "outputs": [
            {"name": "a", "datatype": "FP32", "shape": [1], "data": [1.0]},
            {"name": "b", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}},
        ]
    }
    head = json.dumps(document).encode()
    headers = Headers([(HEADER_LENGTH, str(len(head)))])
    answer = parse_infer_answer(headers, head + raw, "b")
    assert answer.values == (2.0,)
    assert answer.model_version == ""


@pytest.mark.parametrize("data", [[1, 2], [[1, 2]], [[[1], [2]]]])
def test_oip_answer_json_is_read_flat_or_nested(data: list[object]) -> None:
    document = {"outputs": [{"name": "s", "datatype": "FP32", "shape": [1, 2], "data": data}]}
    assert parse_infer_answer(Headers(), json.dumps(document).encode(), "s").values == (1.0, 2.0)


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"outputs": {}},
        {"outputs": [5]},
        {"outputs": [{"name": "s"}]},
        {"outputs": [{"name": "s", "shape": 5, "data": []}]},
        {"outputs": [{"name": "s", "shape": [1, 2], "data": "xx"}]},
        {"outputs": [{"name": "s", "shape": [1, 2], "data": [None, 1]}]},
        {"outputs": [{"name": "s", "shape": [1, 1], "data": [10**400]}]},
        {"outputs": [{"name": "s", "shape": [1, 2], "data": [1, 2, 3]}]},
        {"outputs": [{"name": "s", "shape": [2, 1], "data": [1, 2]}]},
        {"outputs": [{"name": "s", "shape": [1], "parameters": {"binary_data_size": "4"}}]},
        {"outputs": [{"name": "s", "shape": [1], "datatype": "FP32",
                      "parameters": {"binary_data_size": 3}}]},
    ],
)  # fmt: skip
def test_oip_answer_of_another_form_is_the_backends_fault(document: object) -> None:
    with pytest.raises(UpstreamUnavailableError, match="breaks the Open Inference Protocol"):
        parse_infer_answer(Headers(), json.dumps(document).encode() + b"", "s")


def test_oip_answer_head_of_negative_length_is_the_backends_fault() -> None:
    with pytest.raises(UpstreamUnavailableError):
        parse_infer_answer(Headers([(HEADER_LENGTH, "-1")]), b"{}", "s")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"detail": "d", "error": "e"}', "d"),
        (b'{"error": "e"}', "e"),
        (b'{"error": {"message": "m"}}', ""),
        (b'"text"', ""),
        (b"<html>", ""),
        (b"\xff", ""),
        (b"[" * 100_000, ""),
        (b'{"error": "' + b"x" * 600 + b'"}', "x" * 500),
    ],
)
def test_oip_error_text_is_what_the_backend_said(body: bytes, text: str) -> None:
    assert read_error_text(body) == text
