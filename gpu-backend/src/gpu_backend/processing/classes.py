"""Scores to named classes with confidences, by the same rules as at the edge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpu_backend.errors import ExecutionFailedError
from gpu_backend.execution.datatypes import Array

__all__ = ["Prediction", "top_classes"]

_ROUNDING = 1e-3
"""How far float16 arithmetic may push a probability past 0 or 1."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class with the model's confidence in it, from 0 to 1."""

    class_id: int
    label: str
    confidence: float


def top_classes(
    scores: Array, *, kind: str, labels: Sequence[str], top_k: int, threshold: float
) -> list[Prediction]:
    """The classes the model is most confident of, best first, equal ones by class id.

    Args:
        scores: Of one item, flat.
        kind: ``logits`` go through softmax; ``probabilities`` are taken as they are.
        labels: Names by class id; the id itself where there is none.
        top_k: Most classes returned.
        threshold: Least confidence of a returned class.

    Raises:
        ExecutionFailedError: The scores are no numbers, or no probabilities.
    """
    values = scores.astype(np.float64)
    if labels and len(labels) != len(values):
        raise ExecutionFailedError(
            f"the model answered {len(values)} classes, it has {len(labels)} labels"
        )
    if kind == "logits":
        highest = values.max(initial=-np.inf)
        if not np.isfinite(highest) or np.isnan(values).any():
            raise ExecutionFailedError("the model answered logits that have no maximum")
        powers = np.exp(values - highest)
        confidences = powers / powers.sum()
    else:
        if not ((values >= -_ROUNDING) & (values <= 1 + _ROUNDING)).all():
            raise ExecutionFailedError("the model answered probabilities outside 0 to 1")
        confidences = np.clip(values, 0.0, 1.0)
    order = np.argsort(-confidences, kind="stable")[:top_k].tolist()
    return [
        Prediction(
            index, labels[index] if index < len(labels) else str(index), float(confidences[index])
        )
        for index in order
        if confidences[index] >= threshold
    ]
