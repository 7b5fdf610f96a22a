"""The fields that say who answered: `Inference-Model`, `Inference-Placement`, `Server-Timing`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.policy.structured import Token, serialize_item

__all__ = ["ModelIdentity", "format_server_timing", "parse_model_identity"]

_PARAMETERS = ("version", "digest", "provider", "engine")
_TOKEN = re.compile(r"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*")


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What `Inference-Model` says: the model that really answered. Empty where it does not say.

    Attributes:
        provider: Execution provider, of a model that ONNX Runtime runs.
        engine: What runs a language model.
    """

    name: str
    version: str = ""
    digest: str = ""
    provider: str = ""
    engine: str = ""

    def parts(self) -> tuple[str, str, str, str, str]:
        """All of it, in order."""
        return (self.name, self.version, self.digest, self.provider, self.engine)

    def serialize(self) -> str:
        """The field value, as an item of RFC 9651; what is empty is left out."""
        plain = re.sub(r"[^ -~]", "?", self.name)
        name = Token(plain) if _TOKEN.fullmatch(plain) else plain
        params = {
            key: re.sub(r"[^ -~]", "?", value)
            for key, value in zip(_PARAMETERS, self.parts()[1:], strict=True)
            if value
        }
        return serialize_item(name, params)


def parse_model_identity(value: str | None) -> ModelIdentity | None:
    """`digits;version="1";digest="sha256:…";provider="CPUExecutionProvider"`, quotes optional.

    None when the field is absent or names no model: such a backend cannot be checked against the
    metadata, and is not an error.
    """
    if not value:
        return None
    name, *parameters = value.split(";")
    name = _bare(name)
    if not name:
        return None
    found: dict[str, str] = {}
    for parameter in parameters:
        key, _, text = parameter.partition("=")
        found[key.strip().lower()] = _bare(text)
    return ModelIdentity(name, *(found.get(key, "") for key in _PARAMETERS))


def _bare(text: str) -> str:
    return text.strip().strip('"')


def format_server_timing(stages: Sequence[tuple[str, float]]) -> str:
    """`Server-Timing` (W3C) of stages in milliseconds."""
    return ", ".join(f"{name};dur={duration_ms:.2f}" for name, duration_ms in stages)
