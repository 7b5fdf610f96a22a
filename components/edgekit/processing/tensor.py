"""Numbers of tensors: raw bytes to values and back, softmax, the best classes.

Tensors travel as the Open Inference Protocol defines them: little-endian, row-major.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from edgekit.errors import InvalidInputError, UpstreamUnavailableError

__all__ = ["OutputKind", "Prediction", "item_size", "pack", "softmax", "top_k", "unpack"]

OutputKind = Literal["logits", "probabilities"]

_CODES: Final = {
    "BOOL": "?",
    "INT8": "b",
    "UINT8": "B",
    "INT16": "h",
    "UINT16": "H",
    "INT32": "i",
    "UINT32": "I",
    "INT64": "q",
    "UINT64": "Q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
    # The upper half of a float32: BF16 is widened to FP32 before it is unpacked.
    "BF16": "H",
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class with the model's confidence in it.

    Attributes:
        class_id: Index into the model's output.
        label: Its name; the index as text when the model has no label for it.
        confidence: From 0 to 1.
    """

    class_id: int
    label: str
    confidence: float


def item_size(datatype: str) -> int:
    """Bytes per element.

    Raises:
        InvalidInputError: `datatype` is unknown or has no fixed size (BYTES).
    """
    return struct.calcsize("<" + _code(datatype))


def _code(datatype: str) -> str:
    try:
        return _CODES[datatype]
    except KeyError:
        raise InvalidInputError(
            f"datatype {datatype!r:.40} is none of {', '.join(_CODES)}"
        ) from None


def unpack(data: bytes, datatype: str) -> list[float]:
    """The values in `data`: integers, floats or booleans after their datatype.

    Raises:
        InvalidInputError: The datatype is unknown, or `data` is no whole number of elements.
    """
    count, rest = divmod(len(data), item_size(datatype))
    if rest:
        raise InvalidInputError(f"{len(data)} bytes are no whole number of {datatype} elements")
    if datatype == "BF16":
        wide = bytearray(2 * len(data))
        wide[2::4], wide[3::4] = data[::2], data[1::2]
        return unpack(bytes(wide), "FP32")
    return list(struct.unpack(f"<{count}{_code(datatype)}", data))


def pack(values: Sequence[float], datatype: str) -> bytes:
    """`values` as raw bytes; BF16 rounds to the nearest, ties to even.

    Raises:
        InvalidInputError: The datatype is unknown, or a value does not fit it.
    """
    code = _code(datatype)
    if datatype == "BF16":
        words = struct.unpack(f"<{len(values)}I", pack(values, "FP32"))
        values = [_round_to_bf16(word) for word in words]
    try:
        return struct.pack(f"<{len(values)}{code}", *values)
    except (struct.error, OverflowError) as error:
        raise InvalidInputError(f"a value does not fit datatype {datatype}: {error}") from error


def _round_to_bf16(word: int) -> int:
    if word & 0x7FFFFFFF > 0x7F800000:
        return word >> 16 | 0x40  # NaN stays NaN though its low payload bits are dropped
    return word + 0x7FFF + (word >> 16 & 1) >> 16


def softmax(logits: Sequence[float]) -> list[float]:
    """Probabilities, stable for logits of any size; −∞ means impossible.

    Raises:
        UpstreamUnavailableError: There is no logit, or one is NaN or +∞, or all are −∞.
    """
    highest = max(logits, default=-math.inf)
    if not math.isfinite(highest) or any(map(math.isnan, logits)):
        raise UpstreamUnavailableError(
            f"the model answered {len(logits)} logits that are no numbers or have no maximum"
        )
    powers = [math.exp(logit - highest) for logit in logits]
    total = math.fsum(powers)
    return [power / total for power in powers]


def top_k(
    values: Sequence[float],
    *,
    kind: OutputKind = "logits",
    labels: Sequence[str] = (),
    k: int = 5,
    threshold: float = 0.0,
) -> list[Prediction]:
    """The classes the model is most confident of, best first, equal ones by class id.

    Args:
        values: The model's output for one item.
        kind: "logits" go through softmax; "probabilities" are taken as they are.
        labels: Names by class id.
        k: Most classes returned, at least 1.
        threshold: Least confidence of a returned class, from 0 to 1.

    Raises:
        InvalidInputError: `k` or `threshold` is out of range.
        UpstreamUnavailableError: The output holds NaN, or a probability outside 0…1.
    """
    if k < 1:
        raise InvalidInputError(f"top_k must be at least 1, not {k}", param="top_k")
    if not 0 <= threshold <= 1:
        raise InvalidInputError(
            f"threshold must be from 0 to 1, not {threshold}", param="threshold"
        )
    confidences = softmax(values) if kind == "logits" else _check_probabilities(values)
    order = sorted(range(len(confidences)), key=confidences.__getitem__, reverse=True)[:k]
    return [
        Prediction(index, labels[index] if index < len(labels) else str(index), confidences[index])
        for index in order
        if confidences[index] >= threshold
    ]


_ROUNDING = 1e-3
"""How far float16 arithmetic may push a probability past 0 or 1."""


def _check_probabilities(values: Sequence[float]) -> list[float]:
    if not all(-_ROUNDING <= value <= 1 + _ROUNDING for value in values):
        raise UpstreamUnavailableError("the model answered probabilities outside 0 to 1")
    return [min(1.0, max(0.0, value)) for value in values]
