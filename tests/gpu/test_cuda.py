"""The backend on a CUDA device: what the tests elsewhere can only show with fakes and the CPU.

Runs where ONNX Runtime for CUDA is installed (`requirements/cuda.txt`) and finds a device:

    python -m pytest tests/gpu
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

from fakes.backend_app import make_repository
from fakes.backend_process import running_backend
from fakes.onnx_models import classifier, identity, save, write_model
from gpu_backend.errors import BackendError, ExecutionProviderError
from gpu_backend.execution.providers import AUTO, CPU, PROVIDERS, choose
from gpu_backend.execution.session import OnnxSession, SessionOptions

pytestmark = pytest.mark.gpu

CUDA = PROVIDERS["cuda"]

Open = Callable[[ModelProto, str], OnnxSession]


def _why_not() -> str:
    """Why CUDA cannot be had here; empty when it can."""
    if CUDA not in onnxruntime.get_available_providers():
        return "this build of ONNX Runtime has no CUDA (requirements/cuda.txt has one)"
    model = identity(TensorProto.FLOAT).SerializeToString()
    with warnings.catch_warnings(action="ignore"):  # that it falls back is what is asked
        session = onnxruntime.InferenceSession(model, providers=[CUDA, CPU])
    return "" if session.get_providers()[0] == CUDA else "ONNX Runtime finds no CUDA device"


@pytest.fixture(scope="module", autouse=True)
def _device() -> None:
    reason = _why_not()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def open_session(tmp_path: Path) -> Open:
    def open_(model: ModelProto, provider: str) -> OnnxSession:
        choice = choose(provider, tuple(onnxruntime.get_available_providers()))
        return OnnxSession(save(model, tmp_path / "model.onnx"), choice)

    return open_


def half_on_the_cpu() -> ModelProto:
    """`x` float32 (n, 4) to `y`, its double, and `values`, each once: CUDA has no kernel for it."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "x"], ["y"]),
            helper.make_node("Unique", ["y"], ["values"]),
        ],
        "half_on_the_cpu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("values", TensorProto.FLOAT, ["unlike"]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("requested", ["cuda", AUTO])
def test_session_runs_on_cuda_and_says_so(open_session: Open, requested: str) -> None:
    session = open_session(classifier(), requested)
    assert session.status.active == CUDA
    assert session.status.requested == requested
    assert not session.status.degraded
    session.close()


@pytest.mark.parametrize("is_frozen", [False, True])
def test_bound_runs_of_growing_and_shrinking_batches_give_what_the_cpu_gives(
    open_session: Open, is_frozen: bool
) -> None:
    device, reference = open_session(classifier(), "cuda"), open_session(classifier(), "cpu")
    random = np.random.default_rng(0)
    for rows in (1, 7, 64, 2, 33):
        pixels = random.integers(0, 256, (rows, 1, 8, 8)).astype(np.uint8)
        pixels.flags.writeable = not is_frozen
        found, expected = device.run({"image": pixels}), reference.run({"image": pixels})
        # TF32 and the order of sums differ, a wrong row or a stale buffer does not pass.
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-2, atol=1.0)
        assert (found[0].argmax(1) == expected[0].argmax(1)).all()
    device.close()
    reference.close()


def test_text_runs_on_a_cuda_session(open_session: Open) -> None:
    session = open_session(identity(TensorProto.STRING), "cuda")
    words = np.array([["a", "ü"]], dtype=object)
    assert session.run({"x": words})[0].tolist() == [["a", "ü"]]
    session.close()


def test_nodes_that_fall_back_to_the_cpu_are_counted(open_session: Open) -> None:
    session = open_session(half_on_the_cpu(), "cuda")
    y, values = session.run({"x": np.array([[1, 2, 1, 2]], np.float32)})
    assert y.tolist() == [[2, 4, 2, 4]]
    assert values.tolist() == [2, 4]
    placement = session.end_profile()
    assert placement.nodes[CUDA] >= 1
    assert placement.off_target(CUDA) >= 1
    session.close()


def test_graph_that_cuda_knows_has_no_fallback(open_session: Open) -> None:
    session = open_session(classifier(), "cuda")
    session.run({"image": np.zeros((1, 1, 8, 8), np.uint8)})
    assert session.end_profile().off_target(CUDA) == 0
    session.close()


def test_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = save(classifier(), tmp_path / "model.onnx")
    choice = choose("cuda", tuple(onnxruntime.get_available_providers()))
    with pytest.raises(BackendError):
        OnnxSession(path, choice, SessionOptions(device_id=99))


async def test_repository_on_cuda_serves_and_frees(tmp_path: Path) -> None:
    write_model(tmp_path, "m", classifier())
    repository = make_repository(tmp_path, provider="cuda")
    try:
        await repository.start()
        for _ in range(20):
            await repository.load("m")
        model = repository.find("m")
        assert model is not None
        assert model.identity.endswith(f";provider={CUDA}".encode())
    except ExecutionProviderError as exc:  # a clearer failure than an error of the fixture
        pytest.fail(exc.message)
    finally:
        await repository.stop()


def test_backend_on_cuda_answers_and_names_its_hardware(tmp_path: Path) -> None:
    write_model(tmp_path, "halved", half_on_the_cpu())
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 1, 2]}
    flags = ("--execution-provider", "cuda", "--require-provider", "true")
    with (
        running_backend(tmp_path, tmp_path / "log", *flags) as backend,
        httpx.Client(base_url=backend.url, timeout=30) as client,
    ):
        answer = client.post("/v2/models/halved/infer", json={"inputs": [tensor]})
        assert answer.json()["outputs"][0]["data"] == [2, 4, 2, 4]
        assert answer.headers["inference-model"].endswith(f"provider={CUDA}")
        assert client.get("/v2/health/ready").status_code == 200
        metrics = client.get("/metrics").text
        assert re.search(rf'^backend_nodes{{.*provider="{CPU}".*}} [1-9]', metrics, re.MULTILINE)
