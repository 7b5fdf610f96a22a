"""The case table of the component `predict`: what each request has to be answered with.

One table for every way of running the component: natively against the pipeline, compiled in the
embedded host, compiled in Spin.
"""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace

from fakes.inference_backend import FakeBackend, FakeModel, Fault, Received, Reply, problem_reply
from wasm.cases.table import Call, Case, Expected, Step

__all__ = ["CASES", "HEAD", "VARIABLES", "lit", "png"]

VARIABLES = {
    # Longer than a healthy backend takes on a loaded machine: a case whose backend is silent names
    # a deadline.
    "backend_connect_timeout_ms": "20000",
    "backend_first_byte_timeout_ms": "20000",
    "backend_between_bytes_timeout_ms": "20000",
    "max_body_bytes": "100000",
    "max_image_pixels": "65536",
    "metadata_ttl_s": "60",
    # Policy has a table of its own.
    "classify_cache_ttl_s": "0",
    "retry_attempts": "1",
    "records_enabled": "false",
}
"""What every case runs with; the backend's URL comes from the test."""

PATH = "/v1/classify/pixels"
RAW = {"content-type": "application/octet-stream"}
PNG = {"content-type": "image/png"}
JSON = {"content-type": "application/json"}
SOON = {"inference-deadline-ms": "500"}
LABELS = FakeModel().labels
OIP_HEADER = "inference-header-content-length"


# --- pictures ---------------------------------------------------------------------------------


def lit(index: int, level: int = 255) -> bytes:
    """8 × 8 gray pixels, all black but one: the fake model answers class `index`."""
    pixels = bytearray(64)
    pixels[index] = level
    return bytes(pixels)


def png(
    pixels: bytes, width: int = 8, height: int = 8, *, color_type: int = 0, depth: int = 8
) -> bytes:
    """A PNG file with unfiltered rows."""
    stride = len(pixels) // height
    rows = b"".join(b"\0" + pixels[at : at + stride] for at in range(0, len(pixels), stride))
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(rows))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, payload: bytes) -> bytes:
    checksum = zlib.crc32(kind + payload)
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", checksum)


def _rgb(pixels: bytes) -> bytes:
    return b"".join(bytes((value, value, value)) for value in pixels)


def _bits(pixels: bytes) -> bytes:
    """8 × 8 pixels, one bit each, 1 where the pixel is not black."""
    rows = (pixels[at : at + 8] for at in range(0, 64, 8))
    return bytes(sum((value > 0) << (7 - x) for x, value in enumerate(row)) for row in rows)


def _nested(pixels: bytes) -> list[list[int]]:
    return [list(pixels[at : at + 8]) for at in range(0, 64, 8)]


BOMB = (
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress(bytes(5_000_000)))
    + _chunk(b"IEND", b"")
)
"""5 KB that inflate to 5 MB, said to be 64 pixels."""


# --- small vocabulary -------------------------------------------------------------------------


def post(query: str = "", *, body: bytes, headers: dict[str, str], path: str = PATH) -> Call:
    return Call("POST", f"{path}?{query}" if query else path, headers, body)


RAW_CALL = post("width=8&height=8", body=lit(3), headers=RAW)


def classified(index: int, **more: object) -> Expected:
    """The answer that names class `index` first."""
    return Expected(200, json={"top": {"class_id": index, "label": LABELS[index]}, **more})


