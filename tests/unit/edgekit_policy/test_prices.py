from __future__ import annotations

import json

import pytest

from edgekit.policy.configuration import ConfigurationError
from edgekit.policy.prices import Price, Prices, parse_prices


def test_price_is_per_request_and_per_million_tokens() -> None:
    price = Price(per_request=0.001, input_per_million=0.5, output_per_million=1.5)
    assert price.cost_micro(input_tokens=1_000_000, output_tokens=0) == 501_000
    assert price.cost_micro(input_tokens=10, output_tokens=100) == 1155


def test_prices_of_a_model_that_is_not_named_are_those_of_all_or_nothing() -> None:
    some = parse_prices('{"a": {"per_request": 1}, "*": {"per_request": 2}}')
    assert (some.of("a").per_request, some.of("b").per_request) == (1, 2)
    assert Prices().of("b").cost_micro(input_tokens=9, output_tokens=9) == 0


def test_prices_free_model_is_not_charged_as_any_other() -> None:
    some = parse_prices('{"a": {}, "*": {"per_request": 2}}')
    assert some.of("a").per_request == 0


def test_prices_none_are_configured_by_an_empty_variable() -> None:
    assert parse_prices(" ") == Prices()


@pytest.mark.parametrize(
    ("value", "faults"),
    [
        ([], ["model_prices: must be a JSON object"]),
        ({"a": 1}, ["model_prices.a: must be an object"]),
        ({"a": {"per_requests": 1}}, ["model_prices.a.per_requests: unknown; did you mean"]),
        (
            {"a": {"per_request": -1}, "b": {"input_per_million": "x"}},
            ["model_prices.a.per_request: -1", "model_prices.b.input_per_million: 'x'"],
        ),
    ],
)
def test_prices_every_fault_is_named_with_its_place(value: object, faults: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_prices(json.dumps(value))
    assert len(caught.value.faults) == len(faults)
    for found, wanted in zip(caught.value.faults, faults, strict=True):
        assert found.startswith(wanted)
