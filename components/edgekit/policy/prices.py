"""What an answer costs, as the variable `model_prices` says.

    {"llama3.2": {"input_per_million": 0.05, "output_per_million": 0.2},
     "*": {"per_request": 0.0001}}

In the operator's currency: per million model tokens read and generated, and per request. `*` is
for every model that is not named. Stored answers and the component's own models cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgekit.policy.configuration import Faults, parse_object

__all__ = ["Price", "Prices", "parse_prices"]

_MICRO = 1_000_000
_ANY_MODEL = "*"


@dataclass(frozen=True, slots=True)
class Price:
    """Price of one model, in the operator's currency.

    Attributes:
        per_request: Of each answer.
        input_per_million: Of a million tokens read.
        output_per_million: Of a million tokens generated.
    """

    per_request: float = 0.0
    input_per_million: float = 0.0
    output_per_million: float = 0.0

    def cost_micro(self, *, input_tokens: int, output_tokens: int) -> int:
        """Cost of one answer in millionths of the currency."""
        # A price per million tokens is a number of millionths per token.
        return round(
            self.per_request * _MICRO
            + self.input_per_million * input_tokens
            + self.output_per_million * output_tokens
        )


FREE = Price()


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of all models; none means that nothing costs anything."""

    models: Mapping[str, Price] = field(default_factory=dict)

    def of(self, model: str) -> Price:
        """The price of `model`."""
        return self.models.get(model) or self.models.get(_ANY_MODEL) or FREE


def parse_prices(text: str) -> Prices:
    """Read the variable.

    Raises:
        ConfigurationError: With every fault in it.
    """
    faults = Faults()
    models = {}
    for name, value in parse_object("model_prices", text).items():
        place = f"model_prices.{name}"
        if isinstance(value, dict):
            faults.check_names(place, value, Price.__dataclass_fields__)
            models[name] = Price(
                **{
                    part: faults.number(f"{place}.{part}", value[part], at_least=0) or 0.0
                    for part in Price.__dataclass_fields__
                    if part in value
                }
            )
        else:
            faults.add(place, "must be an object")
    faults.raise_any()
    return Prices(models)
