"""The compiled component, in a whole application in real hosts, answers as the case table says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from build_components import Component
from fakes.inference_backend import FakeBackend, Fault
from fakes.inference_server import serve_backend
from wasm import hosts
from wasm.cases.predict import CASES, RAW_CALL, VARIABLES, classified, problem
from wasm.cases.table import Call, Case, check, run_case
from wasm.hosts import HttpEdge, SettledEdge

pytestmark = [
    pytest.mark.wasm,
    pytest.mark.skipif(
        not Component("predict").wasm.exists(), reason="no build/predict.wasm: run `make build`"
    ),
]


@pytest.fixture(scope="module")
def _backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture(scope="module")
def _edge(_backend: FakeBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpEdge]:
    with serve_backend(_backend) as url:
        variables = {**VARIABLES, "backend_url": url}
        with hosts.embedded(tmp_path_factory.mktemp("state"), variables) as running:
            yield running


@pytest.fixture
def backend(_backend: FakeBackend) -> FakeBackend:
    _backend.reset()
    return _backend


@pytest.fixture
def edge(_edge: HttpEdge) -> HttpEdge:
    _edge.forget()
    return _edge


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_predict_embedded_answers_as_the_table_says(
    case: Case, edge: HttpEdge, backend: FakeBackend
) -> None:
    run_case(case, SettledEdge(edge), backend)


@pytest.mark.skipif(shutil.which("spin") is None, reason="`spin` is not on PATH")
def test_predict_spin_answers_as_the_table_says(tmp_path: Path) -> None:
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


def test_predict_many_requests_at_once_all_get_their_own_answer(tmp_path: Path) -> None:
    def ask(edge: HttpEdge, number: int) -> None:
        index = number % 10
        body = bytes(index) + b"\xff" + bytes(63 - index)
        headers = {**RAW_CALL.headers, "x-request-id": f"request-{number}"}
        answer = edge.send(Call("POST", RAW_CALL.target, headers, body))
        check(answer, classified(index), f"request {number}")
        assert answer.headers["x-request-id"] == f"request-{number}"

    with (
        serve_backend(FakeBackend()) as url,
        hosts.embedded(tmp_path, {"backend_url": url}, threads=4) as edge,
        ThreadPoolExecutor(64) as pool,
    ):
        list(pool.map(lambda number: ask(edge, number), range(200)))


def test_predict_backend_that_is_back_is_used_at_once(edge: HttpEdge, backend: FakeBackend) -> None:
    backend.fault = Fault.RESET
    for number in range(3):
        check(edge.send(RAW_CALL), problem(503, "exhausted"), f"request {number}")
    backend.fault = Fault.NONE
    check(edge.send(RAW_CALL), classified(3), "after the fault")


@pytest.mark.parametrize(
    "call", [RAW_CALL, Call("GET", "/v2/health/ready")], ids=["classify", "protocol"]
)
def test_predict_backend_that_hangs_is_given_up_at_its_timeout(call: Call, tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.fault = Fault.HANG
    with serve_backend(backend) as url:
        variables = {**VARIABLES, "backend_url": url, "backend_first_byte_timeout_ms": "200"}
        with hosts.embedded(tmp_path, variables) as edge:
            check(edge.send(call), problem(504, "deadline_exceeded", "too long"), "hanging")


@pytest.fixture
def lonely_edge(tmp_path: Path) -> Iterator[HttpEdge]:
    """With the defaults of spin.toml, but a backend port where nobody listens."""
    with hosts.embedded(tmp_path, {"backend_url": "http://127.0.0.1:9"}) as running:
        yield running


def test_predict_backend_down_at_start_is_said_on_every_route(lonely_edge: HttpEdge) -> None:
    check(lonely_edge.send(RAW_CALL), problem(503, "exhausted", "connection refused"), "classify")
    down = problem(502, "upstream_unavailable", "connection refused")
    check(lonely_edge.send(Call("GET", "/v2/health/ready")), down, "protocol")
    assert lonely_edge.send(Call("GET", "/")).status == 200


def test_predict_eleven_megabytes_are_too_large(lonely_edge: HttpEdge) -> None:
    call = Call("POST", "/v1/classify/digits", {"content-type": "image/png"}, bytes(11_000_000))
    check(lonely_edge.send(call), problem(413, "payload_too_large", "10485760"), "11 MB")
