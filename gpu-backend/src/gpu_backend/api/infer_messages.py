"""Infer requests and responses of the Open Inference Protocol v2, JSON and binary.

A binary message is a JSON head followed by raw tensors in the order the head lists them. Only
the field `Inference-Header-Content-Length` makes a message binary: the sync tritonclient sends
no `Content-Type` at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from gpu_backend.api.http import json_object
from gpu_backend.api.tensors import (
    decode_json,
    decode_raw,
    encode_json,
    encode_raw,
    parse_datatype,
    parse_shape,
)
from gpu_backend.dataplane import InferResult, Tensor
from gpu_backend.errors import InvalidInputError
from gpu_backend.execution.datatypes import BY_NAME
from gpu_backend.repository.model import LoadedModel

__all__ = [
    "HEADER_LENGTH",
    "InferMessage",
    "encode_infer_response",
    "parse_infer_request",
    "parse_raw_request",
]

HEADER_LENGTH = b"inference-header-content-length"

_MAX_CLASSES = 10_000


@dataclass(frozen=True, slots=True)
class InferMessage:
    """One infer request.

    Attributes:
        id: Echoed; empty when the client sent none.
        inputs: Tensors as sent, not yet held against a model.
        outputs: Names asked for; None means all.
        binary: For each name in `outputs` whether it is wanted raw; the key None stands for
            outputs that are not listed.
        classes: For each name in `outputs` that is wanted as its top classes, how many.
        parameters: Of the request as a whole.
    """

    id: str
    inputs: list[Tensor]
    outputs: list[str] | None
    binary: dict[str | None, bool]
    classes: dict[str, int]
    parameters: dict[str, Any]


def parse_infer_request(body: bytes, header_length: bytes | None) -> InferMessage:
    """The request in `body`.

    Args:
        body: After decompression.
        header_length: Value of `Inference-Header-Content-Length`; None for a JSON request.

    Raises:
        InvalidInputError: Anything about it is wrong; the text says what.
    """
    view = memoryview(body)
    size = len(body) if header_length is None else _head_size(header_length, len(body))
    try:
        document = orjson.loads(view[:size])
    except orjson.JSONDecodeError as exc:
        where = "the body" if header_length is None else "the JSON head"
        raise InvalidInputError(f"{where} is not JSON: {exc}") from exc
    document = json_object(document, "an infer request")
    parameters = _parameters(document, "parameters")
    outputs, binary, classes = _outputs(document.get("outputs"), parameters)
    request_id = document.get("id", "")
    if type(request_id) is not str:
        raise InvalidInputError("id is a string")
    inputs = _inputs(document, view[size:])
    return InferMessage(request_id, inputs, outputs, binary, classes, parameters)


def parse_raw_request(model: LoadedModel, body: bytes) -> InferMessage:
    """The request that is nothing but the bytes of a model's only input.

    Its batch has one row, and at most one dimension is free: its size follows from the bytes.
    Who asks in bytes is answered in bytes.

    Raises:
        InvalidInputError: The model or the number of bytes does not allow it.

    Source:
        Triton's binary tensor data extension, "Raw Binary Request".
    """
    if len(model.inputs) != 1:
        raise InvalidInputError(
            f"a request without a JSON head is for models with one input; {model.name!r} has "
            f"{len(model.inputs)}"
        )
    (spec,) = model.inputs.values()
    shape = list(spec.shape)
    if model.batchable:
        shape[0] = 1
    free = [axis for axis, size in enumerate(shape) if size == -1]
    size = spec.datatype.size
    if len(free) > 1 or not size:
        raise InvalidInputError(
            f"a request without a JSON head does not tell the shape of input {spec.name!r}: "
            f"{list(spec.shape)} of {spec.datatype.name}"
        )
    if free:
        row = size * math.prod(side for side in shape if side != -1)
        shape[free[0]] = len(body) // row if row else 0
    count = math.prod(shape)
    array = decode_raw(spec.name, spec.datatype, tuple(shape), count, memoryview(body))
    return InferMessage("", [Tensor(spec.name, spec.datatype, array)], None, {None: True}, {}, {})


def _head_size(header_length: bytes, body_length: int) -> int:
    text = header_length.strip()
    # isdigit alone takes superscripts in str, but bytes only know ASCII digits.
    if not text.isdigit() or len(text) > 18 or int(text) > body_length:
        raise InvalidInputError(
            "Inference-Header-Content-Length is the length of the JSON head in bytes, "
            f"0 to {body_length} here, got {text[:40].decode('latin-1')!r}"
        )
    return int(text)


def _parameters(holder: dict[str, Any], what: str) -> dict[str, Any]:
    parameters = holder.get("parameters")
    return {} if parameters is None else json_object(parameters, what)


def _inputs(document: dict[str, Any], raw: memoryview) -> list[Tensor]:
    inputs = document.get("inputs")
    if type(inputs) is not list or not inputs:
        raise InvalidInputError("inputs is a list with at least one tensor")
    tensors = []
    offset = 0
    for entry in inputs:
        entry = json_object(entry, "an input")
        name = entry.get("name")
        if type(name) is not str:
            raise InvalidInputError("an input has no name")
        datatype = parse_datatype(name, entry.get("datatype"))
        shape, count = parse_shape(name, entry.get("shape"))
        parameters = _parameters(entry, f"parameters of input {name!r}")
        size = parameters.get("binary_data_size")
        if size is not None:
            _check_raw_size(name, size, entry, len(raw) - offset)
            array = decode_raw(name, datatype, shape, count, raw[offset : offset + size])
            offset += size
        elif "data" in entry:
            array = decode_json(name, datatype, shape, count, entry["data"])
        else:
            raise InvalidInputError(_no_data(name, parameters), param=name)
        tensors.append(Tensor(name, datatype, array))
    if offset != len(raw):
        raise InvalidInputError(
            f"{len(raw) - offset} bytes follow the tensors: binary_data_size of the inputs sums "
            f"to {offset}, after the JSON head come {len(raw)} bytes"
        )
    return tensors


def _check_raw_size(name: str, size: object, entry: dict[str, Any], left: int) -> None:
    if type(size) is not int or size < 0:
        raise InvalidInputError(
            f"input {name!r}: binary_data_size is a number of bytes", param=name
        )
    if size > left:
        raise InvalidInputError(
            f"input {name!r}: binary_data_size is {size}, {left} bytes are left in the body",
            param=name,
        )
    if "data" in entry:
        raise InvalidInputError(
            f"input {name!r} has both data and binary_data_size; send one of the two", param=name
        )


def _no_data(name: str, parameters: dict[str, Any]) -> str:
    if "shared_memory_region" in parameters:
        return f"input {name!r}: shared memory is not supported; send the data"
    return f"input {name!r} has neither data nor parameters.binary_data_size"


def _outputs(
    given: object, parameters: dict[str, Any]
) -> tuple[list[str] | None, dict[str | None, bool], dict[str, int]]:
    default = parameters.get("binary_data_output", False)
    if type(default) is not bool:
        raise InvalidInputError("binary_data_output is true or false")
    if given is None:
        return None, {None: default}, {}
    if type(given) is not list:
        raise InvalidInputError("outputs is a list")
    names: list[str] = []
    classes: dict[str, int] = {}
    binary: dict[str | None, bool] = {None: default}
    for entry in given:
        entry = json_object(entry, "an output")
        name = entry.get("name")
        if type(name) is not str:
            raise InvalidInputError("an output has no name")
        wanted = _parameters(entry, f"parameters of output {name!r}")
        if "shared_memory_region" in wanted:
            raise InvalidInputError(f"output {name!r}: shared memory is not supported", param=name)
        raw = wanted.get("binary_data", default)
        if type(raw) is not bool:
            raise InvalidInputError(f"output {name!r}: binary_data is true or false", param=name)
        count = wanted.get("classification", 0)
        if type(count) is not int or not 0 <= count <= _MAX_CLASSES:
            raise InvalidInputError(
                f"output {name!r}: classification is 1 to {_MAX_CLASSES}", param=name
            )
        if count:
            classes[name] = count
        names.append(name)
        binary[name] = raw
    return names or None, binary, classes


def encode_infer_response(
    message: InferMessage, result: InferResult
) -> tuple[list[bytes | memoryview], int | None]:
    """Parts of the body, and the length of the JSON head when raw tensors follow it."""
    outputs = []
    parts: list[bytes | memoryview] = [b""]
    for tensor in result.outputs:
        if tensor.name in message.classes:
            tensor = _classify(tensor, message.classes[tensor.name], result)
        entry: dict[str, object] = {
            "name": tensor.name,
            "datatype": tensor.datatype.name,
            "shape": tensor.array.shape,
        }
        if message.binary.get(tensor.name, message.binary[None]):
            raw = encode_raw(tensor.datatype, tensor.array)
            entry["parameters"] = {"binary_data_size": len(raw)}
            parts.append(raw)
        else:
            entry["data"] = encode_json(tensor.datatype, tensor.array)
        outputs.append(entry)
    document: dict[str, object] = {
        "model_name": result.model.name,
        "model_version": str(result.model.version),
        "outputs": outputs,
    }
    if message.id:
        document["id"] = message.id
    parts[0] = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return parts, len(parts[0]) if len(parts) > 1 else None


def _classify(tensor: Tensor, count: int, result: InferResult) -> Tensor:
    """The top classes of each row as text, ``score:index[:label]``.

    Raises:
        InvalidInputError: The output holds no scores.

    Source:
        Triton's classification extension.
    """
    scores = tensor.array
    if tensor.datatype.name not in ("FP16", "FP32", "FP64") or scores.ndim == 0:
        raise InvalidInputError(
            f"output {tensor.name!r} is {tensor.datatype.name}: only floating-point scores can be "
            "classified",
            param=tensor.name,
        )
    rows = scores.reshape(-1, scores.shape[-1])
    count = min(count, rows.shape[1])
    top = np.argsort(-rows, axis=1, kind="stable")[:, :count]
    labels = result.model.manifest.labels
    texts = np.empty(top.shape, dtype=object)
    for row in range(top.shape[0]):
        for rank in range(count):
            index = int(top[row, rank])
            label = f":{labels[index]}" if index < len(labels) else ""
            texts[row, rank] = f"{rows[row, index]:f}:{index}{label}"
    return Tensor(tensor.name, BY_NAME["BYTES"], texts.reshape(*scores.shape[:-1], count))
