"""Open Inference Protocol v2, as a client of it: binary infer requests and their answers.

A binary message is a JSON head followed by raw tensors in the order the head lists them; the
field `Inference-Header-Content-Length` says where the head ends, and only that field decides
whether a message is binary. Numbers are little-endian, tensors row-major.

Source:
    Open Inference Protocol v2 (REST), and Triton's binary tensor data extension.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.errors import InvalidInputError, UpstreamUnavailableError
from edgekit.http import Headers
from edgekit.processing.tensor import item_size, pack, unpack
from edgekit.protocols.json_text import parse_json

__all__ = [
    "HEADER_LENGTH",
    "InferAnswer",
    "Tensor",
    "encode_infer_request",
    "encode_infer_tensors",
    "parse_infer_answer",
    "parse_output_tensor",
    "read_error_text",
]

HEADER_LENGTH = "inference-header-content-length"
"""Bytes of the JSON head; what follows them is binary."""

MAX_ERROR_TEXT = 500

FAULTS = (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, InvalidInputError)
"""What reading a document of the wrong shape raises."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor on its way to a model; `data` is row-major and little-endian."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class InferAnswer:
    """The scores one request asked for.

    Attributes:
        model_version: Version that answered; empty when the backend does not say.
        values: The output tensor, flat.
    """

    model_version: str
    values: tuple[float, ...]


def encode_infer_request(tensor: Tensor, output: str) -> tuple[bytes, Headers]:
    """Body and fields of a binary request for one output of one input."""
    return encode_infer_tensors([tensor], output)


def encode_infer_tensors(tensors: Sequence[Tensor], output: str) -> tuple[bytes, Headers]:
    """Body and fields of a binary request for one output of all inputs of a model."""
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": tensor.name,
                    "datatype": tensor.datatype,
                    "shape": tensor.shape,
                    "parameters": {"binary_data_size": len(tensor.data)},
                }
                for tensor in tensors
            ],
            "outputs": [{"name": output, "parameters": {"binary_data": True}}],
        },
        separators=(",", ":"),
    ).encode()
    headers = Headers(
        [("content-type", "application/octet-stream"), (HEADER_LENGTH, str(len(head)))]
    )
    return b"".join([head, *(tensor.data for tensor in tensors)]), headers


def parse_infer_answer(headers: Headers, body: bytes, output: str) -> InferAnswer:
    """The values of `output`, whether the backend sent them as JSON or as binary.

    Raises:
        UpstreamUnavailableError: The answer breaks the protocol, lacks the output, or is not of
            batch size one.
    """
    version, tensor = parse_output_tensor(headers, body, output)
    if len(tensor.shape) > 1 and tensor.shape[0] != 1:
        raise _broken(f"asked for one row, got shape {list(tensor.shape)}")
    return InferAnswer(version, tuple(unpack(tensor.data, tensor.datatype)))


def parse_output_tensor(headers: Headers, body: bytes, output: str) -> tuple[str, Tensor]:
    """Version that answered (empty when the backend does not say), and the tensor `output`.

    Raises:
        UpstreamUnavailableError: The answer breaks the protocol, or lacks the output.
    """
    try:
        head, raw = _split(headers, body)
        document = parse_json(head)
        tensor = _find_output(document, raw, output)
        version = document.get("model_version", "")
    except FAULTS as exc:
        raise _broken(_reason(exc)) from exc
    return str(version), tensor


def _broken(reason: str) -> UpstreamUnavailableError:
    return UpstreamUnavailableError(
        f"the backend's answer breaks the Open Inference Protocol ({reason})"
    )


def _split(headers: Headers, body: bytes) -> tuple[bytes, bytes]:
    length = headers.last(HEADER_LENGTH)
    if length is None:
        return body, b""
    size = int(length)
    if not 0 <= size <= len(body):
        raise ValueError(f"{HEADER_LENGTH} is {size}, the body has {len(body)} bytes")
    return body[:size], body[size:]


def _find_output(document: dict[str, Any], raw: bytes, wanted: str) -> Tensor:
    outputs = document["outputs"]
    if not isinstance(outputs, list):
        raise TypeError("outputs is no list")
    offset = 0
    for output in outputs:
        size = (output.get("parameters") or {}).get("binary_data_size")
        if output["name"] != wanted:
            offset += size or 0
            continue
        datatype, shape = output["datatype"], tuple(output["shape"])
        if size is None:
            data = pack(_flatten(output["data"]), datatype)
        else:
            data = raw[offset : offset + size]
        count, rest = divmod(len(data), item_size(datatype))
        if rest or count != math.prod(shape):
            raise ValueError(f"output {wanted!r} has {count} values, its shape {math.prod(shape)}")
        return Tensor(wanted, datatype, shape, data)
    raise KeyError(f"output {wanted!r}")


def _flatten(data: object) -> list[float]:
    """JSON data comes flat or nested (the protocol allows both)."""
    while isinstance(data, list) and data and isinstance(data[0], list):
        data = [value for row in data for value in row]
    if not isinstance(data, list):
        raise TypeError("data is no list")
    return data


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    return str(error) or type(error).__name__


def read_error_text(body: bytes) -> str:
    """What a backend says in an error answer; empty when it says nothing readable."""
    try:
        document = parse_json(body)
    except ValueError:
        return ""
    if not isinstance(document, dict):
        return ""
    text = document.get("detail") or document.get("error")
    return text[:MAX_ERROR_TEXT] if isinstance(text, str) else ""
