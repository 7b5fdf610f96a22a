"""`edgekit.protocols.embeddings`: OpenAI's form, read strictly and written exactly."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from edgekit.errors import (
    EdgeError,
    InvalidInputError,
    ModelNotFoundError,
    UnsupportedMediaTypeError,
    UpstreamUnavailableError,
)
from edgekit.http import Headers, Request
from edgekit.processing.tensor import pack
from edgekit.protocols.embeddings import (
    MAX_INPUTS,
    EmbeddingQuery,
    format_embeddings,
    parse_query,
    read_vectors,
)
from edgekit.protocols.oip import Tensor

REQUEST = Request("POST", "/v1/embeddings")


def parse(**members: Any) -> EmbeddingQuery:
    return parse_query(REQUEST, json.dumps({"model": "m", "input": "a", **members}).encode())


def test_query_of_defaults_is_floats_of_full_width() -> None:
    assert parse() == EmbeddingQuery("m", ("a",), "float", None, truncate=False)


def test_query_null_counts_as_absent() -> None:
    assert parse(encoding_format=None, dimensions=None, truncate=None) == parse()


def test_query_members_of_openai_that_change_nothing_are_taken() -> None:
    assert parse(user="somebody") == parse()


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        (["a", [3]], ("a", (3,))),
        (["a"] * MAX_INPUTS, ("a",) * MAX_INPUTS),
    ],
)
def test_query_every_form_of_input_is_read(given: object, inputs: tuple[object, ...]) -> None:
    assert parse(input=given).inputs == inputs


@pytest.mark.parametrize(
    ("members", "param", "text"),
    [
        ({"model": None}, "model", "model takes the name"),
        ({"model": ""}, "model", "model takes the name"),
        ({"model": 7}, "model", "model takes the name"),
        ({"input": None}, "input", "input takes a string, an array"),
        ({"input": {}}, "input", "input takes a string, an array"),
        ({"input": ""}, "input", "input is an empty string"),
        ({"input": []}, "input", "has 0 entries, it takes 1 to 256"),
        ({"input": ["a"] * 257}, "input", "has 257 entries"),
        ({"input": ["a", ""]}, "input[1]", "input[1] is an empty string"),
        ({"input": ["a", []]}, "input[1]", "takes a string or an array of token ids"),
        ({"input": [[1], [2.5]]}, "input[1]", "whole numbers"),
        ({"input": [[True]]}, "input[0]", "whole numbers"),
        ({"input": [1, -1]}, "input", "whole numbers from 0"),
        ({"input": [1, "a"]}, "input", "whole numbers"),
        ({"input": [[2**31]]}, "input[0]", "to 2147483647"),
        ({"encoding_format": "hex"}, "encoding_format", "'hex'; it takes float or base64"),
        ({"encoding_format": 1}, "encoding_format", "it takes float or base64"),
        ({"truncate": True}, "truncate", "it takes NONE or END"),
        ({"dimensions": 0}, "dimensions", "from 1 to"),
        ({"dimensions": True}, "dimensions", "from 1 to"),
        ({"dimensions": 1.5}, "dimensions", "from 1 to"),
    ],
)
def test_query_at_fault_is_refused_by_the_name_of_the_member(
    members: dict[str, object], param: str, text: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse(**members)
    assert caught.value.param == param
    assert text in caught.value.message


@pytest.mark.parametrize("name", ["a/b", "a\nb", "x" * 129])
def test_query_name_that_no_model_has_is_not_found(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="there is no model"):
        parse(model=name)


@pytest.mark.parametrize(
    ("body", "text"),
    [(b"", "no JSON"), (b"{", "no JSON"), (b"[]", "no JSON object"), (b"\xff", "no JSON")],
)
def test_query_body_that_is_no_object_is_refused(body: bytes, text: str) -> None:
    with pytest.raises(InvalidInputError, match=text):
        parse_query(REQUEST, body)


def test_query_compressed_body_is_refused_as_such() -> None:
    request = Request("POST", "/v1/embeddings", headers=Headers([("content-encoding", "gzip")]))
    with pytest.raises(UnsupportedMediaTypeError, match="'gzip' is not read here"):
        parse_query(request, b"\x1f\x8b")


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def test_vectors_full_width_is_cut_by_nothing() -> None:
    tensor = Tensor("v", "FP32", (2, 2), floats(3, 4, 5, 6))
    assert read_vectors(tensor, 2, None) == [floats(3, 4), floats(5, 6)]
    assert read_vectors(tensor, 2, 2) == [floats(3, 4), floats(5, 6)]


def test_vectors_shortened_have_unit_length() -> None:
    tensor = Tensor("v", "FP32", (1, 3), floats(3, 4, 12))
    assert read_vectors(tensor, 1, 2) == [floats(0.6, 0.8)]


def test_vectors_of_zeros_stay_zeros() -> None:
    assert read_vectors(Tensor("v", "FP32", (1, 2), floats(0, 1)), 1, 1) == [floats(0)]


def test_vectors_of_double_precision_become_single() -> None:
    tensor = Tensor("v", "FP64", (1, 2), pack([0.5, 0.25], "FP64"))
    assert read_vectors(tensor, 1, None) == [floats(0.5, 0.25)]


@pytest.mark.parametrize(
    ("shape", "dimensions", "kind"),
    [
        ((4,), None, UpstreamUnavailableError),
        ((1, 4), None, UpstreamUnavailableError),
        ((2, 1, 2), None, UpstreamUnavailableError),
        ((2, 2), 3, InvalidInputError),
    ],
)
def test_vectors_that_do_not_fit_are_refused(
    shape: tuple[int, ...], dimensions: int | None, kind: type[EdgeError]
) -> None:
    with pytest.raises(kind):
        read_vectors(Tensor("v", "FP32", shape, floats(1, 2, 3, 4)), 2, dimensions)


@pytest.mark.parametrize("value", [0.1, 0.0, 1e-38, 3.4028234e38, 1 / 3, -16777217.0])
def test_format_floats_keep_their_value(value: float) -> None:
    answer = json.loads(format_embeddings([floats(value)], model="m", encoding="float", tokens=1))
    assert floats(*answer["data"][0]["embedding"]) == floats(value)


def test_format_name_is_escaped() -> None:
    answer = json.loads(format_embeddings([floats(1)], model='"ü', encoding="base64", tokens=3))
    assert answer["model"] == '"ü'
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_format_number_that_json_lacks_is_the_fault_of_the_model(value: float) -> None:
    with pytest.raises(UpstreamUnavailableError, match="not finite"):
        format_embeddings([floats(value)], model="m", encoding="float", tokens=1)
