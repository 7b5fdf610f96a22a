"""The case table of `/v1/embeddings`: token ids, which need no vocabulary in the component."""

from __future__ import annotations

import base64
import json
import re
import struct

from fakes.embedding_model import FakeEmbedder, vector_of
from fakes.inference_backend import FakeBackend, Fault
from wasm.cases.table import Call, Case, Expected, Step

__all__ = ["CASES"]


def ask(**members: object) -> Call:
    body = json.dumps({"model": "vectors", **members}).encode()
    return Call("POST", "/v1/embeddings", {"content-type": "application/json"}, body)


def serve(backend: FakeBackend) -> None:
    """The model of vectors is there."""
    backend.override = FakeEmbedder()


def vanish(backend: FakeBackend) -> None:
    backend.fault = Fault.RESET


def given(*rows: list[int]) -> Expected:
    data = [
        {"object": "embedding", "index": index, "embedding": vector_of(row)}
        for index, row in enumerate(rows)
    ]
    tokens = sum(map(len, rows))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Expected(
        200,
        json={"object": "list", "data": data, "model": "vectors", "usage": usage},
        headers={
            "content-type": "application/json",
            "inference-model": 'vectors;version="1";digest="sha256:aaaa"',
            "inference-placement": "cluster.*",
        },
    )


def refused(status: int, param: str | None, text: str) -> Expected:
    message = re.compile(f".*{re.escape(text)}", re.DOTALL)
    return Expected(
        status,
        json={"status": status, "error": {"message": message, "param": param}},
        headers={"content-type": r"application/problem\+json"},
    )


def encoded(row: list[int]) -> Expected:
    text = base64.b64encode(struct.pack("<4f", *vector_of(row))).decode()
    return Expected(200, json={"data": [{"object": "embedding", "index": 0, "embedding": text}]})


def case(name: str, call: Call, expected: Expected) -> Case:
    return Case(name, (Step(call, expected, serve),))


MANY = [[number + 1] for number in range(256)]

CASES = [
    case("one-input", ask(input=[5, 6]), given([5, 6])),
    case("unlike-lengths", ask(input=[[5], [6, 7, 8]]), given([5], [6, 7, 8])),
    case("most-inputs", ask(input=MANY), given(*MANY)),
    case("base64", ask(input=[5, 6], encoding_format="base64"), encoded([5, 6])),
    case("text-without-vocabulary", ask(input="a"), refused(404, "model", "vocabulary")),
    case("no-input", ask(), refused(400, "input", "input takes")),
    case("too-many-inputs", ask(input=[[1]] * 257), refused(400, "input", "257")),
    case("too-long", ask(input=[[1], [2] * 9]), refused(400, "input[1]", "8 tokens")),
    case("dimensions", ask(input=[3], dimensions=9), refused(400, "dimensions", "4")),
    case("unknown-model", ask(model="nobody", input=[1]), refused(404, None, "nobody")),
    Case("backend-away", (Step(ask(input=[1]), refused(503, None, "try again"), vanish),)),
    case("get", Call("GET", "/v1/embeddings"), Expected(405, headers={"allow": "POST"})),
]
