"""`/v1/embeddings`, natively and compiled in the embedded host, answers as its case table says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from build_components import Component
from fakes.inference_backend import FakeBackend
from fakes.inference_server import serve_backend
from wasm import hosts
from wasm.cases.embeddings import CASES
from wasm.cases.predict import VARIABLES
from wasm.cases.table import Case, run_case
from wasm.hosts import HttpEdge, SettledEdge
from wasm.test_predict_native import NativeEdge

SETTINGS = {**VARIABLES, "infer_cache_ttl_s": "0"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_embeddings_native_answers_as_the_table_says(case: Case) -> None:
    backend = FakeBackend()
    run_case(case, NativeEdge(backend), backend)


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[HttpEdge, FakeBackend]]:
    backend = FakeBackend()
    with (
        serve_backend(backend) as url,
        hosts.embedded(tmp_path_factory.mktemp("state"), {**SETTINGS, "backend_url": url}) as edge,
    ):
        yield edge, backend


@pytest.mark.wasm
@pytest.mark.skipif(
    not Component("predict").wasm.exists(), reason="no build/predict.wasm: run `make build`"
)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_embeddings_embedded_answers_as_the_table_says(
    case: Case, running: tuple[HttpEdge, FakeBackend]
) -> None:
    edge, backend = running
    backend.reset()
    edge.forget()
    run_case(case, SettledEdge(edge), backend)
