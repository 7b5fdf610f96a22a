"""Tensor datatypes: one table for the protocol's names, ONNX Runtime's names and numpy.

Source:
    Open Inference Protocol v2, "Tensor Data Types", and Triton's `datatypes` page for BF16 and
    BYTES.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BY_NAME", "BY_ORT_TYPE", "Array", "Datatype", "to_bfloat16", "widen_bfloat16"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Datatype:
    """One element type.

    Attributes:
        name: In the Open Inference Protocol, as ``FP32``.
        ort_type: As ONNX Runtime writes it, as ``tensor(float)``.
        onnx_type: Number in ONNX's ``TensorProto.DataType``.
        dtype: Little-endian numpy type. BF16 has none in numpy and is carried as its bits,
            ``uint16``; BYTES is ``object`` holding `str`.
        size: Bytes per element; 0 for BYTES, whose elements have their own length.
    """

    name: str
    ort_type: str
    onnx_type: int
    dtype: np.dtype[Any]
    size: int

    @property
    def kind(self) -> str:
        """What JSON values it takes: ``bool``, ``integer``, ``float`` or ``text``."""
        if self.name == "BYTES":
            return "text"
        if self.name == "BOOL":
            return "bool"
        return "float" if "F" in self.name else "integer"


def _row(name: str, ort: str, number: int, dtype: str, size: int) -> Datatype:
    return Datatype(name, f"tensor({ort})", number, np.dtype(dtype), size)


_TABLE = (
    _row("BOOL", "bool", 9, "?", 1),
    _row("UINT8", "uint8", 2, "u1", 1),
    _row("UINT16", "uint16", 4, "<u2", 2),
    _row("UINT32", "uint32", 12, "<u4", 4),
    _row("UINT64", "uint64", 13, "<u8", 8),
    _row("INT8", "int8", 3, "i1", 1),
    _row("INT16", "int16", 5, "<i2", 2),
    _row("INT32", "int32", 6, "<i4", 4),
    _row("INT64", "int64", 7, "<i8", 8),
    _row("FP16", "float16", 10, "<f2", 2),
    _row("FP32", "float", 1, "<f4", 4),
    _row("FP64", "double", 11, "<f8", 8),
    _row("BF16", "bfloat16", 16, "<u2", 2),
    _row("BYTES", "string", 8, "O", 0),
)

BY_NAME = {row.name: row for row in _TABLE}
BY_ORT_TYPE = {row.ort_type: row for row in _TABLE}


def to_bfloat16(values: Array) -> Array:
    """The bits of `values` rounded to bfloat16, ties to even.

    Args:
        values: Any float or integer array.

    Returns:
        uint16 array of the same shape. NaN stays NaN.
    """
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    # Rounding carries a NaN with a full mantissa over into infinity: keep it quiet instead.
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    halves = np.where(is_nan, bits | np.uint32(0x400000), rounded) >> np.uint32(16)
    return halves.astype("<u2").reshape(values.shape)


def widen_bfloat16(bits: Array) -> Array:
    """The float32 values of bfloat16 `bits` (uint16), exactly."""
    return (bits.astype("<u4") << np.uint32(16)).view("<f4")
