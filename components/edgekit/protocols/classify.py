"""`POST /v1/classify/{model}` on the wire: what clients send and what they get."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
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
from edgekit.processing.image import (
    FILE_TYPES,
    Image,
    ImageFile,
    image_from_pixels,
    open_image,
    raw_image,
)
from edgekit.processing.tensor import Prediction
from edgekit.protocols.json_text import parse_json

__all__ = [
    "JSON_TYPE",
    "MEDIA_TYPES",
    "BackendAnswer",
    "ClassifyQuery",
    "add_latency",
    "format_answer",
    "parse_backend_answer",
    "parse_image",
    "parse_query",
]

JSON_TYPE = "application/json"
RAW_TYPE = "application/octet-stream"
MEDIA_TYPES = (*FILE_TYPES, RAW_TYPE, JSON_TYPE)

JSON_MEMBERS = ("image", "pixels", "width", "height")

DEFAULT_TOP_K = 5
MAX_TOP_K = 1000
MAX_SIDE = 65_536
MAX_NAME_BYTES = 128
"""With prefix and version, a store's key stays below its 255 bytes."""

_VERSION = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class ClassifyQuery:
    """What a client asks for, the picture aside.

    Attributes:
        model: Model name.
        version: Model version; None for the active one.
        top_k: Most classes to return.
        threshold: Least confidence of a returned class, in [0, 1].
        width: Of raw pixels; None when not given.
        height: Of raw pixels; None when not given.
    """

    model: str
    version: str | None
    top_k: int
    threshold: float
    width: int | None
    height: int | None


def parse_query(request: Request, model: str) -> ClassifyQuery:
    """The parameters in path and query.

    Raises:
        ModelNotFoundError: No model can have such a name.
        InvalidInputError: A parameter is malformed or out of range.
    """
    if not model.isprintable() or "/" in model or not 0 < len(model.encode()) <= MAX_NAME_BYTES:
        raise ModelNotFoundError(f"there is no model {model[:MAX_NAME_BYTES]!r}", param="model")
    parameters = request.params()
    version = parameters.get("version")
    if version is not None and not _VERSION.fullmatch(version):
        raise _refusal("version", version, "the name of a model version")
    return ClassifyQuery(
        model=model,
        version=version,
        top_k=_whole_number(parameters, "top_k", MAX_TOP_K) or DEFAULT_TOP_K,
        threshold=_fraction(parameters, "threshold"),
        width=_whole_number(parameters, "width", MAX_SIDE),
        height=_whole_number(parameters, "height", MAX_SIDE),
    )


def _whole_number(parameters: Mapping[str, str], name: str, most: int) -> int | None:
    text = parameters.get(name)
    if text is None:
        return None
    if text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most:
        return int(text)
    raise _refusal(name, text, f"a whole number from 1 to {most}")


def _fraction(parameters: Mapping[str, str], name: str) -> float:
    text = parameters.get(name, "0")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if 0.0 <= value <= 1.0:
        return value
    raise _refusal(name, text, "a number from 0 to 1")


def _refusal(name: str, given: str, takes: str) -> InvalidInputError:
    return InvalidInputError(f"{name} is {given[:40]!r}; it takes {takes}", param=name)


def parse_image(
    request: Request, query: ClassifyQuery, body: bytes, max_pixels: int
) -> Image | ImageFile:
    """The picture in `body`, in whichever form the content type says.

    Returns:
        A file as it is where it is not decoded here: its format is foreign, or it has more than
        `max_pixels`.

    Raises:
        UnsupportedMediaTypeError: The form is none that is read here, or is compressed.
        InvalidInputError: The body is empty or malformed.
        PayloadTooLargeError: Bare pixels are more than `max_pixels`.
    """
    coding = (request.headers.get("content-encoding") or "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedMediaTypeError(
            f"content-Encoding {coding[:40]!r} is not read here: send the body uncompressed"
        )
    media_type = request.content_type()
    if media_type not in MEDIA_TYPES:
        given = (
            f"the content type is {media_type[:80]!r}" if media_type else "there is no content type"
        )
        raise UnsupportedMediaTypeError(f"{given}; this takes {', '.join(MEDIA_TYPES)}")
    if not body:
        raise InvalidInputError("the request body is empty: send an image")
    if media_type == JSON_TYPE:
        return _json_image(body, max_pixels)
    if media_type == RAW_TYPE:
        if query.width is None or query.height is None:
            raise InvalidInputError(
                "raw pixels need ?width= and ?height=.",
                param="height" if query.height is None and query.width is not None else "width",
            )
        return raw_image(body, query.width, query.height, max_pixels=max_pixels)
    return open_image(body, media_type, max_pixels=max_pixels)


