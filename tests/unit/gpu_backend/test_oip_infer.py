"""Infer of the Open Inference Protocol: forms of a request, and what is refused with what words."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from typing import Any

import httpx
import numpy as np
import pytest

from fakes.backend_app import Backend

PIXELS = list(range(64))
PAIR: dict[str, Any] = {"name": "x", "shape": [1, 2]}


def tensor(name: str = "image", **changes: Any) -> dict[str, Any]:
    return {"name": name, "datatype": "UINT8", "shape": [1, 1, 8, 8], "data": PIXELS, **changes}


def one(**changes: Any) -> dict[str, Any]:
    return {"inputs": [tensor(**changes)]}


async def infer(
    backend: Backend, document: object, model: str = "digits", **headers: str
) -> httpx.Response:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    return await backend.client.post(f"/v2/models/{model}/infer", content=content, headers=headers)


async def infer_raw(
    backend: Backend, document: object, raw: bytes, model: str = "digits"
) -> httpx.Response:
    head = json.dumps(document).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return await backend.client.post(
        f"/v2/models/{model}/infer", content=head + raw, headers=headers
    )


def values(model_input: str, datatype: str, data: list[Any], shape: list[int]) -> dict[str, Any]:
    return {"inputs": [{"name": model_input, "datatype": datatype, "shape": shape, "data": data}]}


async def test_json_request_gets_json_answer(backend: Backend) -> None:
    response = await infer(backend, {"id": "7", **one()})
    assert response.status_code == 200
    document = response.json()
    assert document["id"] == "7"
    assert document["model_name"] == "digits"
    assert document["model_version"] == "1"
    (output,) = document["outputs"]
    assert output["name"] == "logits"
    assert output["datatype"] == "FP32"
    assert output["shape"] == [1, 10]
    assert len(output["data"]) == 10


async def test_large_json_is_read_and_written_on_threads(backend: Backend) -> None:
    rows = 40_000
    data = np.arange(rows * 2, dtype=float).reshape(rows, 2).tolist()
    document = values("x", "FP32", data, [rows, 2])
    response = await infer(backend, document, "floats", **{"Accept-Encoding": "gzip"})
    assert response.headers["content-encoding"] == "gzip"
    (output,) = response.json()["outputs"]
    assert output["shape"] == [rows, 2]
    assert output["data"][-1] == rows * 2 - 1


async def test_answer_names_model_digest_and_provider(backend: Backend) -> None:
    response = await infer(backend, one(), **{"X-Request-Id": "abc-1"})
    digest = (await backend.client.get("/v2/models/digits")).json()["parameters"]["digest"]
    assert response.headers["inference-model"] == (
        f"digits;version=1;digest={digest};provider=CPUExecutionProvider"
    )
    assert response.headers["x-request-id"] == "abc-1"
    assert response.headers["server-timing"].startswith("queue;dur=")


async def test_request_id_that_could_split_headers_is_not_echoed(backend: Backend) -> None:
    response = await infer(backend, one(), **{"X-Request-Id": "a b"})
    assert "x-request-id" not in response.headers


async def test_nested_data_is_the_same_as_flat_data(backend: Backend) -> None:
    nested = np.array(PIXELS).reshape(1, 1, 8, 8).tolist()
    flat = (await infer(backend, one())).json()["outputs"]
    assert (await infer(backend, one(data=nested))).json()["outputs"] == flat


async def test_binary_request_with_one_binary_and_one_listed_output(backend: Backend) -> None:
    document = {
        "inputs": [
            {
                "name": "image",
                "datatype": "UINT8",
                "shape": [1, 1, 8, 8],
                "parameters": {"binary_data_size": 64},
            }
        ],
        "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
    }
    response = await infer_raw(backend, document, bytes(PIXELS))
    head_length = int(response.headers["inference-header-content-length"])
    head = json.loads(response.content[:head_length])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 40}
    plain = (await infer(backend, one())).json()["outputs"][0]["data"]
    received = np.frombuffer(response.content[head_length:], "<f4")
    np.testing.assert_allclose(received, plain, rtol=1e-6)


async def test_unaligned_binary_tensor_is_read_right(backend: Backend) -> None:
    document = {
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [1, 2],
                "parameters": {"binary_data_size": 8},
            }
        ]
    }
    for padding in range(4):
        document["id"] = "i" * (padding + 1)  # type: ignore[assignment]
        response = await infer_raw(backend, document, struct.pack("<2f", 1.5, -2), "floats")
        assert response.json()["outputs"][0]["data"] == [1.5, -2]


@pytest.mark.parametrize(
    ("model", "datatype", "data"),
    [
        ("text", "BYTES", ["a", "", "日本"]),
        ("flags", "BOOL", [True, False, True]),
        ("halves", "FP16", [0.5, -2.0, 65504.0]),
        ("brains", "BF16", [0.5, -2.0, 1.0]),
        ("floats", "FP32", [1, 2.5, -3]),
        ("bytes8", "UINT8", [0, 128, 255]),
    ],
)
async def test_json_values_of_every_kind_come_back(
    backend: Backend, model: str, datatype: str, data: list[Any]
) -> None:
    response = await infer(backend, values("x", datatype, data, [1, 3]), model)
    assert response.status_code == 200, response.text
    assert response.json()["outputs"][0]["data"] == data


async def test_bool_takes_zero_and_one(backend: Backend) -> None:
    response = await infer(backend, values("x", "BOOL", [0, 1], [1, 2]), "flags")
    assert response.json()["outputs"][0]["data"] == [False, True]


async def test_binary_bool_beyond_one_counts_as_true(backend: Backend) -> None:
    document = {
        "inputs": [
            {
                "name": "x",
                "datatype": "BOOL",
                "shape": [1, 2],
                "parameters": {"binary_data_size": 2},
            }
        ]
    }
    response = await infer_raw(backend, document, b"\x00\x07", "flags")
    assert response.json()["outputs"][0]["data"] == [False, True]


async def test_output_that_json_cannot_say_is_null(backend: Backend) -> None:
    document = {
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [1, 2],
                "parameters": {"binary_data_size": 8},
            }
        ]
    }
    response = await infer_raw(backend, document, struct.pack("<2f", np.nan, np.inf), "floats")
    assert response.json()["outputs"][0]["data"] == [None, None]


async def test_model_without_batches_answers(backend: Backend) -> None:
    response = await infer(backend, values("x", "FP32", [1, 2, 3, 4], [1, 4]), "fixed")
    assert response.json()["outputs"][0]["data"] == [2, 4, 6, 8]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "bare deflate", "two members"])
async def test_compressed_request_is_understood(backend: Backend, coding: str) -> None:
    body = json.dumps(one()).encode()
    bare = zlib.compressobj(wbits=-15)
    encoded = {
        "gzip": gzip.compress(body),
        "deflate": zlib.compress(body),
        "bare deflate": bare.compress(body) + bare.flush(),
        "two members": gzip.compress(body[:50]) + gzip.compress(body[50:]),
    }[coding]
    name = "gzip" if coding in ("gzip", "two members") else "deflate"
    response = await infer(backend, encoded, **{"Content-Encoding": name})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip;q=0.2, deflate;q=0.9", "deflate"),
        ("br", None),
        ("gzip;q=0", None),
        ("gzip;q=nonsense", None),
    ],
)
async def test_answer_is_compressed_as_the_client_prefers(
    backend: Backend, accepted: str, coding: str | None
) -> None:
    document = one(shape=[40, 1, 8, 8], data=PIXELS * 40)
    response = await infer(backend, document, **{"Accept-Encoding": accepted})
    assert response.headers.get("content-encoding") == coding
    assert response.json()["outputs"][0]["shape"] == [40, 10]


async def test_small_answer_is_not_compressed(backend: Backend) -> None:
    response = await infer(backend, one(), **{"Accept-Encoding": "gzip"})
    assert "content-encoding" not in response.headers


BAD_DOCUMENTS: list[tuple[object, str]] = [
    (b"", "the body is not JSON"),
    (b"{", "the body is not JSON"),
    (b"\xff\xfe", "the body is not JSON"),
    (b"[" * 5000, "the body is not JSON"),
    (b'{"inputs": [NaN]}', "the body is not JSON"),
    (b'{"inputs": [Infinity]}', "the body is not JSON"),
    ([], "an infer request is a JSON object, got list"),
    ({}, "inputs is a list with at least one tensor"),
    ({"inputs": []}, "inputs is a list with at least one tensor"),
    ({"inputs": [1]}, "an input is a JSON object, got int"),
    ({"inputs": [{}]}, "an input has no name"),
    ({"id": 7, **one()}, "id is a string"),
    ({"parameters": [], **one()}, "parameters is a JSON object"),
    ({"parameters": {"binary_data_output": 1}, **one()}, "binary_data_output is true or false"),
    ({"parameters": {"priority": 9}, **one()}, "parameter priority is 1 to 8"),
    ({"parameters": {"timeout": "soon"}, **one()}, "timeout is a number of microseconds"),
    ({"outputs": 1, **one()}, "outputs is a list"),
    ({"outputs": [{"name": "nope"}], **one()}, "has no output 'nope'; it gives 'logits'"),
    (
        {"outputs": [{"name": "logits"}, {"name": "logits"}], **one()},
        "output 'logits' is asked for twice",
    ),
    (
        {"outputs": [{"name": "logits", "parameters": {"classification": -1}}], **one()},
        "classification is 1 to 10000",
    ),
    (
        {"outputs": [{"name": "logits", "parameters": {"shared_memory_region": "r"}}], **one()},
        "shared memory is not supported",
    ),
    ({"inputs": [tensor(), tensor()]}, "input 'image' is given twice"),
    (one(name="picture"), "has no input 'picture'; it takes 'image'"),
    (one(datatype="UINT9"), "datatype 'UINT9' is unknown"),
    (one(datatype=None), "datatype None is unknown"),
    (one(datatype="FP32"), "expected datatype UINT8, got FP32"),
    (one(shape=[1, 8, 8]), "expected shape [-1, 1, 8, 8], got [1, 8, 8]"),
    (one(shape=[1, 1, 4, 16]), "expected shape [-1, 1, 8, 8], got [1, 1, 4, 16]"),
    (one(shape=[0, 1, 8, 8], data=[]), "no dimension may be 0"),
    (one(shape=[-1, 1, 8, 8]), "shape holds whole numbers from 0, got -1"),
    (one(shape=[1.5, 1, 8, 8]), "shape holds whole numbers from 0, got 1.5"),
    (one(shape=[True, 1, 8, 8]), "shape holds whole numbers from 0, got True"),
    (one(shape="1x8x8"), "shape is a list"),
    (one(shape=[1] * 99), "shape is a list of at most 16 sizes"),
    (one(shape=[2**31, 2**31, 8, 8]), "more than any body holds"),
    (one(shape=[2**62, 2**62, 2**62, 2**62]), "more than any body holds"),
    (one(shape=[2, 1, 8, 8]), "shape [2, 1, 8, 8] takes 128 values, got 64 values"),
    (one(data=PIXELS[:63]), "takes 64 values, got 63 values"),
    (one(data=7), "data is a list of values, got 7"),
    (one(data=[[1, 2], [3]]), "nesting of data is uneven"),
    (one(data=[300, *PIXELS[1:]]), "300 is out of range for UINT8 (0 to 255)"),
    (one(data=[-1, *PIXELS[1:]]), "-1 is out of range for UINT8"),
    (one(data=[1.5, *PIXELS[1:]]), "UINT8 takes whole numbers"),
    (one(data=["1", *PIXELS[1:]]), "UINT8 takes whole numbers"),
    (one(data=[None, *PIXELS[1:]]), "UINT8 takes whole numbers"),
    (one(data=[2**70, *PIXELS[1:]]), "UINT8 takes whole numbers"),
    (
        {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 1, 8, 8]}]},
        "has neither data nor parameters.binary_data_size",
    ),
    (one(parameters={"binary_data_size": 64}), "binary_data_size is 64, 0 bytes are left"),
    (one(parameters={"binary_data_size": -1}), "binary_data_size is a number of bytes"),
    (one(parameters={"binary_data_size": "64"}), "binary_data_size is a number of bytes"),
    (one(parameters=7), "parameters of input 'image' is a JSON object"),
]


@pytest.mark.parametrize(("document", "text"), BAD_DOCUMENTS, ids=[t for _, t in BAD_DOCUMENTS])
async def test_bad_document_is_refused_with_a_reason(
    backend: Backend, document: object, text: str
) -> None:
    response = await infer(backend, document)
    assert response.status_code == 400
    assert text in response.json()["error"]
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "invalid_input"


@pytest.mark.parametrize(
    ("model", "datatype", "data", "text"),
    [
        ("floats", "FP32", [1e300], "out of range for FP32"),
        ("halves", "FP16", [70000.0], "out of range for FP16"),
        ("brains", "BF16", [1e39], "out of range for BF16"),
        ("floats", "FP32", [True], "FP32 takes numbers"),
        ("flags", "BOOL", [2], "BOOL takes true or false"),
        ("flags", "BOOL", ["true"], "BOOL takes true or false"),
        ("text", "BYTES", [7], "BYTES takes strings in JSON, got 7"),
        ("text", "BYTES", [["a"], "b"], "nesting of data is uneven"),
    ],
)
async def test_bad_value_is_refused_with_a_reason(
    backend: Backend, model: str, datatype: str, data: list[Any], text: str
) -> None:
    response = await infer(backend, values("x", datatype, data, [1, 1]), model)
    assert response.status_code == 400
    assert text in response.json()["error"]


@pytest.mark.parametrize(
    ("raw", "count", "text"),
    [
        (b"\x01\x00\x00\x00", 1, "element 0 says it has 1 bytes, 0 are left"),
        (b"\xff\xff\xff\xffab", 1, "element 0 says it has 4294967295 bytes"),
        (b"\x00\x00", 1, "1 BYTES elements do not fit into 2 bytes"),
        (b"\x00\x00\x00\x00" * 2, 1, "4 bytes follow the last of 1 elements"),
        (b"\x06\x00\x00\x00helloo\x00", 2, "BYTES data ends after 1 of 2 elements"),
        (b"\x01\x00\x00\x00\xff", 1, "element 0 is not UTF-8"),
        (b"", 10**9, "1000000000 BYTES elements do not fit into 0 bytes"),
    ],
)
async def test_bad_binary_text_is_refused_with_a_reason(
    backend: Backend, raw: bytes, count: int, text: str
) -> None:
    document = {
        "inputs": [
            {
                "name": "x",
                "datatype": "BYTES",
                "shape": [1, count],
                "parameters": {"binary_data_size": len(raw)},
            }
        ]
    }
    response = await infer_raw(backend, document, raw, "text")
    assert response.status_code == 400
    assert text in response.json()["error"]


@pytest.mark.parametrize("length", ["-1", "abc", "", "1e3", "99999", "9" * 50, "0x10", "+5"])
async def test_bad_header_length_is_refused(backend: Backend, length: str) -> None:
    response = await infer(backend, one(), **{"Inference-Header-Content-Length": length})
    assert response.status_code == 400
    assert "Inference-Header-Content-Length" in response.json()["error"]


async def test_raw_request_is_the_bytes_of_the_only_input(backend: Backend) -> None:
    headers = {"Inference-Header-Content-Length": "0"}
    response = await infer(backend, struct.pack("<3f", 1, 2, 3), "floats", **headers)
    length = int(response.headers["inference-header-content-length"])
    (output,) = json.loads(response.content[:length])["outputs"]
    assert output["shape"] == [1, 3]
    assert struct.unpack("<3f", response.content[length:]) == (1, 2, 3)
    assert (await infer(backend, bytes(PIXELS), **headers)).status_code == 200


@pytest.mark.parametrize(
    ("model", "body", "text"),
    [
        ("row_sum", b"1234", "for models with one input; 'row_sum' has 2"),
        ("text", b"1234", "does not tell the shape of input 'x'"),
        ("digits", b"1234", "takes 64 bytes, got 4"),
        ("floats", b"12345", "takes 4 bytes, got 5"),
        ("floats", b"", "no dimension may be 0"),
    ],
)
async def test_raw_request_that_cannot_be_is_refused(
    backend: Backend, model: str, body: bytes, text: str
) -> None:
    headers = {"Inference-Header-Content-Length": "0"}
    response = await infer(backend, body, model, **headers)
    assert response.status_code == 400
    assert text in response.json()["error"]


async def test_header_length_that_cuts_the_json_is_refused(backend: Backend) -> None:
    response = await infer(backend, one(), **{"Inference-Header-Content-Length": "10"})
    assert response.status_code == 400
    assert "the JSON head is not JSON" in response.json()["error"]


async def test_bytes_that_nobody_claims_are_refused(backend: Backend) -> None:
    response = await infer_raw(backend, one(), b"surplus")
    assert response.status_code == 400
    assert "7 bytes follow the tensors" in response.json()["error"]


@pytest.mark.parametrize("size", [63, 65])
async def test_wrong_binary_data_size_is_refused(backend: Backend, size: int) -> None:
    document = one(parameters={"binary_data_size": size})
    del document["inputs"][0]["data"]
    response = await infer_raw(backend, document, bytes(size))
    assert response.status_code == 400
    assert f"takes 64 bytes, got {size}" in response.json()["error"]


@pytest.mark.parametrize(
    ("body", "coding", "status", "text"),
    [
        (gzip.compress(b"x" * 1000)[:-10], "gzip", 400, "the gzip body is cut off"),
        (b"", "gzip", 400, "the gzip body is cut off"),
        (b"no gzip at all", "gzip", 400, "the gzip body is damaged"),
        (zlib.compress(b"x" * 1000)[:-3], "deflate", 400, "the deflate body is cut off"),
        (zlib.compress(b"{}") + b"more", "deflate", 400, "4 bytes follow the end"),
        (gzip.compress(b"0" * (64 << 20), 9), "gzip", 413, "inflates beyond the limit"),
        (b"{}", "br", 415, "content coding 'br' is not understood"),
        (b"{}", "gzip, gzip", 415, "is not understood"),
    ],
    ids=["cut", "empty", "garbage", "cut zlib", "surplus", "bomb", "brotli", "twice"],
)
async def test_bad_compressed_body_is_refused(
    backend: Backend, body: bytes, coding: str, status: int, text: str
) -> None:
    response = await infer(backend, body, **{"Content-Encoding": coding})
    assert response.status_code == status
    assert text in response.json()["error"]


async def test_body_beyond_the_limit_is_refused_before_it_is_read(backend: Backend) -> None:
    response = await infer(backend, b"0" * ((1 << 20) + 1))
    assert response.status_code == 413
    assert "the limit is 1048576" in response.json()["error"]


async def test_chunked_body_beyond_the_limit_is_refused(backend: Backend) -> None:
    async def chunks() -> Any:
        for _ in range(40):
            yield b"0" * (1 << 15)

    response = await backend.client.post("/v2/models/digits/infer", content=chunks())
    assert response.status_code == 413
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/v2/models/nobody/infer", "no model 'nobody'"),
        ("/v2/models/digits/versions/9/infer", "no version '9'; versions served: 1"),
        ("/v2/models/digits/versions/one/infer", "no version 'one'"),
        ("/v2/models/%2e%2e/infer", "no model '..'"),
    ],
)
async def test_unknown_model_or_version_is_not_found(
    backend: Backend, path: str, text: str
) -> None:
    response = await backend.client.post(path, content=json.dumps(one()))
    assert response.status_code == 404
    assert text in response.json()["error"]
    assert response.json()["code"] == "model_not_found"


async def test_get_of_infer_is_not_allowed(backend: Backend) -> None:
    response = await backend.client.get("/v2/models/digits/infer")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("budget", ["abc", "nan", "1e99", "inf"])
async def test_deadline_that_is_no_number_is_refused(backend: Backend, budget: str) -> None:
    response = await infer(backend, one(), **{"Inference-Deadline-Ms": budget})
    assert response.status_code == 400
    assert "Inference-Deadline-Ms is a number of milliseconds" in response.json()["error"]


@pytest.mark.parametrize("budget", ["0", "-5", "0.000001"])
async def test_deadline_that_has_passed_is_told(backend: Backend, budget: str) -> None:
    response = await infer(backend, one(), **{"Inference-Deadline-Ms": budget})
    assert response.status_code == 504
    assert response.json()["code"] == "deadline_exceeded"


async def test_generous_deadline_and_priority_change_nothing(backend: Backend) -> None:
    headers = {"Inference-Deadline-Ms": "5000", "Priority": "u=0, i"}
    response = await infer(backend, one(), **headers)
    assert response.status_code == 200


async def test_unequal_rows_of_two_inputs_are_refused(backend: Backend) -> None:
    def floats(name: str, rows: int) -> dict[str, Any]:
        return {"name": name, "datatype": "FP32", "shape": [rows, 2], "data": [0.0] * rows * 2}

    response = await infer(backend, {"inputs": [floats("a", 2), floats("b", 3)]}, "row_sum")
    assert response.status_code == 400
    assert "axis 0 (the batch axis) is 3, but axis 0 of 'a' is 2" in response.json()["error"]


async def test_unequal_named_dimensions_are_refused(backend: Backend) -> None:
    def floats(name: str, width: int) -> dict[str, Any]:
        return {"name": name, "datatype": "FP32", "shape": [1, width], "data": [0.0] * width}

    response = await infer(backend, {"inputs": [floats("a", 2), floats("b", 3)]}, "row_sum")
    assert response.status_code == 400
    assert "axis 1 (tokens) is 3, but axis 1 of 'a' is 2" in response.json()["error"]


async def test_missing_input_is_named(backend: Backend) -> None:
    document = values("a", "FP32", [1.0], [1, 1])
    response = await infer(backend, document, "row_sum")
    assert response.status_code == 400
    assert response.json()["param"] == "b"
    assert "input 'b' is missing" in response.json()["error"]


async def test_value_that_the_graph_refuses_is_the_clients_fault(backend: Backend) -> None:
    response = await infer(backend, values("ids", "INT64", [99], [1, 1]), "lookup")
    assert response.status_code == 400
    assert "the model refuses the input" in response.json()["error"]


async def test_lone_surrogate_in_a_name_gets_an_answer(backend: Backend) -> None:
    response = await infer(backend, b'{"inputs":[{"name":"\\ud800"}]}')
    assert response.status_code == 400


async def test_fault_of_the_program_is_logged_and_answered(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(backend.dataplane, "begin", explode)
    response = await infer(backend, one())
    assert response.status_code == 500
    assert response.json()["code"] == "internal"
    assert "surprise" in caplog.text
    assert "surprise" not in response.text
    stats = backend.repository.stats_of("digits")
    assert stats is not None
    assert stats.requests == {"internal": 1}
