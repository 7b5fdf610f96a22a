"""Tensors on the wire: JSON values and raw bytes to arrays, and back.

Raw tensors are little-endian and row-major; a BYTES element is a 4-byte length and its bytes.
Nothing is allocated before the declared shape has been held against the data that is there.

Source:
    Open Inference Protocol v2 (REST) and Triton's binary tensor data extension.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from gpu_backend.errors import InvalidInputError
from gpu_backend.execution.datatypes import (
    BY_NAME,
    Array,
    Datatype,
    to_bfloat16,
    widen_bfloat16,
)

__all__ = ["decode_json", "decode_raw", "encode_json", "encode_raw", "parse_shape"]

_MAX_DIMS = 16
"""Deeper than any model; bounds the work on a hostile shape."""

_MAX_ELEMENTS = 1 << 40
"""Past it a product of sizes is nonsense, whatever the limit of a body."""

_LENGTH = struct.Struct("<I")


def parse_datatype(name: str, value: object) -> Datatype:
    """The datatype called `value`.

    Raises:
        InvalidInputError: There is none.
    """
    datatype = BY_NAME.get(value) if isinstance(value, str) else None
    if datatype is None:
        raise InvalidInputError(
            f"input {name!r}: datatype {_quote(value)} is unknown; one of {', '.join(BY_NAME)}",
            param=name,
        )
    return datatype


def parse_shape(name: str, value: object) -> tuple[tuple[int, ...], int]:
    """Shape and number of elements.

    Raises:
        InvalidInputError: Not a list of sizes, negative, or absurdly large.
    """
    if type(value) is not list or len(value) > _MAX_DIMS:
        raise InvalidInputError(
            f"input {name!r}: shape is a list of at most {_MAX_DIMS} sizes, got {_quote(value)}",
            param=name,
        )
    for size in value:
        if type(size) is not int or size < 0:
            raise InvalidInputError(
                f"input {name!r}: shape holds whole numbers from 0, got {_quote(size)}", param=name
            )
    count = math.prod(value)
    if count > _MAX_ELEMENTS:
        raise InvalidInputError(
            f"input {name!r}: shape {_quote(value)} has {_quote(count)} elements, "
            "more than any body holds",
            param=name,
        )
    return tuple(value), count


def decode_raw(
    name: str, datatype: Datatype, shape: tuple[int, ...], count: int, data: memoryview
) -> Array:
    """An array over `data`; no copy, except for BYTES, BOOL and unaligned data.

    Raises:
        InvalidInputError: `data` is not what `shape` needs.
    """
    if datatype.size == 0:
        return _decode_bytes(name, count, data).reshape(shape)
    if len(data) != count * datatype.size:
        raise InvalidInputError(
            f"input {name!r}: shape {list(shape)} of {datatype.name} takes "
            f"{count * datatype.size} bytes, got {len(data)}",
            param=name,
        )
    if datatype.name == "BOOL":
        # A byte other than 0 and 1 in a bool array is undefined behaviour in numpy's kernels.
        truths: Array = np.frombuffer(data, np.uint8) != 0
        return truths.reshape(shape)
    array: Array = np.frombuffer(data, datatype.dtype).reshape(shape)
    return array if array.flags.aligned else array.copy()


def _decode_bytes(name: str, count: int, data: memoryview) -> Array:
    # Each element takes 4 bytes at least: a shape beyond that is refused before it is allocated.
    if count * _LENGTH.size > len(data):
        raise InvalidInputError(
            f"input {name!r}: {count} BYTES elements do not fit into {len(data)} bytes", param=name
        )
    elements = np.empty(count, dtype=object)
    offset = 0
    for index in range(count):
        if offset + _LENGTH.size > len(data):
            raise InvalidInputError(
                f"input {name!r}: BYTES data ends after {index} of {count} elements", param=name
            )
        (length,) = _LENGTH.unpack_from(data, offset)
        offset += _LENGTH.size
        if offset + length > len(data):
            raise InvalidInputError(
                f"input {name!r}: element {index} says it has {length} bytes, "
                f"{len(data) - offset} are left",
                param=name,
            )
        try:
            elements[index] = str(data[offset : offset + length], "utf-8")
        except UnicodeDecodeError as exc:
            raise InvalidInputError(
                f"input {name!r}: element {index} is not UTF-8, which ONNX strings are",
                param=name,
            ) from exc
        offset += length
    if offset != len(data):
        raise InvalidInputError(
            f"input {name!r}: {len(data) - offset} bytes follow the last of {count} elements",
            param=name,
        )
    return elements


def decode_json(
    name: str, datatype: Datatype, shape: tuple[int, ...], count: int, data: object
) -> Array:
    """An array from JSON values, flat or nested as `shape` says.

    Raises:
        InvalidInputError: Wrong number, nesting or type of values, or one out of range.
    """
    if type(data) is not list:
        raise InvalidInputError(
            f"input {name!r}: data is a list of values, got {_quote(data)}", param=name
        )
    if datatype.kind == "text":
        values = _text_values(name, data, count)
    else:
        values = _number_values(name, datatype, data)
    if values.size != count or values.shape not in (shape, (count,)):
        given = f"{values.size} values" if values.ndim == 1 else f"shape {list(values.shape)}"
        raise InvalidInputError(
            f"input {name!r}: shape {list(shape)} takes {count} values, got {given}", param=name
        )
    return values.reshape(shape)


def _text_values(name: str, data: list[Any], count: int) -> Array:
    flat: list[Any] = data
    for _ in range(_MAX_DIMS):
        if not any(type(entry) is list for entry in flat):
            break
        if not all(type(entry) is list for entry in flat):
            raise InvalidInputError(f"input {name!r}: nesting of data is uneven", param=name)
        flat = [value for entry in flat for value in entry]
    for value in flat:
        if type(value) is not str:
            raise InvalidInputError(
                f"input {name!r}: BYTES takes strings in JSON, got {_quote(value)}", param=name
            )
    array = np.empty(len(flat), dtype=object)
    array[:] = flat
    return array if len(flat) != count else array.reshape(count)


def _number_values(name: str, datatype: Datatype, data: list[Any]) -> Array:
    try:
        values: Array = np.array(data) if data else np.empty(0, datatype.dtype)
    except ValueError as exc:
        raise InvalidInputError(f"input {name!r}: nesting of data is uneven", param=name) from exc
    kind, given = datatype.kind, values.dtype.kind
    if values.size == 0:
        return values.astype(datatype.dtype)
    if kind == "float" and given in "iuf":
        return _to_float(name, datatype, values)
    if kind == "integer" and given in "iu":
        limits = np.iinfo(datatype.dtype)
        low, high = int(values.min()), int(values.max())
        if low < limits.min or high > limits.max:
            outside = low if low < limits.min else high
            raise InvalidInputError(
                f"input {name!r}: {outside} is out of range for {datatype.name} "
                f"({limits.min} to {limits.max})",
                param=name,
            )
        return values.astype(datatype.dtype)
    if kind == "bool" and (given == "b" or (given in "iu" and not np.any(values & ~1))):
        return values.astype(np.bool_)
    wanted = {"float": "numbers", "integer": "whole numbers", "bool": "true or false"}[kind]
    raise InvalidInputError(f"input {name!r}: {datatype.name} takes {wanted}", param=name)


def _to_float(name: str, datatype: Datatype, values: Array) -> Array:
    with np.errstate(over="ignore"):
        if datatype.name == "BF16":
            bits = to_bfloat16(values)
            finite = np.isfinite(widen_bfloat16(bits)).all()
            converted = bits
        else:
            converted = values.astype(datatype.dtype)
            finite = np.isfinite(converted).all()
    if not finite:
        raise InvalidInputError(
            f"input {name!r}: a value is out of range for {datatype.name}", param=name
        )
    return converted


def encode_raw(datatype: Datatype, array: Array) -> bytes | memoryview:
    """The bytes of `array`; no copy where it is contiguous already."""
    if datatype.size == 0:
        parts: list[bytes] = []
        for value in array.reshape(-1):
            content = value.encode() if isinstance(value, str) else bytes(value)
            parts += (_LENGTH.pack(len(content)), content)
        return b"".join(parts)
    if array.size == 0:
        return b""  # a memoryview of an empty array cannot be cast
    return np.ascontiguousarray(array, datatype.dtype).data.cast("B")


def encode_json(datatype: Datatype, array: Array) -> Any:
    """Flat values that orjson writes. What JSON cannot say (NaN, infinity) becomes null."""
    flat = array.reshape(-1)
    if datatype.size == 0:
        return [v if isinstance(v, str) else bytes(v).decode("utf-8", "replace") for v in flat]
    if datatype.name == "BF16":
        flat = widen_bfloat16(flat)
    return np.ascontiguousarray(flat)


def _quote(value: object) -> str:
    """`value` for an error text, cut to a length that people read."""
    try:
        shown = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a huge number"
    return shown if len(shown) <= 80 else f"{shown[:77]}…"
