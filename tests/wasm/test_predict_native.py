"""The case table against the pipeline itself, without Wasm: fast, and with exact faults."""

from __future__ import annotations

import pytest

from edgekit.http import Headers, Request
from edgekit.ports import UpstreamError
from fakes.edge_ports import FakeClock, InProcessClient, MemoryStore, make_ports
from fakes.inference_backend import FakeBackend
from predict.app import PIPELINE
from wasm.cases.predict import CASES, VARIABLES
from wasm.cases.table import Answer, Call, Case, run_case


class NativeEdge:
    """The pipeline of `predict` over in-memory ports."""

    def __init__(self, backend: FakeBackend) -> None:
        self.ports = make_ports(
            client=InProcessClient(backend),
            store=MemoryStore(),
            clock=FakeClock(tick_s=0.001),
            variables=VARIABLES,
        )

    def send(self, call: Call) -> Answer:
        path, _, query = call.target.partition("?")
        headers = Headers(call.headers.items())
        if call.body:
            headers.add("content-length", str(len(call.body)))
        request = Request(call.method, path, query, headers, iter([call.body] if call.body else []))
        response = PIPELINE(request, self.ports)
        complete = True
        parts: list[bytes] = []
        if isinstance(response.body, bytes):
            parts.append(response.body)
        else:
            try:
                parts.extend(response.body)
            except UpstreamError:
                complete = False
        for step in response.after:
            step()
        # As the trigger does it: `edgespin.incoming` sends no body in answer to HEAD.
        body = b"" if call.method == "HEAD" else b"".join(parts)
        names = {name for name, _ in response.headers}
        fields = {name: response.headers.get(name) or "" for name in names}
        return Answer(response.status, fields, body, complete)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_predict_native_answers_as_the_table_says(case: Case) -> None:
    backend = FakeBackend()
    run_case(case, NativeEdge(backend), backend)
