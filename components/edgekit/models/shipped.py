"""The models that ship inside the component.

They are read while the component is built and become part of its memory image, so a request pays
nothing for loading them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgekit.models.document import EdgeModel, parse_model

__all__ = ["DIGITS", "SHIPPED", "VIBRATION"]


def _load(name: str) -> EdgeModel:
    return parse_model(Path(__file__).with_name(f"{name}.json").read_bytes())


DIGITS = _load("digits")
"""Handwritten digits, 8 × 8: the fallback and first stage of the backend's model."""

VIBRATION = _load("vibration")
"""Damage of rolling bearings from a window of acceleration samples."""

SHIPPED: Mapping[str, EdgeModel] = {model.name: model for model in (DIGITS, VIBRATION)}
