"""`POST /v1/embeddings` on the wire, in OpenAI's form.

Source:
    OpenAI API reference, "Create embeddings". `truncate` is an addition of other servers of this
    form: OpenAI itself refuses what is too long, which is the default here too.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.errors import (
    InvalidInputError,
    ModelNotFoundError,
    UnsupportedMediaTypeError,
    UpstreamUnavailableError,
)
from edgekit.http import Request
from edgekit.processing.tensor import pack, unpack
from edgekit.protocols.json_text import parse_json
from edgekit.protocols.oip import Tensor

__all__ = ["MAX_INPUTS", "EmbeddingQuery", "format_embeddings", "parse_query", "read_vectors"]

MAX_INPUTS = 256
"""Inputs in one request."""
MAX_DIMENSIONS = 65_536
MAX_TOKEN_ID = 2**31 - 1
MAX_NAME_BYTES = 128
"""With its prefix, a store's key stays below its 255 bytes."""

FLOAT = "float"
BASE64 = "base64"
REFUSE = "NONE"
CUT = "END"


@dataclass(frozen=True, slots=True)
class EmbeddingQuery:
    """What a client asks for.

    Attributes:
        model: Model name.
        inputs: Texts, or token ids that go to the model as they are; at least one, none empty.
        encoding: `float` or `base64`.
        dimensions: Leading numbers of each vector to keep; None for all.
        truncate: Cut what is too long, instead of refusing it.
    """

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    encoding: str
    dimensions: int | None
    truncate: bool

    def canonical(self) -> list[object]:
        """All that decides on the answer."""
        return [self.model, list(self.inputs), self.encoding, self.dimensions, self.truncate]


def parse_query(request: Request, body: bytes) -> EmbeddingQuery:
    """The request in `body`.

    Raises:
        UnsupportedMediaTypeError: The body is compressed.
        InvalidInputError: A member is missing, malformed or out of range; `param` names it.
        ModelNotFoundError: No model can have such a name.
    """
    coding = (request.headers.get("content-encoding") or "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedMediaTypeError(
            f"content-encoding {coding[:40]!r} is not read here: send the body uncompressed"
        )
    try:
        document = parse_json(body)
    except ValueError as exc:
        raise InvalidInputError(f"the body is no JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise InvalidInputError("the body is no JSON object")
    return EmbeddingQuery(
        model=_model(document),
        inputs=_inputs(document.get("input")),
        encoding=_choice(document, "encoding_format", (FLOAT, BASE64)),
        dimensions=_dimensions(document),
        truncate=_choice(document, "truncate", (REFUSE, CUT)) == CUT,
    )


def _model(document: Mapping[str, Any]) -> str:
    name = document.get("model")
    if not isinstance(name, str) or not name:
        raise InvalidInputError("model takes the name of a model", param="model")
    if not name.isprintable() or "/" in name or len(name.encode()) > MAX_NAME_BYTES:
        raise ModelNotFoundError(f"there is no model {name[:MAX_NAME_BYTES]!r}", param="model")
    return name


def _inputs(value: object) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(value, str) or (isinstance(value, list) and value and _is_id(value[0])):
        return (_input("input", value),)
    if not isinstance(value, list):
        raise InvalidInputError(
            "input takes a string, an array of strings, an array of token ids, or an array of such",
            param="input",
        )
    if not 0 < len(value) <= MAX_INPUTS:
        raise InvalidInputError(
            f"input has {len(value)} entries, it takes 1 to {MAX_INPUTS}", param="input"
        )
    return tuple(_input(f"input[{index}]", item) for index, item in enumerate(value))


def _input(path: str, value: object) -> str | tuple[int, ...]:
    if isinstance(value, str):
        if not value:
            raise InvalidInputError(f"{path} is an empty string", param=path)
        return value
    if isinstance(value, list) and value and all(map(_is_id, value)):
        return tuple(value)
    raise InvalidInputError(
        f"{path} takes a string or an array of token ids, whole numbers from 0 to {MAX_TOKEN_ID}",
        param=path,
    )


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_TOKEN_ID


def _choice(document: Mapping[str, Any], name: str, choices: Sequence[str]) -> str:
    """The first of `choices` where the member is absent or null."""
    value = document.get(name)
    if value is None:
        return choices[0]
    if isinstance(value, str) and value in choices:
        return value
    raise InvalidInputError(
        f"{name} is {str(value)[:40]!r}; it takes {' or '.join(choices)}", param=name
    )


def _dimensions(document: Mapping[str, Any]) -> int | None:
    value = document.get("dimensions")
    if value is None or (type(value) is int and 1 <= value <= MAX_DIMENSIONS):
        return value
    raise InvalidInputError(
        f"dimensions takes a whole number from 1 to {MAX_DIMENSIONS}", param="dimensions"
    )


def read_vectors(tensor: Tensor, rows: int, dimensions: int | None) -> list[bytes]:
    """The vectors in a model's output, each as little-endian float32.

    Args:
        tensor: Shape (rows, width).
        rows: Vectors that were asked for.
        dimensions: Numbers to keep of each; the vector has its length made 1 again.

    Raises:
        UpstreamUnavailableError: The output has another shape.
        InvalidInputError: The model has fewer than `dimensions`.
    """
    shape = tensor.shape
    if len(shape) != 2 or shape[0] != rows:
        raise UpstreamUnavailableError(
            f"the model answered shape {list(shape)} to {rows} inputs, not one vector for each"
        )
    data = tensor.data
    if tensor.datatype != "FP32":
        data = pack(unpack(data, tensor.datatype), "FP32")
    stride = 4 * shape[1]
    vectors = [data[row * stride : (row + 1) * stride] for row in range(rows)]
    if dimensions is None or dimensions == shape[1]:
        return vectors
    if dimensions > shape[1]:
        raise InvalidInputError(
            f"dimensions is {dimensions}, the model's vectors have {shape[1]}", param="dimensions"
        )
    return [_shortened(vector, dimensions) for vector in vectors]


def _shortened(vector: bytes, dimensions: int) -> bytes:
    values = struct.unpack_from(f"<{dimensions}f", vector)
    length = math.hypot(*values) or 1.0
    return struct.pack(f"<{dimensions}f", *(value / length for value in values))


def format_embeddings(vectors: Sequence[bytes], *, model: str, encoding: str, tokens: int) -> bytes:
    """The answer as JSON.

    Args:
        vectors: Each as little-endian float32, in the order of the inputs.
        model: Model name.
        encoding: `float` or `base64`.
        tokens: Of all inputs together, special tokens included.

    Raises:
        UpstreamUnavailableError: A vector holds what JSON cannot say: NaN or infinity.
    """
    write = _base64 if encoding == BASE64 else _numbers
    data = ",".join(
        f'{{"object":"embedding","index":{index},"embedding":{write(vector)}}}'
        for index, vector in enumerate(vectors)
    )
    usage = f'{{"prompt_tokens":{tokens},"total_tokens":{tokens}}}'
    name = json.dumps(model)
    return f'{{"object":"list","data":[{data}],"model":{name},"usage":{usage}}}'.encode()


def _base64(vector: bytes) -> str:
    return f'"{base64.b64encode(vector).decode()}"'


def _numbers(vector: bytes) -> str:
    values = struct.unpack(f"<{len(vector) // 4}f", vector)
    if not all(map(math.isfinite, values)):
        raise UpstreamUnavailableError("the model answered numbers that are not finite")
    # Nine digits are what tells any two float32 apart.
    return f"[{','.join(map('%.9g'.__mod__, values))}]"
