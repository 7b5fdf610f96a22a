"""Sessions, execution providers and datatypes."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import ModelProto, TensorProto
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from fakes.onnx_models import classifier, identity, lookup, save
from gpu_backend.errors import (
    ExecutionFailedError,
    ExecutionProviderError,
    InvalidInputError,
    ModelInvalidError,
)
from gpu_backend.execution.datatypes import BY_NAME, BY_ORT_TYPE, to_bfloat16, widen_bfloat16
from gpu_backend.execution.placement import Placement, count_nodes
from gpu_backend.execution.priority import yield_to_event_loop
from gpu_backend.execution.providers import AUTO, CPU, PROVIDERS, choose
from gpu_backend.execution.session import OnnxSession, SessionOptions
from gpu_backend.execution.threads import usable_cores

CUDA = PROVIDERS["cuda"]


def open_session(tmp_path: Path, model: ModelProto) -> OnnxSession:
    return OnnxSession(save(model, tmp_path / "model.onnx"), choose("cpu", (CPU,)))


def test_auto_takes_the_best_accelerator_and_says_why() -> None:
    choice = choose(AUTO, (CPU, CUDA, PROVIDERS["tensorrt"], PROVIDERS["openvino"]))
    assert choice.target == CUDA
    assert choice.providers == [CUDA, CPU]
    assert "cuda" in choice.reason


def test_auto_without_accelerator_takes_the_cpu() -> None:
    choice = choose(AUTO, ("AzureExecutionProvider", CPU))
    assert choice.providers == [CPU]
    assert "no accelerator" in choice.reason
    assert not choice.settle([CPU]).degraded


@pytest.mark.parametrize("name", [name for name in PROVIDERS if name != "cpu"])
def test_provider_that_the_build_lacks_is_refused(name: str) -> None:
    with pytest.raises(ExecutionProviderError, match=f"'{name}' cannot be met"):
        choose(name, (CPU,))


def test_provider_that_nobody_knows_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ExecutionProviderError, match="did you mean 'cuda'"):
        choose("cudda", (CPU,))


def test_provider_that_the_session_lacks_is_refused_when_asked_for_by_name() -> None:
    with pytest.raises(ExecutionProviderError, match="the session runs on CPUExecutionProvider"):
        choose("cuda", (CUDA, CPU)).settle([CPU])


def test_provider_that_the_session_lacks_degrades_auto() -> None:
    status = choose(AUTO, (CUDA, CPU)).settle([CPU])
    assert status.degraded
    assert status.active == CPU
    assert "its libraries or its device are missing" in status.reason


def test_provider_names_are_those_of_onnxruntime() -> None:
    assert set(PROVIDERS.values()) <= set(ort_errors.get_all_providers()) | {
        "ROCMExecutionProvider"  # taken out of current builds, still in older ones
    }


def test_session_tells_tensors_and_placement(tmp_path: Path) -> None:
    session = open_session(tmp_path, classifier())
    (spec,) = session.inputs
    assert (spec.name, spec.datatype.name, spec.shape) == ("image", "UINT8", (-1, 1, 8, 8))
    assert spec.symbols == ("n", None, None, None)
    session.run({"image": np.zeros((1, 1, 8, 8), np.uint8)})
    placement = session.end_profile()
    assert placement.nodes == {CPU: 3}
    assert placement.off_target(CPU) == 0
    assert placement.off_target(CUDA) == 3
    session.close()


def test_session_leaves_no_profile_behind(tmp_path: Path) -> None:
    session = open_session(tmp_path, classifier())
    folder = Path(session._profile_dir.name)
    assert folder.is_dir()
    session.end_profile()
    assert not folder.exists()
    session.close()


def test_bfloat16_passes_through_a_session_bit_by_bit(tmp_path: Path) -> None:
    session = open_session(tmp_path, identity(TensorProto.BFLOAT16))
    bits = np.array([[0x3F80, 0xC000, 0x7F80, 0x0001]], dtype=np.uint16)
    (result,) = session.run({"x": bits})
    assert result.dtype == np.uint16
    np.testing.assert_array_equal(result, bits)
    session.close()


def test_value_that_the_graph_refuses_is_bad_input(tmp_path: Path) -> None:
    session = open_session(tmp_path, lookup())
    with pytest.raises(InvalidInputError, match="the model refuses the input") as caught:
        session.run({"ids": np.array([[99]], dtype=np.int64)})
    assert "onnxruntime_src" not in caught.value.message
    assert "ONNXRuntimeError" not in caught.value.message
    session.close()


def test_every_exception_of_onnxruntime_is_translated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = [
        kind
        for kind in vars(ort_errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    assert len(kinds) > 8
    session = open_session(tmp_path, classifier())
    for kind in kinds:

        def fail(*_: Any, kind: type[Exception] = kind) -> None:
            raise kind("boom")

        monkeypatch.setattr(session._session, "run", fail)
        with pytest.raises((ExecutionFailedError, InvalidInputError)):
            session.run({"image": np.zeros((1, 1, 8, 8), np.uint8)})

        def refuse(*_: Any, kind: type[Exception] = kind, **__: Any) -> None:
            raise kind("boom")

        with monkeypatch.context() as patch:
            patch.setattr(onnxruntime, "InferenceSession", refuse)
            with pytest.raises(ModelInvalidError):
                open_session(tmp_path, classifier())
    session.close()


@pytest.mark.parametrize("content", ["", "garbage", "{}"])
def test_profile_that_cannot_be_read_counts_no_nodes(tmp_path: Path, content: str) -> None:
    file = tmp_path / "profile.json"
    file.write_text(content)
    assert count_nodes(file) == Placement({})
    assert count_nodes(tmp_path / "missing") == Placement({})


def test_profile_counts_each_node_once(tmp_path: Path) -> None:
    def event(name: str, provider: str) -> dict[str, object]:
        return {"cat": "Node", "name": name, "args": {"provider": provider}}

    events = [event("a", CUDA), event("a", CUDA), event("b", CPU), {"cat": "Session"}]
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(events))
    placement = count_nodes(file)
    assert placement.nodes == {CUDA: 1, CPU: 1}
    assert placement.off_target(CUDA) == 1


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 99), ("50000 100000", 1), ("250000 100000", 3), ("", 99), ("1 0", 99)],
)
def test_cores_stop_at_the_quota_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(99))
    (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores(tmp_path / "cpu.max", tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 99), ("150000", 2)])
def test_cores_stop_at_the_quota_of_an_older_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(99))
    (tmp_path / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu.cfs_period_us").write_text("100000")
    assert usable_cores(tmp_path / "cpu.max", tmp_path) == cores


def test_datatypes_have_the_sizes_of_numpy() -> None:
    for row in BY_NAME.values():
        assert BY_ORT_TYPE[row.ort_type] is row
        assert row.name == "BYTES" or row.dtype.itemsize == row.size


@given(hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)))
def test_bfloat16_rounds_like_ml_dtypes(values: np.ndarray[Any, Any]) -> None:
    with np.errstate(all="ignore"):
        expected = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    bits = to_bfloat16(values)
    is_nan = np.isnan(values)
    np.testing.assert_array_equal(bits[~is_nan], expected[~is_nan])
    assert np.isnan(widen_bfloat16(bits[is_nan])).all()


def test_build_for_these_tests_offers_the_cpu() -> None:
    assert CPU in onnxruntime.get_available_providers()


@pytest.mark.skipif(sys.platform != "linux", reason="priorities belong to threads on Linux alone")
def test_threads_of_a_session_yield_as_the_thread_that_loads_it(tmp_path: Path) -> None:
    def niceness() -> dict[int, int]:
        tasks = [int(task.name) for task in Path("/proc/self/task").iterdir()]
        return {task: os.getpriority(os.PRIO_PROCESS, task) for task in tasks}

    before = niceness()
    opened: list[OnnxSession] = []

    def load() -> None:
        yield_to_event_loop(7)
        file = save(classifier(), tmp_path / "model.onnx")
        options = SessionOptions(intra_op_threads=3)
        opened.append(OnnxSession(file, choose("cpu", (CPU,)), options))

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    after = niceness()
    started = after.keys() - before.keys()
    assert started
    assert {after[task] for task in started} == {7}
    assert all(after[task] == before[task] for task in before.keys() & after.keys())
    opened[0].close()


def test_priority_that_may_not_be_changed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr("os.setpriority", refuse)
    yield_to_event_loop(7)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_bound_run_gives_what_a_plain_run_gives(tmp_path: Path, is_frozen: bool) -> None:
    """The way of accelerators, taken on the CPU: the values are the same."""
    session = open_session(tmp_path, classifier())
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8)).astype(np.uint8)
    pixels.flags.writeable = not is_frozen
    plain = session.run({"image": pixels})
    session._binds = True
    bound = session.run({"image": pixels})
    np.testing.assert_array_equal(bound[0], plain[0])
    session.close()


def test_bound_run_of_text_falls_back_to_a_plain_one(tmp_path: Path) -> None:
    session = open_session(tmp_path, identity(TensorProto.STRING))
    session._binds = True
    words = np.array([["a", "ü"]], dtype=object)
    assert session.run({"x": words})[0].tolist() == [["a", "ü"]]
    session.close()
