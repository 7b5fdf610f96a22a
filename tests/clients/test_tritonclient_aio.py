"""NVIDIA's tritonclient, unmodified, against the running backend: the asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.http.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from fakes.backend_process import BackendProcess, running_backend
from fakes.onnx_models import classifier, write_model


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendProcess]:
    models: Path = tmp_path_factory.mktemp("models")
    write_model(models, "digits", classifier())
    with running_backend(models, models.parent / "backend.log") as process:
        yield process


def value(seed: int = 0, rows: int = 1, binary: bool = True) -> Any:
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, 1, 8, 8)).astype(np.uint8)
    tensor = InferInput("image", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    return tensor


async def test_health_and_metadata_of_a_ready_server_answer(backend: BackendProcess) -> None:
    async with InferenceServerClient(backend.address) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("digits")
        metadata = await client.get_model_metadata("digits")
        assert metadata["platform"] == "onnxruntime_onnx"
        assert (await client.get_model_config("digits"))["name"] == "digits"
        index = await client.get_model_repository_index()
        assert index[0]["state"] == "READY"


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
async def test_infer_in_every_form_gives_the_same_answer(
    backend: BackendProcess, binary: bool, coding: str | None
) -> None:
    async with InferenceServerClient(backend.address) as client:
        plain = await client.infer("digits", [value(rows=60)])
        result = await client.infer(
            "digits",
            [value(rows=60, binary=binary)],
            outputs=[InferRequestedOutput("logits", binary_data=binary)],
            request_compression_algorithm=coding,
            response_compression_algorithm=coding,
        )
    np.testing.assert_array_equal(result.as_numpy("logits"), plain.as_numpy("logits"))


async def test_infer_of_many_at_once_answers_each(backend: BackendProcess) -> None:
    async with InferenceServerClient(backend.address) as client:
        together = await asyncio.gather(*(client.infer("digits", [value(n)]) for n in range(50)))
        for seed in (0, 17, 49):
            alone = await client.infer("digits", [value(seed)])
            np.testing.assert_allclose(
                together[seed].as_numpy("logits"), alone.as_numpy("logits"), rtol=1e-5
            )


async def test_infer_of_unknown_model_is_refused(backend: BackendProcess) -> None:
    async with InferenceServerClient(backend.address) as client:
        with pytest.raises(InferenceServerException, match="no model 'nobody'"):
            await client.infer("nobody", [value()])


async def test_unload_and_load_follow_each_other(backend: BackendProcess) -> None:
    async with InferenceServerClient(backend.address) as client:
        await client.unload_model("digits")
        assert not await client.is_model_ready("digits")
        await client.load_model("digits")
        assert await client.is_model_ready("digits")
