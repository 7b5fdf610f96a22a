"""Spans continue the client's trace, and cost nothing when tracing is off."""

from __future__ import annotations

import builtins
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fakes.backend_app import running_app
from gpu_backend.errors import ConfigError
from gpu_backend.monitoring.logs import configure_logs
from gpu_backend.monitoring.tracing import OtlpTracer, Tracer, make_tracer

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def tracer(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[OtlpTracer, InMemorySpanExporter]]:
    # Nothing listens there; the spans that are looked at go into memory.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    made = OtlpTracer()
    exporter = InMemorySpanExporter()
    for processor in made._provider._active_span_processor._span_processors:
        processor.shutdown()
    made._provider._active_span_processor._span_processors = ()
    made._provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield made, exporter
    made.close()


async def test_span_continues_the_clients_trace(
    models: Path, tracer: tuple[OtlpTracer, InMemorySpanExporter]
) -> None:
    made, exporter = tracer
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}
    async with running_app(models, tracer=made) as backend:
        response = await backend.client.post(
            "/v2/models/floats/infer",
            content=json.dumps({"inputs": [tensor]}),
            headers={"traceparent": f"00-{TRACE}-{PARENT}-01"},
        )
    assert response.status_code == 200
    (span,) = exporter.get_finished_spans()
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    assert span.name == "infer"
    assert span.attributes is not None
    assert span.attributes["inference.model"] == "floats"


async def test_garbage_in_traceparent_starts_a_trace_of_its_own(
    models: Path, tracer: tuple[OtlpTracer, InMemorySpanExporter]
) -> None:
    made, exporter = tracer
    async with running_app(models, tracer=made) as backend:
        response = await backend.client.post(
            "/v2/models/floats/infer",
            content=b"{}",
            headers=[(b"traceparent", b"00-zz-\xff-1")],
        )
    assert response.status_code == 400
    (span,) = exporter.get_finished_spans()
    assert span.parent is None


def test_tracing_that_is_off_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def guard(name: str, *rest: Any) -> Any:
        assert not name.startswith("opentelemetry")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", guard)
    made = make_tracer(False)
    assert type(made) is Tracer
    with made.span(b"infer", "m", {}):
        pass


def test_tracing_without_opentelemetry_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match="install the `tracing` extra"):
        make_tracer(True)


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("restored_logging")
def test_logs_are_one_json_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "json")
    log = logging.getLogger("gpu_backend.test")
    log.debug("not this")
    try:
        raise ValueError("boom")
    except ValueError:
        log.exception("model %s failed\nbadly", "m")
    (line,) = capsys.readouterr().err.splitlines()
    document = orjson.loads(line)
    assert document["level"] == "error"
    assert document["message"] == "model m failed\nbadly"
    assert document["logger"] == "gpu_backend.test"
    assert "ValueError: boom" in document["exception"]
    assert document["time"].endswith("+00:00")