def problem(status: int, code: str, *texts: str, **headers: str) -> Expected:
    """A problem document whose text holds each of `texts`; `error` repeats it."""
    everything = re.compile("".join(f"(?=.*{re.escape(text)})" for text in texts), re.DOTALL)
    return Expected(
        status,
        json={"status": status, "code": code, "detail": everything, "error": everything},
        headers={
            "content-type": "application/problem\\+json",
            "x-request-id": ".+",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
    )


def case(name: str, call: Call, expected: Expected) -> Case:
    return Case(name, (Step(call, expected),))


def with_fault(fault: Fault) -> Callable[[FakeBackend], None]:
    def set_fault(backend: FakeBackend) -> None:
        backend.fault = fault

    return set_fault


def answering(
    make: Callable[[Received], Reply | None], *, infer_only: bool = True
) -> Callable[[FakeBackend], None]:
    """The backend answers infer requests (or all) by `make`."""

    def override(received: Received) -> Reply | None:
        if infer_only and not received.target.endswith("/infer"):
            return None
        return make(received)

    def install(backend: FakeBackend) -> None:
        backend.override = override

    return install


def infer_reply(document: object, raw: bytes = b"", **headers: str) -> Callable[[Received], Reply]:
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    fields = [("content-type", "application/octet-stream"), (OIP_HEADER, str(len(head)))]
    fields += [(name.replace("_", "-"), value) for name, value in headers.items()]
    return lambda _received: Reply(200, fields, head + raw)


def output(**changes: object) -> dict[str, object]:
    """A correct JSON answer of ten scores, changed."""
    tensor = {"name": "logits", "datatype": "FP32", "shape": [1, 10], "data": [0.0] * 10}
    return {"model_name": "pixels", "model_version": "1", "outputs": [{**tensor, **changes}]}


# --- what works -------------------------------------------------------------------------------

FORMS = [
    ("raw gray", "width=8&height=8", RAW, lit(3), 3),
    ("raw rgb", "width=8&height=8", RAW, _rgb(lit(4)), 4),
    ("png gray", "", PNG, png(lit(5)), 5),
    ("png rgb", "", PNG, png(_rgb(lit(6)), color_type=2), 6),
    ("png 1 bit", "", PNG, png(_bits(lit(7)), depth=1), 7),
    ("png 16 bit", "", PNG, png(b"".join(bytes((v, v)) for v in lit(8)), depth=16), 8),
    ("png larger than the model takes", "", PNG,
     png(b"".join(bytes((v, v)) * 1 for y in range(16) for v in lit(2)[(y // 2) * 8:][:8]), 16, 16),
     2),
    ("pgm", "", {"content-type": "image/x-portable-graymap"}, b"P5 8 8 255\n" + lit(1), 1),
    ("ppm", "", {"content-type": "image/x-portable-pixmap"}, b"P6 8 8 255\n" + _rgb(lit(2)), 2),
    ("pbm", "", {"content-type": "image/x-portable-bitmap"},
     b"P4 8 8\n" + bytes(byte ^ 0xFF for byte in _bits(lit(9))), 9),
    ("pnm by any name", "", {"content-type": "image/x-portable-anymap"}, b"P5 8 8 255\n" + lit(4),
     4),
    ("json base64", "", JSON,
     json.dumps({"image": base64.b64encode(png(lit(6))).decode()}).encode(), 6),
    ("json data url", "", JSON,
     json.dumps({"image": "data:image/png;base64," + base64.b64encode(png(lit(7))).decode()})
     .encode(), 7),
    ("json base64 in lines", "", JSON,
     json.dumps({"image": base64.encodebytes(png(lit(3))).decode()}).encode(), 3),
    ("json nested pixels", "", JSON, json.dumps({"pixels": _nested(lit(8))}).encode(), 8),
    ("json flat pixels", "", {"content-type": "application/json; charset=utf-8"},
     json.dumps({"pixels": list(lit(9)), "width": 8, "height": 8}).encode(), 9),
]  # fmt: skip

WORKING = [
    *(case(name, post(query, body=body, headers=headers), classified(index))
      for name, query, headers, body, index in FORMS),
    case(
        "answer has every member and field",
        replace(RAW_CALL, headers={**RAW, "x-request-id": "abc-123"}),
        Expected(
            200,
            json={
                "model": "pixels",
                "model_version": "1",
                "runtime": "onnxruntime/CPUExecutionProvider",
                "latency_ms": re.compile(r"^\d+(\.\d+)?$"),
            },
            headers={
                "content-type": "application/json",
                "x-request-id": "abc-123",
                "inference-model": 'pixels;version="1";digest="sha256:aaaa".*',
                "inference-placement": r"cluster;reason=preferred;actual_ms=\d+\.\d",
                "server-timing": r"infer;dur=0.02, parse;dur=.*decode.*metadata.*tensor.*"
                r"backend.*postprocess.*total;dur=\d+\.\d+",
            },
        ),
    ),
    case("five classes by default", RAW_CALL, Expected(200, json={"count": 5})),
    case("top_k limits", post("width=8&height=8&top_k=2", body=lit(3), headers=RAW),
         Expected(200, json={"count": 2})),
    case("top_k above the number of classes",
         post("width=8&height=8&top_k=1000", body=lit(3), headers=RAW),
         Expected(200, json={"count": 10})),
    case("threshold leaves the confident ones",
         post("width=8&height=8&threshold=0.9", body=lit(3), headers=RAW),
         Expected(200, json={"count": 1})),
    case("threshold that none reaches",
         post("width=8&height=8&threshold=1", body=lit(3, 128), headers=RAW),
         Expected(200, json={"count": 0})),
    case("version by query", post("width=8&height=8&version=1", body=lit(3), headers=RAW),
         classified(3)),
    case("request id is made", RAW_CALL, Expected(200, headers={"x-request-id": "[0-9a-f]{24}"})),
    case("request id with spaces is replaced",
         replace(RAW_CALL, headers={**RAW, "x-request-id": "a b"}),
         Expected(200, headers={"x-request-id": "[0-9a-f]{24}"})),
]  # fmt: skip

# --- pictures that the backend decodes ---------------------------------------------------------


def _decoded(test: Callable[[Received], bool]) -> Callable[[FakeBackend], None]:
    """The backend answers only when it was asked for a picture as `test` wants it."""

    def prepare(backend: FakeBackend) -> None:
        def answer(received: Received) -> Reply | None:
            right = "/classify?" in received.target and test(received)
            return None if right else problem_reply(500, f"asked for {received.target}")

        backend.override = answer

    return prepare


def _reply(reply: Reply) -> Callable[[FakeBackend], None]:
    return lambda backend: setattr(backend, "override", lambda _: reply)


def _file(name: str, headers: dict[str, str], body: bytes) -> Case:
    """`body` has to reach the backend byte by byte; its last byte is the class it is given."""
    kind = headers["content-type"]

    def same(received: Received) -> bool:
        return received.body == body and received.headers["content-type"] == kind

    call = post(body=body, headers=headers)
    return Case(name, (Step(call, classified(body[-1] % 10, model_version="1"), _decoded(same)),))


def _json_file(body: bytes) -> dict[str, str]:
    return {"image": base64.b64encode(body).decode()}


JPEG = {"content-type": "image/jpeg"}
JPEG_FILE = b"\xff\xd8\xff\xe0" + bytes(range(200)) + b"\x04"
LARGE_PNG = png(bytes(400 * 300), 400, 300) + b"\x06"

PASSED_ON = [
    _file("jpeg goes to the backend", JPEG, JPEG_FILE),
    _file("webp goes to the backend", {"content-type": "image/webp"}, b"RIFF\x01\0\0\0WEBP\x07"),
    _file("gif goes to the backend", {"content-type": "image/gif"}, b"GIF89a\x01"),
    _file("png with too many pixels goes to the backend", PNG, LARGE_PNG),
    _file("png of absurd size goes to the backend", PNG, png(bytes(4), 100_000, 4)),
    case("json with a jpeg goes to the backend",
         post(body=json.dumps(_json_file(JPEG_FILE)).encode(), headers=JSON), classified(4)),
    case("jpeg keeps to top_k", post("top_k=1", body=JPEG_FILE, headers=JPEG),
         Expected(200, json={"count": 1})),
    case("jpeg keeps to a threshold", post("threshold=0.5", body=JPEG_FILE, headers=JPEG),
         Expected(200, json={"count": 1})),
    case("jpeg to a version that is not there", post("version=9", body=JPEG_FILE, headers=JPEG),
         problem(404, "model_not_found", "9")),
    case("jpeg names the model that answered", post(body=JPEG_FILE, headers=JPEG),
         Expected(200, headers={"inference-model": 'pixels;version="1".*',
                                "server-timing": "decode;dur=1.5.*"})),
    case("tiff that the backend does not decode",
         post(body=b"II*\0\x01", headers={"content-type": "image/tiff"}),
         problem(415, "unsupported_media_type", "TIFF")),
    Case("jpeg that the backend finds too large", (Step(
        post(body=JPEG_FILE, headers=JPEG), problem(413, "payload_too_large", "50000000"),
        _reply(problem_reply(413, "the picture has more than 50000000 pixels"))),)),
    Case("jpeg that the backend makes no sense of", (Step(
        post(body=JPEG_FILE, headers=JPEG), problem(503, "exhausted", "no classification"),
        _reply(Reply(200, [], b'{"predictions": 5}'))),)),
    Case("jpeg to a backend that decodes nothing", (Step(
        post(body=JPEG_FILE, headers=JPEG), problem(415, "unsupported_media_type", "65536"),
        lambda backend: setattr(backend, "override", lambda received: (
            problem_reply(404, "no such route") if "/classify" in received.target else None))),)),
    Case("jpeg to a model that is not there", (Step(
        post(body=JPEG_FILE, headers=JPEG, path="/v1/classify/ghost"),
        problem(404, "model_not_found", "ghost")),)),
]  # fmt: skip

# --- bad input --------------------------------------------------------------------------------


def _bad(name: str, query: str, headers: dict[str, str], body: bytes, expected: Expected) -> Case:
    return case(name, post(query, body=body, headers=headers), expected)


def _json_body(**members: object) -> bytes:
    return json.dumps(members).encode()


VALID_PNG = png(lit(3))
SIZE = "width=8&height=8"

BAD_INPUT = [
    _bad("empty body", "", PNG, b"", problem(400, "invalid_input", "empty")),
    _bad("body over the limit", SIZE, RAW, bytes(100_001),
         problem(413, "payload_too_large", "100000")),
    _bad("no content type", "", {}, VALID_PNG,
         problem(415, "unsupported_media_type", "image/png")),
    _bad("form content type", "", {"content-type": "application/x-www-form-urlencoded"}, VALID_PNG,
         problem(415, "unsupported_media_type", "x-www-form-urlencoded", "image/png")),
    _bad("png that is called jpeg", "", JPEG, VALID_PNG,
         problem(400, "invalid_input", "image/jpeg", "PNG")),
    _bad("jpeg without a byte", "", JPEG, b"", problem(400, "invalid_input", "empty")),
    _bad("heic", "", {"content-type": "image/heic"}, b"\0\0\0\x18ftypheic",
         problem(415, "unsupported_media_type", "image/heic", "image/jpeg")),
    _bad("jpeg that is called png", "", PNG, b"\xff\xd8\xff\xe0" + bytes(50),
         problem(400, "invalid_input", "JPEG")),
    _bad("gzip body", "", {**PNG, "content-encoding": "gzip"}, b"\x1f\x8b",
         problem(415, "unsupported_media_type", "gzip")),
    _bad("png cut in the header", "", PNG, VALID_PNG[:20], problem(400, "invalid_input")),
    _bad("png cut in the data", "", PNG, VALID_PNG[:50], problem(400, "invalid_input")),
    _bad("png without an end", "", PNG, VALID_PNG[:-12], problem(400, "invalid_input")),
    _bad("png with a wrong checksum", "", PNG,
         VALID_PNG[:45] + bytes((VALID_PNG[45] ^ 1,)) + VALID_PNG[46:],
         problem(400, "invalid_input")),
    _bad("png bomb", "", PNG, BOMB, problem(400, "invalid_input")),
    _bad("png with a palette index out of range", "", PNG,
         png(lit(3), color_type=3), problem(400, "invalid_input")),
    _bad("pgm cut", "", {"content-type": "image/x-portable-graymap"}, b"P5 8 8 255\n" + bytes(9),
         problem(400, "invalid_input")),
    _bad("pgm of negative size", "", {"content-type": "image/x-portable-graymap"},
         b"P5 -8 8 255\n" + bytes(64), problem(400, "invalid_input")),
    _bad("raw without a size", "", RAW, lit(3), problem(400, "invalid_input", "width", "height")),
    _bad("raw without a height", "width=8", RAW, lit(3), problem(400, "invalid_input", "height")),
    _bad("raw of negative size", "width=-8&height=8", RAW, lit(3),
         problem(400, "invalid_input", "width", "-8")),
    _bad("raw of no size", "width=0&height=8", RAW, lit(3), problem(400, "invalid_input", "width")),
    _bad("raw with a fraction", "width=8.5&height=8", RAW, lit(3),
         problem(400, "invalid_input", "8.5")),
    _bad("raw of another length", SIZE, RAW, bytes(65), problem(400, "invalid_input", "65")),
    _bad("raw of absurd size", "width=60000&height=60000", RAW, lit(3),
         problem(413, "payload_too_large", "65536")),
    _bad("json that is none", "", JSON, b"{", problem(400, "invalid_input", "JSON")),
    _bad("json that is no text", "", JSON, b"\xff\xfe\x00", problem(400, "invalid_input", "JSON")),
    _bad("json nested without end", "", JSON, b"[" * 50_000, problem(400, "invalid_input")),
    _bad("json list", "", JSON, b"[]", problem(400, "invalid_input", "object")),
    _bad("json without a picture", "", JSON, b"{}", problem(400, "invalid_input", "pixels")),
    _bad("json with two pictures", "", JSON, _json_body(image="", pixels=[]),
         problem(400, "invalid_input", "either")),
    _bad("json with an unknown member", "", JSON, _json_body(pixel=[1]),
         problem(400, "invalid_input", "'pixel'")),
    _bad("json image that is a number", "", JSON, _json_body(image=5),
         problem(400, "invalid_input", "base64")),
    _bad("json image that is no base64", "", JSON, _json_body(image="*not base64*"),
         problem(400, "invalid_input", "base64")),
    _bad("json image that is not ascii", "", JSON, _json_body(image="\u00e4\u00e4\u00e4\u00e4"),
         problem(400, "invalid_input", "base64")),
    _bad("json image that is no image", "", JSON, _json_body(image="AAAA"),
         problem(415, "unsupported_media_type")),
    _bad("json pixels with nan", "", JSON, b'{"pixels": [NaN, 1, 2, 3]}',
         problem(400, "invalid_input", "NaN")),
    _bad("json pixels with infinity", "", JSON, b'{"pixels": [Infinity, 1, 2, 3]}',
         problem(400, "invalid_input", "Infinity")),
    _bad("json pixels with a huge exponent", "", JSON, b'{"pixels": [1e999, 1, 2, 3]}',
         problem(400, "invalid_input", "255")),
    _bad("json pixels above 255", "", JSON, _json_body(pixels=[256, 0, 0, 0]),
         problem(400, "invalid_input", "255")),
    _bad("json pixels below 0", "", JSON, _json_body(pixels=[-1, 0, 0, 0]),
         problem(400, "invalid_input", "255")),
    _bad("json pixels with text", "", JSON, _json_body(pixels=["1", 0, 0, 0]),
         problem(400, "invalid_input", "numbers")),
    _bad("json pixels with true", "", JSON, _json_body(pixels=[True, 0, 0, 0]),
         problem(400, "invalid_input", "numbers")),
    _bad("json pixels of unequal rows", "", JSON, _json_body(pixels=[[1, 2], [3]]),
         problem(400, "invalid_input")),
    _bad("json pixels empty", "", JSON, _json_body(pixels=[]), problem(400, "invalid_input")),
    _bad("json pixels of empty rows", "", JSON, _json_body(pixels=[[]]),
         problem(400, "invalid_input")),
    _bad("json width of the wrong type", "", JSON,
         _json_body(pixels=[0, 0], width="2", height=1), problem(400, "invalid_input", "width")),
    _bad("json width that is negative", "", JSON,
         _json_body(pixels=[0, 0], width=-2, height=1), problem(400, "invalid_input", "width")),
    *(_bad(f"top_k={value}", f"{SIZE}&top_k={value}", RAW, lit(3),
           problem(400, "invalid_input", "top_k"))
      for value in ("0", "-1", "1001", "abc", "", "1e3", "9" * 30)),
    *(_bad(f"threshold={value}", f"{SIZE}&threshold={value}", RAW, lit(3),
           problem(400, "invalid_input", "threshold"))
      for value in ("nan", "inf", "-0.1", "1.1", "high", "")),
    _bad("version that is no name", f"{SIZE}&version=../x", RAW, lit(3),
         problem(400, "invalid_input", "version")),
    case("unknown model", post(SIZE, body=lit(3), headers=RAW, path="/v1/classify/nope"),
         problem(404, "model_not_found", "nope")),
    case("unknown version", post(f"{SIZE}&version=7", body=lit(3), headers=RAW),
         problem(404, "model_not_found", "7")),
    case("model name with a slash", post(SIZE, body=lit(3), headers=RAW,
                                         path="/v1/classify/a%2Fb"),
         problem(404, "model_not_found", "a/b")),
    case("model name that is too long", post(SIZE, body=lit(3), headers=RAW,
                                             path="/v1/classify/" + "x" * 129),
         problem(404, "model_not_found", "xxx")),
    case("unknown path", Call("GET", "/v9/nothing"),
         problem(404, "route_not_found", "/v9/nothing")),
    case("no model in the path", post(SIZE, body=lit(3), headers=RAW, path="/v1/classify/"),
         problem(404, "route_not_found")),
    case("wrong method", Call("GET", PATH),
         problem(405, "method_not_allowed", "GET", "POST", allow="POST")),
    case("wrong method on the protocol", Call("DELETE", "/v2/models/pixels"),
         problem(405, "method_not_allowed", "DELETE", allow="GET, HEAD, POST")),
    case("dot segments", Call("GET", "/v2/%2e%2e/admin"), problem(400, "invalid_input", "dot")),
]  # fmt: skip

# --- a backend that fails ---------------------------------------------------------------------


def _failing(
    name: str, before: Callable[[FakeBackend], None], expected: Expected, call: Call = RAW_CALL
) -> Case:
    return Case(name, (Step(call, expected, before),))


def _status(status: int, **headers: str) -> Callable[[FakeBackend], None]:
    return answering(lambda _received: problem_reply(status, "because", **headers))


def _only_metadata(document: object) -> Callable[[FakeBackend], None]:
    def make(received: Received) -> Reply | None:
        if received.method != "GET":
            return None
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return Reply(200, [("content-type", "application/json")], body)

    return answering(make, infer_only=False)


def _metadata(**changes: object) -> dict[str, object]:
    """The fake model's metadata with changed parameters."""
    document = FakeModel().metadata()
    parameters = document["parameters"]
    assert isinstance(parameters, dict)
    document["parameters"] = {**parameters, **changes}
    return document


DOWN = problem(503, "exhausted", retry_after="1", x_should_retry="true")
"""A model that has no stand-in: no other upstream, no stored answer, no model at the edge."""
UNREACHABLE = problem(502, "upstream_unavailable")
NAN = struct.pack("<10f", *([float("nan")] * 10))
TENSOR = {"name": "logits", "datatype": "FP32", "shape": [1, 10]}
RAW_TENSOR = {**TENSOR, "parameters": {"binary_data_size": 40}}

FAILING = [
    _failing("connection closes", with_fault(Fault.RESET), DOWN),
    _failing("no answer in time", with_fault(Fault.HANG), problem(504, "deadline_exceeded"),
             replace(RAW_CALL, headers={**RAW, **SOON})),
    _failing("body breaks off", with_fault(Fault.BREAK_BODY), DOWN),
    _failing("status 500", _status(500), DOWN),
    _failing("status 401", _status(401), DOWN),
    _failing("status 418", _status(418), DOWN),
    _failing("status 400", _status(400), problem(400, "invalid_input", "because")),
    _failing("status 413", _status(413), problem(413, "payload_too_large", "because")),
    _failing("status 503", _status(503, retry_after="7"),
             problem(503, "model_not_ready", "because", retry_after="7", x_should_retry="true")),
    _failing("status 503 without advice", _status(503),
             problem(503, "model_not_ready", retry_after="1")),
    _failing("status 429", _status(429, retry_after="3"),
             problem(429, "overloaded", "because", retry_after="3")),
    _failing("status 429 with a date", _status(429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"),
             problem(429, "overloaded", retry_after="1")),
    _failing("status 504", _status(504), problem(504, "deadline_exceeded", "because")),
    _failing("html error page",
             answering(lambda _r: Reply(502, [("content-type", "text/html")], b"<h1>Bad</h1>")),
             DOWN),
    _failing("garbage", answering(lambda _r: Reply(200, [], bytes(range(256)))), DOWN),
    _failing("json of another kind", answering(infer_reply([1, 2])), DOWN),
    _failing("no outputs", answering(infer_reply({"model_name": "pixels"})), DOWN),
    _failing("another output", answering(infer_reply(output(name="scores"))), DOWN),
    _failing("too few values", answering(infer_reply(output(data=[1.0]))), DOWN),
    _failing("two rows", answering(infer_reply(output(shape=[2, 5]))), DOWN),
    _failing("strings for values", answering(infer_reply(output(data=["x"] * 10))), DOWN),
    _failing("binary data cut", answering(infer_reply({"outputs": [RAW_TENSOR]}, bytes(7))), DOWN),
    _failing("values that are no numbers", answering(infer_reply({"outputs": [RAW_TENSOR]}, NAN)),
             DOWN),
    _failing("unknown datatype", answering(
        infer_reply({"outputs": [{**RAW_TENSOR, "datatype": "BYTES"}]}, bytes(40))), DOWN),
    _failing("head longer than the body", answering(
        lambda _r: Reply(200, [(OIP_HEADER, "999")], b"{}")), DOWN),
    _failing("head length that is no number", answering(
        lambda _r: Reply(200, [(OIP_HEADER, "many")], b"{}")), DOWN),
    _failing("answer without end", answering(infer_reply(output(), bytes(2_000_000))), DOWN),
    _failing("another number of classes", _only_metadata(_metadata(labels=["a", "b"])), DOWN),
    _failing("metadata that is no json", _only_metadata(b"<html>"), DOWN),
    _failing("metadata that is a list", _only_metadata([]), DOWN),
    _failing("metadata without inputs", _only_metadata({**_metadata(), "inputs": []}), DOWN),
    _failing("metadata of unknown output kind",
             _only_metadata(_metadata(output={"name": "logits", "kind": "stars"})), DOWN),
    _failing("metadata with a senseless image",
             _only_metadata(_metadata(image={"input": "image", "width": 0, "height": 8})), DOWN),
    _failing("model that takes no images", _only_metadata(_metadata(image=None)),
             problem(400, "invalid_input", "/v2/models/pixels/infer")),
    _failing("json answer", answering(
        infer_reply(output(data=[[0, 0, 0, 9, 0, 0, 0, 0, 0, 0]]))), classified(3)),
]  # fmt: skip

# --- models that change -----------------------------------------------------------------------


def _swap(**changes: object) -> Callable[[FakeBackend], None]:
    def swap(backend: FakeBackend) -> None:
        model = backend.models["pixels"]
        changed: FakeModel = replace(model, **changes)  # type: ignore[arg-type]
        backend.models["pixels"] = changed

    return swap


def _calls(metadata: int, infer: int) -> Callable[[FakeBackend], None]:
    def seen(backend: FakeBackend) -> None:
        assert len(backend.metadata_calls()) == metadata
        assert len(backend.infer_calls()) == infer

    return seen


NEW_LABELS = [f"new {index}" for index in range(10)]
NEW = {"version": "2", "digest": "sha256:bbbb", "labels": NEW_LABELS}
SMALL_IMAGE = {**FakeModel().image, "width": 4, "height": 4}


def _renamed(index: int, **more: object) -> Expected:
    top = {"class_id": index, "label": NEW_LABELS[index]}
    return Expected(200, json={"top": top, "model_version": "2", **more})


SWAPPED = [
    Case("metadata is asked for once",
         (Step(RAW_CALL, classified(3)), Step(RAW_CALL, classified(3))), _calls(1, 2)),
    Case("new labels with the first answer of a new model",
         (Step(RAW_CALL, classified(3)), Step(RAW_CALL, _renamed(3), _swap(**NEW)),
          Step(RAW_CALL, _renamed(3))), _calls(2, 4)),
    Case("a model of another input size is asked again",
         (Step(RAW_CALL, classified(3)),
          Step(post("width=4&height=4", body=lit(2)[:16], headers=RAW), _renamed(2),
               _swap(**NEW, image=SMALL_IMAGE))), _calls(2, 3)),
    Case("a model that wants other values is asked again",
         (Step(RAW_CALL, classified(3)),
          Step(RAW_CALL, _renamed(3),
               _swap(**NEW, image={**FakeModel().image, "range": [0, 100]}))), _calls(2, 3)),
    Case("a model that is gone is not found",
         (Step(RAW_CALL, classified(3)),
          Step(RAW_CALL, problem(404, "model_not_found", "pixels"),
               lambda backend: backend.models.clear())), _calls(2, 2)),
    Case("a model without digests is told apart by its version",
         (Step(RAW_CALL, classified(3), _swap(digest="")),
          Step(RAW_CALL, _renamed(3), _swap(**{**NEW, "digest": ""}))), _calls(2, 3)),
]  # fmt: skip

# --- the protocol passed through --------------------------------------------------------------

ECHO = Call(
    "POST",
    "/v2/echo?a=1&b=%20x",
    {
        "content-type": "application/octet-stream",
        OIP_HEADER: "7",
        "content-encoding": "gzip",
        "x-custom": "kept",
        "spin-full-url": "http://forged/",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "vendor=1",
        "x-request-id": "given",
    },
    bytes(range(256)),
)


HEAD = json.dumps(
    {
        "inputs": [
            {
                "name": "image",
                "datatype": "UINT8",
                "shape": [1, 1, 8, 8],
                "parameters": {"binary_data_size": 64},
            }
        ],
        "outputs": [{"name": "logits"}],
    }
).encode()


def _echoed(backend: FakeBackend) -> None:
    received = backend.received[-1]
    assert received.target == ECHO.target
    assert received.body == ECHO.body
    headers = received.headers
    assert headers[OIP_HEADER] == "7"
    assert headers["content-encoding"] == "gzip"
    assert headers["x-custom"] == "kept"
    assert headers["x-request-id"] == "given"
    assert headers["tracestate"] == "vendor=1"
    version, trace, parent, flags = headers["traceparent"].split("-")
    assert (version, trace, flags) == ("00", "0af7651916cd43dd8448eb211c80319c", "01")
    assert parent != "b7ad6b7169203331"
    assert not [name for name in headers if name.startswith("spin-")]


def _traced(backend: FakeBackend) -> None:
    for received in backend.received:
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", received.headers["traceparent"])
        assert received.headers["x-request-id"] == "abc-123"


def _big(_received: Received) -> Reply:
    return Reply(200, [("content-type", "text/plain")], b"0123456789" * 30_000, pieces=30)


def _break_big(backend: FakeBackend) -> None:
    answering(_big, infer_only=False)(backend)
    backend.fault = Fault.BREAK_BODY


PASSED = [
    Case("echo", (Step(ECHO, Expected(
        200,
        json={"method": "POST"},
        headers={
            "x-from-backend": "yes",
            "x-request-id": "given",
            "inference-placement": r"cluster;reason=passthrough;actual_ms=\d+\.\d",
            "server-timing": ".*backend;dur=.*total;dur=.*",
        },
        absent=("keep-alive",),
    )),), _echoed),
    Case("trace is made for every call",
         (Step(replace(RAW_CALL, headers={**RAW, "x-request-id": "abc-123"}), classified(3)),),
         _traced),
    case("metadata", Call("GET", "/v2/models/pixels"),
         Expected(200, json={"name": "pixels", "versions": ["1"]},
                  headers={"content-type": "application/json"})),
    case("refusal as the backend words it", Call("GET", "/v2/models/nope"),
         Expected(404, json={"error": "model 'nope' is not in the repository"},
                  headers={"content-type": "application/problem\\+json"})),
    case("ready", Call("GET", "/v2/health/ready"), Expected(200, json={"ready": True})),
    Case("not ready", (Step(Call("GET", "/v2/health/ready"), Expected(503, json={"ready": False}),
                            lambda backend: setattr(backend, "ready", False)),)),
    case("head", Call("HEAD", "/v2/models/pixels"),
         Expected(200, body=b"", headers={"content-type": "application/json"})),
    Case("300 KB in 30 pieces", (Step(Call("GET", "/v2/big"),
                                      Expected(200, body=b"0123456789" * 30_000),
                                      answering(_big, infer_only=False)),)),
    Case("body that breaks off is seen as broken",
         (Step(Call("GET", "/v2/big"), Expected(200, complete=False),
               _break_big),)),
    _failing("protocol: connection closes", with_fault(Fault.RESET), UNREACHABLE,
             Call("GET", "/v2/health/ready")),
    _failing("protocol: no answer in time", with_fault(Fault.HANG),
             problem(504, "deadline_exceeded"),
             Call("POST", "/v2/models/pixels/infer", {OIP_HEADER: str(len(HEAD)), **SOON},
                  HEAD + lit(3))),
    case("protocol: body over the limit", Call("POST", "/v2/echo", RAW, bytes(100_001)),
         problem(413, "payload_too_large", "100000")),
    case("index", Call("GET", "/"),
         Expected(200, json={"name": "inference-anywhere"},
                  headers={"content-type": "application/json"})),
    case("head of the index", Call("HEAD", "/"),
         Expected(200, body=b"", headers={"content-type": "application/json"})),
]  # fmt: skip

CASES = [*WORKING, *PASSED_ON, *BAD_INPUT, *FAILING, *SWAPPED, *PASSED]
