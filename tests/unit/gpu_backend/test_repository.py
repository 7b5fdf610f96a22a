"""Loading, switching, refusing and freeing models."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fakes.backend_app import make_repository, running_app
from fakes.onnx_models import classifier, first_row, identity, lookup, save, write_model
from gpu_backend.batching.estimator import ServiceTime
from gpu_backend.dataplane import Dataplane, Tensor
from gpu_backend.errors import (
    DeadlineExceededError,
    ExecutionProviderError,
    ModelInvalidError,
    ModelNotFoundError,
    ModelNotReadyError,
)
from gpu_backend.execution.datatypes import BY_NAME
from gpu_backend.repository.calibration import Calibration
from gpu_backend.repository.repository import Repository


@asynccontextmanager
async def started(root: Path, **options: Any) -> AsyncIterator[Repository]:
    repository = make_repository(root, **options)
    await repository.start()
    yield repository
    await repository.stop()


def states(repository: Repository) -> dict[str, dict[int, tuple[str, str]]]:
    return {
        slot.name: {number: (s.state, s.reason) for number, s in slot.statuses.items()}
        for slot in repository.slots()
    }


def pixels(seed: int = 0) -> list[Tensor]:
    array = np.random.default_rng(seed).integers(0, 256, (1, 1, 8, 8)).astype(np.uint8)
    return [Tensor("image", BY_NAME["UINT8"], array)]


async def logits(repository: Repository) -> list[float]:
    model = await repository.get("m")
    result = await Dataplane(repository, 30).begin(model, pixels(), None).result()
    values: list[float] = result.outputs[0].array[0].tolist()
    return values


async def test_start_serves_the_highest_version(tmp_path: Path) -> None:
    for version in (1, 2, 10):
        write_model(tmp_path, "m", classifier(version), version=version)
    async with started(tmp_path) as repository:
        assert (await repository.get("m")).version == 10
        with pytest.raises(ModelNotFoundError, match="versions served: 10"):
            await repository.get("m", "2")


async def test_start_with_serve_all_serves_each_version(tmp_path: Path) -> None:
    for version in (1, 2):
        write_model(tmp_path, "m", classifier(version), '[model]\nserve = "all"\n', version)
    async with started(tmp_path) as repository:
        assert (await repository.get("m")).version == 2
        assert (await repository.get("m", "1")).version == 1


async def test_start_takes_the_next_lower_version_when_the_highest_is_broken(
    tmp_path: Path,
) -> None:
    write_model(tmp_path, "m", classifier())
    (tmp_path / "m" / "2").mkdir()
    (tmp_path / "m" / "2" / "model.onnx").write_bytes(b"garbage")
    async with started(tmp_path) as repository:
        assert (await repository.get("m")).version == 1
        assert states(repository)["m"][2][0] == "UNAVAILABLE"


async def test_folders_that_are_no_models_are_left_alone(tmp_path: Path) -> None:
    write_model(tmp_path, "m", classifier())
    (tmp_path / ".hidden" / "1").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "README.md").write_text("hello")
    save(classifier(), tmp_path / "m" / "01" / "model.onnx")
    save(classifier(), tmp_path / "m" / "draft" / "model.onnx")
    async with started(tmp_path) as repository:
        assert [slot.name for slot in repository.slots()] == ["m"]
        assert repository.slot("m").folder.versions == (1,)


async def test_models_of_another_platform_are_left_alone(tmp_path: Path) -> None:
    write_model(tmp_path, "chat", classifier(), '[model]\nplatform = "onnxruntime_genai"\n')
    write_model(tmp_path, "typo", classifier(), '[model]\nplatform = "onnxruntime_onx"\n')
    async with started(tmp_path) as repository:
        assert [slot.name for slot in repository.slots()] == ["typo"]
        assert "did you mean 'onnxruntime_onnx'" in repository.slot("typo").reason()


async def test_name_in_two_repositories_is_taken_from_the_first(tmp_path: Path) -> None:
    write_model(tmp_path / "a", "m", classifier(), version=1)
    write_model(tmp_path / "b", "m", classifier(), version=7)
    repository = make_repository(tmp_path / "a", tmp_path / "b", tmp_path / "missing")
    await repository.start()
    assert (await repository.get("m")).version == 1
    await repository.stop()


def broken_cases() -> dict[str, tuple[bytes, str, str]]:
    """Name to model file, manifest, and the words of the refusal."""
    good = classifier().SerializeToString()
    future = classifier()
    future.opset_import[0].version = 999
    sequence = helper.make_model(
        helper.make_graph(
            [helper.make_node("SequenceConstruct", ["x"], ["y"])],
            "sequence",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, [1])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    external = classifier()
    tensor = external.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    wrong = "sha256:" + "0" * 64
    image = '[image]\ninput = "image"\nwidth = 8\nheight = 8\n'
    words = '[text]\ninput = "image"\noutput = "logits"\nmax_tokens = 8\n'
    return {
        "garbage": (b"garbage", "", "cannot load model.onnx"),
        "empty": (b"", "", "cannot load model.onnx"),
        "cut": (good[:-100], "", "cannot load model.onnx"),
        "opset": (future.SerializeToString(), "", "opset"),
        "external": (external.SerializeToString(), "", "weights.bin"),
        "sequence": (sequence.SerializeToString(), "", "seq(tensor(float))"),
        "digest": (good, f'[version.1]\ndigest = "{wrong}"\n', "its manifest expects " + wrong),
        "toml": (good, "[model", "model.toml"),
        "key": (good, '[model]\nnam = "key"\n', "did you mean 'name'?"),
        "name": (good, '[model]\nname = "other"\n', "its folder is 'name'"),
        "input": (good, image.replace('"image"', '"pic"'), "is 'pic', the graph has image"),
        "color": (good, image + 'color = "rgb"\n', "makes a tensor of shape [1, 3, 8, 8]"),
        "size": (good, image.replace("8", "9") + 'color = "gray"\n', "shape [1, 1, 9, 9]"),
        "output": (good, '[output]\nname = "scores"\n', "output.name is 'scores'"),
        "ids": (good, words.replace("image", "ids"), "text.input is 'ids', the graph has image"),
        "mask": (good, words + 'mask = "mask"\n', "text.mask is 'mask', the graph has image"),
        "vector": (good, words.replace("logits", "vector"), "text.output is 'vector'"),
        "warmup": (good, "[[warmup]]\nrows = 0\n", "warmup[0].rows"),
    }  # fmt: skip


@pytest.mark.parametrize("case", broken_cases())
async def test_broken_model_is_refused_with_a_reason_and_harms_no_other(
    tmp_path: Path, case: str
) -> None:
    content, manifest, words = broken_cases()[case]
    write_model(tmp_path, "good", classifier())
    write_model(tmp_path, case, classifier(), manifest)
    (tmp_path / case / "1" / "model.onnx").write_bytes(content)
    async with started(tmp_path) as repository:
        assert (await repository.get("good")).version == 1
        with pytest.raises(ModelNotReadyError) as caught:
            await repository.get(case)
        assert words in caught.value.message


@pytest.mark.parametrize("case", broken_cases())
async def test_broken_change_is_refused_and_the_running_version_stays(
    tmp_path: Path, case: str
) -> None:
    content, manifest, words = broken_cases()[case]
    folder = write_model(tmp_path, case, classifier())
    async with started(tmp_path) as repository:
        before = await repository.get(case)
        (folder / "1" / "model.onnx").write_bytes(content)
        (folder / "model.toml").write_text(manifest)
        with pytest.raises(ModelInvalidError) as caught:
            await repository.load(case)
        assert words in caught.value.message
        assert await repository.get(case) is before
        reasons = [reason for _, reason in states(repository)[case].values()]
        assert words in " ".join([*reasons, repository.slot(case).fault])


async def test_provider_asked_for_by_name_stops_the_start(tmp_path: Path) -> None:
    write_model(tmp_path, "m", classifier())
    with pytest.raises(ExecutionProviderError, match="'cuda' cannot be met"):
        await make_repository(tmp_path, provider="cuda").start()


async def test_provider_of_a_manifest_that_cannot_be_met_stops_the_start(tmp_path: Path) -> None:
    write_model(tmp_path, "m", classifier(), '[execution]\nprovider = "tensorrt"\n')
    with pytest.raises(ExecutionProviderError, match="'tensorrt' cannot be met"):
        await make_repository(tmp_path).start()


async def test_load_switches_and_frees_the_old_version(tmp_path: Path) -> None:
    write_model(tmp_path, "m", classifier(1))
    async with started(tmp_path) as repository:
        first = await logits(repository)
        old = await repository.get("m")
        write_model(tmp_path, "m", classifier(2), version=2)
        await repository.load("m")
        assert await logits(repository) != first
        assert states(repository)["m"] == {2: ("READY", "")}
    assert not hasattr(old.session, "_session")


async def test_unload_refuses_requests_until_it_is_loaded(tmp_path: Path) -> None:
    write_model(tmp_path, "m", classifier())
    async with started(tmp_path) as repository:
        await repository.unload("m")
        with pytest.raises(ModelNotReadyError, match="unloaded"):
            await repository.get("m")
        assert states(repository)["m"] == {1: ("UNAVAILABLE", "unloaded by request")}
        await repository.load("m")
        assert (await repository.get("m")).version == 1


async def test_load_and_unload_of_unknown_models_are_refused(tmp_path: Path) -> None:
    async with started(tmp_path) as repository:
        with pytest.raises(ModelNotFoundError):
            await repository.load("m")
        with pytest.raises(ModelNotFoundError):
            await repository.unload("m")


async def test_poll_serves_a_new_model_once_its_files_have_settled(tmp_path: Path) -> None:
    async with started(tmp_path) as repository:
        write_model(tmp_path, "m", classifier())
        await repository.poll()
        assert repository.find("m") is None
        await repository.poll()
        assert repository.find("m") is not None


async def test_poll_follows_a_new_version_and_a_removed_model(tmp_path: Path) -> None:
    write_model(tmp_path, "m", classifier(1))
    async with started(tmp_path) as repository:
        write_model(tmp_path, "m", classifier(2), version=2)
        await repository.poll()
        await repository.poll()
        assert (await repository.get("m")).version == 2
        shutil.rmtree(tmp_path / "m")
        await repository.poll()
        with pytest.raises(ModelNotFoundError):
            await repository.get("m")


async def test_poll_without_change_loads_nothing(tmp_path: Path) -> None:
    write_model(tmp_path, "m", classifier())
    async with started(tmp_path) as repository:
        before = await repository.get("m")
        for _ in range(3):
            await repository.poll()
        assert await repository.get("m") is before


async def test_poll_leaves_a_model_unloaded_until_its_files_change(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m", classifier())
    async with started(tmp_path) as repository:
        await repository.unload("m")
        await repository.poll()
        await repository.poll()
        assert repository.find("m") is None
        os.utime(folder / "1" / "model.onnx", ns=(1, 1))
        await repository.poll()
        await repository.poll()
        assert repository.find("m") is not None


async def test_poll_of_a_broken_change_keeps_the_running_version(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m", classifier())
    async with started(tmp_path) as repository:
        before = await repository.get("m")
        (folder / "1" / "model.onnx").write_bytes(b"garbage")
        await repository.poll()
        await repository.poll()
        assert await repository.get("m") is before
        assert "refused" in states(repository)["m"][1][1]


async def test_memory_budget_loads_on_demand_and_evicts_the_least_recently_used(
    tmp_path: Path,
) -> None:
    for name in ("a", "b", "c"):
        write_model(tmp_path, name, classifier())
    size = (tmp_path / "a" / "1" / "model.onnx").stat().st_size
    async with started(tmp_path, memory_budget_bytes=2 * size) as repository:
        assert [model.name for model in repository.loaded()] == ["a", "b"]
        dataplane = Dataplane(repository, 30)
        await dataplane.begin(await repository.get("a"), pixels(), None).result()
        assert (await repository.get("c")).name == "c"
        assert [model.name for model in repository.loaded()] == ["a", "c"]
        assert (await repository.get("b")).name == "b"


async def test_on_demand_loading_happens_once_for_many_requests(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_model(tmp_path, name, classifier())
    async with started(tmp_path, memory_budget_bytes=1) as repository:
        models = await asyncio.gather(*(repository.get("b") for _ in range(20)))
        assert len({id(model) for model in models}) == 1


async def test_caller_that_leaves_does_not_stop_the_loading_for_others(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_model(tmp_path, name, classifier())
    async with started(tmp_path, memory_budget_bytes=1) as repository:
        first = asyncio.create_task(repository.get("b"))
        second = asyncio.create_task(repository.get("b"))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).name == "b"
        assert first.cancelled()


async def test_deadline_ends_the_wait_for_a_model_that_is_being_loaded(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_model(tmp_path, name, classifier())
    async with started(tmp_path, memory_budget_bytes=1) as repository:
        dataplane = Dataplane(repository, 30)
        await dataplane.wait_for_model("b", None)
        with pytest.raises(DeadlineExceededError, match="still being loaded"):
            await dataplane.wait_for_model("a", None, deadline=0.0)


async def test_version_with_thousands_of_digits_is_not_found(tmp_path: Path) -> None:
    write_model(tmp_path, "m", classifier())
    async with started(tmp_path) as repository:
        for version in ("9" * 5000, "²", "١", "-1", ""):
            with pytest.raises(ModelNotFoundError):
                await repository.get("m", version)


async def test_repository_that_is_missing_is_told_and_looked_for_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(tmp_path / "later") as repository:
        assert "there is no folder" in caplog.text
        write_model(tmp_path / "later", "m", classifier())
        await repository.poll()
        await repository.poll()
        assert repository.find("m") is not None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
async def test_file_that_may_not_be_read_refuses_its_model(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m", classifier())
    (folder / "1" / "model.onnx").chmod(0)
    async with started(tmp_path) as repository:
        with pytest.raises(ModelNotReadyError, match="cannot read"):
            await repository.get("m")


async def test_external_data_is_part_of_the_digest(tmp_path: Path) -> None:
    model = classifier()
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    onnx.save_model(
        model,
        folder / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    async with started(tmp_path) as repository:
        before = (await repository.get("m")).digest
        weights = numpy_helper.to_array(classifier(9).graph.initializer[0])
        (folder / "weights.bin").write_bytes(weights.tobytes())
        await repository.load("m")
        assert (await repository.get("m")).digest != before


async def test_graph_that_only_looks_batchable_is_run_one_by_one(tmp_path: Path) -> None:
    """Axis 0 has one name, but the output has one row whatever comes in."""
    model = first_row()
    write_model(tmp_path, "m", model)
    write_model(tmp_path, "strict", model, "[batching]\nmax_batch = 8\n")
    async with started(tmp_path) as repository:
        assert not (await repository.get("m")).batchable
        with pytest.raises(ModelNotReadyError, match="for a batch of two"):
            await repository.get("strict")


async def test_padded_items_share_an_execution_and_get_their_own_length(tmp_path: Path) -> None:
    manifest = '[batching.padding]\naxis = 1\noutputs = ["vectors"]\n'
    write_model(tmp_path, "m", lookup(), manifest)
    async with started(tmp_path) as repository:
        model = await repository.get("m")
        dataplane = Dataplane(repository, 30)
        calls = [
            dataplane.begin(
                model, [Tensor("ids", BY_NAME["INT64"], np.array([ids], dtype=np.int64))], None
            )
            for ids in ([3], [1, 2, 3], [2, 1])
        ]
        results = [await call.result() for call in calls]
        vectors = [result.outputs[0].array[:, :, 0].tolist() for result in results]
        assert vectors == [[[3.0]], [[1.0, 2.0, 3.0]], [[2.0, 1.0]]]
        assert results[0].batch_rows == 3
        assert model.batcher.stats.executions == 1


async def test_warmup_samples_of_the_manifest_are_run(tmp_path: Path) -> None:
    manifest = '[[warmup]]\nrows = 4\nfill = "ones"\ndims = { width = 7 }\n'
    write_model(tmp_path, "m", identity(TensorProto.FLOAT), manifest)
    async with started(tmp_path) as repository:
        assert (await repository.get("m")).placement.nodes == {"CPUExecutionProvider": 1}


@pytest.mark.slow
async def test_two_hundred_swaps_under_load_fail_no_request_and_leak_nothing(
    tmp_path: Path,
) -> None:
    random = np.random.default_rng(0)
    big = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Cast", ["image"], ["p"], to=TensorProto.FLOAT),
                helper.make_node("Flatten", ["p"], ["f"]),
                helper.make_node("MatMul", ["f", "w"], ["h"]),
                helper.make_node("MatMul", ["h", "v"], ["logits"]),
            ],
            "big",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 1, 8, 8])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
            [
                numpy_helper.from_array(random.normal(size=(64, 8192)).astype("f4"), "w"),
                numpy_helper.from_array(random.normal(size=(8192, 10)).astype("f4"), "v"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    write_model(tmp_path, "m", big)
    async with running_app(tmp_path) as backend:
        answered = 0
        stop = False

        async def load() -> None:
            nonlocal answered
            while not stop:
                model = await backend.repository.get("m")
                result = await backend.dataplane.begin(model, pixels(answered), None).result()
                assert result.outputs[0].array.shape == (1, 10)
                answered += 1

        clients = [asyncio.create_task(load()) for _ in range(4)]
        sizes = []
        for cycle in range(200):
            await backend.repository.load("m")
            if cycle in (50, 199):
                gc.collect()
                sizes.append(_resident_bytes())
        stop = True
        await asyncio.gather(*clients)
        assert answered > 200
        # Each version takes more than 2 MiB: 150 leaked ones would be 300 MiB and more.
        assert sizes[1] - sizes[0] < 30 << 20


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def calibration(*best: tuple[int, float], length: int = 1) -> Calibration:
    return Calibration(ServiceTime(), best, length)


def test_batches_are_capped_where_rows_become_slower() -> None:
    # 250, 256, 240 and 170 rows per second.
    measured = calibration((1, 0.004), (2, 0.0078), (4, 0.0167), (8, 0.047))
    assert measured.worthwhile_rows() == 1


@pytest.mark.parametrize(
    "best",
    [
        ((1, 0.004), (2, 0.006), (4, 0.010)),  # still gaining where the measurement ended
        ((1, 0.004), (2, 0.008), (4, 0.016)),  # neither gaining nor losing
        ((1, 0.0001), (2, 0.0009), (4, 0.002)),  # too short to be trusted
        ((1, 2.0),),
        ((1, 0.0),),
    ],
)
def test_batches_are_left_alone_where_nothing_speaks_against_them(
    best: tuple[tuple[int, float], ...],
) -> None:
    assert calibration(*best).worthwhile_rows() is None


@pytest.mark.parametrize(
    ("best", "hint", "units"),
    [
        (((1, 20e-6), (8, 55e-6)), None, 1 + 980e-6 / 5e-6),
        (((1, 200e-6), (8, 550e-6)), None, 0),
        (((1, 200e-6), (8, 550e-6)), True, float("inf")),
        (((1, 20e-6), (8, 55e-6)), False, 0),
        (((1, 20e-6), (8, 20e-6)), None, float("inf")),
        (((1, 50e-6),), None, 1 + 950e-6 / 50e-6),
    ],
)
def test_small_models_belong_on_the_event_loop(
    best: tuple[tuple[int, float], ...], hint: bool | None, units: float
) -> None:
    assert calibration(*best).inline_units(hint, 100e-6) == pytest.approx(units)
    assert calibration(*best, length=3).inline_units(hint, 100e-6) == pytest.approx(units * 3)
