"""Lists and descriptions of models, from one protocol to the other."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgekit.chat.ollama_writer import rfc3339
from edgekit.chat.writing import compact
from edgekit.errors import ModelNotFoundError
from edgekit.ports import UpstreamError
from edgekit.protocols.json_text import parse_json

__all__ = [
    "model_from_tags",
    "models_from_tags",
    "show_from_model",
    "tags_from_models",
    "version_answer",
]

FAULTS = (AttributeError, KeyError, TypeError, ValueError)
"""What reading a document of the wrong shape raises."""

EPOCH = "1970-01-01T00:00:00Z"


def models_from_tags(body: bytes) -> bytes:
    """`/v1/models` for an answer of `/api/tags`. Raises `UpstreamError` for another shape."""
    return compact({"object": "list", "data": _read(body, _models)})


def model_from_tags(body: bytes, name: str) -> bytes:
    """`/v1/models/{name}` for an answer of `/api/tags`; a name without a tag means its latest.

    Raises:
        ModelNotFoundError: The list has no such model.
        UpstreamError: The answer has another shape.
    """
    wanted = {name, f"{name}:latest"}
    for model in _read(body, _models):
        if model["id"] in wanted:
            return compact({**model, "id": name})
    raise ModelNotFoundError(f"there is no model {name[:128]!r}", param="model")


def tags_from_models(body: bytes) -> bytes:
    """`/api/tags`, and `/api/ps`, for an answer of `/v1/models`. Raises as `models_from_tags`."""
    return json.dumps({"models": _read(body, _tags)}, separators=(",", ":")).encode()


def show_from_model(body: bytes) -> bytes:
    """`/api/show` for an answer of `/v1/models/{name}`: what an OpenAI server knows of a model."""
    model = _read(body, dict)
    document = {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": _details(),
        "model_info": {"general.basename": str(model.get("id", ""))},
        "capabilities": ["completion"],
        "modified_at": _modified(model),
    }
    context = model.get("max_model_len") or model.get("context_length")
    if isinstance(context, int):
        document["model_info"] = {
            "general.basename": str(model.get("id", "")),
            "general.architecture": "unknown",
            "unknown.context_length": context,
        }
    return json.dumps(document, separators=(",", ":")).encode()


def version_answer(version: str) -> bytes:
    """`/api/version`."""
    return compact({"version": version})


def _read(body: bytes, form: Callable[[Any], Any]) -> Any:
    try:
        return form(parse_json(body))
    except FAULTS as exc:
        raise UpstreamError("the engine's list of models has an unknown shape") from exc


def _models(document: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    return [
        {
            "id": entry.get("model") or entry["name"],
            "object": "model",
            "created": _seconds(entry.get("modified_at")),
            "owned_by": "library",
        }
        for entry in document["models"]
    ]


def _tags(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": entry["id"],
            "model": entry["id"],
            "modified_at": _modified(entry),
            "size": 0,
            "digest": "",
            "details": _details(),
        }
        for entry in document["data"]
    ]


def _details() -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "",
        "family": "",
        "families": [],
        "parameter_size": "",
        "quantization_level": "",
    }


def _modified(model: Mapping[str, Any]) -> str:
    created = model.get("created")
    return rfc3339(created) if isinstance(created, int | float) and created > 0 else EPOCH


def _seconds(text: object) -> int:
    """A time as Go writes it; 0 where it is none. Nanoseconds are more than Python reads."""
    if not isinstance(text, str):
        return 0
    whole, dot, rest = text.partition(".")
    zone = rest.lstrip("0123456789") if dot else ""
    try:
        return int(datetime.datetime.fromisoformat(whole + zone).timestamp())
    except ValueError:
        return 0
