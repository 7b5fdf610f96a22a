"""The pipeline of the component `chat` over in-memory ports and a scripted engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from chat.app import PIPELINE
from edgekit.http import Headers, Request, Response
from edgekit.ports import UpstreamError, UpstreamRequest, UpstreamResponse
from fakes.edge_ports import FakeClock, LogLines, make_ports
from fakes.edge_world import CLOUD, KeyedStore, RecordsSink
from fakes.llm_upstream import EngineClient, FakeEngine
from wasm.cases.table import Answer, Call

__all__ = ["MESSAGES", "NativeChatEdge", "events_of", "lines_of"]

MESSAGES = [{"role": "user", "content": "hi"}]

VARIABLES = {
    "chat_upstream_url": "http://engine.test:11434",
    "chat_cache_ttl_s": "0",
    "max_body_bytes": "100000",
    # Cases follow each other: what fails in one must not shut the engine out of the next.
    "breaker_failures": "1000",
}


class Network:
    """An `HttpClient` that finds the engine, the cloud's, and the records of the backend."""

    def __init__(self, engine: EngineClient, cloud: EngineClient, records: RecordsSink) -> None:
        self._engine = engine
        self._cloud = cloud
        self._records = records

    def send(self, request: UpstreamRequest) -> UpstreamResponse:
        if request.url.endswith("/v1/records"):
            assert isinstance(request.body, bytes)
            return UpstreamResponse(self._records.take(request.body), Headers(), iter([b"{}"]))
        client = self._cloud if request.url.startswith(CLOUD) else self._engine
        return client.send(request)


class NativeChatEdge:
    """Answers as the component does; variables are set by keyword.

    Attributes:
        engine: At the cluster.
        cloud: Asked where the variable `cloud_url` is `fakes.edge_world.CLOUD`.
        records: What the edge wrote down and delivered.
    """

    def __init__(self, engine: FakeEngine | None = None, **variables: str) -> None:
        self.engine = engine or FakeEngine()
        self.cloud = FakeEngine()
        self.records = RecordsSink()
        self.client = EngineClient(self.engine)
        self.store = KeyedStore()
        self.clock = FakeClock(tick_s=0.001)
        self.log = LogLines()
        self.ports = make_ports(
            client=Network(self.client, EngineClient(self.cloud), self.records),
            store=self.store,
            clock=self.clock,
            log=self.log,
            variables={**VARIABLES, **variables},
        )

    def open(self, call: Call) -> Response:
        """The response, its body not read and nothing done after it."""
        path, _, query = call.target.partition("?")
        headers = Headers(call.headers.items())
        if call.body:
            headers.add("content-length", str(len(call.body)))
        request = Request(call.method, path, query, headers, iter([call.body] if call.body else []))
        return PIPELINE(request, self.ports)

    def send(self, call: Call) -> Answer:
        """One request, as the trigger handles it."""
        response = self.open(call)
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
        names = {name for name, _ in response.headers}
        fields = {name: response.headers.get(name) or "" for name in names}
        body = b"" if call.method == "HEAD" else b"".join(parts)
        return Answer(response.status, fields, body, complete)

    def post(self, path: str, document: object, headers: Mapping[str, str] | None = None) -> Answer:
        """`send` of a JSON document."""
        return self.send(Call("POST", path, headers or {}, json.dumps(document).encode()))

    def asked(self) -> Any:
        """The document of the last call that the engine got."""
        return self.engine.received[-1].json()


def events_of(body: bytes) -> Iterator[Any]:
    """The data of each server-sent event; `[DONE]` as a string."""
    for event in body.decode().split("\n\n"):
        data = "\n".join(
            line[5:].removeprefix(" ") for line in event.split("\n") if line.startswith("data:")
        )
        if data:
            yield data if data == "[DONE]" else json.loads(data)


def lines_of(body: bytes) -> list[Any]:
    """The document of each line."""
    return [json.loads(line) for line in body.splitlines()]
