"""From raw inputs to class probabilities, by an edge model."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from edgekit.models.dense import sigmoid, softmax
from edgekit.models.document import EdgeModel

__all__ = ["probabilities"]


def probabilities(model: EdgeModel, inputs: Sequence[float]) -> list[float]:
    """Calibrated probability of each label.

    Args:
        model: The model.
        inputs: Raw numbers in the order of its input, such as pixels 0-255 row by row.

    Raises:
        ValueError: There are too many or too few inputs.
    """
    shifted = map(operator.sub, inputs, model.offset)
    scaled = list(map(operator.truediv, shifted, model.scale))
    if len(scaled) != len(inputs):
        raise ValueError(f"the model takes {len(model.scale)} numbers, got {len(inputs)}")
    logits = model.network(scaled)
    if model.sigmoid:
        probability = sigmoid(logits[0] / model.temperature)
        return [1 - probability, probability]
    return softmax(logits, model.temperature)
