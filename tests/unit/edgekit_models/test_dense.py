import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.models.dense import DenseLayer, DenseNetwork, sigmoid, softmax

IDENTITY = DenseLayer(((1.0, 0.0), (0.0, 1.0)), (0.0, 0.0), relu=False)


def test_layer_computes_weights_times_input_plus_bias() -> None:
    layer = DenseLayer(((1.0, 2.0), (3.0, 4.0), (-1.0, 0.5)), (0.5, -1.0, 0.0), relu=False)
    assert layer([2.0, -1.0]) == [0.5, 1.0, -2.5]


def test_layer_rectified_cuts_off_what_is_negative() -> None:
    assert DenseLayer(((1.0,), (-1.0,)), (0.0, 0.0), relu=True)([3.0]) == [3.0, 0.0]


def test_network_chains_its_layers() -> None:
    total = DenseLayer(((1.0, 1.0),), (1.0,), relu=False)
    network = DenseNetwork((IDENTITY, total))
    assert (network.inputs, network.outputs) == (2, 1)
    assert network([2.0, 5.0]) == [8.0]


@pytest.mark.parametrize("inputs", [[], [1.0], [1.0, 2.0, 3.0]])
def test_network_wrong_number_of_inputs_is_refused(inputs: list[float]) -> None:
    with pytest.raises(ValueError, match="takes 2 numbers"):
        DenseNetwork((IDENTITY,))(inputs)


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=20), st.floats(0.1, 10))
def test_softmax_is_a_distribution_in_the_order_of_the_logits(
    logits: list[float], temperature: float
) -> None:
    shares = softmax(logits, temperature)
    assert math.isclose(sum(shares), 1.0)
    assert all(0 <= share <= 1 for share in shares)
    assert shares[logits.index(max(logits))] == max(shares)


def test_softmax_higher_temperature_is_more_cautious() -> None:
    assert max(softmax([1.0, 3.0], 4.0)) < max(softmax([1.0, 3.0]))


@given(st.floats(-1e308, 1e308))
def test_sigmoid_is_symmetric_and_never_overflows(logit: float) -> None:
    assert 0 <= sigmoid(logit) <= 1
    assert math.isclose(sigmoid(logit) + sigmoid(-logit), 1.0)
