"""The fields that say who answered: `Inference-Model`, `Inference-Placement`, `Server-Timing`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ModelIdentity", "format_placement", "format_server_timing", "parse_model_identity"]


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What `Inference-Model` says: the model that really answered. Empty where it does not say."""

    name: str
    version: str
    digest: str
    provider: str


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
    return ModelIdentity(
        name, found.get("version", ""), found.get("digest", ""), found.get("provider", "")
    )


def _bare(text: str) -> str:
    return text.strip().strip('"')


def format_placement(tier: str, reason: str, actual_ms: float) -> str:
    """`Inference-Placement` as an RFC 9651 item: where it ran, why, and how long that took."""
    return f"{tier};reason={reason};actual_ms={actual_ms:.1f}"


def format_server_timing(stages: Sequence[tuple[str, float]]) -> str:
    """`Server-Timing` (W3C) of stages in milliseconds."""
    return ", ".join(f"{name};dur={duration_ms:.2f}" for name, duration_ms in stages)
