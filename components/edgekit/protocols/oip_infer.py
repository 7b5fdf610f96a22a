"""Infer requests and answers of the Open Inference Protocol, independent of how they were sent.

A tensor may come as JSON or as raw bytes after the JSON head, and may be wanted back either way.
Here both forms become one: named tensors of raw bytes, and the rest of the document. So requests
that mean the same are the same to the cache, and one stored answer serves clients of both kinds.

Source:
    Open Inference Protocol v2 (REST), and Triton's binary tensor data extension.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.errors import InvalidInputError, UpstreamUnavailableError
from edgekit.http import Headers
from edgekit.policy.cache_key import canonical_json, canonical_tensor
from edgekit.processing.tensor import item_size, pack, unpack
from edgekit.protocols.json_text import parse_json
from edgekit.protocols.oip import HEADER_LENGTH, Tensor

__all__ = ["InferCall", "InferResult", "parse_infer_call", "parse_infer_result"]

_FAULTS = (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidInputError)

_BINARY = "binary_data"
_BINARY_ALL = "binary_data_output"
_SIZE = "binary_data_size"


@dataclass(frozen=True, slots=True)
class InferCall:
    """What a client asks for.

    Attributes:
        id: To be repeated in the answer; None when it gave none.
        inputs: Its tensors.
        parameters: Of the request, without the wish for binary outputs.
        outputs: The outputs it lists, without that wish; None when it wants all of them.
        binary: Names of outputs wanted as raw bytes; None when that holds for all.
    """

    id: str | None
    inputs: tuple[Tensor, ...]
    parameters: Mapping[str, Any]
    outputs: Sequence[Mapping[str, Any]] | None
    binary: frozenset[str] | None

    @property
    def is_stateful(self) -> bool:
        """True when the answer depends on requests before this one."""
        return any(name.startswith("sequence_") for name in self.parameters)

    def canonical(self) -> list[bytes]:
        """All that decides on the answer; the order of inputs does not."""
        tensors = sorted(self.inputs, key=lambda tensor: tensor.name)
        return [
            canonical_json([self.parameters, self.outputs]),
            *(canonical_tensor(t.name, t.datatype, t.shape, t.data) for t in tensors),
        ]

    def encode(self) -> tuple[Headers, bytes]:
        """Fields and body that ask an upstream for all of it in binary."""
        head: dict[str, Any] = {
            "inputs": [
                {
                    "name": tensor.name,
                    "datatype": tensor.datatype,
                    "shape": tensor.shape,
                    "parameters": {_SIZE: len(tensor.data)},
                }
                for tensor in self.inputs
            ]
        }
        if self.outputs is None:
            head["parameters"] = {**self.parameters, _BINARY_ALL: True}
        else:
            head["outputs"] = [
                {**output, "parameters": {**(output.get("parameters") or {}), _BINARY: True}}
                for output in self.outputs
            ]
            if self.parameters:
                head["parameters"] = self.parameters
        text = json.dumps(head, separators=(",", ":")).encode()
        headers = Headers(
            [("content-type", "application/octet-stream"), (HEADER_LENGTH, str(len(text)))]
        )
        return headers, b"".join((text, *(tensor.data for tensor in self.inputs)))


@dataclass(frozen=True, slots=True)
class InferResult:
    """An upstream's answer.

    Attributes:
        head: The document without outputs and without id.
        outputs: Its tensors, with parameters of their own.
    """

    head: Mapping[str, Any]
    outputs: tuple[tuple[Tensor, Mapping[str, Any]], ...]

    def encode(self, call: InferCall | None = None) -> tuple[Headers, bytes]:
        """Fields and body in the form that `call` wants; the stored form, all binary, for None.

        Raises:
            UpstreamUnavailableError: A value has no JSON form, which the client asked for.
        """
        document: dict[str, Any] = {}
        if call is not None and call.id is not None:
            document["id"] = call.id
        document.update(self.head)
        raw: list[bytes] = []
        document["outputs"] = [
            self._output(tensor, parameters, call, raw) for tensor, parameters in self.outputs
        ]
        try:
            text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
        except ValueError as exc:
            raise UpstreamUnavailableError(
                "the model answered NaN or infinity, which JSON has not; ask for binary outputs"
            ) from exc
        if not raw:
            return Headers([("content-type", "application/json")]), text
        headers = Headers(
            [("content-type", "application/octet-stream"), (HEADER_LENGTH, str(len(text)))]
        )
        return headers, b"".join((text, *raw))

    @staticmethod
    def _output(
        tensor: Tensor, parameters: Mapping[str, Any], call: InferCall | None, raw: list[bytes]
    ) -> dict[str, Any]:
        output: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        }
        if call is None or call.binary is None or tensor.name in call.binary:
            output["parameters"] = {**parameters, _SIZE: len(tensor.data)}
            raw.append(tensor.data)
            return output
        if parameters:
            output["parameters"] = parameters
        output["data"] = _to_json(tensor)
        return output


def parse_infer_call(headers: Headers, body: bytes) -> InferCall:
    """The call in a request.

    Raises:
        ValueError: It is none that is understood here, though a backend may still do so.
    """
    try:
        document, raw = _split(headers, body)
        parameters = dict(document.get("parameters") or {})
        all_binary = bool(parameters.pop(_BINARY_ALL, False))
        given_id = document.get("id")
        outputs, binary = _wanted(document.get("outputs"), all_binary)
        inputs = _tensors(document["inputs"], raw)
        return InferCall(
            id=None if given_id is None else str(given_id),
            inputs=tuple(tensor for tensor, _ in inputs),
            parameters=parameters,
            outputs=outputs,
            binary=binary,
        )
    except _FAULTS as exc:
        raise ValueError(f"no infer request that can be read here ({exc})") from exc


def parse_infer_result(headers: Headers, body: bytes) -> InferResult:
    """The answer in a response.

    Raises:
        UpstreamUnavailableError: It breaks the protocol.
    """
    try:
        document, raw = _split(headers, body)
        outputs = _tensors(document["outputs"], raw)
        head = {name: value for name, value in document.items() if name not in ("id", "outputs")}
        return InferResult(head, tuple(outputs))
    except _FAULTS as exc:
        raise UpstreamUnavailableError(
            f"the backend's answer breaks the Open Inference Protocol ({exc})"
        ) from exc


def _split(headers: Headers, body: bytes) -> tuple[dict[str, Any], bytes]:
    length = headers.last(HEADER_LENGTH)
    size = len(body) if length is None else int(length)
    if not 0 <= size <= len(body):
        raise ValueError(f"{HEADER_LENGTH} is {size}, the body has {len(body)} bytes")
    document = parse_json(body[:size])
    if not isinstance(document, dict):
        raise TypeError("the head is no JSON object")
    return document, body[size:]


def _wanted(
    outputs: Any, all_binary: bool
) -> tuple[list[dict[str, Any]] | None, frozenset[str] | None]:
    """The listed outputs without their wish for a form, and the names wanted as raw bytes."""
    if not outputs:
        return None, None if all_binary else frozenset()
    plain, binary = [], set()
    for output in outputs:
        parameters = dict(output.get("parameters") or {})
        if parameters.pop(_BINARY, all_binary):
            binary.add(str(output["name"]))
        rest = {name: value for name, value in output.items() if name != "parameters"}
        plain.append({**rest, "parameters": parameters} if parameters else rest)
    return plain, frozenset(binary)


def _tensors(entries: Any, raw: bytes) -> list[tuple[Tensor, Mapping[str, Any]]]:
    """Tensors in order, each with its parameters; raw bytes must be used up exactly."""
    tensors: list[tuple[Tensor, Mapping[str, Any]]] = []
    offset = 0
    for entry in entries:
        parameters = dict(entry.get("parameters") or {})
        size = parameters.pop(_SIZE, None)
        shape = tuple(int(side) for side in entry["shape"])
        name, datatype = str(entry["name"]), str(entry["datatype"])
        if size is None:
            data = _from_json(entry["data"], datatype)
        else:
            data = raw[offset : offset + size]
            offset += size
        _check_size(data, datatype, shape)
        tensors.append((Tensor(name, datatype, shape, data), parameters))
    if offset != len(raw):
        raise ValueError(f"{len(raw)} raw bytes, {offset} of them named in the head")
    return tensors


def _check_size(data: bytes, datatype: str, shape: Sequence[int]) -> None:
    count = math.prod(shape)
    if datatype == "BYTES":
        found = len(_split_strings(data))
    else:
        found, rest = divmod(len(data), item_size(datatype))
        found = -1 if rest else found
    if found != count:
        raise ValueError(f"{len(data)} bytes do not fit shape {list(shape)} of {datatype}")


def _from_json(data: Any, datatype: str) -> bytes:
    values = _flatten(data)
    if datatype == "BYTES":
        texts = [value.encode() for value in values]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    if datatype != "BOOL" and any(isinstance(value, bool | str) for value in values):
        raise TypeError(f"a value is no number of datatype {datatype}")
    return pack(values, datatype)


def _flatten(data: Any) -> list[Any]:
    """JSON data comes flat or nested (the protocol allows both)."""
    if not isinstance(data, list):
        raise TypeError("data is no list")
    values: list[Any] = data
    while values and isinstance(values[0], list):
        values = [value for row in values for value in row]
    return values


def _to_json(tensor: Tensor) -> list[Any]:
    if tensor.datatype != "BYTES":
        return list(unpack(tensor.data, tensor.datatype))
    try:
        return [text.decode() for text in _split_strings(tensor.data)]
    except UnicodeDecodeError as exc:
        raise UpstreamUnavailableError(
            f"output {tensor.name!r} holds bytes that are no text; ask for it as binary"
        ) from exc


def _split_strings(data: bytes) -> list[bytes]:
    strings = []
    offset = 0
    while offset < len(data):
        end = offset + 4 + int.from_bytes(data[offset : offset + 4], "little")
        if end > len(data):
            raise ValueError("a string is cut off")
        strings.append(data[offset + 4 : end])
        offset = end
    return strings
