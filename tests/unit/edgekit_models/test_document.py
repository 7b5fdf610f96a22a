import copy
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from edgekit.models.classification import probabilities
from edgekit.models.dense import sigmoid
from edgekit.models.document import ModelFormatError, parse_model
from edgekit.models.shipped import SHIPPED

DOCUMENT: dict[str, Any] = {
    "format": "edge-model/1",
    "name": "toy",
    "version": "3",
    "task": "image-classification",
    "labels": ["a", "b"],
    "output": {"activation": "softmax", "temperature": 2.0},
    "cascade_threshold": 0.9,
    "parameters": {"k": 1},
    "input": {"offset": [1.0], "scale": [2.0]},
    "layers": [
        {"activation": "relu", "bias": [0, 0, 0], "weights": [[1, 0], [0, 1], [1, 1]]},
        {"activation": "linear", "bias": [0, 0.5], "weights": [[1, 0, 0], [0, 1, 0]]},
    ],
}


def _encoded(change: Callable[[dict[str, Any]], object] = lambda _: None) -> bytes:
    value = copy.deepcopy(DOCUMENT)
    change(value)
    return json.dumps(value).encode()


def test_document_is_read_whole() -> None:
    data = _encoded()
    model = parse_model(data)
    assert (model.name, model.version, model.labels) == ("toy", "3", ("a", "b"))
    assert model.digest == hashlib.sha256(data).hexdigest()
    assert (model.offset, model.scale) == ((1.0, 1.0), (2.0, 2.0))
    assert (model.temperature, model.sigmoid, model.cascade_threshold) == (2.0, False, 0.9)
    assert model.parameters == {"k": 1}


def test_document_without_larger_model_has_no_threshold() -> None:
    assert parse_model(_encoded(lambda d: d.pop("cascade_threshold"))).cascade_threshold is None


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda d: d.update(format="edge-model/2"), "'edge-model/2' is not 'edge-model/1'"),
        (lambda d: d.pop("format"), "missing"),
        (lambda d: d.pop("layers"), "missing"),
        (lambda d: d.update(layer=1), "unknown fields layer"),
        (lambda d: d.update(layers=[]), "at least one"),
        (lambda d: d.update(layers=3), "wrong type"),
        (lambda d: d.update(layers=[1]), "wrong type"),
        (lambda d: d["layers"][0].update(activation="tanh"), r"layers\[0\].activation: 'tanh'"),
        (lambda d: d["layers"][0]["bias"].pop(), r"layers\[0\]: rows of weights and bias"),
        (lambda d: d["layers"][0]["weights"][1].pop(), r"layers\[0\]: rows of weights and bias"),
        (lambda d: d["layers"][0]["weights"][1].append("x"), "'x' is not a number"),
        (lambda d: d["layers"][0].update(bias=[True, 0, 0]), "True is not a number"),
        (lambda d: d["layers"][0].update(bias=[]), "must be a list of numbers"),
        (lambda d: d["layers"][1].update(bias=[float("nan"), 0]), "nan is not finite"),
        (lambda d: d["layers"].pop(), "3 outputs do not fit 2 labels"),
        (lambda d: d["layers"][1]["weights"].append([1]), "do not fit"),
        (lambda d: d.update(layers=[d["layers"][1], d["layers"][1]]), "takes 3 numbers"),
        (lambda d: d.update(labels=["a"]), "do not fit 1 labels"),
        (lambda d: d["output"].update(activation="max"), "'max' is not softmax or sigmoid"),
        (lambda d: d["output"].update(activation="sigmoid"), "2 outputs do not fit 2 labels"),
        (lambda d: d["output"].update(temperature=0), "0 is not above 0"),
        (lambda d: d.update(cascade_threshold=1.5), "1.5 is not within"),
        (lambda d: d["input"].update(offset=[1, 2, 3]), "1 or 2 offsets"),
        (lambda d: d["input"].update(scale=[1, 0]), "0 cannot divide"),
        (lambda d: d["input"].update(scale="x"), "must be a list"),
    ],
)
def test_document_fault_names_its_place(
    change: Callable[[dict[str, Any]], object], fact: str
) -> None:
    with pytest.raises(ModelFormatError, match=fact):
        parse_model(_encoded(change))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b"\xff\xfe\xff"])
def test_document_that_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(ModelFormatError):
        parse_model(data)


def test_probabilities_shift_scale_and_soften() -> None:
    shares = probabilities(parse_model(_encoded()), [3.0, 1.0])
    # ((3, 1) - 1) / 2 = (1, 0) → hidden (1, 0, 1) → logits (1, 0.5), at temperature 2.
    assert shares[0] == pytest.approx(sigmoid(0.25))
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("inputs", [[1.0], [1.0, 2.0, 3.0]])
def test_probabilities_wrong_number_of_inputs_is_refused(inputs: list[float]) -> None:
    with pytest.raises(ValueError, match=f"got {len(inputs)}"):
        probabilities(parse_model(_encoded()), inputs)


def test_probabilities_of_one_logit_name_both_labels() -> None:
    def single(document: dict[str, Any]) -> None:
        document["output"]["activation"] = "sigmoid"
        document["layers"] = [{"activation": "linear", "bias": [0], "weights": [[1, 1]]}]

    shares = probabilities(parse_model(_encoded(single)), [3.0, 1.0])
    assert shares == pytest.approx([1 - sigmoid(0.5), sigmoid(0.5)])


def test_shipped_models_are_found_by_name() -> None:
    assert set(SHIPPED) == {"digits", "vibration"}
    assert all(model.name == name for name, model in SHIPPED.items())
