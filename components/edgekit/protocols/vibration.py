"""`POST /v1/detect/vibration` on the wire: what sensors send and what they get."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from edgekit.errors import InvalidInputError, UnsupportedMediaTypeError
from edgekit.http import Request
from edgekit.models.document import EdgeModel
from edgekit.models.vibration import FEATURE_NAMES, VibrationFeatures
from edgekit.processing.tensor import unpack
from edgekit.protocols.json_text import parse_json

__all__ = ["VibrationWindow", "format_detection", "parse_window"]

JSON_TYPE = "application/json"
RAW_TYPE = "application/octet-stream"

_MEMBERS = ("samples", "sample_rate_hz")


@dataclass(frozen=True, slots=True)
class VibrationWindow:
    """One window as it was sent: acceleration in g, evenly spaced."""

    samples: list[float]
    sample_rate_hz: float


def parse_window(request: Request, body: bytes) -> VibrationWindow:
    """The window in `body`: JSON, or raw float32 with ``?sample_rate_hz=``.

    Raises:
        UnsupportedMediaTypeError: The content type is neither.
        InvalidInputError: The body is malformed.
    """
    media_type = request.content_type()
    if media_type == JSON_TYPE:
        return _json_window(body)
    if media_type == RAW_TYPE:
        return VibrationWindow(unpack(body, "FP32"), _rate(request.params().get("sample_rate_hz")))
    raise UnsupportedMediaTypeError(
        f"the content type is {media_type[:80]!r}; this takes {JSON_TYPE} and {RAW_TYPE} "
        "(little-endian float32)"
    )


def format_detection(model: EdgeModel, features: VibrationFeatures, score: float) -> bytes:
    """The JSON a client gets, but for the latency."""
    threshold = float(model.parameters["anomaly_threshold"])
    values = (
        features.rms,
        features.kurtosis,
        features.crest_factor,
        features.jerk_kurtosis,
        features.jerk_crest_factor,
        *features.band_energies,
    )
    document = {
        "anomaly": score > threshold,
        "score": round(score, 6),
        "threshold": threshold,
        "features": {
            name: float(f"{value:.6g}") for name, value in zip(FEATURE_NAMES, values, strict=True)
        },
        "model": model.name,
        "model_version": model.version,
        "runtime": "edge",
    }
    return json.dumps(document).encode()


def _json_window(body: bytes) -> VibrationWindow:
    try:
        document = parse_json(body)
    except (ValueError, RecursionError) as exc:
        raise InvalidInputError(f"the body is no JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise InvalidInputError("the body is no JSON object")
    unknown = [name for name in document if name not in _MEMBERS]
    if unknown:
        raise InvalidInputError(
            f"member {unknown[0][:40]!r} is unknown; there are {', '.join(_MEMBERS)}",
            param=unknown[0][:40],
        )
    samples, rate = document.get("samples"), document.get("sample_rate_hz")
    # type() rather than isinstance(): JSON's true is no number.
    if not isinstance(samples, list) or not all(type(item) in (int, float) for item in samples):
        raise InvalidInputError("samples takes a list of numbers", param="samples")
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise InvalidInputError("sample_rate_hz takes a number", param="sample_rate_hz")
    try:
        return VibrationWindow([float(item) for item in samples], float(rate))
    except OverflowError as exc:
        raise InvalidInputError("samples must be finite numbers", param="samples") from exc


def _rate(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        pass
    return math.nan