def _json_image(body: bytes, max_pixels: int) -> Image | ImageFile:
    document = _load_object(body)
    unknown = [name for name in document if name not in JSON_MEMBERS]
    if unknown:
        raise InvalidInputError(
            f"member {unknown[0][:40]!r} is unknown; there are {', '.join(JSON_MEMBERS)}",
            param=unknown[0][:40],
        )
    if ("image" in document) == ("pixels" in document):
        raise InvalidInputError("the body takes either image (base64 of a file) or pixels")
    if "image" in document:
        return open_image(_decode_base64(document["image"]), max_pixels=max_pixels)
    width, height = (_json_size(document, name) for name in ("width", "height"))
    return image_from_pixels(document["pixels"], width=width, height=height, max_pixels=max_pixels)


def _load_object(body: bytes) -> dict[str, Any]:
    try:
        document = parse_json(body)
    except ValueError as exc:
        raise InvalidInputError(f"the body is no JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise InvalidInputError("the body is no JSON object")
    return document


def _decode_base64(value: object) -> bytes:
    if not isinstance(value, str):
        raise InvalidInputError("image takes a string: base64 of an image file", param="image")
    data = value.partition(",")[2] if value.startswith("data:") else value
    try:
        # Encoders wrap lines; any other foreign character is a mistake.
        return base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidInputError(f"image is no base64: {exc}", param="image") from exc


def _json_size(document: Mapping[str, Any], name: str) -> int | None:
    value = document.get(name)
    if value is None or (type(value) is int and 1 <= value <= MAX_SIDE):
        return value
    raise InvalidInputError(f"{name} takes a whole number from 1 to {MAX_SIDE}", param=name)


def format_answer(
    predictions: Sequence[Prediction], *, model: str, version: str, runtime: str
) -> bytes:
    """The JSON a client gets, but for the latency.

    Args:
        predictions: Best first.
        model: Model name.
        version: Version that answered.
        runtime: What really ran it: runtime and execution provider.
    """
    document = {
        "predictions": [
            {
                "class_id": prediction.class_id,
                "label": prediction.label,
                # More digits than float32 arithmetic gives would only look precise.
                "confidence": round(prediction.confidence, 6),
            }
            for prediction in predictions
        ],
        "model": model,
        "model_version": version,
        "runtime": runtime,
    }
    return json.dumps(document, ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True)
class BackendAnswer:
    """What a backend says of a picture that it decoded itself.

    Attributes:
        predictions: Best first.
        version: Of the model.
        runtime: Runtime and execution provider.
    """

    predictions: list[Prediction]
    version: str
    runtime: str


def parse_backend_answer(body: bytes) -> BackendAnswer:
    """The answer of a backend's own classify route.

    Raises:
        UpstreamUnavailableError: It makes no sense.
    """
    try:
        document = parse_json(body)
        predictions = [
            Prediction(int(each["class_id"]), str(each["label"]), float(each["confidence"]))
            for each in document["predictions"]
        ]
        if not all(0 <= each.confidence <= 1 for each in predictions):
            raise ValueError("a confidence is not from 0 to 1")
        version, runtime = document["model_version"], document["runtime"]
        return BackendAnswer(predictions, str(version), str(runtime))
    except (ValueError, TypeError, KeyError, OverflowError) as exc:
        raise UpstreamUnavailableError("the backend's answer is no classification") from exc


def add_latency(body: bytes, latency_ms: float) -> bytes:
    """`body`, a JSON object, with a last member: milliseconds from accept to answer, at the edge.

    A stored answer goes to many requests, and each of them has a latency of its own.
    """
    return b'%s, "latency_ms": %s}' % (body[:-1], json.dumps(round(latency_ms, 3)).encode())
