"""NVIDIA's tritonclient, unmodified, against the running backend: the sync client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from fakes.backend_process import BackendProcess, running_backend
from fakes.onnx_models import classifier, identity, lookup, row_sum, write_model

ELEMENT_TYPES: dict[str, tuple[int, Any]] = {
    "BOOL": (TensorProto.BOOL, np.bool_),
    "UINT8": (TensorProto.UINT8, np.uint8),
    "UINT16": (TensorProto.UINT16, np.uint16),
    "UINT32": (TensorProto.UINT32, np.uint32),
    "UINT64": (TensorProto.UINT64, np.uint64),
    "INT8": (TensorProto.INT8, np.int8),
    "INT16": (TensorProto.INT16, np.int16),
    "INT32": (TensorProto.INT32, np.int32),
    "INT64": (TensorProto.INT64, np.int64),
    "FP16": (TensorProto.FLOAT16, np.float16),
    "FP32": (TensorProto.FLOAT, np.float32),
    "FP64": (TensorProto.DOUBLE, np.float64),
    "BF16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    "BYTES": (TensorProto.STRING, np.object_),
}

IN_JSON = sorted(set(ELEMENT_TYPES) - {"BF16"})
"""tritonclient refuses to send BF16 as JSON by itself."""


def sample(datatype: str) -> np.ndarray[Any, Any]:
    """Two rows of three values that every type holds."""
    if datatype == "BYTES":
        return np.array([["a", "", "zwölf"], ["日本", "x" * 300, "\n"]], dtype=np.object_)
    values = np.array([[0, 1, 1], [1, 0, 1]]) if datatype == "BOOL" else [[0, 1, 2], [3, 100, 7]]
    return np.array(values).astype(ELEMENT_TYPES[datatype][1])


def tensor(name: str, datatype: str, array: np.ndarray[Any, Any], binary: bool = True) -> Any:
    value = InferInput(name, list(array.shape), datatype)
    value.set_data_from_numpy(array, binary_data=binary)
    return value


def as_text(array: np.ndarray[Any, Any]) -> list[list[str]]:
    return [[v.decode() if isinstance(v, bytes) else v for v in row] for row in array]


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendProcess]:
    models: Path = tmp_path_factory.mktemp("models")
    labels = ", ".join(f'"digit {n}"' for n in range(10))
    write_model(models, "digits", classifier(), f"labels = [{labels}]\n")
    write_model(models, "lookup", lookup())
    write_model(models, "row_sum", row_sum())
    for name, (number, _) in ELEMENT_TYPES.items():
        write_model(models, f"identity_{name}", identity(number))
    with running_backend(models, models.parent / "backend.log") as process:
        yield process


@pytest.fixture(scope="module")
def client(backend: BackendProcess) -> Iterator[Any]:
    with InferenceServerClient(backend.address, connection_timeout=30, network_timeout=30) as it:
        yield it


def image(rows: int = 1, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (rows, 1, 8, 8)).astype(np.uint8)


def test_health_of_a_ready_server_is_true(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1")
    assert not client.is_model_ready("digits", "2")
    assert not client.is_model_ready("nobody")


def test_server_metadata_names_what_works(client: Any) -> None:
    metadata = client.get_server_metadata()
    assert metadata["name"] == "inference-anywhere"
    assert "binary_tensor_data" in metadata["extensions"]


def test_model_metadata_tells_tensors(client: Any) -> None:
    metadata = client.get_model_metadata("digits")
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 1, 8, 8]}]
    assert metadata["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]
    assert metadata["versions"] == ["1"]


def test_model_config_has_the_form_of_triton(client: Any) -> None:
    config = client.get_model_config("digits")
    assert config["max_batch_size"] == 64
    assert config["input"] == [{"name": "image", "data_type": "TYPE_UINT8", "dims": [1, 8, 8]}]


def test_statistics_count_inferences(client: Any) -> None:
    def rows() -> int:
        statistics = client.get_inference_statistics("digits")["model_stats"][0]
        return int(statistics["inference_count"])

    before = rows()
    client.infer("digits", [tensor("image", "UINT8", image(3))])
    assert rows() == before + 3
    names = [entry["name"] for entry in client.get_inference_statistics()["model_stats"]]
    assert "lookup" in names


@pytest.mark.parametrize("datatype", ELEMENT_TYPES)
def test_infer_of_binary_tensors_returns_what_was_sent(client: Any, datatype: str) -> None:
    sent = sample(datatype)
    result = client.infer(f"identity_{datatype}", [tensor("x", datatype, sent)])
    received = result.as_numpy("y")
    if datatype == "BYTES":
        assert as_text(received) == sent.tolist()
    else:
        np.testing.assert_array_equal(received, sent)


@pytest.mark.parametrize("datatype", IN_JSON)
def test_infer_of_json_tensors_returns_what_was_sent(client: Any, datatype: str) -> None:
    sent = sample(datatype)
    outputs = [InferRequestedOutput("y", binary_data=False)]
    result = client.infer(
        f"identity_{datatype}", [tensor("x", datatype, sent, False)], outputs=outputs
    )
    assert "data" in result.get_output("y")
    received = result.as_numpy("y")
    if datatype == "BYTES":
        assert as_text(received) == sent.tolist()
    else:
        np.testing.assert_array_equal(received, sent)


@pytest.mark.parametrize("request_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_coding", [None, "gzip", "deflate"])
def test_infer_with_content_codings_gives_the_same_answer(
    client: Any, request_coding: str | None, response_coding: str | None
) -> None:
    pixels = image(60)
    result = client.infer(
        "digits",
        [tensor("image", "UINT8", pixels)],
        request_compression_algorithm=request_coding,
        response_compression_algorithm=response_coding,
    )
    plain = client.infer("digits", [tensor("image", "UINT8", pixels)])
    np.testing.assert_array_equal(result.as_numpy("logits"), plain.as_numpy("logits"))


def test_infer_echoes_id_and_tells_version(client: Any) -> None:
    result = client.infer("digits", [tensor("image", "UINT8", image())], request_id="my request")
    assert result.get_response()["id"] == "my request"
    assert result.get_response()["model_version"] == "1"


def test_infer_by_version_answers(client: Any) -> None:
    result = client.infer("digits", [tensor("image", "UINT8", image())], model_version="1")
    assert result.as_numpy("logits").shape == (1, 10)


def test_infer_with_classification_gives_labels(client: Any) -> None:
    outputs = [InferRequestedOutput("logits", class_count=3)]
    pixels = image(2)
    result = client.infer("digits", [tensor("image", "UINT8", pixels)], outputs=outputs)
    logits = client.infer("digits", [tensor("image", "UINT8", pixels)]).as_numpy("logits")
    classes = result.as_numpy("logits")
    assert classes.shape == (2, 3)
    score, index, label = classes[0][0].decode().split(":")
    assert int(index) == int(logits[0].argmax())
    assert float(score) == pytest.approx(float(logits[0].max()), rel=1e-5)
    assert label == f"digit {index}"


def test_infer_with_priority_and_timeout_answers(client: Any) -> None:
    result = client.infer(
        "digits", [tensor("image", "UINT8", image())], priority=1, timeout=5_000_000
    )
    assert result.as_numpy("logits").shape == (1, 10)


def test_infer_of_two_inputs_in_any_order_answers(client: Any) -> None:
    a, b = np.array([[1, 2]], np.float32), np.array([[3, 4]], np.float32)
    inputs = [tensor("b", "FP32", b), tensor("a", "FP32", a, binary=False)]
    assert client.infer("row_sum", inputs).as_numpy("total").tolist() == [[11.0]]


def test_infer_beyond_the_largest_batch_is_computed_in_parts(client: Any) -> None:
    pixels = image(150)
    whole = client.infer("digits", [tensor("image", "UINT8", pixels)]).as_numpy("logits")
    one = client.infer("digits", [tensor("image", "UINT8", pixels[149:])]).as_numpy("logits")
    assert whole.shape == (150, 10)
    np.testing.assert_allclose(whole[149:], one, rtol=1e-5)


def test_async_infer_of_many_requests_answers_each(backend: BackendProcess, client: Any) -> None:
    images = [image(seed=seed) for seed in range(20)]
    with InferenceServerClient(backend.address, concurrency=4) as concurrent:
        pending = [
            concurrent.async_infer("digits", [tensor("image", "UINT8", it)]) for it in images
        ]
        together = [request.get_result().as_numpy("logits") for request in pending]
    for it, logits in zip(images, together, strict=True):
        alone = client.infer("digits", [tensor("image", "UINT8", it)]).as_numpy("logits")
        np.testing.assert_allclose(logits, alone, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "value", "status", "text"),
    [
        ("nobody", tensor("x", "FP32", np.zeros((1, 1), np.float32)), "404", "no model 'nobody'"),
        ("digits", tensor("x", "UINT8", image()), "400", "no input 'x'"),
        (
            "digits",
            tensor("image", "FP32", image().astype(np.float32)),
            "400",
            "expected datatype UINT8, got FP32",
        ),
        (
            "digits",
            tensor("image", "UINT8", np.zeros((1, 8, 8), np.uint8)),
            "400",
            r"expected shape \[-1, 1, 8, 8\], got \[1, 8, 8\]",
        ),
        ("lookup", tensor("ids", "INT64", np.array([[99]])), "400", "the model refuses the input"),
    ],
)
def test_infer_of_bad_input_is_refused_with_a_reason(
    client: Any, model: str, value: Any, status: str, text: str
) -> None:
    with pytest.raises(InferenceServerException, match=text) as caught:
        client.infer(model, [value])
    assert caught.value.status() == status


def test_repository_index_load_and_unload_follow_each_other(client: Any) -> None:
    index = {entry["name"]: entry for entry in client.get_model_repository_index()}
    assert index["row_sum"]["state"] == "READY"
    client.unload_model("row_sum")
    assert not client.is_model_ready("row_sum")
    with pytest.raises(InferenceServerException, match="unloaded"):
        client.infer("row_sum", [tensor("a", "FP32", np.array([[1]], np.float32))])
    client.load_model("row_sum")
    assert client.is_model_ready("row_sum")


def test_load_of_unknown_model_is_refused(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="no model 'nobody'"):
        client.load_model("nobody")
