"""Edge models as JSON documents; the format is described in README.md beside this file."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.models.dense import DenseLayer, DenseNetwork

__all__ = ["EdgeModel", "ModelFormatError", "parse_model"]

FORMAT = "edge-model/1"

_FIELDS = {
    "format",
    "name",
    "version",
    "task",
    "labels",
    "input",
    "layers",
    "output",
    "cascade_threshold",
    "parameters",
}


class ModelFormatError(ValueError):
    """A document is no edge model; the text names the place."""


@dataclass(frozen=True, slots=True)
class EdgeModel:
    """One model that runs inside the component.

    Attributes:
        name: As in the path of its route.
        version: As answers name it.
        digest: SHA-256 of the document, hex.
        task: What it does, such as ``image-classification``.
        labels: Names of the classes, in the order of the outputs.
        offset: Subtracted from each input.
        scale: Each input is divided by it then.
        network: Its layers.
        temperature: Divides logits before the softmax, so that confidences are calibrated.
        sigmoid: One output, a logit of the second label against the first.
        cascade_threshold: Confidence from which an answer stands without a larger model; None
            for a model that has no larger one.
        parameters: What its preprocessing needs to know.
    """

    name: str
    version: str
    digest: str
    task: str
    labels: tuple[str, ...]
    offset: tuple[float, ...]
    scale: tuple[float, ...]
    network: DenseNetwork
    temperature: float
    sigmoid: bool
    cascade_threshold: float | None
    parameters: Mapping[str, Any]


def parse_model(data: bytes) -> EdgeModel:
    """The model in `data`.

    Raises:
        ModelFormatError: The document breaks the format.
    """
    try:
        value = json.loads(data)
        if value["format"] != FORMAT:
            raise ModelFormatError(f"format: {value['format']!r} is not {FORMAT!r}")
        unknown = set(value) - _FIELDS
        if unknown:
            raise ModelFormatError(f"unknown fields {', '.join(sorted(unknown))}")
        return _model(value, hashlib.sha256(data).hexdigest())
    except (KeyError, TypeError, AttributeError) as exc:
        raise ModelFormatError(f"a field is missing or of the wrong type ({exc})") from exc
    except ModelFormatError:
        raise
    except ValueError as exc:  # undecodable text included
        raise ModelFormatError(f"not JSON ({exc})") from exc


def _model(value: dict[str, Any], digest: str) -> EdgeModel:
    network = DenseNetwork(
        tuple(_layer(layer, index) for index, layer in enumerate(value["layers"]))
    )
    _check_chain(network)
    labels = tuple(str(label) for label in value["labels"])
    activation, temperature = value["output"]["activation"], value["output"]["temperature"]
    wanted = {"softmax": len(labels), "sigmoid": 1}.get(activation)
    if wanted is None:
        raise ModelFormatError(f"output.activation: {activation!r} is not softmax or sigmoid")
    if network.outputs != wanted or len(labels) < 2:
        raise ModelFormatError(f"{network.outputs} outputs do not fit {len(labels)} labels")
    if not 0 < temperature < 1000:
        raise ModelFormatError(f"output.temperature: {temperature!r} is not above 0")
    threshold = value.get("cascade_threshold")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ModelFormatError(f"cascade_threshold: {threshold!r} is not within 0 and 1")
    offset = _numbers(value["input"]["offset"], "input.offset")
    scale = _numbers(value["input"]["scale"], "input.scale")
    if len(offset) not in (1, network.inputs) or len(scale) not in (1, network.inputs):
        raise ModelFormatError(f"input: 1 or {network.inputs} offsets and scales are needed")
    if 0.0 in scale:
        raise ModelFormatError("input.scale: 0 cannot divide")
    return EdgeModel(
        name=str(value["name"]),
        version=str(value["version"]),
        digest=digest,
        task=str(value["task"]),
        labels=labels,
        offset=offset * (network.inputs // len(offset)),
        scale=scale * (network.inputs // len(scale)),
        network=network,
        temperature=float(temperature),
        sigmoid=activation == "sigmoid",
        cascade_threshold=threshold,
        parameters=value["parameters"],
    )


def _layer(value: dict[str, Any], index: int) -> DenseLayer:
    weights = tuple(_numbers(row, f"layers[{index}].weights") for row in value["weights"])
    bias = _numbers(value["bias"], f"layers[{index}].bias")
    activation = value["activation"]
    if activation not in ("relu", "linear"):
        raise ModelFormatError(f"layers[{index}].activation: {activation!r} is not relu or linear")
    if len(weights) != len(bias) or len({len(row) for row in weights}) != 1:
        raise ModelFormatError(f"layers[{index}]: rows of weights and bias do not fit together")
    return DenseLayer(weights, bias, relu=activation == "relu")


def _check_chain(network: DenseNetwork) -> None:
    if not network.layers:
        raise ModelFormatError("layers: there must be at least one")
    for index, (before, after) in enumerate(itertools.pairwise(network.layers)):
        if len(before.bias) != len(after.weights[0]):
            raise ModelFormatError(
                f"layers[{index + 1}]: takes {len(after.weights[0])} numbers, "
                f"layers[{index}] gives {len(before.bias)}"
            )


def _numbers(values: object, place: str) -> tuple[float, ...]:
    if not isinstance(values, list) or not values:
        raise ModelFormatError(f"{place}: must be a list of numbers")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelFormatError(f"{place}: {value!r} is not a number")
        if not math.isfinite(value):
            raise ModelFormatError(f"{place}: {value!r} is not finite")
    return tuple(float(value) for value in values)
