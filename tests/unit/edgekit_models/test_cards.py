"""The model cards say what the shipped documents are."""

from __future__ import annotations

import re
from pathlib import Path

import edgekit.models.shipped
from edgekit.models.shipped import DIGITS, VIBRATION

CARDS = Path(edgekit.models.shipped.__file__).with_name("README.md").read_text(encoding="utf-8")


def test_card_of_digits_names_its_shape_temperature_and_threshold() -> None:
    sizes = [DIGITS.network.inputs, *(len(layer.bias) for layer in DIGITS.network.layers)]
    assert "-".join(map(str, sizes)) in CARDS
    parameters = sum(
        len(layer.bias) * (1 + len(layer.weights[0])) for layer in DIGITS.network.layers
    )
    assert f"({parameters:,} parameters" in CARDS
    assert f"temperature ({DIGITS.temperature})" in CARDS
    assert f"threshold ({DIGITS.cascade_threshold})" in CARDS


def test_card_of_vibration_names_its_threshold_and_limits() -> None:
    parameters = VIBRATION.parameters
    assert f"threshold ({parameters['anomaly_threshold']}," in CARDS
    low, high = parameters["samples"]
    assert f"{low:,} to {high:,} samples" in CARDS


def test_card_lists_every_member_of_the_format() -> None:
    for name in ("format", "task", "labels", "layers[]", "cascade_threshold", "parameters"):
        assert re.search(rf"\| `{re.escape(name)}`", CARDS), name
