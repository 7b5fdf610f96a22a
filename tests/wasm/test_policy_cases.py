"""The case table of policy, against the pipeline natively, in the embedded host, and under Spin."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from build_components import Component
from fakes.edge_ports import FakeClock, InProcessClient, MemoryStore, make_ports
from fakes.inference_backend import FakeBackend
from fakes.inference_server import serve_backend
from wasm import hosts
from wasm.cases.policy import CASES, VARIABLES
from wasm.cases.table import Case, run_case
from wasm.hosts import HttpEdge, SettledEdge
from wasm.test_predict_native import NativeEdge


class NativePolicyEdge(NativeEdge):
    """The pipeline with the table's variables instead of the defaults of the tests."""

    def __init__(self, backend: FakeBackend) -> None:
        variables = {
            **VARIABLES,
            "classify_cache_ttl_s": "300",
            "infer_cache_ttl_s": "60",
            "max_body_bytes": "1000000",
        }
        self.ports = make_ports(
            client=InProcessClient(backend),
            store=MemoryStore(),
            clock=FakeClock(tick_s=0.0001),
            variables=variables,
        )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_policy_native_answers_as_the_table_says(case: Case) -> None:
    backend = FakeBackend()
    run_case(case, NativePolicyEdge(backend), backend)


@pytest.fixture(scope="module")
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture(scope="module")
def edge(backend: FakeBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpEdge]:
    with serve_backend(backend) as url:
        variables = {**VARIABLES, "backend_url": url}
        with hosts.embedded(tmp_path_factory.mktemp("state"), variables) as running:
            yield running


@pytest.mark.wasm
@pytest.mark.skipif(
    not Component("predict").wasm.exists(), reason="no build/predict.wasm: run `make build`"
)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_policy_embedded_answers_as_the_table_says(
    case: Case, edge: HttpEdge, backend: FakeBackend
) -> None:
    backend.reset()
    edge.forget()
    run_case(case, SettledEdge(edge), backend)


@pytest.mark.wasm
@pytest.mark.skipif(shutil.which("spin") is None, reason="`spin` is not on PATH")
def test_policy_spin_answers_as_the_table_says(tmp_path: Path) -> None:
    backend = FakeBackend()
    faults: list[str] = []
    with (
        serve_backend(backend) as url,
        hosts.spin(tmp_path, {**VARIABLES, "backend_url": url}) as edge,
    ):
        for case in CASES:
            backend.reset()
            edge.forget()
            try:
                run_case(case, SettledEdge(edge), backend)
            except AssertionError as fault:
                faults.append(str(fault))
    assert faults == []
