"""Write edge models in the format that components/edgekit/models/README.md describes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["write_model"]

DIGITS = 6
"""Significant digits of a number: float32 has no more."""

Numbers = NDArray[np.floating[Any]]


def write_model(
    path: Path,
    fields: Mapping[str, Any],
    layers: Sequence[tuple[Numbers, Numbers]],
    *,
    offset: Sequence[float],
    scale: Sequence[float],
) -> None:
    """Write one model; hidden layers are rectified, the last one is linear.

    Args:
        path: Where to.
        fields: name, version, task, labels, output, parameters and, with it, cascade_threshold.
        layers: Weights (outputs, inputs) and bias (outputs) of each layer.
        offset: Subtracted from the inputs.
        scale: Divides them then.
    """
    document = {
        "format": "edge-model/1",
        **fields,
        "input": {"offset": _rounded(offset), "scale": _rounded(scale)},
        "layers": [
            {
                "activation": "relu" if index + 1 < len(layers) else "linear",
                "bias": _rounded(bias),
                "weights": [_rounded(row) for row in weights],
            }
            for index, (weights, bias) in enumerate(layers)
        ],
    }
    path.write_text(_lines(document) + "\n", encoding="utf-8")


def _lines(document: Mapping[str, Any]) -> str:
    """JSON with a line for each row of weights, which is what a difference should show."""
    plain = {name: value for name, value in document.items() if name != "layers"}
    layers = []
    for layer in document["layers"]:
        rows = ",\n    ".join(_compact(row) for row in layer["weights"])
        head = f'{{"activation": "{layer["activation"]}", "bias": {_compact(layer["bias"])},'
        layers.append(f'  {head}\n   "weights": [\n    {rows}]}}')
    fields = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in plain.items()]
    return "{\n" + ",\n".join([*fields, ' "layers": [\n' + ",\n".join(layers) + "]"]) + "\n}"


def _compact(values: Sequence[float]) -> str:
    return json.dumps(values, separators=(",", ":"))


def _rounded(values: Sequence[float] | Numbers) -> list[float]:
    return [float(f"{float(value):.{DIGITS}g}") for value in values]
