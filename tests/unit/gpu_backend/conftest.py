"""Models and backends shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from onnx import TensorProto

from fakes.backend_app import Backend, running_app
from fakes.onnx_models import classifier, fixed_rows, identity, lookup, row_sum, write_model

LABELS = ", ".join(f'"digit {n}"' for n in range(10))

DIGITS_MANIFEST = f"""
labels = [{LABELS}]
[model]
name = "digits"
task = "image-classification"
[image]
input = "image"
width = 8
height = 8
color = "gray"
fit = "stretch"
[output]
name = "logits"
kind = "logits"
"""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a model for every kind of question; nobody may change it."""
    root = tmp_path_factory.mktemp("repository")
    write_model(root, "digits", classifier(), DIGITS_MANIFEST)
    write_model(root, "lookup", lookup())
    write_model(root, "row_sum", row_sum())
    write_model(root, "fixed", fixed_rows())
    for name, number in (("text", TensorProto.STRING), ("flags", TensorProto.BOOL)):
        write_model(root, name, identity(number))
    write_model(root, "halves", identity(TensorProto.FLOAT16))
    write_model(root, "brains", identity(TensorProto.BFLOAT16))
    write_model(root, "floats", identity(TensorProto.FLOAT))
    write_model(root, "bytes8", identity(TensorProto.UINT8))
    return root


@pytest_asyncio.fixture
async def backend(models: Path) -> AsyncIterator[Backend]:
    """All of `models`, served."""
    async with running_app(models) as it:
        yield it
