"""Small dense networks, evaluated in plain Python: all the edge needs for models of its own.

Logistic regression is one layer with a sigmoid; a multi-layer perceptron is several. A layer of
64 by 64 takes some 0.2 ms in Wasm.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["DenseLayer", "DenseNetwork", "sigmoid", "softmax"]


def _sum_of_products(left: Sequence[float], right: Sequence[float]) -> float:
    return math.fsum(map(operator.mul, left, right))


# In C from Python 3.12 on, which is what guests run; tests also run on 3.11.
_dot: Callable[[Sequence[float], Sequence[float]], float] = getattr(
    math, "sumprod", _sum_of_products
)


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """One layer: ``activation(weights @ input + bias)``.

    Attributes:
        weights: Rows of weights, shape (outputs, inputs).
        bias: One per output.
        relu: Cut negative results off; False leaves them.
    """

    weights: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    relu: bool

    def __call__(self, inputs: Sequence[float]) -> list[float]:
        """Activations, one per output, of as many inputs as each row has weights."""
        sums = map(operator.add, (_dot(row, inputs) for row in self.weights), self.bias)
        return [max(0.0, value) for value in sums] if self.relu else list(sums)


@dataclass(frozen=True, slots=True)
class DenseNetwork:
    """Layers in order."""

    layers: tuple[DenseLayer, ...]

    @property
    def inputs(self) -> int:
        """Numbers the first layer takes."""
        return len(self.layers[0].weights[0])

    @property
    def outputs(self) -> int:
        """Numbers the last layer gives."""
        return len(self.layers[-1].bias)

    def __call__(self, inputs: Sequence[float]) -> list[float]:
        """Outputs of the last layer.

        Raises:
            ValueError: There are not as many inputs as the first layer takes.
        """
        if len(inputs) != self.inputs:
            raise ValueError(f"the model takes {self.inputs} numbers, got {len(inputs)}")
        values: Sequence[float] = inputs
        for layer in self.layers:
            values = layer(values)
        return list(values)


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Probabilities that sum to 1; a temperature above 1 makes them more cautious."""
    highest = max(logits)
    powers = [math.exp((logit - highest) / temperature) for logit in logits]
    total = sum(powers)
    return [power / total for power in powers]


def sigmoid(logit: float) -> float:
    """A probability, without overflow at either end."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    power = math.exp(logit)
    return power / (1 + power)
