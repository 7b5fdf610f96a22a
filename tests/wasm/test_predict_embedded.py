"""The case table against the compiled component in the Wasm core of the embedded host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from build_components import Component
from edgehost.http.client import HttpClient
from edgehost.http.loop import LoopThread
from edgehost.keyvalue.memory import MemoryStore
from edgehost.ports import ComponentSpec, Store
from edgehost.wasm import ComponentRunner, WasmEngine
from fakes.edgehost_http import MemoryBody, MemorySink, request
from fakes.inference_backend import FakeBackend
from fakes.inference_server import serve_backend
from wasm.cases.predict import CASES, VARIABLES
from wasm.cases.table import Answer, Call, Case, run_case

pytestmark = pytest.mark.wasm


class OneStore:
    """The default store, replaced for every case."""

    def __init__(self) -> None:
        self.default = MemoryStore()

    def open(self, label: str) -> Store:
        assert label == "default"
        return self.default


class AnyHost:
    """Lets every outbound call pass."""

    def check(self, _scheme: str, _authority: str) -> None:
        return None


class EmbeddedEdge:
    """`predict.wasm`, called without a listening socket."""

    def __init__(self, runner: ComponentRunner, stores: OneStore) -> None:
        self._runner = runner
        self.stores = stores

    def send(self, call: Call) -> Answer:
        headers = [(name, value.encode()) for name, value in call.headers.items()]
        if call.body:
            headers.append(("content-length", str(len(call.body)).encode()))
        sink = MemorySink()
        body = MemoryBody(call.body)
        incoming = request(call.target, method=call.method, headers=headers, body=body)
        self._runner.handle(incoming, sink)
        assert sink.error is None, sink.error
        assert sink.status is not None
        fields: dict[str, str] = {}
        for name, raw in sink.headers:
            value = raw.decode("latin-1")
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        return Answer(sink.status, fields, sink.body, complete=sink.writer.finished)


@pytest.fixture(scope="module")
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture(scope="module")
def edge(wasm_engine: WasmEngine, backend: FakeBackend) -> Iterator[EmbeddedEdge]:
    wasm = Component("predict").wasm
    if not wasm.exists():
        pytest.skip("build/predict.wasm is missing: run `make build`")
    loop = LoopThread()
    loop.start()
    client = HttpClient(loop)
    stores = OneStore()
    with serve_backend(backend) as url:
        spec = ComponentSpec(
            "predict",
            Path(wasm),
            variables={**VARIABLES, "backend_url": url},
            key_value_stores=frozenset({"default"}),
            stores=stores,
            outbound=AnyHost(),
        )
        compiled = wasm_engine.load(wasm)
        runner = ComponentRunner(wasm_engine, compiled, spec, client, lambda *_line: None)
        yield EmbeddedEdge(runner, stores)
        runner.close()
    loop.post(client.close)
    loop.stop()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_predict_embedded_answers_as_the_table_says(
    case: Case, edge: EmbeddedEdge, backend: FakeBackend
) -> None:
    backend.reset()
    edge.stores.default = MemoryStore()
    run_case(case, edge, backend)
